//! The host's end of devices: where a console's characters go and come from.
//!
//! This room implements traits that the devices define; devices never name it.
pub mod console;
