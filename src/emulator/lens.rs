//! What the emulator's two executors make of one instruction, to be looked at: no guest runs for it, and nothing of one
//! changes.
use super::front::block::CodeMode;
use super::front::decode_one;
use super::front::features::Features;
use super::single::lower;
use super::translate::lens;
use crate::arch::cpuid::CpuidTable;
use crate::arch::{CpuState, Cr4};
use crate::engine::{EngineError, Interpretation, Translation};

/// What the translator makes of the instruction at the instruction pointer `rip`, whose bytes and some following ones are
/// `bytes`, in the mode in which `state` executes code.
///
/// # Errors
/// When the host refuses executable memory.
pub fn translation(
    state: &CpuState,
    cpuid: &CpuidTable,
    rip: u64,
    bytes: &[u8],
) -> Result<Translation, EngineError> {
    let avx = cpuid.query(1, 0, Cr4::empty()).ecx >> 28 & 1 != 0;
    lens::translation(state, &Features::of(cpuid), avx, rip, bytes)
}

/// What the interpreter makes of it.
#[must_use]
pub fn interpretation(state: &CpuState, cpuid: &CpuidTable, rip: u64, bytes: &[u8]) -> Interpretation {
    let mode = CodeMode::new(state.code_bits(), state.cpl() == 3);
    let (instruction, _) = decode_one(bytes, mode, rip);
    lower::interpretation(&instruction, &Features::of(cpuid), mode)
}
