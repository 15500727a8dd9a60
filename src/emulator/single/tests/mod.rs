//! Small assembled programs, a file per subject.
mod basics;
mod engines;
mod exceptions;
mod hypercalls;
mod interrupts;
mod legacy;
mod self_modifying;
mod strings;
mod system;

use super::{Outcome, Single};
use crate::arch::{CpuState, Gpa, Segment, SegmentRegister, Vector};
use crate::clock::ClockSource;
use crate::emulator::{EmuEngine, Emulator};
use crate::engine::fake::FakeMachine;
use crate::engine::{Backend, Vcpu, VcpuId};
use iced_x86::code_asm::CodeAssembler;
use std::sync::Arc;

/// Where programs are assembled to.
pub(crate) const CODE: u64 = 0x1_0000;
/// Top of their stack.
pub(crate) const STACK: u64 = 0x9000;
/// Memory for their data.
pub(crate) const DATA: u64 = 0x2_0000;
/// The handler of vector `n` is at `HANDLERS + 16 n`: a HLT.
pub(crate) const HANDLERS: u64 = 0x7000;
/// Stack of ring 0, in the TSS.
pub(crate) const RING0_STACK: u64 = 0xa000;
/// Stack of IST 1.
pub(crate) const IST1_STACK: u64 = 0xb000;
/// A page that only [`Bench::map`] maps, and the following ones.
pub(crate) const WINDOW: u64 = 0x4000_0000;
pub(crate) const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
/// The directory behind [`WINDOW`].
pub(crate) const PAGE_DIRECTORY: u64 = 0xc000;
/// The table behind [`WINDOW`].
pub(crate) const PAGE_TABLE: u64 = 0xd000;

/// Selectors of [`Bench`]'s GDT.
pub(crate) const KERNEL_CODE: u16 = 0x08;
pub(crate) const USER_DATA: u16 = 0x23;
pub(crate) const USER_CODE: u16 = 0x2b;

/// A machine with a program in it.
pub(crate) struct Bench {
    pub machine: FakeMachine,
    pub state: CpuState,
    pub single: Single,
}

impl Bench {
    /// 64-bit code at [`CODE`], ring 0, with a GDT, an IDT whose handlers halt, and a TSS.
    pub(crate) fn new(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::with_clock(ClockSource::Real, program)
    }

    pub(crate) fn with_clock(source: ClockSource, program: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::on(FakeMachine::new(4 << 20, source), program)
    }

    /// The same on a machine that offers hypercalls.
    pub(crate) fn offering_hypercalls(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::on(FakeMachine::offering_hypercalls(4 << 20, ClockSource::Real), program)
    }

    pub(crate) fn on(machine: FakeMachine, program: impl FnOnce(&mut CodeAssembler)) -> Self {
        let state = machine.long_mode(CODE, STACK);
        let single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
        let mut bench = Self { machine, state, single };
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8900_0000_0067 | TSS << 16,
            0,
        ];
        for (i, descriptor) in (0..).zip(descriptors) {
            bench.poke(GDT + 8 * i, descriptor);
        }
        bench.state.gdtr.base = GDT;
        bench.state.gdtr.limit = 0x3f;
        bench.state.tr = Segment { selector: 0x30, base: TSS, limit: 0x67, attributes: 0x8b };
        bench.poke(TSS + 4, RING0_STACK);
        bench.poke(TSS + 0x24, IST1_STACK);
        bench.state.idtr.base = IDT;
        bench.state.idtr.limit = 0xfff;
        for vector in 0..=255 {
            bench.gate(vector, 0, 0);
            bench.poke(HANDLERS + 16 * u64::from(vector), 0xf4);
        }
        bench.poke(FakeMachine::TABLES.0 + 0x1008, PAGE_DIRECTORY | 7);
        bench.poke(PAGE_DIRECTORY, PAGE_TABLE | 7);
        bench.assemble(CODE, program);
        bench
    }

    /// An interrupt gate with this privilege and stack.
    pub(crate) fn gate(&self, vector: u8, dpl: u64, ist: u64) {
        let target = HANDLERS + 16 * u64::from(vector);
        let low = target & 0xffff | u64::from(KERNEL_CODE) << 16 | ist << 32 | (0x8e | dpl << 5) << 40;
        self.poke(IDT + 16 * u64::from(vector), low);
        self.poke(IDT + 16 * u64::from(vector) + 8, 0);
    }

    /// Takes a gate away: it is not present.
    pub(crate) fn no_gate(&self, vector: u8) {
        let at = IDT + 16 * u64::from(vector);
        self.poke(at, self.peek(at) & !(1 << 47));
    }

    /// Maps page `number` of [`WINDOW`] with this entry.
    pub(crate) fn map(&self, number: u64, entry: u64) {
        self.poke(PAGE_TABLE + 8 * number, entry);
    }

    /// Puts the CPU into ring 3.
    pub(crate) fn enter_ring3(&mut self) {
        let data = Segment { attributes: 0xc0f3, ..Segment::flat32(USER_DATA, 3) };
        *self.state.segment_mut(SegmentRegister::Ss) = data;
        *self.state.segment_mut(SegmentRegister::Cs) =
            Segment { attributes: 0xa0fb, ..Segment::flat32(USER_CODE, 0xb) };
    }

    /// Puts code at a physical address, which is also its virtual one. Returns its end.
    pub(crate) fn assemble(&mut self, at: u64, program: impl FnOnce(&mut CodeAssembler)) -> u64 {
        let mut a = CodeAssembler::new(64).unwrap();
        program(&mut a);
        let bytes = a.assemble(at).unwrap();
        self.machine.ram().write(Gpa(at), &bytes).unwrap();
        at + bytes.len() as u64
    }

    pub(crate) fn step(&mut self) -> Outcome {
        self.single.step(&mut self.state, &self.machine.platform).unwrap()
    }

    /// Steps and expects this exception; returns its frame, error code first if it has one.
    pub(crate) fn faults(&mut self, vector: Vector) -> [u64; 6] {
        assert_eq!(self.step(), Outcome::Exception(vector));
        assert_eq!(self.state.rip, HANDLERS + 16 * vector as u64);
        let sp = self.state.gpr[4];
        std::array::from_fn(|i| self.peek(sp + 8 * i as u64))
    }

    /// Runs by whole blocks until HLT (or shutdown), as the backend does without interrupts.
    pub(crate) fn run(&mut self) -> super::Ended {
        loop {
            let ended = self.single.run(&mut self.state, &self.machine.platform, &[], &mut true).unwrap();
            if ended != super::Ended::Attention {
                return ended;
            }
            self.machine.platform.attend(VcpuId(0));
        }
    }

    /// A vCPU of the backend in this state, which `single` runs.
    pub(crate) fn vcpu(&self) -> Box<dyn Vcpu> {
        self.vcpu_of(EmuEngine::Single)
    }

    /// A vCPU of the backend in this state.
    pub(crate) fn vcpu_of(&self, engine: EmuEngine) -> Box<dyn Vcpu> {
        Emulator::new(Arc::clone(self.machine.ram()), engine).create_vcpu(VcpuId(0), &self.state).unwrap()
    }

    pub(crate) fn peek(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.ram().read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn poke(&self, at: u64, value: u64) {
        self.machine.ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    }
}
