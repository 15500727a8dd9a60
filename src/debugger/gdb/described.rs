//! What GDB is told of the CPU: its registers' layout, and how its code reads.
//!
//! GDB asks once, when it connects, and a description holds until it disconnects. One of a 64-bit CPU shows 16- and 32-bit
//! code wrongly, one of a 32-bit CPU has no room for 64-bit registers. So what is told follows from what the CPU executes when
//! GDB comes, and from whether the image is a 64-bit one, whose symbols GDB has.
use super::registers;
use crate::arch::CpuState;
use gdbstub::arch::{Arch, Registers};
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86CoreRegs};

/// The CPU as GDB sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::debugger) enum Described {
    /// Executes 16-bit code; 32-bit registers.
    I8086,
    /// Executes 32-bit code.
    I386,
    /// Executes 64-bit code.
    #[default]
    X86_64,
}

impl Described {
    const ALL: [Self; 3] = [Self::I8086, Self::I386, Self::X86_64];

    /// What suits a CPU in `state`, with an image that is 64-bit code in the end or not.
    pub(super) fn suiting(state: &CpuState, image_is_64bit: bool) -> Self {
        if image_is_64bit || state.is_long_mode() { Self::X86_64 } else { Self::of_code(state) }
    }

    /// How the code reads that the CPU executes.
    pub(super) fn of_code(state: &CpuState) -> Self {
        match state.code_bits() {
            64 => Self::X86_64,
            32 => Self::I386,
            _ => Self::I8086,
        }
    }

    /// GDB's name of it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::I8086 => "i8086",
            Self::I386 => "i386",
            Self::X86_64 => "i386:x86-64",
        }
    }

    /// The one with this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Whether GDB can change from one to the other while it is connected (`set architecture`).
    pub(super) fn reads_as(self, other: Self) -> bool {
        (self == Self::X86_64) == (other == Self::X86_64)
    }

    /// GDB's description of it; GDB knows the registers of each architecture that it names.
    pub(super) fn xml(self) -> String {
        format!(
            "<target version=\"1.0\"><architecture>{}</architecture><feature name=\"org.gnu.gdb.i386.sse\"></feature></target>",
            self.name()
        )
    }
}

/// All of x86, as one architecture of the protocol; see [`Described`].
#[derive(Debug)]
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Block;
    type BreakpointKind = usize;
    type RegId = ();
}

/// All registers, in the layout that GDB was told of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Block {
    pub(super) described: Described,
    pub(super) registers: X86_64CoreRegs,
}

/// Bytes of the short layout (`32bit-core.xml`, `32bit-sse.xml`).
const SHORT: usize = 0x134;

impl Registers for Block {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.registers.rip
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        match self.described {
            Described::X86_64 => self.registers.gdb_serialize(write_byte),
            Described::I386 | Described::I8086 => registers::short(&self.registers).gdb_serialize(write_byte),
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() == SHORT {
            let mut short = X86CoreRegs::default();
            short.gdb_deserialize(bytes)?;
            self.described = Described::I386;
            self.registers = registers::long(&short);
            return Ok(());
        }
        self.described = Described::X86_64;
        self.registers.gdb_deserialize(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_come_back_as_they_went() {
        let mut registers = registers::of_state(&CpuState::reset());
        registers.regs[3] = 0x1234_5678;
        registers.xmm[7] = 9;
        for (described, length) in [(Described::I8086, SHORT), (Described::X86_64, 536)] {
            let block = Block { described, registers: registers.clone() };
            let mut bytes = Vec::new();
            block.gdb_serialize(|byte| bytes.push(byte.unwrap_or(0)));
            assert_eq!(bytes.len(), length);
            let mut back = Block::default();
            assert_eq!(back.gdb_deserialize(&bytes), Ok(()));
            assert_eq!(back.registers, block.registers, "{described:?}");
        }
        assert!(Block::default().gdb_deserialize(&[0; 17]).is_err());
    }

    #[test]
    fn what_is_told_follows_the_code_unless_the_image_is_64_bit() {
        let state = CpuState::reset();
        assert_eq!(Described::suiting(&state, false), Described::I8086);
        assert_eq!(Described::suiting(&state, true), Described::X86_64);
        assert!(Described::I8086.reads_as(Described::I386) && !Described::I386.reads_as(Described::X86_64));
        assert_eq!(Described::find("i386"), Some(Described::I386));
    }
}
