//! The emulator: executes guest code without help from the host's virtualization.
//!
//! | room | what it is |
//! |---|---|
//! | [`front`] | fetch and decode: guest bytes → blocks of prepared operations, kept by physical page |
//! | [`mmu`] | the soft TLB in front of the one page walker |
//! | [`single`] | the interpreter: a handler per instruction form |
//! | [`interrupt`] | delivery of exceptions and interrupts |
//! | [`translate`] | the translator: guest code becomes host code, a block at a time; runs it |
//! | [`emit`] | host machine code: the assembler, and guest instructions taken apart |
//! | [`code`] | the memory of translated code, its blocks and links, the register map, the ways in and out |
//! | [`technique`] | the translator's techniques, each of which can be left out |
//! | [`mistake`] | mistakes that it makes on purpose, to be found |
//! | [`lens`] | what translator and interpreter make of one instruction, to be looked at |
//! | [`backend`] | the `emu` mode made of it |
//!
//! Backends of other modes may use [`single::Single`] to execute one instruction.
pub mod backend;
pub(crate) mod code;
pub(crate) mod emit;
pub(crate) mod front;
pub(crate) mod interrupt;
pub mod lens;
pub mod mistake;
pub(crate) mod mmu;
pub mod single;
pub mod technique;
pub(crate) mod translate;

pub use backend::{EmuEngine, Emulator};
pub use mistake::Mistake;
pub use technique::{Technique, UnknownTechnique, Without};
