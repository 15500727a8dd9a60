//! Makes the engine of a mode, and says which modes this host has.
use super::MachineSpec;
use crate::emulator::{EmuEngine, Emulator};
use crate::engine::{Backend, Caps, EngineError, Mode, Platform};
use crate::hwassist::KvmBackend;
use crate::pv::Pv;
use std::sync::Arc;

/// The backend that `spec` wants, over the platform's RAM.
pub(super) fn create(spec: &MachineSpec, platform: &Platform) -> Result<Box<dyn Backend>, EngineError> {
    match spec.mode {
        Mode::Kvm => Ok(Box::new(KvmBackend::new(platform)?)),
        Mode::Emu => {
            let emulator = Emulator::new(Arc::clone(platform.ram()), spec.engine);
            Ok(Box::new(emulator.without(spec.without).counting(spec.counts_instructions)))
        }
        Mode::Pv => Ok(Box::new(Pv::new(Arc::clone(platform.ram()))?.counting(spec.counts_sites))),
    }
}

/// Why `mode` cannot run on this host, or what it truly is here; for emu, with its default engine.
///
/// # Errors
/// [`EngineError::Unavailable`] with the reason.
pub fn availability(mode: Mode) -> Result<Caps, EngineError> {
    match mode {
        Mode::Emu => Ok(Emulator::capabilities(EmuEngine::default())),
        Mode::Kvm => KvmBackend::availability(),
        Mode::Pv => Pv::availability(),
    }
}
