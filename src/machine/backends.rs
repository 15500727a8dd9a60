//! Makes the engine of a mode, and says which modes this host has.
use crate::engine::{Backend, Caps, EngineError, Mode, Platform};
use crate::loader::Image;
use std::sync::Arc;

/// The backend of `mode` over the platform's RAM.
pub(super) fn create(
    mode: Mode,
    platform: &Arc<Platform>,
    image: &Image,
) -> Result<Box<dyn Backend>, EngineError> {
    let _ = (platform, image);
    Err(EngineError::Unavailable { mode, reason: "its engine is not built yet".into() })
}

/// Why `mode` cannot run on this host, or what it truly is here.
///
/// # Errors
/// [`EngineError::Unavailable`] with the reason.
pub fn availability(mode: Mode) -> Result<Caps, EngineError> {
    Err(EngineError::Unavailable { mode, reason: "its engine is not built yet".into() })
}
