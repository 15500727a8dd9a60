//! Exceptions: precise state, error codes, stacks, escalation.
use super::*;
use crate::arch::state::gpr::{RAX, RBX, RSP};
use crate::arch::{Activity, Cr0, Cr4, Rflags};
use iced_x86::code_asm::*;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const NX: u64 = 1 << 63;

#[test]
fn a_page_fault_leaves_everything_as_it_was() {
    let mut b = Bench::new(|a| a.add(qword_ptr(rbx), rax).unwrap());
    b.state.gpr[RBX] = WINDOW + 0x123;
    b.state.gpr[RAX] = 7;
    b.state.rflags |= Rflags::CF | Rflags::ZF;
    let before = b.state.clone();
    let frame = b.faults(Vector::PageFault);
    assert_eq!(frame[0], 2, "a write by the supervisor to a page that is not present");
    assert_eq!((frame[1], frame[2]), (CODE, u64::from(KERNEL_CODE)));
    assert_eq!(frame[3], (before.rflags | Rflags::RF).bits());
    assert_eq!((frame[4], frame[5]), (STACK, 0x10));
    assert_eq!(b.state.cr2, WINDOW + 0x123);
    assert_eq!(b.state.gpr[RAX], 7);
    assert!(b.state.rflags.contains(Rflags::CF | Rflags::ZF));
}

#[test]
fn a_write_across_pages_writes_nothing_if_the_second_page_is_missing() {
    let mut b = Bench::new(|a| a.mov(qword_ptr(rbx), rax).unwrap());
    b.map(0, DATA | P | RW);
    b.poke(DATA + 0xff8, 0x1111_1111_1111_1111);
    b.state.gpr[RBX] = WINDOW + 0xffc;
    b.faults(Vector::PageFault);
    assert_eq!(b.state.cr2, WINDOW + 0x1000);
    assert_eq!(b.peek(DATA + 0xff8), 0x1111_1111_1111_1111);
}

#[test]
fn pushes_pops_and_calls_that_fault_leave_the_stack_pointer() {
    let check = |program: fn(&mut CodeAssembler), top: u64| {
        let mut b = Bench::new(program);
        b.gate(14, 0, 1);
        b.state.gpr[RSP] = top;
        let frame = b.faults(Vector::PageFault);
        assert_eq!(frame[4], top);
    };
    check(|a| a.push(rax).unwrap(), WINDOW + 8);
    check(|a| a.pop(rax).unwrap(), WINDOW);
    check(|a| a.call(rax).unwrap(), WINDOW + 8);
    check(|a| a.ret().unwrap(), WINDOW);
    check(|a| a.pop(qword_ptr(WINDOW)).unwrap(), STACK - 64);
    check(|a| a.pushfq().unwrap(), WINDOW + 8);
    check(|a| a.enter(16, 3).unwrap(), WINDOW + 8);
    check(|a| a.iretq().unwrap(), WINDOW);
}

/// The error code that an access to a page with `entry` gives; `None` if it succeeds.
fn access(
    entry: u64,
    ring3: bool,
    set: impl Fn(&mut CpuState),
    program: fn(&mut CodeAssembler),
) -> Option<u64> {
    let mut b = Bench::new(program);
    b.map(0, entry);
    b.state.gpr[RBX] = WINDOW;
    if ring3 {
        b.enter_ring3();
    } else {
        // Code, tables and stacks are the supervisor's then.
        b.poke(crate::engine::fake::FakeMachine::TABLES.0 + 0x2000, 0x83);
    }
    set(&mut b.state);
    match b.step() {
        Outcome::Exception(Vector::PageFault) => Some(b.peek(b.state.gpr[RSP])),
        Outcome::Retired => {
            // A fetch faults one step later.
            matches!(b.step(), Outcome::Exception(Vector::PageFault)).then(|| b.peek(b.state.gpr[RSP]))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn page_fault_codes_say_what_was_wrong() {
    let nothing = |_: &mut CpuState| {};
    let read: fn(&mut CodeAssembler) = |a| {
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.nop().unwrap();
    };
    let write: fn(&mut CodeAssembler) = |a| {
        a.mov(dword_ptr(rbx), eax).unwrap();
        a.nop().unwrap();
    };
    let jump: fn(&mut CodeAssembler) = |a| a.jmp(rbx).unwrap();
    let user_page = DATA | P | RW | US;
    assert_eq!(access(0, true, nothing, read), Some(4));
    assert_eq!(access(DATA | P | RW, true, nothing, read), Some(5), "supervisor page");
    assert_eq!(access(DATA | P | US, true, nothing, write), Some(7), "read-only page");
    assert_eq!(access(DATA | P, false, nothing, write), Some(3), "WP");
    assert_eq!(access(DATA | P, false, |s| s.cr0 -= Cr0::WP, write), None);
    assert_eq!(access(user_page | NX, true, nothing, jump), Some(0x15));
    assert_eq!(access(user_page, false, |s| s.cr4 |= Cr4::SMEP, jump), Some(0x11));
    assert_eq!(access(user_page, false, |s| s.cr4 |= Cr4::SMAP, read), Some(1));
    let excused = |s: &mut CpuState| {
        s.cr4 |= Cr4::SMAP;
        s.rflags |= Rflags::AC;
    };
    assert_eq!(access(user_page, false, excused, read), None);
    assert_eq!(access(user_page | 1 << 35, true, nothing, read), None, "a frame beyond RAM floats");
    assert_eq!(
        access(user_page | 1 << 46, true, nothing, read),
        Some(0xd),
        "no CPU of ours has that address bit"
    );
}

/// SMAP on, and the stack of the frame on a page of ring 3. Gives the vector that is delivered in the end.
fn push_on_a_user_page(ring3: bool, ac: bool) -> Vector {
    let mut b = Bench::new(|a| a.ud2().unwrap());
    let top = WINDOW + 0x1000;
    b.map(0, DATA | P | RW | US);
    b.map(1, CODE | P | US);
    // All else is the supervisor's.
    b.poke(crate::engine::fake::FakeMachine::TABLES.0 + 0x2000, 0x83);
    b.gate(14, 0, 1);
    b.poke(TSS + 4, top);
    b.state.gpr[RSP] = top;
    b.state.cr4 |= Cr4::SMAP;
    b.state.rflags.set(Rflags::AC, ac);
    if ring3 {
        b.enter_ring3();
        b.state.rip = WINDOW + 0x1000;
    }
    let outcome = b.step();
    let Outcome::Exception(vector) = outcome else { panic!("{outcome:?}") };
    if vector == Vector::PageFault {
        assert_eq!((b.peek(b.state.gpr[RSP]), b.state.cr2), (3, top - 8));
    }
    vector
}

#[test]
fn ac_excuses_the_frame_of_an_exception_only_within_rings_0_to_2() {
    assert_eq!(push_on_a_user_page(false, false), Vector::PageFault);
    assert_eq!(push_on_a_user_page(false, true), Vector::InvalidOpcode);
    assert_eq!(push_on_a_user_page(true, false), Vector::PageFault);
    assert_eq!(push_on_a_user_page(true, true), Vector::PageFault);
}

#[test]
fn accessed_and_dirty_bits_are_set_when_due() {
    let mut b = Bench::new(|a| {
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.mov(dword_ptr(rbx), eax).unwrap();
    });
    b.map(0, DATA | P | RW);
    b.state.gpr[RBX] = WINDOW;
    b.step();
    assert_eq!(b.peek(PAGE_TABLE) & 0x60, 0x20);
    b.step();
    assert_eq!(b.peek(PAGE_TABLE) & 0x60, 0x60);
}

#[test]
fn addresses_that_are_not_canonical_are_gp_or_ss() {
    let far = 0x8000_0000_0000;
    for (program, vector) in [
        ((|a| a.mov(eax, dword_ptr(rbx)).unwrap()) as fn(&mut CodeAssembler), Vector::GeneralProtection),
        (|a| a.mov(eax, dword_ptr(rbp + rbx)).unwrap(), Vector::StackFault),
        (|a| a.jmp(rbx).unwrap(), Vector::GeneralProtection),
        (|a| a.mov(qword_ptr(rbx - 4), rax).unwrap(), Vector::GeneralProtection),
    ] {
        let mut b = Bench::new(program);
        b.state.gpr[RBX] = far;
        let frame = b.faults(vector);
        assert_eq!((frame[0], frame[1]), (0, CODE));
    }
}

#[test]
fn privileged_and_invalid_instructions_are_refused() {
    for program in [
        (|a| a.hlt().unwrap()) as fn(&mut CodeAssembler),
        |a| a.cli().unwrap(),
        |a| a.mov(rax, cr0).unwrap(),
        |a| a.wrmsr().unwrap(),
        |a| a.lgdt(qword_ptr(rbx)).unwrap(),
        |a| a.invlpg(byte_ptr(rbx)).unwrap(),
        |a| a.out(dx, al).unwrap(),
        |a| a.int(0x80).unwrap(),
    ] {
        let mut b = Bench::new(program);
        b.enter_ring3();
        b.faults(Vector::GeneralProtection);
    }
    for program in [
        (|a| a.ud2().unwrap()) as fn(&mut CodeAssembler),
        |a| a.db(&[0xf0, 0x01, 0xc0]).unwrap(),
        |a| a.vpaddd(zmm0, zmm1, zmm2).unwrap(),
        |a| a.vmcall().unwrap(),
        |a| a.rdfsbase(rax).unwrap(),
        |a| a.db(&[0x06]).unwrap(),
    ] {
        let mut b = Bench::new(program);
        let frame = b.faults(Vector::InvalidOpcode);
        assert_eq!(frame[0], CODE);
    }
    let mut long = Bench::new(|a| a.db(&[0x66; 16]).unwrap());
    long.faults(Vector::GeneralProtection);
}

#[test]
fn from_ring_3_the_handler_runs_on_the_stack_of_the_tss() {
    let mut b = Bench::new(|a| a.ud2().unwrap());
    b.enter_ring3();
    let frame = b.faults(Vector::InvalidOpcode);
    assert_eq!(b.state.gpr[RSP], RING0_STACK - 40);
    assert_eq!(frame[1], u64::from(USER_CODE));
    assert_eq!((frame[3], frame[4]), (STACK, u64::from(USER_DATA)));
    assert_eq!((b.state.cpl(), b.state.segment(SegmentRegister::Ss).selector), (0, 0));
    assert_eq!(b.state.segment(SegmentRegister::Cs).selector, KERNEL_CODE);

    let mut b = Bench::new(|a| a.ud2().unwrap());
    b.gate(6, 0, 1);
    b.state.gpr[RSP] = STACK - 3;
    b.faults(Vector::InvalidOpcode);
    assert_eq!(b.state.gpr[RSP], IST1_STACK - 40, "IST also without a change of ring");
}

#[test]
fn failed_deliveries_escalate() {
    let mut b = Bench::new(|a| a.mov(eax, dword_ptr(rbx)).unwrap());
    b.state.gpr[RBX] = WINDOW;
    b.no_gate(14);
    b.faults(Vector::DoubleFault);
    assert_eq!(b.peek(b.state.gpr[RSP]), 0, "the error code of #DF");
    assert_eq!(b.state.cr2, WINDOW);

    let mut b = Bench::new(|a| a.ud2().unwrap());
    b.no_gate(6);
    let frame = b.faults(Vector::SegmentNotPresent);
    assert_eq!(frame[0], 6 << 3 | 3, "after #UD, a failed delivery is an exception of its own");

    let mut b = Bench::new(|a| a.div(ecx).unwrap());
    b.no_gate(0);
    b.no_gate(8);
    assert_eq!(b.step(), Outcome::TripleFault);
    assert_eq!(b.state.activity, Activity::Shutdown);

    let mut b = Bench::new(|a| a.ud2().unwrap());
    b.state.idtr.limit = 0;
    assert_eq!(b.run(), crate::emulator::single::Ended::TripleFault);
}

#[test]
fn division_faults_before_it_changes_anything() {
    for (program, dividend) in [
        ((|a| a.div(rbx).unwrap()) as fn(&mut CodeAssembler), 5),
        (|a| a.idiv(rbx).unwrap(), 5),
        (|a| a.div(bl).unwrap(), 5),
    ] {
        let mut b = Bench::new(program);
        b.state.gpr[RAX] = dividend;
        b.faults(Vector::DivideError);
        assert_eq!(b.state.gpr[RAX], dividend);
    }
    // The quotient of the smallest number by −1 does not fit.
    let mut b = Bench::new(|a| a.idiv(ebx).unwrap());
    (b.state.gpr[RAX], b.state.gpr[2], b.state.gpr[RBX]) = (0x8000_0000, 0xffff_ffff, 0xffff_ffff);
    b.faults(Vector::DivideError);
}

#[test]
fn a_block_stops_at_the_faulting_instruction() {
    let mut b = Bench::new(|a| {
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.mov(ecx, dword_ptr(rbx)).unwrap();
        a.inc(eax).unwrap();
    });
    b.state.gpr[RBX] = WINDOW;
    assert_eq!(b.run(), crate::emulator::single::Ended::Halted, "in the handler");
    assert_eq!(b.state.gpr[RAX], 2);
    assert_eq!(b.peek(b.state.gpr[RSP] + 8), CODE + 4);
}

#[test]
fn alignment_checks_are_for_ring_3_with_ac() {
    let mut b = Bench::new(|a| a.mov(eax, dword_ptr(rbx)).unwrap());
    b.state.gpr[RBX] = DATA + 2;
    b.state.cr0 |= Cr0::AM;
    b.state.rflags |= Rflags::AC;
    b.enter_ring3();
    assert_eq!(b.faults(Vector::AlignmentCheck)[0], 0);
    let mut b = Bench::new(|a| a.mov(eax, dword_ptr(rbx)).unwrap());
    b.state.gpr[RBX] = DATA + 2;
    b.state.cr0 |= Cr0::AM;
    b.state.rflags |= Rflags::AC;
    assert_eq!(b.step(), Outcome::Retired);
}
