//! Instructions whose whole effect is a few bits of control state, done on the saved image.
use super::classify::Control;
use super::{OperandMemory, Prepared};
use crate::arch::state::XsaveArea;
use crate::arch::{CpuState, Exception};
use iced_x86::OpKind;

pub(super) const FSW: usize = XsaveArea::FCW + 2;
const FTW: usize = XsaveArea::FCW + 4;

impl XsaveArea {
    /// Makes ES and B of the status word agree with the flags and masks (SDM vol. 1, 8.1.3.3).
    pub(super) fn summarise_x87_errors(&mut self) {
        let pending = self.u16_at(FSW) & !self.u16_at(Self::FCW) & 0x3f != 0;
        let summary = if pending { 0x8080 } else { 0 };
        self.set_u16_at(FSW, self.u16_at(FSW) & !0x8080 | summary);
    }

    /// Sets TOS to 0. The image numbers registers from TOS, so the contents move to keep their physical places.
    pub(super) fn set_top_to_zero(&mut self) {
        let status = self.u16_at(FSW);
        let top = usize::from(status >> 11 & 7);
        self.set_u16_at(FSW, status & !0x3800);
        // ST(i) lies in physical register (top + i) mod 8.
        self.0[32..160].rotate_right(16 * top);
    }

    /// What every MMX instruction does: TOS is 0 and all registers are valid (SDM 12.2).
    pub(super) fn enter_mmx(&mut self) {
        self.set_top_to_zero();
        self.0[FTW] = 0xff;
    }
}

fn store<M: OperandMemory + ?Sized>(
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
    bytes: &[u8],
) -> Result<(), Exception> {
    let at = memory.effective(state, &prepared.instruction, None, bytes.len(), 0)?;
    memory.write(state, at, bytes)
}

fn load<const N: usize, M: OperandMemory + ?Sized>(
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<[u8; N], Exception> {
    let at = memory.effective(state, &prepared.instruction, None, N, 0)?;
    let mut bytes = [0; N];
    memory.read(state, at, &mut bytes)?;
    Ok(bytes)
}

pub(super) fn run<M: OperandMemory + ?Sized>(
    control: Control,
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    match control {
        Control::Ldmxcsr => {
            let value = u32::from_le_bytes(load(prepared, state, memory)?);
            if value & !super::MXCSR_MASK != 0 {
                return Err(Exception::GP0);
            }
            state.xsave.set_mxcsr(value);
        }
        Control::Stmxcsr => {
            let value = state.xsave.mxcsr();
            store(prepared, state, memory, &value.to_le_bytes())?;
        }
        Control::Vzeroupper | Control::Vzeroall => {
            // Outside 64-bit mode only the first eight registers exist.
            let bytes = if state.is_64bit_code() { 256 } else { 128 };
            state.xsave.0[XsaveArea::YMM_HIGH..][..bytes].fill(0);
            if control == Control::Vzeroall {
                state.xsave.0[XsaveArea::XMM..][..bytes].fill(0);
            }
        }
        Control::Emms => {
            state.xsave.enter_mmx();
            state.xsave.0[FTW] = 0;
        }
        Control::Fnstcw => {
            let value = state.xsave.u16_at(XsaveArea::FCW);
            store(prepared, state, memory, &value.to_le_bytes())?;
        }
        Control::Fldcw => {
            let value = u16::from_le_bytes(load(prepared, state, memory)?);
            // Bit 6 always reads as one; bits 7 and 13 to 15 as zero.
            state.xsave.set_u16_at(XsaveArea::FCW, value & 0x1f7f | 0x40);
            state.xsave.summarise_x87_errors();
        }
        Control::Fnstsw => {
            let value = state.xsave.u16_at(FSW);
            if prepared.instruction.op0_kind() == OpKind::Register {
                state.gpr[0] = state.gpr[0] & !0xffff | u64::from(value);
            } else {
                store(prepared, state, memory, &value.to_le_bytes())?;
            }
        }
        Control::Fnclex => {
            let value = state.xsave.u16_at(FSW);
            state.xsave.set_u16_at(FSW, value & 0x7f00);
        }
        Control::Fninit => {
            state.xsave.set_top_to_zero();
            // Control, status, tags, opcode and both pointers; the registers keep their contents.
            state.xsave.0[..24].fill(0);
            state.xsave.set_u16_at(XsaveArea::FCW, 0x037f);
        }
        Control::Nothing => {}
    }
    Ok(())
}
