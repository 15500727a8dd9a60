//! Guest-virtual addresses as instructions form them.
use crate::emulator::code::registers::home;
use crate::emulator::emit::Mem;
use crate::emulator::single::cx::{FS_BASE, GS_BASE};
use iced_x86::{Instruction, Register};

/// A guest-virtual address as the guest computes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Address {
    /// Guest register.
    pub base: Option<u8>,
    /// Guest register and log2 of the scale.
    pub index: Option<(u8, u8)>,
    pub disp: i64,
    /// Slot of a segment's base.
    pub segment: Option<u8>,
}

impl Address {
    /// `[base + disp]`.
    pub(crate) fn at(base: u8, disp: i64) -> Self {
        Self { base: Some(base), disp, ..Self::default() }
    }

    /// The memory operand of `instruction`; `None` if its address is cut: in 64-bit code to 32 bits, in 32-bit code, which
    /// is `narrow`, to 16.
    pub(crate) fn of(instruction: &Instruction, narrow: bool) -> Option<Self> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let wide = |r: Register| r == Register::None || if narrow { r.is_gpr32() } else { r.is_gpr64() };
        let relative = base == Register::RIP;
        if !(wide(base) || relative) || !wide(index) {
            return None;
        }
        if base == Register::None
            && index == Register::None
            && instruction.memory_displ_size() != if narrow { 4 } else { 8 }
        {
            return None;
        }
        let number = |r: Register| (r != Register::None && !relative).then(|| r.number() as u8);
        Some(Self {
            base: number(base),
            index: (index != Register::None)
                .then(|| (index.number() as u8, instruction.memory_index_scale().trailing_zeros() as u8)),
            disp: match narrow {
                true => i64::from(instruction.memory_displacement32() as i32),
                false => instruction.memory_displacement64() as i64,
            },
            segment: match instruction.memory_segment() {
                Register::FS => Some(FS_BASE),
                Register::GS => Some(GS_BASE),
                _ => None,
            },
        })
    }

    /// As a host operand, if each part has a host register or is small enough.
    pub(crate) fn direct(&self) -> Option<Mem> {
        let base = match self.base {
            Some(base) => Some(home(base)?),
            None => None,
        };
        let index = match self.index {
            Some((index, scale)) => Some((home(index)?, scale)),
            None => None,
        };
        Some(Mem { base, index, disp: i32::try_from(self.disp).ok()? })
    }

    /// The linear address, given the registers of a [`crate::emulator::single::cx::Cx`].
    pub(crate) fn value(&self, regs: &[u64; 32]) -> u64 {
        let reg = |number: u8| regs[usize::from(number & 31)];
        let base = self.base.map_or(0, reg);
        let index = self.index.map_or(0, |(number, scale)| reg(number) << scale);
        let segment = self.segment.map_or(0, reg);
        base.wrapping_add(index).wrapping_add(self.disp as u64).wrapping_add(segment)
    }
}
