//! What a guest that runs natively meets at one instruction, to be looked at: no process runs for it.
use super::patch::lens::patched;
use super::vcpu::objection;
use crate::arch::paging::{PagingMode, peek};
use crate::arch::{CpuState, Gva};
use crate::engine::{EngineError, Interface, Native};
use crate::mem::GuestRam;
use iced_x86::{Decoder, DecoderOptions};
use std::sync::Arc;

/// What becomes of the instruction at `rip`, whose bytes begin `bytes`, in the mode in which `state` executes code.
///
/// # Errors
/// When the host refuses memory.
pub fn native(
    ram: &Arc<GuestRam>,
    state: &CpuState,
    interface: Interface,
    rip: u64,
    bytes: &[u8],
) -> Result<Native, EngineError> {
    let there = CpuState { rip, pending_exception: None, interrupt_shadow: false, ..state.clone() };
    if let Some(reason) = objection(&there) {
        return Ok(Native::Interpreted(reason));
    }
    let place = peek(&**ram, &PagingMode::of(state), Gva(rip)).and_then(|gpa| ram.offset(gpa, 1));
    let Some(offset) = place else {
        return Ok(Native::Interpreted("it does not lie in RAM"));
    };
    let i = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    if i.is_invalid() {
        return Ok(Native::Interpreted(
            "these bytes are no instruction: the process gets SIGILL, the guest #UD",
        ));
    }
    Ok(Native::Patched(Box::new(patched(ram, state, &i, offset, interface != Interface::None)?)))
}
