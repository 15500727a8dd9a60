//! The host's end of devices: consoles, screens and keys, disk images, networks, random bytes.
//!
//! This room implements traits that the devices define; devices never name it.
pub mod console;
pub mod disk;
pub mod entropy;
pub mod escape;
pub mod keys;
pub mod net;
pub mod screen;
