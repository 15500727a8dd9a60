//! A guest's run in a file: where it began, what came from outside and when, and where it ended; run again to the same end.
//!
//! Time is counted in instructions, so that all else follows from these. A position says when (see [`Progress`]). On the way
//! marks are kept of what the CPU was, by which a run that goes another way is found out before its end. What lies where in
//! the file says `docs/recording-format.md`.
mod file;
mod recorder;
mod replay;
mod tape;

pub use file::{Recording, can_be_recorded};
pub use recorder::{Mailbox, Recorder};
pub use replay::Replayed;
pub use tape::Tape;

use super::SnapshotError;
use crate::arch::{Gpa, SavedCpu, address::PAGE_SIZE};
use crate::engine::Progress;
use crate::machine::{Given, Machine, MachineError, SavedMachine, Stop};
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;

/// Turns between two marks: less than a second.
const MARK: u64 = 256 * Progress::EPOCH;

/// Why there is no recording, or a run was not the recorded one.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be written.
    #[error("cannot write the recording {path}: {source}", path = path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read the recording {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another kind of file.
    #[error("{path} is no recording of trivisor", path = .0.display())]
    NoRecording(PathBuf),
    /// Another trivisor wrote it.
    #[error("the recording {path} has version {version}; this trivisor reads version {own}", path = path.display(), own = file::VERSION)]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The end is missing.
    #[error("the recording {path} is cut off: it has {size} bytes of {whole}", path = path.display())]
    CutOff {
        /// Which file.
        path: PathBuf,
        /// Bytes that are there.
        size: u64,
        /// Bytes that were written.
        whole: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the recording {path} is damaged: its {what} is not what was written", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
    },
    /// So much came from outside that it is kept no more.
    #[error("the recording {path} ends here: more came from outside than one keeps", path = .0.display())]
    Full(PathBuf),
    /// The machine's beginning is none.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine cannot go on.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A run went another way.
    #[error(
        "the guest did not do what was recorded: up to position {agreed} it did, and at position {position} {what}"
    )]
    Diverged {
        /// The last position at which all was as recorded.
        agreed: u64,
        /// Where the difference was seen.
        position: u64,
        /// What it is.
        what: String,
    },
}

/// Something that came from outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Input {
    /// Before the turn at this position.
    pub position: u64,
    /// What.
    pub given: Given,
}

/// What the CPU was at a position: a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Mark {
    position: u64,
    cpu: u32,
}

/// How a recorded run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// The guest switched off, with this status.
    PowerOff(u32),
    /// The guest asked for a reset.
    Reset,
    /// The guest could not take an exception.
    TripleFault,
    /// Somebody ended it.
    Stopped,
}

impl How {
    fn of(stop: Stop) -> Self {
        match stop {
            Stop::PowerOff(status) => Self::PowerOff(status),
            Stop::Reset => Self::Reset,
            Stop::TripleFault => Self::TripleFault,
            _ => Self::Stopped,
        }
    }
}

/// Where a recorded run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct End {
    position: u64,
    how: How,
    state: SavedMachine,
    /// SHA-256 of the pages of RAM that are not all zero, with their numbers.
    ram: [u8; 32],
}

/// All of a recording but its beginning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Log {
    /// What the person called the guest.
    name: String,
    inputs: Vec<Input>,
    marks: Vec<Mark>,
    end: End,
}

impl Log {
    /// Whether a run can have left it: everything has its order.
    fn makes_sense(&self) -> bool {
        let end = self.end.position;
        self.inputs.is_sorted_by_key(|input| input.position)
            && self.inputs.iter().all(|input| input.position <= end && input.given.length() > 0)
            && self.marks.is_sorted_by(|a, b| a.position < b.position)
            && self.marks.iter().all(|mark| mark.position <= end)
    }
}

fn position(machine: &Machine) -> u64 {
    machine.platform().progress().position()
}

/// A checksum of all registers.
fn checksum_of_cpu(machine: &mut Machine) -> Result<u32, MachineError> {
    let cpu: SavedCpu = machine.state()?.saved();
    let bytes = postcard::to_allocvec(&cpu).map_err(|error| MachineError::Unsaved(error.to_string()))?;
    Ok(crc32fast::hash(&bytes))
}

/// What RAM holds.
fn digest(ram: &GuestRam) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut page = [0; PAGE_SIZE as usize];
    for touched in ram.touched()? {
        for offset in (touched.start..touched.end).step_by(PAGE_SIZE as usize) {
            let Some(at) = ram.gpa_of(offset) else { continue };
            if ram.read(Gpa(at.0), &mut page).is_ok() && page.iter().any(|byte| *byte != 0) {
                digest.update(offset.to_le_bytes());
                digest.update(page);
            }
        }
    }
    Ok(digest.finalize().into())
}

/// Where the machine stands, which ended so.
fn end_of(machine: &mut Machine, how: How) -> Result<End, MachineError> {
    machine.fire_timers();
    let state = machine.save()?;
    let ram = digest(machine.platform().ram());
    let ram = ram.map_err(|source| MachineError::Host { what: "cannot read the guest's memory", source })?;
    Ok(End { position: position(machine), how, state, ram })
}
