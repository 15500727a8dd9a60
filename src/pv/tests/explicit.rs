//! Hypercalls of a guest that runs natively: as the interpreter makes them, and with as little of the engine as can be.
use super::*;
use crate::abi;
use crate::pv::child::stub;
use crate::pv::layout::{SHARED, ZONE};

const PAGE: u64 = 0x40_0000;
const LIST: u64 = 0x40_1000;
/// Page tables of a window that nothing else uses: the directory, and the table.
const DIRECTORY: u64 = 0x42_0000;
const TABLE: u64 = 0x42_1000;
const FRAMES: u64 = 0x80_0000;
const WINDOW: u64 = 0x80_4000_0000;
const PAGES: u64 = 512;
/// Present, writable, accessed, dirty.
const READY: u64 = 0x63;

fn machine() -> FakeMachine {
    FakeMachine::offering_hypercalls(16 << 20, ClockSource::Real)
}

fn name_the_page(a: &mut CodeAssembler) {
    a.mov(ecx, abi::MSR_HYPERCALL_PAGE).unwrap();
    a.mov(eax, (PAGE | abi::PAGE_ON) as u32).unwrap();
    a.xor(edx, edx).unwrap();
    a.wrmsr().unwrap();
}

fn call(a: &mut CodeAssembler, [number, rdi_, rsi_, rdx_]: [u64; 4]) {
    a.mov(rax, number).unwrap();
    a.mov(rdi, rdi_).unwrap();
    a.mov(rsi, rsi_).unwrap();
    a.mov(rdx, rdx_).unwrap();
    a.call(PAGE).unwrap();
}

/// Runs natively until HLT, and by the interpreter; compares the states, and gives the machine that ran natively.
fn compare(
    program: impl Fn(&mut CodeAssembler),
    handler: impl Fn(&mut CodeAssembler),
    prepare: impl Fn(&FakeMachine),
) -> (FakeMachine, CpuState) {
    let (other, mut expected) = guest_on(machine(), &program, &handler);
    prepare(&other);
    let mut single = Single::new(VcpuId(0), Arc::clone(other.ram()));
    while single.step(&mut expected, &other.platform).unwrap() != Outcome::Halted {}
    let mut last = None;
    for vcpu in [counting, vcpu] {
        let (machine, state) = guest_on(machine(), &program, &handler);
        prepare(&machine);
        let mut pv = vcpu(&machine, &state);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        let native = pv.save().unwrap();
        assert_eq!(native.gpr, expected.gpr);
        assert_eq!((native.rip, native.rflags, native.cr3), (expected.rip, expected.rflags, expected.cr3));
        assert_eq!((native.cr2, native.segments), (expected.cr2, expected.segments));
        last = Some((machine, native));
    }
    last.unwrap()
}

fn put(machine: &FakeMachine, at: u64, words: &[u64]) {
    for (i, word) in (0..).zip(words) {
        machine.ram().write(Gpa(at + 8 * i), &word.to_le_bytes()).unwrap();
    }
}

/// The window's tables, and a list that maps all of it with `bits`, the last page first in RAM if `backwards`.
fn prepare(machine: &FakeMachine, bits: u64, backwards: bool) {
    let pointers = FakeMachine::TABLES.0 + 0x3000;
    put(machine, FakeMachine::TABLES.0 + 8 * (WINDOW >> 39), &[pointers | 0x27]);
    put(machine, pointers + 8 * (WINDOW >> 30 & 511), &[DIRECTORY | 0x27]);
    put(machine, DIRECTORY, &[TABLE | 0x27]);
    for n in 0..PAGES {
        let frame = FRAMES + 4096 * if backwards { PAGES - 1 - n } else { n };
        put(machine, frame, &[frame]);
        put(machine, LIST + 16 * n, &[TABLE + 8 * n, frame | bits]);
    }
}

/// Adds up the first words of the window's pages in RBX, and writes to each.
fn walk(a: &mut CodeAssembler) {
    let mut top = a.create_label();
    a.mov(r8, WINDOW).unwrap();
    a.mov(ecx, PAGES as u32).unwrap();
    a.set_label(&mut top).unwrap();
    a.add(rbx, qword_ptr(r8)).unwrap();
    a.rol(rbx, 1).unwrap();
    a.mov(qword_ptr(r8 + 8), rbx).unwrap();
    a.add(r8, 4096).unwrap();
    a.dec(ecx).unwrap();
    a.jnz(top).unwrap();
}

#[test]
fn a_batch_is_mapped_whole_and_needs_no_fault() {
    for (backwards, hint) in [(false, WINDOW), (true, WINDOW), (false, abi::ANYWHERE)] {
        let (machine, state) = compare(
            |a| {
                name_the_page(a);
                call(a, [abi::CALL_MMU_UPDATE, LIST, PAGES, hint]);
                a.mov(r15, rax).unwrap();
                walk(a);
                a.hlt().unwrap();
            },
            halt,
            |machine| prepare(machine, READY, backwards),
        );
        assert_eq!(state.gpr[15], PAGES);
        let synced = machine.platform.counters(VcpuId(0)).get(Cause::PageTableSync);
        if hint == WINDOW {
            assert!(synced < 12, "{synced} times the mirror was brought in step");
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_by_a_touch_and_not_by_the_batch() {
    let (machine, _) = compare(
        |a| {
            name_the_page(a);
            call(a, [abi::CALL_MMU_UPDATE, LIST, PAGES, WINDOW]);
            a.mov(r8, WINDOW).unwrap();
            a.mov(rbx, qword_ptr(r8 + 0x3000)).unwrap();
            a.mov(qword_ptr(r8 + 0x5000), rbx).unwrap();
            a.hlt().unwrap();
        },
        halt,
        |machine| prepare(machine, 3, false),
    );
    for (page, bits) in [(2_u64, 3_u64), (3, 0x23), (4, 3), (5, 0x63), (6, 3)] {
        let mut entry = [0; 8];
        machine.ram().read(Gpa(TABLE + 8 * page), &mut entry).unwrap();
        assert_eq!(u64::from_le_bytes(entry), (FRAMES + 4096 * page) | bits, "page {page}");
    }
}

#[test]
fn what_an_update_takes_away_is_gone_and_what_it_moves_is_seen() {
    // The page faults in the end, where a batch has taken it away.
    let (_, state) = compare(
        |a| {
            name_the_page(a);
            call(a, [abi::CALL_MMU_UPDATE, LIST, PAGES, WINDOW]);
            a.mov(r8, WINDOW + 0x7000).unwrap();
            a.mov(r9, qword_ptr(r8)).unwrap();
            // Page 7 to the frame of page 8, then nowhere.
            for (entry, hint) in [(FRAMES + 0x8000 + READY, WINDOW + 0x7000), (0, abi::ANYWHERE)] {
                a.mov(rax, LIST + 0x5000).unwrap();
                a.mov(rcx, TABLE + 8 * 7).unwrap();
                a.mov(qword_ptr(rax), rcx).unwrap();
                a.mov(rcx, entry).unwrap();
                a.mov(qword_ptr(rax + 8), rcx).unwrap();
                call(a, [abi::CALL_MMU_UPDATE, LIST + 0x5000, 1, hint]);
                a.mov(r10, r11).unwrap();
                a.mov(r11, qword_ptr(r8)).unwrap();
            }
            a.ud2().unwrap();
        },
        |a| {
            a.mov(r12, cr2).unwrap();
            a.hlt().unwrap();
        },
        |machine| prepare(machine, READY, false),
    );
    assert_eq!(state.gpr[9..13], [FRAMES + 0x7000, FRAMES + 0x8000, FRAMES + 0x8000, WINDOW + 0x7000]);
}

#[test]
fn a_batch_over_the_zone_the_monitor_and_code_is_harmless() {
    // The list maps a guest page where thunks are, and one where code runs; the guest goes on.
    for hint in [ZONE, SHARED, CODE, 0, !0xfff, 1 << 63, stub::entries().begin] {
        let (machine, state) = guest_on(
            machine(),
            |a| {
                name_the_page(a);
                call(a, [abi::CALL_MMU_UPDATE, LIST, PAGES, hint]);
                a.cli().unwrap();
                a.mov(rbx, rax).unwrap();
                a.hlt().unwrap();
            },
            halt,
        );
        prepare(&machine, READY, false);
        let mut pv = vcpu(&machine, &state);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        assert_eq!(pv.save().unwrap().gpr[gpr::RBX], PAGES, "{hint:#x}");
    }
}

#[test]
fn the_empty_call_is_answered_in_the_child() {
    const TIMES: u32 = 10_000;
    let (machine, state) = compare(
        |a| {
            let mut top = a.create_label();
            name_the_page(a);
            a.mov(r15d, TIMES).unwrap();
            a.mov(ecx, 0x1234).unwrap();
            a.set_label(&mut top).unwrap();
            a.xor(eax, eax).unwrap();
            a.stc().unwrap();
            a.call(PAGE).unwrap();
            a.adc(rbx, rax).unwrap();
            a.dec(r15d).unwrap();
            a.jnz(top).unwrap();
            // A call that is not empty, and then neither: the page is taken back.
            call(a, [77, 1, 2, 3]);
            a.mov(r14, rax).unwrap();
            a.mov(ecx, abi::MSR_HYPERCALL_PAGE).unwrap();
            a.xor(eax, eax).unwrap();
            a.xor(edx, edx).unwrap();
            a.wrmsr().unwrap();
            a.call(PAGE).unwrap();
        },
        halt,
        |_| {},
    );
    assert_eq!((state.gpr[gpr::RBX], state.gpr[14]), (TIMES.into(), abi::ERROR_NUMBER));
    let calls = machine.platform.counters(VcpuId(0)).get(Cause::Hypercall);
    assert!(calls < 10, "{calls} times the engine was asked");
}

#[test]
fn without_hypercalls_vmcall_is_undefined_and_never_reaches_the_host() {
    for machine in [FakeMachine::new(16 << 20, ClockSource::Real), machine()] {
        let (machine, state) = guest_on(
            machine,
            |a| {
                a.xor(eax, eax).unwrap();
                a.stc().unwrap();
                a.vmcall().unwrap();
                a.inc(r15).unwrap();
                a.nop().unwrap();
                a.vmmcall().unwrap();
                a.hlt().unwrap();
            },
            |a| {
                // Skips an instruction of three bytes.
                a.inc(r14).unwrap();
                a.add(qword_ptr(rsp), 3).unwrap();
                a.iretq().unwrap();
            },
        );
        let mut pv = vcpu(&machine, &state);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        let state = pv.save().unwrap();
        assert_eq!((state.gpr[gpr::RAX], state.gpr[14], state.gpr[15]), (0, 2, 1));
        assert!(state.rflags.contains(Rflags::CF), "the handler's frame had the flags");
    }
}

/// Entries of all kinds, in batches that say rightly where they are or not at all, and a look at every page after each.
#[test]
fn random_batches_are_seen_as_the_interpreter_sees_them() {
    const BATCHES: u64 = 24;
    const LISTS: u64 = 0x60_0000;
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut lists = Vec::new();
    for _ in 0..BATCHES {
        let (first, count) = (random(PAGES), random(128));
        let count = count.min(PAGES - first);
        let entries: Vec<u64> = (0..count)
            .flat_map(|n| {
                let frame = match random(12) {
                    0 => FakeMachine::MMIO.0,
                    1 => CODE,
                    2 => PAGE,
                    3 => 1 << 45,
                    4 => FakeMachine::TABLES.0,
                    5..8 => FRAMES + 4096 * random(PAGES),
                    _ => FRAMES + 4096 * (first + n),
                };
                let bits = match random(8) {
                    0 => 0,
                    1 => 3,
                    2 => 0x23,
                    3 => READY | 1 << 50,
                    4 => READY & !2,
                    _ => READY,
                };
                [TABLE + 8 * (first + n), frame | bits]
            })
            .collect();
        let hint = if random(4) == 0 { abi::ANYWHERE } else { WINDOW + 4096 * first };
        lists.push((entries, count, hint));
    }
    let (_, state) = compare(
        |a| {
            name_the_page(a);
            for (n, (_, count, hint)) in (0..).zip(&lists) {
                let mut top = a.create_label();
                call(a, [abi::CALL_MMU_UPDATE, LISTS + 0x1000 * n, *count, *hint]);
                a.add(r15, rax).unwrap();
                a.mov(rsi, WINDOW).unwrap();
                a.mov(ecx, PAGES as u32).unwrap();
                a.set_label(&mut top).unwrap();
                a.mov(rax, qword_ptr(rsi)).unwrap();
                a.add(rbx, rax).unwrap();
                a.rol(rbx, 1).unwrap();
                a.add(rsi, 4096).unwrap();
                a.dec(ecx).unwrap();
                a.jnz(top).unwrap();
            }
            a.hlt().unwrap();
        },
        |a| {
            // Skips the look, which is three bytes long.
            a.inc(r14).unwrap();
            a.add(rsp, 8).unwrap();
            a.add(qword_ptr(rsp), 3).unwrap();
            a.iretq().unwrap();
        },
        |machine| {
            prepare(machine, READY, false);
            for (n, (entries, _, _)) in (0..).zip(&lists) {
                put(machine, LISTS + 0x1000 * n, entries);
            }
        },
    );
    assert_eq!(state.gpr[15], lists.iter().map(|(_, count, _)| count).sum::<u64>());
    assert!(state.gpr[14] > BATCHES * 20, "{} pages were not there", state.gpr[14]);
}
