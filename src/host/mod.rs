//! The host's end of devices: consoles, disk images, random bytes.
//!
//! This room implements traits that the devices define; devices never name it.
pub mod console;
pub mod disk;
pub mod entropy;
pub mod keys;
pub mod screen;
