//! The emulator: executes guest code without help from the host's virtualization.
//!
//! | room | what it is |
//! |---|---|
//! | [`front`] | fetch and decode: guest bytes → blocks of prepared operations, kept by physical page |
//! | [`mmu`] | the soft TLB in front of the one page walker |
//! | [`single`] | the interpreter: a handler per instruction form, exceptions and interrupts |
//! | [`backend`] | the `emu` mode made of it |
//!
//! Backends of other modes may use [`single::Single`] to execute one instruction.
pub mod backend;
pub(crate) mod code;
pub(crate) mod emit;
pub(crate) mod front;
pub(crate) mod interrupt;
pub(crate) mod mmu;
pub mod single;
pub mod technique;
pub(crate) mod translate;

pub use backend::{EmuEngine, Emulator};
pub use technique::{Technique, UnknownTechnique, Without};
