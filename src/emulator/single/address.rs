//! Effective and linear addresses, and the segment checks of 16- and 32-bit code (SDM vol. 1, 3.7; vol. 3A, 5.3).
use super::cx::Cx;
use super::op::Op;
use crate::arch::state::gpr::RDI;
use crate::arch::{CpuState, Cr0, Exception, Segment, SegmentRegister};
use crate::emulator::mmu::Fault;
use iced_x86::{Instruction, OpKind, Register};

/// The segment register of iced's `register`; DS for anything that is none.
pub(crate) fn segment_of(register: Register) -> SegmentRegister {
    match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => SegmentRegister::Ds,
    }
}

/// The bits that an address of `instruction` has.
pub(crate) fn mask(instruction: &Instruction) -> u64 {
    let narrowest = [instruction.memory_base(), instruction.memory_index()]
        .into_iter()
        .filter(|r| r.is_gpr())
        .map(Register::size)
        .min();
    // Without a general register the displacement has the size of an address (of RIP-relative ones, too).
    match narrowest.unwrap_or(instruction.memory_displ_size() as usize) {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The bits of RDI that address the operand of MASKMOVQ and MASKMOVDQU.
fn implicit_rdi(instruction: &Instruction) -> Option<u64> {
    match instruction.op0_kind() {
        OpKind::MemorySegRDI => Some(u64::MAX),
        OpKind::MemorySegEDI => Some(0xffff_ffff),
        OpKind::MemorySegDI => Some(0xffff),
        _ => None,
    }
}

/// The offset of the memory operand of `instruction` in its segment, with the registers `gpr`. `element` is the value of
/// a vector index register's element, not yet scaled, or what is added to an implicit RDI.
pub(crate) fn offset(instruction: &Instruction, gpr: &[u64], element: Option<u64>) -> u64 {
    let value = |register: Register| {
        if register.is_gpr() { gpr.get(register.full_register().number()).copied().unwrap_or(0) } else { 0 }
    };
    if let Some(mask) = implicit_rdi(instruction) {
        return gpr.get(RDI).copied().unwrap_or(0).wrapping_add(element.unwrap_or(0)) & mask;
    }
    let index = element.unwrap_or_else(|| value(instruction.memory_index()));
    value(instruction.memory_base())
        .wrapping_add(index.wrapping_mul(u64::from(instruction.memory_index_scale())))
        .wrapping_add(instruction.memory_displacement64())
        & mask(instruction)
}

/// The linear address of `offset` in a segment, unchecked.
pub(crate) fn linear(state: &CpuState, segment: SegmentRegister, offset: u64) -> u64 {
    if state.is_64bit_code() {
        match segment {
            SegmentRegister::Fs | SegmentRegister::Gs => state.segment(segment).base.wrapping_add(offset),
            _ => offset,
        }
    } else {
        state.segment(segment).base.wrapping_add(offset) & 0xffff_ffff
    }
}

/// Checks an access of `length` bytes (of at least one, if not known) at `offset` of a segment outside 64-bit code.
fn check_segment(segment: &Segment, offset: u64, length: usize, write: bool) -> bool {
    // A null selector leaves a segment without its present bit.
    if !segment.is_present() {
        return false;
    }
    let code = segment.is_code();
    let writable = !code && segment.kind() & 2 != 0;
    let readable = !code || segment.kind() & 2 != 0;
    if write && !writable || !write && !readable {
        return false;
    }
    let last = offset.wrapping_add(length.max(1) as u64).wrapping_sub(1);
    let expand_down = !code && segment.kind() & 4 != 0;
    if expand_down {
        let top = if segment.is_big() { 0xffff_ffff } else { 0xffff };
        offset > u64::from(segment.limit) && last <= top && last >= offset
    } else {
        last <= u64::from(segment.limit) && last >= offset
    }
}

/// The linear address of `length` bytes at `offset` of a segment, with the segment checks of the current mode.
pub(crate) fn segmented(
    state: &CpuState,
    segment: SegmentRegister,
    offset: u64,
    length: usize,
    write: bool,
) -> Result<u64, Exception> {
    if !state.is_64bit_code() {
        let descriptor = state.segment(segment);
        // Real mode: limits hold, rights do not exist.
        let fine = if state.cr0.contains(Cr0::PE) {
            check_segment(descriptor, offset, length, write)
        } else {
            offset.saturating_add((length as u64).saturating_sub(1)) <= u64::from(descriptor.limit)
        };
        if !fine {
            return Err(match segment {
                SegmentRegister::Ss => Exception::SS0,
                _ => Exception::GP0,
            });
        }
    }
    Ok(linear(state, segment, offset))
}

/// As [`segmented`], for handlers.
pub(crate) fn in_segment(
    cx: &mut Cx,
    segment: SegmentRegister,
    offset: u64,
    length: usize,
    write: bool,
) -> Result<u64, Fault> {
    segmented(cx.state, segment, offset, length, write).map_err(|e| cx.raise(e))
}

/// The linear address of a memory operand that is marked [`Op::SLOW_ADDRESS`].
#[cold]
pub(crate) fn checked(cx: &mut Cx, op: &Op, length: usize, write: bool) -> Result<u64, Fault> {
    let Some(instruction) = op.instruction.as_deref() else {
        return Ok(cx.offset(op));
    };
    let offset = cx.offset(op) & mask(instruction);
    in_segment(cx, segment_of(instruction.memory_segment()), offset, length, write)
}
