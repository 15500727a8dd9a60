//! Small guests, run natively on a machine without devices: what kernels do, and what hostile guests try.
mod counts;
mod explicit;
mod flags;
mod hostile;
mod memory;
mod unpatched;
mod user;

use super::vcpu::PvVcpu;
use super::{Options, SiteKind};
use crate::arch::{CpuState, Gpa, Rflags, state::gpr};
use crate::clock::ClockSource;
use crate::emulator::single::{Outcome, Single};
use crate::engine::fake::FakeMachine;
use crate::engine::{Cause, Exit, Interface, Vcpu, VcpuId};
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CODE: u64 = 0x20_0000;
const STACK: u64 = 0x30_0000;
const IDT: u64 = 0x10_0000;
const GDT: u64 = 0x10_2000;
const HANDLER: u64 = 0x21_0000;

/// A guest with a GDT and an IDT whose 256 gates all lead to `handler` (or to a HLT).
fn guest(
    program: impl FnOnce(&mut CodeAssembler),
    handler: impl FnOnce(&mut CodeAssembler),
) -> (FakeMachine, CpuState) {
    guest_on(FakeMachine::new(16 << 20, ClockSource::Real), program, handler)
}

fn guest_on(
    machine: FakeMachine,
    program: impl FnOnce(&mut CodeAssembler),
    handler: impl FnOnce(&mut CodeAssembler),
) -> (FakeMachine, CpuState) {
    let ram = machine.ram();
    for (at, build) in
        [(CODE, Box::new(program) as Box<dyn FnOnce(&mut CodeAssembler)>), (HANDLER, Box::new(handler))]
    {
        let mut a = CodeAssembler::new(64).unwrap();
        build(&mut a);
        ram.write(Gpa(at), &a.assemble(at).unwrap()).unwrap();
    }
    for (i, descriptor) in [0_u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        ram.write(Gpa(GDT + 8 * i as u64), &descriptor.to_le_bytes()).unwrap();
    }
    for i in 0..256 {
        let gate = HANDLER & 0xffff | 8 << 16 | 0xee << 40 | (HANDLER >> 16 & 0xffff) << 48;
        ram.write(Gpa(IDT + 16 * i), &gate.to_le_bytes()).unwrap();
    }
    let mut state = machine.long_mode(CODE, STACK);
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0x17);
    (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
    (machine, state)
}

fn vcpu(machine: &FakeMachine, state: &CpuState) -> PvVcpu {
    PvVcpu::new(VcpuId(0), Arc::clone(machine.ram()), state.clone(), Interface::Patched, Options::default())
        .unwrap()
}

/// The same, keeping account of its sites.
fn counting(machine: &FakeMachine, state: &CpuState) -> PvVcpu {
    PvVcpu::new(
        VcpuId(0),
        Arc::clone(machine.ram()),
        state.clone(),
        Interface::Patched,
        Options { counts: true, ..Options::default() },
    )
    .unwrap()
}

/// Runs until HLT, natively, with and without account of the sites; the state must be what the interpreter makes of the
/// same guest.
fn compare(program: impl Fn(&mut CodeAssembler), handler: impl Fn(&mut CodeAssembler)) -> (CpuState, PvVcpu) {
    compare_with(counting, &program, &handler);
    compare_with(vcpu, &program, &handler)
}

fn compare_with(
    vcpu: fn(&FakeMachine, &CpuState) -> PvVcpu,
    program: &impl Fn(&mut CodeAssembler),
    handler: &impl Fn(&mut CodeAssembler),
) -> (CpuState, PvVcpu) {
    let (machine, state) = guest(program, handler);
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    let native = pv.save().unwrap();

    let (machine, mut expected) = guest(program, handler);
    let mut single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
    while single.step(&mut expected, &machine.platform).unwrap() != Outcome::Halted {}
    assert_eq!(native.gpr, expected.gpr);
    assert_eq!((native.rip, native.rflags), (expected.rip, expected.rflags));
    assert_eq!((native.cr2, native.cr3, native.segments), (expected.cr2, expected.cr3, expected.segments));
    (native, pv)
}

fn halt(a: &mut CodeAssembler) {
    a.hlt().unwrap();
}

/// Skips an error code-less two-byte instruction and returns.
fn skip_two(a: &mut CodeAssembler) {
    a.add(qword_ptr(rsp), 2).unwrap();
    a.iretq().unwrap();
}

#[test]
fn sensitive_instructions_see_the_guests_machine_and_not_the_hosts() {
    let (state, pv) = compare(
        |a| {
            a.mov(rax, cs).unwrap();
            a.mov(rbx, ss).unwrap();
            a.sti().unwrap();
            a.nop().unwrap();
            a.pushfq().unwrap();
            a.pop(rcx).unwrap();
            a.cli().unwrap();
            a.pushfq().unwrap();
            a.pop(rdx).unwrap();
            a.smsw(rsi).unwrap();
            a.sidt(ptr(0x30_1000)).unwrap();
            a.mov(rdi, qword_ptr(0x30_1002)).unwrap();
            a.mov(r8, cr3).unwrap();
            a.mov(eax, 0x4000_0000_u32).unwrap();
            a.cpuid().unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    assert_eq!(state.gpr[gpr::RDI], IDT);
    assert_eq!(state.gpr[gpr::RBX] as u32, u32::from_le_bytes(*b"TriV"));
    assert!(pv.patched().iter().any(|s| s.kind == SiteKind::Jump));
}

#[test]
fn a_branch_into_the_middle_of_a_site_goes_on_in_its_thunk() {
    let (state, pv) = compare(
        |a| {
            let mut middle = a.create_label();
            a.lea(rax, qword_ptr(middle)).unwrap();
            a.xor(ebx, ebx).unwrap();
            a.jmp(rax).unwrap();
            a.cli().unwrap();
            a.set_label(&mut middle).unwrap();
            a.inc(ebx).unwrap();
            a.inc(ecx).unwrap();
            a.inc(edx).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    assert_eq!(state.gpr[gpr::RBX], 1);
    assert!(!pv.patched().is_empty());
}

#[test]
fn native_exceptions_enter_the_guests_handler() {
    compare(
        |a| {
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
            a.ud2().unwrap();
            a.mov(r15d, 7).unwrap();
            a.hlt().unwrap();
        },
        skip_two,
    );
    // INT n, INT3 and page faults.
    let (state, _) = compare(
        |a| {
            a.int(0x80).unwrap();
            a.int3().unwrap();
            a.inc(r15).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.inc(r14).unwrap();
            a.iretq().unwrap();
        },
    );
    assert_eq!((state.gpr[14], state.gpr[15]), (2, 1));
    let (state, _) = compare(
        |a| {
            a.mov(rax, 0x80_0000_0000_u64).unwrap();
            a.mov(rbx, qword_ptr(rax)).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.mov(rdi, cr2).unwrap();
            a.pop(rsi).unwrap();
            a.hlt().unwrap();
        },
    );
    assert_eq!((state.gpr[gpr::RDI], state.gpr[gpr::RSI]), (0x80_0000_0000, 0));
}

#[test]
fn code_that_the_guest_writes_is_seen() {
    let (state, _) = compare(
        |a| {
            let (mut code, mut top) = (a.create_label(), a.create_label());
            a.xor(ecx, ecx).unwrap();
            a.lea(rdi, qword_ptr(code)).unwrap();
            a.set_label(&mut top).unwrap();
            a.mov(byte_ptr(rdi + 1), cl).unwrap();
            a.call(rdi).unwrap();
            a.add(rbx, rax).unwrap();
            a.inc(ecx).unwrap();
            a.cmp(ecx, 5).unwrap();
            a.jne(top).unwrap();
            a.hlt().unwrap();
            a.set_label(&mut code).unwrap();
            a.mov(eax, 0).unwrap();
            a.ret().unwrap();
        },
        halt,
    );
    assert_eq!(state.gpr[gpr::RBX], 10);
}

#[test]
fn code_that_takes_the_place_of_other_code_by_a_remap_is_run() {
    // PUSHFQ, which is patched, and then another function at the same address, from another page.
    const FIRST: u64 = 0x00c3_589c;
    const SECOND: u64 = 0xc300_0000_07b8;
    let entry = FakeMachine::TABLES.0 + 0x2000 + 8 * 2;
    let (state, _) = compare(
        |a| {
            a.mov(rdi, 0x40_0000_u64).unwrap();
            a.mov(rsi, 0x60_0000_u64).unwrap();
            a.mov(rax, FIRST).unwrap();
            a.mov(qword_ptr(rdi), rax).unwrap();
            a.mov(rax, SECOND).unwrap();
            a.mov(qword_ptr(rsi), rax).unwrap();
            a.call(rdi).unwrap();
            a.mov(rbx, rax).unwrap();
            a.mov(rcx, entry).unwrap();
            a.mov(rdx, 0x60_0087_u64).unwrap();
            a.mov(qword_ptr(rcx), rdx).unwrap();
            a.mov(rdx, cr3).unwrap();
            a.mov(cr3, rdx).unwrap();
            a.call(rdi).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    assert_eq!(state.gpr[gpr::RAX], 7);
    assert_eq!(state.gpr[gpr::RBX], 2);
}

#[test]
fn a_handler_that_is_named_after_its_page_was_scanned_is_patched_when_it_is_entered() {
    // Its only sensitive instruction comes last: a trap there would not prove what stands before it.
    let handler = CODE + 0x200;
    let (_, pv) = compare(
        |a| {
            let mut top = a.create_label();
            for (at, part) in [(0_u64, handler as u16), (6, (handler >> 16) as u16)] {
                a.mov(rdi, IDT + 16 * 0x80 + at).unwrap();
                a.mov(word_ptr(rdi), i32::from(part as i16)).unwrap();
            }
            a.mov(ecx, 3).unwrap();
            a.set_label(&mut top).unwrap();
            a.int(0x80).unwrap();
            a.dec(ecx).unwrap();
            a.jnz(top).unwrap();
            a.hlt().unwrap();
            a.ud2().unwrap();
            let length = a.assemble(CODE).unwrap().len();
            a.nops_with_size(0x200 - length).unwrap();
            a.add(rax, 0x1234).unwrap();
            a.iretq().unwrap();
        },
        halt,
    );
    let site = pv.patched().into_iter().find(|site| site.address == handler).expect("a site at the handler");
    assert_eq!(site.kind, SiteKind::Jump);
}

#[test]
fn kicks_at_any_moment_find_a_way_out_of_thunks() {
    const TURNS: u64 = 3000;
    let (machine, state) = guest(
        |a| {
            let (mut top, mut back) = (a.create_label(), a.create_label());
            a.set_label(&mut top).unwrap();
            a.inc(r15).unwrap();
            a.sti().unwrap();
            a.cli().unwrap();
            // Status flags, and then DF and ID too.
            for flags in [0xad7, 0x20_0ed7] {
                a.push(flags).unwrap();
                a.popfq().unwrap();
                a.pushfq().unwrap();
                a.pop(rbx).unwrap();
                a.cli().unwrap();
                a.sub(rbx, flags).unwrap();
                a.or(r14, rbx).unwrap();
            }
            a.mov(rax, rsp).unwrap();
            a.push(0x10).unwrap();
            a.push(rax).unwrap();
            a.pushfq().unwrap();
            a.push(8).unwrap();
            a.lea(rcx, qword_ptr(back)).unwrap();
            a.push(rcx).unwrap();
            a.iretq().unwrap();
            a.set_label(&mut back).unwrap();
            a.cmp(r15, TURNS as i32).unwrap();
            a.jne(top).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    let mut pv = counting(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let done = AtomicBool::new(false);
    let kicks = std::thread::scope(|scope| {
        let kicker = scope.spawn(|| {
            let mut kicks = 0_u32;
            while !done.load(Ordering::Relaxed) {
                machine.platform.kick(VcpuId(0)).kick();
                kicks += 1;
                std::thread::sleep(Duration::from_micros(u64::from(kicks % 50)));
            }
            kicks
        });
        while pv.run(&machine.platform).unwrap() == Exit::Kicked {}
        done.store(true, Ordering::Relaxed);
        kicker.join().unwrap()
    });
    assert!(kicks > 0);
    assert_eq!((pv.save().unwrap().gpr[15], pv.save().unwrap().gpr[14]), (TURNS, 0));
    // Whoever was interrupted in the middle of a thunk was counted once all the same.
    let counts = counts::by_mnemonic(&pv);
    for (mnemonic, times) in [("Sti", 1), ("Cli", 3), ("Pushfq", 3), ("Popfq", 2), ("Iretq", 1)] {
        assert_eq!(counts.get(mnemonic), Some(&(times * TURNS)), "{mnemonic}: {counts:?}");
    }
}

#[test]
fn an_interrupt_reaches_a_spinning_guest_and_a_kick_one_without_interrupts() {
    let makers: [fn(&FakeMachine, &CpuState) -> PvVcpu; 2] = [vcpu, unpatched::unpatched];
    for (make, enabled) in makers.into_iter().flat_map(|make| [(make, true), (make, false)]) {
        let (machine, state) = guest(
            |a| {
                let mut top = a.create_label();
                if enabled {
                    a.sti().unwrap();
                }
                a.set_label(&mut top).unwrap();
                a.jmp(top).unwrap();
            },
            halt,
        );
        let mut pv = make(&machine, &state);
        let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
        let _bound = kick.bind().unwrap();
        let exit = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                machine.interrupts.raise(0x40);
                if !enabled {
                    std::thread::sleep(Duration::from_millis(20));
                    machine.platform.kick(VcpuId(0)).kick();
                }
            });
            pv.run(&machine.platform).unwrap()
        });
        assert_eq!(exit, if enabled { Exit::Halted } else { Exit::Kicked });
        assert!(!pv.save().unwrap().rflags.contains(Rflags::IF));
    }
}

#[test]
fn sti_hlt_is_woken_by_an_interrupt_that_was_there_before() {
    let (machine, state) = guest(
        |a| {
            for _ in 0..200 {
                a.cli().unwrap();
                a.mov(dx, 0x500).unwrap();
                a.out(dx, al).unwrap();
                a.sti().unwrap();
                a.hlt().unwrap();
            }
            a.cli().unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.inc(r15).unwrap();
            a.iretq().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    let mut seen = 0;
    for _ in 0..1000 {
        machine.interrupts.raise(0x40);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        seen = pv.save().unwrap().gpr[15];
        if !pv.save().unwrap().rflags.contains(Rflags::IF) {
            break;
        }
    }
    assert!(seen >= 200, "{seen} interrupts were taken");
    let counters = machine.platform.counters(VcpuId(0));
    assert_eq!(counters.get(Cause::Idle), 0, "a HLT is counted by whoever waits for its end");
}
