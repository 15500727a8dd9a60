//! x87 and MMX instructions: the whole legacy state goes to the host's FPU and back.
use super::classify::{self, Unit};
use super::{Access, HostFpu, MXCSR_MASK, OperandMemory, Prepared};
use crate::arch::state::XsaveArea;
use crate::arch::{CpuState, Exception, Gva, SegmentRegister};
use iced_x86::{Encoder, Instruction, Register};
use std::ops::Range;

/// x87 opcode, instruction and data pointers in the image: FOP, FIP, FDP.
const POINTERS: Range<usize> = XsaveArea::FOP..XsaveArea::FDP + 8;
const FOP: Range<usize> = XsaveArea::FOP..XsaveArea::FOP + 2;
const FIP: Range<usize> = XsaveArea::FIP..XsaveArea::FIP + 8;
const FDP: Range<usize> = XsaveArea::FDP..XsaveArea::FDP + 8;

/// The eleven bits of an x87 instruction that FOP shows: the low bits of its first byte (D8 to DF), and its second, as
/// in the shortest encoding (a superfluous SIB byte is not known any more).
pub(super) fn opcode(instruction: &Instruction) -> u16 {
    let Ok(mut encoder) = Encoder::try_new(64) else { return 0 };
    // Out of reach of a 64-bit encoding are only forms of 16-bit code, whose FOP stays zero.
    if encoder.encode(instruction, instruction.ip()).is_err() {
        return 0;
    }
    let bytes = encoder.take_buffer();
    let at = bytes.iter().position(|b| (0xd8..=0xdf).contains(b));
    at.and_then(|at| Some(u16::from(bytes[at] & 7) << 8 | u16::from(*bytes.get(at + 1)?))).unwrap_or(0)
}

/// What was added to the memory operand's offset; in 64-bit code only FS and GS have a base.
fn segment_base(instruction: &Instruction, state: &CpuState) -> u64 {
    let segment = match instruction.memory_segment() {
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ if state.is_64bit_code() => return 0,
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        _ => SegmentRegister::Ds,
    };
    state.segment(segment).base
}

impl HostFpu {
    pub(super) fn run_fpu<M: OperandMemory + ?Sized>(
        &mut self,
        prepared: &Prepared,
        state: &mut CpuState,
        memory: &mut M,
    ) -> Result<(), Exception> {
        let mut at = Gva(0);
        let bytes = usize::from(prepared.bytes);
        // With an error unmasked a store may not happen, and then does not fault: run first, undo if it faults.
        let unmasked = state.xsave.0[XsaveArea::FCW] & 0x3f != 0x3f;
        let tentative = prepared.access == Access::Write && prepared.unit == Unit::X87 && unmasked;
        let before = tentative.then(|| state.xsave.clone());
        if prepared.access == Access::Write && prepared.unit == Unit::Mmx {
            // This much of the transition to MMX stays if the store faults.
            state.xsave.set_top_to_zero();
        }
        if prepared.access != Access::None {
            let touched = if tentative { 0 } else { bytes };
            at = memory.effective(state, &prepared.instruction, None, touched, prepared.misaligned)?;
            match prepared.access {
                Access::Read => memory.read(state, at, &mut self.scratch.bounce[..bytes])?,
                // A store pops and marks, so its target must be known to be writable before it runs.
                _ if !tentative => memory.probe_write(state, at, bytes)?,
                _ => {}
            }
        }
        // Reserved bits of MXCSR would fault in FXRSTOR.
        let mxcsr = state.xsave.mxcsr() & MXCSR_MASK;
        state.xsave.set_mxcsr(mxcsr);
        let mut pointers = [0; POINTERS.end - POINTERS.start];
        pointers.copy_from_slice(&state.xsave.0[POINTERS]);
        // What stays in the buffer if a store does not happen.
        const UNTOUCHED: u8 = 0xa5;
        if prepared.access == Access::Write {
            self.scratch.bounce[..bytes].fill(UNTOUCHED);
        }
        if let Err(exception) = self.call(prepared, state) {
            // A SIMD error comes after the transition to MMX.
            state.xsave.enter_mmx();
            return Err(exception);
        }
        if prepared.unit == Unit::X87 && !classify::is_x87_control(&prepared.instruction) {
            let area = &mut state.xsave.0;
            area[FIP].copy_from_slice(&state.rip.to_le_bytes());
            if area[FOP] != pointers[..2] {
                area[FOP].copy_from_slice(&prepared.opcode.to_le_bytes());
            }
            // Where the CPU noted the operand it noted the bounce buffer. FDP is the offset in the segment.
            if area[FDP] != pointers[FDP.start - POINTERS.start..] {
                let offset = at.0.wrapping_sub(segment_base(&prepared.instruction, state));
                state.xsave.0[FDP].copy_from_slice(&offset.to_le_bytes());
            }
        } else if !classify::is_x87_control(&prepared.instruction) {
            state.xsave.0[POINTERS].copy_from_slice(&pointers);
        }
        if prepared.access == Access::Write {
            let stored = &self.scratch.bounce[..bytes];
            let happened =
                !classify::x87_error_pending(&state.xsave) || stored.iter().any(|&b| b != UNTOUCHED);
            if happened && let Err(exception) = memory.write(state, at, stored) {
                if let Some(before) = before {
                    state.xsave = before;
                }
                return Err(exception);
            }
        }
        Ok(())
    }
}
