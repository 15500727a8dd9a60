//! What machine is wanted: plain data.
use crate::clock::ClockSource;
use crate::emulator::{EmuEngine, Without};
use crate::engine::Mode;

/// What machine is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineSpec {
    /// By which technique the guest runs.
    pub mode: Mode,
    /// Who executes instructions in mode emu; the other modes have one engine each.
    pub engine: EmuEngine,
    /// What the translator goes without, where it is the engine.
    pub without: Without,
    /// The translator counts instructions, which makes it slower.
    pub counts_instructions: bool,
    /// In mode pv, account is kept of each patched instruction: [`super::Machine::sites`].
    pub counts_sites: bool,
    /// Bytes of RAM.
    pub memory: u64,
    /// Where time comes from. A counted clock needs a mode that counts instructions: emu.
    pub clock: ClockSource,
    /// The guest's command line.
    pub command_line: String,
}

impl MachineSpec {
    /// Bytes of RAM where nobody says otherwise.
    pub const DEFAULT_MEMORY: u64 = 128 << 20;

    /// A machine of the default shape.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            engine: EmuEngine::default(),
            without: Without::NOTHING,
            counts_instructions: false,
            counts_sites: false,
            memory: Self::DEFAULT_MEMORY,
            clock: ClockSource::Real,
            command_line: String::new(),
        }
    }
}
