//! Makes the engine of a pair, and says which pairs this host has.
use super::MachineSpec;
use crate::clock::ClockSource;
use crate::emulator::{EmuEngine, Emulator};
use crate::engine::{Backend, Caps, Engine, EngineError, Pair, Platform};
use crate::hwassist::KvmBackend;
use crate::pv::Direct;
use std::sync::Arc;

/// The backend that `spec` wants, over the platform's RAM.
pub(super) fn create(spec: &MachineSpec, platform: &Platform) -> Result<Box<dyn Backend>, EngineError> {
    possible(spec.pair)?;
    match spec.pair.engine {
        Engine::Kvm => Ok(Box::new(KvmBackend::new(platform)?)),
        Engine::Emu => {
            let emulator = Emulator::new(Arc::clone(platform.ram()), spec.emulator);
            Ok(Box::new(emulator.without(spec.without).counting(spec.counts_instructions)))
        }
        Engine::Direct => {
            let direct = Direct::new(Arc::clone(platform.ram()), spec.pair.interface)?;
            // By the host's own time-stamp counter the guest would see another time.
            let counted = platform.clock().source() != ClockSource::Real;
            Ok(Box::new(direct.counting(spec.counts_sites).trapping_time(counted)))
        }
    }
}

fn possible(pair: Pair) -> Result<(), EngineError> {
    pair.objection().map_or(Ok(()), |reason| Err(EngineError::Impossible { pair, reason }))
}

/// Why a pair (or the one that a mode names) cannot run on this host, or what it truly is here; for emu, with its default
/// engine.
///
/// # Errors
/// [`EngineError::Unavailable`] or [`EngineError::Impossible`] with the reason.
pub fn availability(pair: impl Into<Pair>) -> Result<Caps, EngineError> {
    let pair = pair.into();
    possible(pair)?;
    match pair.engine {
        Engine::Emu => Ok(Emulator::capabilities(EmuEngine::default())),
        Engine::Kvm => KvmBackend::availability(),
        Engine::Direct => Direct::availability(pair.interface),
    }
}
