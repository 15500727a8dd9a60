//! The emulator: executes guest instructions without the help of hardware virtualization.
pub mod single;
