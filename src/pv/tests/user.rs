//! Guests with programs at ring 3: system calls, returns, faults, and what is out of their reach.
mod confined;
mod keys;

use super::*;
use crate::arch::{Segment, SegmentRegister};
use crate::pv::layout::ZONE;

/// The user's program; its 2 MiB page is the only one of ring 3. The upper half is data.
const USER: u64 = 0x40_0000;
const USER_DATA: u64 = 0x50_0000;
const USER_STACK: u64 = 0x58_0000;
/// Where SYSCALL leads.
const ENTRY: u64 = 0x22_0000;
const TSS: u64 = 0x10_3000;
const INTERRUPT_STACK: u64 = 0x31_0000;

fn put(machine: &FakeMachine, at: u64, program: impl FnOnce(&mut CodeAssembler)) {
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a);
    machine.ram().write(Gpa(at), &a.assemble(at).unwrap()).unwrap();
}

/// A guest whose kernel enters `user` by SYSRETQ, serves its system calls by `entry`, and its exceptions by `handler`.
fn with_user(
    user: impl FnOnce(&mut CodeAssembler),
    entry: impl FnOnce(&mut CodeAssembler),
    handler: impl FnOnce(&mut CodeAssembler),
) -> (FakeMachine, CpuState) {
    let start = |a: &mut CodeAssembler| {
        a.mov(ecx, USER as u32).unwrap();
        a.mov(r11d, 0x202).unwrap();
        a.mov(rsp, USER_STACK).unwrap();
        a.sysretq().unwrap();
    };
    let (machine, mut state) = guest(start, handler);
    put(&machine, USER, user);
    put(&machine, ENTRY, entry);
    let ram = machine.ram();
    for (i, descriptor) in [0, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff_u64].into_iter().enumerate() {
        ram.write(Gpa(GDT + 0x18 + 8 * i as u64), &descriptor.to_le_bytes()).unwrap();
    }
    state.gdtr.limit = 0x2f;
    ram.write(Gpa(TSS + 4), &INTERRUPT_STACK.to_le_bytes()).unwrap();
    state.tr = Segment { selector: 0x30, base: TSS, limit: 0x67, attributes: 0x8b };
    // Only the program's page is for ring 3.
    for i in (0..8_u64).filter(|&i| i != USER >> 21) {
        let at = FakeMachine::TABLES.0 + 0x2000 + 8 * i;
        ram.write(Gpa(at), &(i << 21 | 0x83).to_le_bytes()).unwrap();
    }
    state.msrs.star = 0x18 << 48 | 0x08 << 32;
    state.msrs.lstar = ENTRY;
    state.msrs.sfmask = 0x4_7700;
    (machine, state)
}

/// Runs until HLT, natively and by the interpreter, and compares.
fn compare_built(build: impl Fn() -> (FakeMachine, CpuState)) -> CpuState {
    let (machine, state) = build();
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    let native = pv.save().unwrap();
    let (machine, mut expected) = build();
    let mut single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
    while single.step(&mut expected, &machine.platform).unwrap() != Outcome::Halted {}
    assert_eq!(native.gpr, expected.gpr);
    assert_eq!((native.rip, native.rflags), (expected.rip, expected.rflags));
    assert_eq!((native.cr2, native.cr3, native.segments), (expected.cr2, expected.cr3, expected.segments));
    assert_eq!(native.xsave.0[160..416], expected.xsave.0[160..416]);
    native
}

/// The same for a kernel of [`with_user`].
fn compare_user(
    user: impl Fn(&mut CodeAssembler),
    entry: impl Fn(&mut CodeAssembler),
    handler: impl Fn(&mut CodeAssembler),
) -> CpuState {
    compare_built(|| with_user(&user, &entry, &handler))
}

/// Calls below 100 return their number plus RDI in RAX; others halt.
fn serve(a: &mut CodeAssembler) {
    let mut end = a.create_label();
    a.cmp(eax, 100).unwrap();
    a.jae(end).unwrap();
    a.add(rax, rdi).unwrap();
    a.sysretq().unwrap();
    a.set_label(&mut end).unwrap();
    a.hlt().unwrap();
}

fn exit(a: &mut CodeAssembler) {
    a.mov(eax, 100).unwrap();
    a.syscall().unwrap();
    a.ud2().unwrap();
}

#[test]
fn system_calls_carry_registers_there_and_back() {
    let state = compare_user(
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, 5000).unwrap();
            a.xor(r12d, r12d).unwrap();
            a.mov(rsi, 0x1122_3344_5566_7788_u64).unwrap();
            a.movq(xmm3, rsi).unwrap();
            a.set_label(&mut top).unwrap();
            a.mov(eax, 7).unwrap();
            a.mov(rdi, rbx).unwrap();
            a.syscall().unwrap();
            a.add(r12, rax).unwrap();
            a.paddq(xmm3, xmm3).unwrap();
            a.dec(ebx).unwrap();
            a.jnz(top).unwrap();
            exit(a);
        },
        serve,
        halt,
    );
    assert_eq!(state.gpr[12], (1..=5000).sum::<u64>() + 7 * 5000);
    assert_eq!(state.segment(SegmentRegister::Cs).selector, 8);
}

#[test]
fn a_kernel_that_enters_programs_one_after_the_other_goes_on_behind_each() {
    const SAVED: u64 = 0x32_0000;
    let build = |calls: u32| {
        let user = move |a: &mut CodeAssembler| {
            let (mut top, mut end) = (a.create_label(), a.create_label());
            a.mov(ebx, calls).unwrap();
            a.set_label(&mut top).unwrap();
            a.test(ebx, ebx).unwrap();
            a.jz(end).unwrap();
            a.mov(eax, 7).unwrap();
            a.mov(edi, 5).unwrap();
            a.syscall().unwrap();
            a.inc(qword_ptr(USER_DATA)).unwrap();
            a.dec(ebx).unwrap();
            a.jmp(top).unwrap();
            a.set_label(&mut end).unwrap();
            exit(a);
        };
        let entry = |a: &mut CodeAssembler| {
            let mut end = a.create_label();
            a.cmp(eax, 100).unwrap();
            a.je(end).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.mov(rsp, qword_ptr(SAVED)).unwrap();
            a.pop(rbx).unwrap();
            a.ret().unwrap();
        };
        let (machine, mut state) = with_user(user, entry, halt);
        put(&machine, 0x24_0000, |a| {
            let (mut enter, mut top) = (a.create_label(), a.create_label());
            a.mov(ebx, 3).unwrap();
            a.set_label(&mut top).unwrap();
            a.call(enter).unwrap();
            a.add(r15, qword_ptr(USER_DATA)).unwrap();
            a.mov(dx, 0x500).unwrap();
            a.out(dx, al).unwrap();
            a.dec(ebx).unwrap();
            a.jnz(top).unwrap();
            a.hlt().unwrap();
            a.set_label(&mut enter).unwrap();
            a.push(rbx).unwrap();
            a.mov(qword_ptr(SAVED), rsp).unwrap();
            a.mov(ecx, USER as u32).unwrap();
            a.mov(r11d, 0x202).unwrap();
            a.mov(rsp, USER_STACK).unwrap();
            a.sysretq().unwrap();
        });
        state.rip = 0x24_0000;
        (machine, state)
    };
    for calls in [0, 1, 300] {
        let (machine, state) = build(calls);
        let mut pv = vcpu(&machine, &state);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        let native = pv.save().unwrap();
        assert_eq!(native.gpr[15], u64::from(calls) * 6, "{calls} calls");
        assert_eq!(native.gpr[gpr::RBX], 0);
    }
}

/// Keeps the error code behind those before it in R15, adds the address in R12, and goes on at R14.
fn note_fault(a: &mut CodeAssembler) {
    a.pop(r13).unwrap();
    a.shl(r15, 8).unwrap();
    a.or(r15, r13).unwrap();
    a.mov(r13, cr2).unwrap();
    a.add(r12, r13).unwrap();
    a.mov(qword_ptr(rsp), r14).unwrap();
    a.iretq().unwrap();
}

/// 2 MiB of ring 3 that cannot be written, and 2 MiB that cannot be executed.
const READ_ONLY: u64 = 0x60_0000;
const NOT_CODE: u64 = 0x80_0000;

#[test]
fn ring_3_gets_page_faults_where_the_manual_says_so() {
    // The kernel has its code, data and stack mapped natively when the program starts, and touches them in between.
    type Attempt = (fn(&mut CodeAssembler), u64);
    let attempts: [Attempt; 8] = [
        (|a| a.mov(rax, qword_ptr(STACK - 0x100)).unwrap(), 5),
        (|a| a.mov(qword_ptr(STACK - 0x100), rax).unwrap(), 7),
        (|a| a.jmp(CODE).unwrap(), 0x15),
        (|a| a.mov(al, byte_ptr(ENTRY)).unwrap(), 5),
        (|a| a.call(HANDLER).unwrap(), 0x15),
        (|a| a.mov(qword_ptr(READ_ONLY + 8), rax).unwrap(), 7),
        (|a| a.jmp(NOT_CODE).unwrap(), 0x15),
        (|a| a.mov(rax, qword_ptr(0x4000_0000)).unwrap(), 4),
    ];
    let user = |a: &mut CodeAssembler| {
        a.mov(ebx, 3).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        for (attempt, _) in attempts {
            let mut next = a.create_label();
            a.lea(r14, qword_ptr(next)).unwrap();
            a.mov(rsp, USER_STACK).unwrap();
            attempt(a);
            a.ud2().unwrap();
            a.set_label(&mut next).unwrap();
            a.mov(eax, 7).unwrap();
            a.xor(edi, edi).unwrap();
            a.syscall().unwrap();
            a.add(r11, qword_ptr(READ_ONLY)).unwrap();
            a.add(r11, qword_ptr(NOT_CODE)).unwrap();
        }
        a.dec(ebx).unwrap();
        a.jnz(top).unwrap();
        exit(a);
    };
    let entry = |a: &mut CodeAssembler| {
        a.inc(qword_ptr(STACK - 0x100)).unwrap();
        serve(a);
    };
    let build = || {
        let (machine, state) = with_user(user, entry, note_fault);
        let directory = FakeMachine::TABLES.0 + 0x2000;
        machine.ram().write(Gpa(directory + 8 * 3), &(READ_ONLY | 0x85).to_le_bytes()).unwrap();
        machine.ram().write(Gpa(directory + 8 * 4), &(NOT_CODE | 0x87 | 1 << 63).to_le_bytes()).unwrap();
        machine.ram().write(Gpa(FakeMachine::TABLES.0 + 0x1008), &0_u64.to_le_bytes()).unwrap();
        (machine, state)
    };
    let native = compare_built(build);
    let errors = attempts.iter().fold(0, |all, (_, error)| all << 8 | error);
    assert_eq!(native.gpr[15], errors, "{:#x}", native.gpr[15]);
}

#[test]
fn programs_of_more_address_spaces_than_processes_see_their_own_pages() {
    const SPACES: u64 = 7;
    const PRIVATE: u64 = 0xa0_0000;
    /// Top, pointers and directory of each space.
    const TABLES: u64 = 0x20_0000 - 0x8_0000;
    let build = || {
        let (machine, state) = with_user(
            |a| {
                let mut top = a.create_label();
                a.mov(ebx, 300).unwrap();
                a.set_label(&mut top).unwrap();
                a.mov(rax, qword_ptr(PRIVATE)).unwrap();
                a.imul_3(r15, r15, 3).unwrap();
                a.add(r15, rax).unwrap();
                a.inc(qword_ptr(PRIVATE)).unwrap();
                // Which space is next: now this one again, now another.
                a.mov(eax, 7).unwrap();
                a.mov(rdi, rbx).unwrap();
                a.syscall().unwrap();
                a.dec(ebx).unwrap();
                a.jnz(top).unwrap();
                exit(a);
            },
            |a| {
                let mut end = a.create_label();
                a.cmp(eax, 100).unwrap();
                a.jae(end).unwrap();
                a.mov(rax, rdi).unwrap();
                a.imul_3(rax, rax, 5).unwrap();
                a.shr(rax, 3).unwrap();
                a.xor(edx, edx).unwrap();
                a.mov(edi, SPACES as u32).unwrap();
                a.div(rdi).unwrap();
                a.imul_3(rdx, rdx, 0x3000).unwrap();
                a.add(rdx, TABLES as i32).unwrap();
                a.mov(cr3, rdx).unwrap();
                a.sysretq().unwrap();
                a.set_label(&mut end).unwrap();
                a.hlt().unwrap();
            },
            halt,
        );
        let ram = machine.ram();
        let from = FakeMachine::TABLES.0;
        for space in 0..SPACES {
            let top = TABLES + 0x3000 * space;
            let mut directory = [0; 4096];
            ram.read(Gpa(from + 0x2000), &mut directory).unwrap();
            // Three frames of 2 MiB for all; a 4 KiB page in a table of its own would do as well.
            let frame = 0xa0_0000 + ((space % 3) << 21);
            let entry = (PRIVATE >> 21) as usize * 8;
            directory[entry..entry + 8].copy_from_slice(&(frame | 0x87).to_le_bytes());
            ram.write(Gpa(top + 0x2000), &directory).unwrap();
            ram.write(Gpa(top), &((top + 0x1000) | 7).to_le_bytes()).unwrap();
            ram.write(Gpa(top + 0x1000), &((top + 0x2000) | 7).to_le_bytes()).unwrap();
            ram.write(Gpa(frame), &(1000 * (space % 3)).to_le_bytes()).unwrap();
        }
        (machine, state)
    };
    compare_built(|| {
        let (machine, mut state) = build();
        state.cr3 = TABLES;
        (machine, state)
    });
}

#[test]
fn interrupts_and_kicks_at_any_moment_lose_nothing_between_kernel_and_user() {
    const TURNS: u64 = 20_000;
    const TAKEN: u64 = 0x32_0000;
    let (machine, state) = with_user(
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, TURNS as u32).unwrap();
            a.xor(r12d, r12d).unwrap();
            a.set_label(&mut top).unwrap();
            a.mov(eax, 7).unwrap();
            a.mov(rdi, rbx).unwrap();
            a.syscall().unwrap();
            a.add(r12, rax).unwrap();
            a.movq(xmm5, r12).unwrap();
            a.dec(ebx).unwrap();
            a.jnz(top).unwrap();
            a.movq(r13, xmm5).unwrap();
            exit(a);
        },
        |a| {
            let mut end = a.create_label();
            a.cmp(eax, 100).unwrap();
            a.jae(end).unwrap();
            a.mov(r8, rsp).unwrap();
            a.mov(rsp, INTERRUPT_STACK - 0x800).unwrap();
            a.sti().unwrap();
            a.add(rax, rdi).unwrap();
            a.cli().unwrap();
            a.mov(rsp, r8).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.inc(qword_ptr(TAKEN)).unwrap();
            a.iretq().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let done = AtomicBool::new(false);
    let raised = std::thread::scope(|scope| {
        let kicker = scope.spawn(|| {
            let mut raised = 0_u64;
            let mut n = 0_u32;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                if n.is_multiple_of(3) {
                    machine.interrupts.raise(0x40);
                    raised += 1;
                } else {
                    machine.platform.kick(VcpuId(0)).kick();
                }
                std::thread::sleep(Duration::from_micros(u64::from(n % 90)));
            }
            raised
        });
        while pv.run(&machine.platform).unwrap() == Exit::Kicked {}
        done.store(true, Ordering::Relaxed);
        kicker.join().unwrap()
    });
    let state = pv.save().unwrap();
    let sum = (1..=TURNS).sum::<u64>() + 7 * TURNS;
    assert_eq!((state.gpr[12], state.gpr[13]), (sum, sum));
    let mut taken = [0; 8];
    machine.ram().read(Gpa(TAKEN), &mut taken).unwrap();
    let taken = u64::from_le_bytes(taken);
    assert!(raised > 0 && taken > 0 && taken <= raised, "{taken} of {raised}");
}

#[test]
fn two_programs_with_different_code_at_one_address_run_their_own() {
    const SAVED: u64 = 0x32_0000;
    const OTHER: u64 = 0xa0_0000;
    const TABLES: u64 = 0x18_0000;
    let build = || {
        let first = |a: &mut CodeAssembler| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.imul_3(r15, r15, 3).unwrap();
            a.inc(r15).unwrap();
            a.syscall().unwrap();
            a.xor(r15d, 0x55).unwrap();
            a.jmp(top).unwrap();
        };
        let second = |a: &mut CodeAssembler| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.add(r15, 5).unwrap();
            a.pushfq().unwrap();
            a.pop(r14).unwrap();
            a.syscall().unwrap();
            a.rol(r15, 7).unwrap();
            a.syscall().unwrap();
            a.not(r15).unwrap();
            a.jmp(top).unwrap();
        };
        // Each call goes on in the other space, where that one called last.
        let entry = |a: &mut CodeAssembler| {
            let mut end = a.create_label();
            a.dec(ebx).unwrap();
            a.jz(end).unwrap();
            a.xchg(qword_ptr(SAVED), rcx).unwrap();
            a.mov(rdx, cr3).unwrap();
            a.xor(rdx, (TABLES ^ FakeMachine::TABLES.0) as i32).unwrap();
            a.mov(cr3, rdx).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        };
        let (machine, mut state) = with_user(first, entry, halt);
        state.gpr[gpr::RBX] = 1000;
        let ram = machine.ram();
        let mut a = CodeAssembler::new(64).unwrap();
        second(&mut a);
        ram.write(Gpa(OTHER), &a.assemble(USER).unwrap()).unwrap();
        ram.write(Gpa(SAVED), &USER.to_le_bytes()).unwrap();
        let mut directory = [0; 4096];
        ram.read(Gpa(FakeMachine::TABLES.0 + 0x2000), &mut directory).unwrap();
        let entry = (USER >> 21) as usize * 8;
        directory[entry..entry + 8].copy_from_slice(&(OTHER | 0x87).to_le_bytes());
        ram.write(Gpa(TABLES + 0x2000), &directory).unwrap();
        ram.write(Gpa(TABLES), &((TABLES + 0x1000) | 7).to_le_bytes()).unwrap();
        ram.write(Gpa(TABLES + 0x1000), &((TABLES + 0x2000) | 7).to_le_bytes()).unwrap();
        (machine, state)
    };
    compare_built(build);
}

#[test]
fn a_program_that_jumps_into_the_monitors_part_gets_a_page_fault() {
    let state = compare_user(
        |a| {
            for target in [ZONE + 0x1234, ZONE + 0x80_0000] {
                let mut next = a.create_label();
                a.lea(r14, qword_ptr(next)).unwrap();
                a.mov(rax, target).unwrap();
                a.jmp(rax).unwrap();
                a.set_label(&mut next).unwrap();
            }
            exit(a);
        },
        serve,
        note_fault,
    );
    // The first GiB and the fourth are mapped; the zone is in the second.
    assert_eq!(state.gpr[15], 0x1414);
}
