//! What a handler works on: the general registers, the status flags and memory of the running vCPU.
use super::address;
use super::flags::{self, Flags};
use super::host_fpu::HostFpu;
use super::int::Int;
use super::op::Op;
use crate::arch::{CpuState, Cr0, Exception, Rflags, SegmentRegister};
use crate::emulator::mmu::{Fault, Mmu};
use crate::engine::{EngineError, Platform};

/// Register slot that always reads as zero: the base or index that an address lacks.
pub(crate) const ZERO: u8 = 16;
/// Slot with the base of FS.
pub(crate) const FS_BASE: u8 = 17;
/// Slot with the base of GS.
pub(crate) const GS_BASE: u8 = 18;
/// Added to the number of AX–BX for AH–BH.
pub(crate) const HIGH_BYTE: u8 = 0x80;

/// How a handler left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// Done; the next instruction follows.
    Next,
    /// Done; the next instruction follows, but the block must not go on (code or a device was written).
    Stop,
    /// Done; RIP is set.
    Jump,
    /// Done; RIP is set and so much changed (privilege, mode, interrupt flag) that everything is looked at anew.
    Renew,
    /// Not done: the same instruction continues later (a repeated string instruction).
    Again,
    /// Done: HLT. RIP is set.
    Halt,
    /// Not done: an error of ours, see [`Cx::error`].
    Broken,
}

/// What handlers return.
pub(crate) type Step = Result<Flow, Fault>;
/// A handler.
pub(crate) type Handler = for<'a, 'b, 'c> fn(&'a mut Cx<'b>, &'c Op) -> Step;

/// The running vCPU.
pub(crate) struct Cx<'a> {
    /// RAX–R15, then [`ZERO`], [`FS_BASE`], [`GS_BASE`]; the rest pads to a power of two. `state.gpr` is stale. Their
    /// place is that of the translator's context, if it runs.
    pub regs: &'a mut [u64; 32],
    /// The status flags; those in `state.rflags` are stale.
    pub flags: Flags,
    pub mmu: Mmu<'a>,
    pub state: &'a mut CpuState,
    pub platform: &'a Platform,
    pub fpu: &'a mut Option<HostFpu>,
    /// The error behind [`Flow::Broken`].
    pub error: Option<EngineError>,
    /// The instruction takes no single-step trap (INT and SYSCALL, whose handlers run without).
    pub no_trap: bool,
}

impl Cx<'_> {
    /// Takes registers and flags over from `state`.
    pub(crate) fn enter(&mut self) {
        self.regs[..16].copy_from_slice(&self.state.gpr);
        self.flags = flags::from_rflags(self.state.rflags);
        self.refresh();
    }

    /// Brings `state` up to date.
    pub(crate) fn leave(&mut self) {
        self.state.gpr.copy_from_slice(&self.regs[..16]);
        self.state.rflags = self.rflags();
    }

    /// To be called after control registers, EFER, segments, privilege or RFLAGS.AC changed.
    pub(crate) fn refresh(&mut self) {
        self.regs[usize::from(FS_BASE)] = self.state.segment(SegmentRegister::Fs).base;
        self.regs[usize::from(GS_BASE)] = self.state.segment(SegmentRegister::Gs).base;
        self.mmu.refresh(self.state);
    }

    /// RFLAGS whole.
    pub(crate) fn rflags(&self) -> Rflags {
        flags::into_rflags(self.flags, self.state.rflags)
    }

    /// Sets RFLAGS whole; the caller calls [`Self::refresh`] if AC or VM may change.
    pub(crate) fn set_rflags(&mut self, rflags: Rflags) {
        self.flags = flags::from_rflags(rflags);
        self.state.rflags = rflags;
    }

    /// Notes an exception.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Fault {
        self.mmu.raise(exception)
    }

    /// #GP(0) unless at ring 0.
    pub(crate) fn need_ring0(&mut self) -> Result<(), Fault> {
        if self.state.cpl() == 0 { Ok(()) } else { Err(self.raise(Exception::GP0)) }
    }

    /// Whether protected (or long) mode is on.
    pub(crate) fn is_protected(&self) -> bool {
        self.state.cr0.contains(Cr0::PE)
    }

    /// Whether selectors name descriptors: in protected mode, but for virtual-8086 mode.
    pub(crate) fn has_descriptors(&self) -> bool {
        self.is_protected() && !self.is_virtual_8086()
    }

    /// Whether virtual-8086 mode is on.
    pub(crate) fn is_virtual_8086(&self) -> bool {
        self.state.rflags.contains(Rflags::VM)
    }

    /// A register operand; `code` is a number, or that of AX–BX plus [`HIGH_BYTE`].
    #[inline(always)]
    pub(crate) fn reg<T: Int>(&self, code: u8) -> T {
        let value = self.regs[usize::from(code & 31)];
        if T::BYTES == 1 { T::of(value >> (code >> 4 & 8)) } else { T::of(value) }
    }

    /// Sets a register operand: 32 bits clear the upper half, 8 and 16 bits leave the rest.
    #[inline(always)]
    pub(crate) fn set_reg<T: Int>(&mut self, code: u8, value: T) {
        let slot = &mut self.regs[usize::from(code & 31)];
        *slot = match T::BYTES {
            1 => {
                let shift = code >> 4 & 8;
                *slot & !(0xff << shift) | value.zx() << shift
            }
            2 => *slot & !0xffff | value.zx(),
            _ => value.zx(),
        };
    }

    /// The linear address of the memory operand.
    #[inline(always)]
    pub(crate) fn address(&mut self, op: &Op, length: usize, write: bool) -> Result<u64, Fault> {
        if op.has(Op::SLOW_ADDRESS) {
            return address::checked(self, op, length, write);
        }
        Ok(self.offset(op).wrapping_add(self.regs[usize::from(op.segment & 31)]))
    }

    /// The effective address of the memory operand before segmentation, not cut to the address size.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        let base = self.regs[usize::from(op.base & 31)];
        let index = self.regs[usize::from(op.index & 31)];
        base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp)
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub(crate) fn load<T: Int>(&mut self, op: &Op) -> Result<T, Fault> {
        let at = self.address(op, T::BYTES, false)?;
        self.mmu.read(at, op.has(Op::STACK_SEGMENT))
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub(crate) fn store<T: Int>(&mut self, op: &Op, value: T) -> Result<(), Fault> {
        let at = self.address(op, T::BYTES, true)?;
        self.mmu.write(at, value, op.has(Op::STACK_SEGMENT))
    }

    /// Changes the memory operand; see [`Mmu::update`].
    #[inline(always)]
    pub(crate) fn update<T: Int>(&mut self, op: &Op, change: impl FnOnce(T) -> T) -> Result<(), Fault> {
        let at = self.address(op, T::BYTES, true)?;
        self.mmu.update(at, op.has(Op::STACK_SEGMENT), change)
    }

    /// How a handler leaves that wrote memory.
    #[inline(always)]
    pub(crate) fn stored(&self) -> Step {
        Ok(if self.mmu.stop { Flow::Stop } else { Flow::Next })
    }

    /// Ends the run with an error of ours.
    #[cold]
    pub(crate) fn broken(&mut self, error: EngineError) -> Step {
        self.error = Some(error);
        Ok(Flow::Broken)
    }
}
