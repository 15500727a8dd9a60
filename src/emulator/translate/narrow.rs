//! 32-bit code in flat segments: nearly all of it means the same as 64-bit code, once addresses are cut to 32 bits.
//!
//! Where CS, SS, DS and ES cover all addresses from 0 on, an instruction is translated like its 64-bit twin. Its addresses
//! are computed with 32 bits, and the stack moves by four bytes; its accesses go through the soft TLB. What has no twin
//! (`inc` in its short form, moves of the accumulator to fixed addresses) gets the code and the fields of one that has.
//! Everything else, segments with a base but the one of threads included, is left to `single`.
use crate::arch::{CpuState, Cr0, Rflags, Segment, SegmentRegister};
use iced_x86::{Code, Instruction, Register};

/// Whether a segment covers all addresses, from 0 on.
fn is_whole(segment: &Segment) -> bool {
    segment.base == 0 && segment.limit == u32::MAX && segment.is_present()
}

/// Whether `state` executes 32-bit code in flat segments.
fn is_flat(state: &CpuState) -> bool {
    let segment = |register| state.segment(register);
    let (cs, ss) = (segment(SegmentRegister::Cs), segment(SegmentRegister::Ss));
    let data = [ss, segment(SegmentRegister::Ds), segment(SegmentRegister::Es)];
    state.cr0.contains(Cr0::PE)
        && !state.rflags.contains(Rflags::VM)
        && cs.is_big()
        && cs.kind() & 2 != 0
        && is_whole(cs)
        && ss.is_big()
        && data.into_iter().all(|s| s.is_endless_data() && s.base == 0)
}

/// Whether the code that `state` executes can be translated.
#[inline]
pub(super) fn is_translatable(state: &CpuState) -> bool {
    state.is_64bit_code() || is_flat(state)
}

/// The segment register by which 32-bit systems reach what belongs to a CPU or a thread.
fn of_thread(ring0: bool) -> SegmentRegister {
    if ring0 { SegmentRegister::Fs } else { SegmentRegister::Gs }
}

/// Whether the segment of the CPU or thread has no end, so that only its base counts.
pub(super) fn thread_segment_is_whole(state: &CpuState) -> bool {
    state.segment(of_thread(state.cpl() == 0)).is_endless_data()
}

/// Whether the segment of the memory operand needs no check, given what [`thread_segment_is_whole`] says.
pub(super) fn needs_no_check(instruction: &Instruction, ring0: bool, thread: bool) -> bool {
    match instruction.memory_segment() {
        Register::FS => thread && ring0,
        Register::GS => thread && !ring0,
        // Code cannot be written.
        Register::CS => false,
        _ => true,
    }
}

/// The code of the same instruction in a form that 64-bit code has too.
pub(super) fn twin(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        other => other,
    }
}
