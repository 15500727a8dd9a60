//! Makes the engine of a mode, and says which modes this host has.
use crate::emulator::Emulator;
use crate::engine::{Backend, Caps, EngineError, Mode, Platform};
use crate::hwassist::KvmBackend;
use crate::loader::Image;
use crate::pv::Pv;
use std::sync::Arc;

/// The backend of `mode` over the platform's RAM.
pub(super) fn create(
    mode: Mode,
    platform: &Arc<Platform>,
    image: &Image,
) -> Result<Box<dyn Backend>, EngineError> {
    let _ = image;
    match mode {
        Mode::Kvm => Ok(Box::new(KvmBackend::new(platform)?)),
        Mode::Emu => Ok(Box::new(Emulator::new(Arc::clone(platform.ram())))),
        Mode::Pv => Ok(Box::new(Pv::new(Arc::clone(platform.ram()))?)),
    }
}

/// Why `mode` cannot run on this host, or what it truly is here.
///
/// # Errors
/// [`EngineError::Unavailable`] with the reason.
pub fn availability(mode: Mode) -> Result<Caps, EngineError> {
    match mode {
        Mode::Emu => Ok(Emulator::capabilities()),
        Mode::Kvm => KvmBackend::availability(),
        Mode::Pv => Pv::availability(),
    }
}
