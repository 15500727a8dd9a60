//! 16- and 32-bit code: segments with a base and a limit, virtual-8086 mode, gates and task switches.
use super::{CODE, DATA, STACK};
use crate::arch::{CpuState, Cr0, Gpa, Rflags, Segment, SegmentRegister, Vector};
use crate::clock::ClockSource;
use crate::emulator::single::{Ended, Outcome, Single};
use crate::engine::VcpuId;
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::*;
use std::sync::Arc;

const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const OTHER_TSS: u64 = 0x6800;
/// The handler of vector `n` is at `HANDLERS + 16 n`: a HLT.
const HANDLERS: u64 = 0x7000;
const RING0_STACK: u64 = 0xa000;
const OTHER_STACK: u64 = 0xb000;
/// Where the second piece of code is.
const THERE: u64 = 0x1_8000;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const TASK: u16 = 0x28;
const OTHER_TASK: u16 = 0x30;
const CALL_GATE: u16 = 0x3b;
const TASK_GATE: u16 = 0x40;

/// A machine in 32-bit protected mode without paging.
struct Bench {
    machine: FakeMachine,
    state: CpuState,
    single: Single,
}

impl Bench {
    fn new(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        let machine = FakeMachine::new(4 << 20, ClockSource::Real);
        let mut state = CpuState::pvh_entry(CODE as u32, 0);
        state.gpr[4] = STACK;
        (state.gdtr.base, state.gdtr.limit) = (GDT, 0x47);
        (state.idtr.base, state.idtr.limit) = (IDT, 0x7ff);
        state.tr = Segment { selector: TASK, base: TSS, limit: 0x67, attributes: 0x8b };
        let single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
        let bench = Self { machine, state, single };
        let gate = |kind: u64, selector: u16, offset: u64, words: u64| {
            offset & 0xffff | u64::from(selector) << 16 | words << 32 | kind << 40 | (offset >> 16) << 48
        };
        let descriptors = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x0000_8b00_0000_0067 | TSS << 16,
            0x0000_8900_0000_0067 | OTHER_TSS << 16,
            gate(0xec, CODE0, THERE, 2),
            gate(0xe5, OTHER_TASK, 0, 0),
        ];
        for (i, descriptor) in (0..).zip(descriptors) {
            bench.poke64(GDT + 8 * i, descriptor);
        }
        bench.poke(TSS + 4, RING0_STACK as u32);
        bench.poke(TSS + 8, DATA0.into());
        for vector in 0..=255 {
            bench.poke64(IDT + 8 * vector, gate(0xee, CODE0, HANDLERS + 16 * vector, 0));
            bench.poke(HANDLERS + 16 * vector, 0xf4);
        }
        bench.assemble(CODE, 32, program);
        bench
    }

    /// Real mode, with CS at [`CODE`].
    fn real(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        let mut bench = Self::new(|a| a.nop().unwrap());
        bench.assemble_at(CODE, 0, 16, program);
        bench.state.cr0 = Cr0::ET;
        let data = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0x93 };
        bench.state.segments = [data; 6];
        *bench.state.segment_mut(SegmentRegister::Cs) =
            Segment { selector: (CODE >> 4) as u16, base: CODE, limit: 0xffff, attributes: 0x9b };
        bench.state.rip = 0;
        (bench.state.idtr.base, bench.state.idtr.limit) = (0, 0x3ff);
        for vector in 0..=255 {
            bench.poke(4 * vector, ((HANDLERS as u32 >> 4) << 16) | (16 * vector as u32));
        }
        bench
    }

    /// A task at [`OTHER_TSS`] that begins at [`THERE`].
    fn other_task(&self, flags: u32) {
        for (offset, value) in [
            (0x20, THERE as u32),
            (0x24, flags),
            (0x28, 0x1111),
            (0x38, OTHER_STACK as u32),
            (0x48, DATA0.into()),
            (0x4c, CODE0.into()),
            (0x50, DATA0.into()),
            (0x54, DATA0.into()),
        ] {
            self.poke(OTHER_TSS + offset, value);
        }
    }

    fn ring3(&mut self) {
        *self.state.segment_mut(SegmentRegister::Cs) =
            Segment { attributes: 0xc0fb, ..Segment::flat32(CODE3, 0xb) };
        for register in [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es] {
            *self.state.segment_mut(register) = Segment { attributes: 0xc0f3, ..Segment::flat32(DATA3, 3) };
        }
    }

    fn assemble(&self, at: u64, bits: u32, program: impl FnOnce(&mut CodeAssembler)) {
        self.assemble_at(at, at, bits, program);
    }

    fn assemble_at(&self, at: u64, ip: u64, bits: u32, program: impl FnOnce(&mut CodeAssembler)) {
        let mut a = CodeAssembler::new(bits).unwrap();
        program(&mut a);
        self.machine.ram().write(Gpa(at), &a.assemble(ip).unwrap()).unwrap();
    }

    fn poke(&self, at: u64, value: u32) {
        self.machine.ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    }

    fn poke64(&self, at: u64, value: u64) {
        self.machine.ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    }

    fn peek(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.machine.ram().read(Gpa(at), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn step(&mut self) -> Outcome {
        self.single.step(&mut self.state, &self.machine.platform).unwrap()
    }

    /// Steps `n` times without an exception.
    fn steps(&mut self, n: usize) {
        for i in 0..n {
            assert_eq!(self.step(), Outcome::Retired, "step {i}");
        }
    }

    /// Runs by whole blocks until HLT.
    fn run(&mut self) {
        loop {
            let ended = self.single.run(&mut self.state, &self.machine.platform, &[], &mut true).unwrap();
            match ended {
                Ended::Halted => return,
                Ended::Attention => self.machine.platform.attend(VcpuId(0)),
                other => panic!("{other:?} at {:#x}", self.state.rip),
            };
        }
    }

    /// The next step raises `vector`; the words of the frame, the last pushed first.
    fn faults<const N: usize>(&mut self, vector: Vector) -> [u32; N] {
        assert_eq!(self.step(), Outcome::Exception(vector));
        assert_eq!(self.state.rip, HANDLERS + 16 * vector as u64);
        let top = self.state.gpr[4];
        std::array::from_fn(|i| self.peek(top + 4 * i as u64))
    }

    fn selector(&self, register: SegmentRegister) -> u16 {
        self.state.segment(register).selector
    }
}

#[test]
fn real_mode_code_runs_where_its_segment_lies() {
    let mut bench = Bench::real(|a| {
        a.mov(ax, 0x1800).unwrap();
        a.push(ax).unwrap();
        a.push(0x20).unwrap();
        a.retf().unwrap();
    });
    bench.state.gpr[4] = 0x8000;
    bench.assemble_at(THERE + 0x20, 0x20, 16, |a| {
        let mut over = a.create_label();
        a.mov(bx, 7).unwrap();
        a.jmp(over).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut over).unwrap();
        a.add(bx, 1).unwrap();
        a.hlt().unwrap();
    });
    bench.run();
    assert_eq!(bench.state.gpr[3], 8);
    assert_eq!((bench.selector(SegmentRegister::Cs), bench.state.gpr[4]), (0x1800, 0x8000));
    // The same bytes in a segment that begins 16 bytes later are other code.
    let mut bench = Bench::real(|a| a.call(0x30_u64).unwrap());
    bench.assemble_at(CODE + 0x30, 0x30, 16, |a| a.hlt().unwrap());
    bench.state.gpr[4] = 0x8000;
    bench.run();
    assert_eq!(bench.state.rip, 0x31);
    (bench.state.rip, bench.state.gpr[3]) = (0, 0);
    bench.assemble_at(CODE + 0x40, 0x30, 16, |a| {
        a.mov(bx, 5).unwrap();
        a.hlt().unwrap();
    });
    *bench.state.segment_mut(SegmentRegister::Cs) =
        Segment { selector: 0x1001, base: CODE + 0x10, limit: 0xffff, attributes: 0x9b };
    bench.assemble_at(CODE + 0x10, 0, 16, |a| a.call(0x30_u64).unwrap());
    bench.run();
    assert_eq!((bench.state.rip, bench.state.gpr[3]), (0x34, 5));
}

#[test]
fn code_ends_at_the_limit_of_its_segment() {
    let mut bench = Bench::new(|a| {
        a.nop().unwrap();
        a.mov(eax, 1).unwrap();
    });
    bench.state.segment_mut(SegmentRegister::Cs).limit = CODE as u32 + 3;
    bench.steps(1);
    assert_eq!(bench.faults::<2>(Vector::GeneralProtection), [0, CODE as u32 + 1]);
    // A branch beyond the limit is itself at fault, and has counted nothing.
    let mut bench = Bench::new(|a| a.loop_(CODE + 0x40).unwrap());
    bench.state.segment_mut(SegmentRegister::Cs).limit = CODE as u32 + 0x20;
    bench.state.gpr[1] = 5;
    assert_eq!(bench.faults::<2>(Vector::GeneralProtection), [0, CODE as u32]);
    assert_eq!(bench.state.gpr[1], 5);
}

#[test]
fn virtual_8086_code_is_entered_by_iret_and_left_by_a_frame_of_nine_words() {
    let mut bench = Bench::new(|a| a.iretd().unwrap());
    let frame = [0x100, 0x1800, 0x2_0002, 0x200, 0x900, 0x11, 0x2000, 0x33, 0x44];
    for (i, value) in (0..).zip(frame) {
        bench.poke(STACK + 4 * i, value);
    }
    bench.assemble_at(THERE + 0x100, 0x100, 16, |a| {
        a.mov(ax, 0x2001).unwrap();
        a.mov(ds, ax).unwrap();
        a.mov(word_ptr(2), ax).unwrap();
        a.push(ax).unwrap();
        a.call(0x200_u64).unwrap();
    });
    bench.assemble_at(THERE + 0x200, 0x200, 16, |a| a.int(0x21).unwrap());
    bench.steps(6);
    assert!(bench.state.rflags.contains(Rflags::VM));
    assert_eq!((bench.state.cpl(), bench.state.code_bits()), (3, 16));
    assert_eq!(bench.peek(DATA + 0x12) as u16, 0x2001);
    assert_eq!(bench.peek(0x91fe) as u16, 0x2001);
    // With IOPL 0, INT n is not the program's to execute.
    let words = bench.faults::<10>(Vector::GeneralProtection);
    assert_eq!(words, [0, 0x200, 0x1800, 0x3_0002, 0x1fc, 0x900, 0x11, 0x2001, 0x33, 0x44]);
    assert_eq!(bench.state.cpl(), 0);
    assert!(!bench.state.rflags.contains(Rflags::VM));
    assert_eq!(bench.selector(SegmentRegister::Ds), 0);
    assert!(!bench.state.segment(SegmentRegister::Gs).is_present());
    // With IOPL 3 it goes through the IDT as from any ring 3.
    bench.state.gpr[4] += 4;
    bench.poke(bench.state.gpr[4] + 8, 0x2_3002);
    bench.state.rip = CODE;
    bench.steps(1);
    assert_eq!(bench.step(), Outcome::Retired);
    assert_eq!(bench.state.rip, HANDLERS + 16 * 0x21);
    assert_eq!(bench.peek(bench.state.gpr[4]), 0x202);
}

#[test]
fn a_call_gate_takes_parameters_to_the_inner_stack_and_back() {
    let mut bench = Bench::new(|a| {
        a.push(0x77).unwrap();
        a.push(0x88).unwrap();
        a.db(&[0x9a, 0, 0, 0, 0, CALL_GATE as u8, 0]).unwrap();
        a.hlt().unwrap();
    });
    bench.assemble(THERE, 32, |a| {
        a.mov(eax, dword_ptr(esp + 8)).unwrap();
        a.mov(ebx, dword_ptr(esp + 12)).unwrap();
        a.retf_1(8).unwrap();
    });
    bench.ring3();
    bench.steps(3);
    let top = bench.state.gpr[4];
    assert_eq!((bench.state.rip, bench.state.cpl(), top), (THERE, 0, RING0_STACK - 24));
    let words: [u32; 6] = std::array::from_fn(|i| bench.peek(top + 4 * i as u64));
    let next = CODE as u32 + 14;
    assert_eq!(words, [next, CODE3.into(), 0x88, 0x77, STACK as u32 - 8, DATA3.into()]);
    bench.steps(3);
    assert_eq!((bench.state.gpr[0], bench.state.gpr[3]), (0x88, 0x77));
    assert_eq!((bench.state.rip, bench.state.cpl(), bench.state.gpr[4]), (next.into(), 3, STACK));
}

#[test]
fn tasks_are_called_nested_and_returned_from() {
    let mut bench = Bench::new(|a| {
        a.db(&[0x9a, 0, 0, 0, 0, TASK_GATE as u8, 0]).unwrap();
        a.hlt().unwrap();
    });
    bench.other_task(2);
    bench.assemble(THERE, 32, |a| {
        a.inc(eax).unwrap();
        a.iretd().unwrap();
    });
    bench.state.gpr[0] = 0x55;
    bench.steps(1);
    assert_eq!((bench.state.rip, bench.state.tr.selector, bench.state.gpr[0]), (THERE, OTHER_TASK, 0x1111));
    assert!(bench.state.rflags.contains(Rflags::NT) && bench.state.cr0.contains(Cr0::TS));
    assert_eq!(bench.peek(OTHER_TSS) as u16, TASK, "the link");
    let rights = |bench: &Bench, selector: u16| bench.peek(GDT + u64::from(selector) + 4) >> 8 & 0xff;
    assert_eq!((rights(&bench, TASK), rights(&bench, OTHER_TASK)), (0x8b, 0x8b));
    bench.steps(2);
    assert_eq!((bench.state.rip, bench.state.tr.selector), (CODE + 7, TASK));
    assert_eq!((bench.state.gpr[0], bench.state.gpr[4]), (0x55, STACK));
    assert_eq!((rights(&bench, TASK), rights(&bench, OTHER_TASK)), (0x8b, 0x89));
    assert_eq!((bench.peek(OTHER_TSS + 0x28), bench.peek(OTHER_TSS + 0x20)), (0x1112, THERE as u32 + 2));
    assert!(!bench.state.rflags.contains(Rflags::NT));
}

#[test]
fn a_task_that_cannot_begin_faults_in_its_own_state() {
    let mut bench = Bench::new(|a| a.db(&[0xea, 0, 0, 0, 0, OTHER_TASK as u8, 0]).unwrap());
    bench.other_task(2);
    bench.poke(OTHER_TSS + 0x54, CODE3.into());
    bench.poke(OTHER_TSS + 0x58, 0x48);
    assert_eq!(bench.faults::<3>(Vector::InvalidTss), [0x48, THERE as u32, CODE0.into()]);
    assert_eq!(bench.state.tr.selector, OTHER_TASK);
    // A busy task cannot be jumped to; the old one goes on.
    let mut bench = Bench::new(|a| a.db(&[0xea, 0, 0, 0, 0, TASK as u8, 0]).unwrap());
    assert_eq!(bench.faults::<2>(Vector::GeneralProtection), [TASK.into(), CODE as u32]);
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_code_onto_the_new_stack() {
    let mut bench = Bench::new(|a| a.mov(ds, eax).unwrap());
    bench.state.gpr[0] = 0x70;
    bench.other_task(2);
    bench.poke64(IDT + 8 * 13, 0x0000_8500_0000_0000 | u64::from(OTHER_TASK) << 16);
    assert_eq!(bench.step(), Outcome::Exception(Vector::GeneralProtection));
    assert_eq!((bench.state.rip, bench.state.gpr[4]), (THERE, OTHER_STACK - 4));
    assert_eq!(bench.peek(OTHER_STACK - 4), 0x70);
    assert_eq!(bench.peek(TSS + 0x20), CODE as u32, "the old task goes on at its fault");
}

#[test]
fn breakpoints_stop_before_instructions_and_after_data() {
    let mut bench = Bench::new(|a| {
        a.nop().unwrap();
        a.nop().unwrap();
        a.mov(dword_ptr(DATA), eax).unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    bench.state.dr[0] = CODE + 1;
    bench.state.dr[1] = DATA + 2;
    // DR0 on execution, DR1 on writes of two bytes.
    bench.state.dr[7] = 0x400 | 2 | 8 | 0x5 << 20;
    bench.steps(1);
    let frame = bench.faults::<3>(Vector::Debug);
    assert_eq!((frame[0], bench.state.dr[6]), (CODE as u32 + 1, 0xffff_0ff1));
    assert_eq!(frame[2] & Rflags::RF.bits() as u32, 0);
    // RF lets the instruction through, once.
    bench.poke(bench.state.gpr[4] + 8, frame[2] | Rflags::RF.bits() as u32);
    bench.assemble(HANDLERS + 16, 32, |a| a.iretd().unwrap());
    bench.steps(2);
    assert_eq!(bench.state.rip, CODE + 2);
    let frame = bench.faults::<1>(Vector::Debug);
    assert_eq!((frame[0], bench.state.dr[6]), (CODE as u32 + 7, 0xffff_0ff2));
    bench.assemble(HANDLERS + 16, 32, |a| a.iretd().unwrap());
    bench.run();
    assert_eq!(bench.state.rip, CODE + 9);
}
