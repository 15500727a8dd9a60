//! Small assembled programs, a file per subject.
mod basics;

use super::{Outcome, Single};
use crate::arch::{CpuState, Gpa};
use crate::clock::ClockSource;
use crate::engine::VcpuId;
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::CodeAssembler;
use std::collections::HashSet;
use std::sync::Arc;

/// Where programs are assembled to.
pub(super) const CODE: u64 = 0x1_0000;
/// Top of their stack.
pub(super) const STACK: u64 = 0x9000;
/// Memory for their data.
pub(super) const DATA: u64 = 0x2_0000;

/// A machine with a program in it.
pub(super) struct Bench {
    pub machine: FakeMachine,
    pub state: CpuState,
    pub single: Single,
}

impl Bench {
    /// 64-bit code at [`CODE`], ring 0.
    pub(super) fn new(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        let machine = FakeMachine::new(4 << 20, ClockSource::Real);
        let state = machine.long_mode(CODE, STACK);
        let single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
        let mut bench = Self { machine, state, single };
        bench.assemble(CODE, program);
        bench
    }

    /// Puts code at a physical address, which is also its virtual one.
    pub(super) fn assemble(&mut self, at: u64, program: impl FnOnce(&mut CodeAssembler)) -> u64 {
        let mut a = CodeAssembler::new(64).unwrap();
        program(&mut a);
        let bytes = a.assemble(at).unwrap();
        self.machine.ram().write(Gpa(at), &bytes).unwrap();
        at + bytes.len() as u64
    }

    pub(super) fn step(&mut self) -> Outcome {
        self.single.step(&mut self.state, &self.machine.platform).unwrap()
    }

    /// Runs by whole blocks until HLT (or shutdown), as the backend does without interrupts.
    pub(super) fn run(&mut self) -> super::Ended {
        loop {
            let ended = self.single.run(&mut self.state, &self.machine.platform, &HashSet::new()).unwrap();
            if ended != super::Ended::Attention {
                return ended;
            }
            self.machine.platform.attend(VcpuId(0));
        }
    }

    pub(super) fn peek(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.ram().read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(super) fn poke(&self, at: u64, value: u64) {
        self.machine.ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    }
}
