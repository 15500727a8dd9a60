//! What a person is told when a command cannot be done: one sentence; the session goes on.
use super::command::ParseError;
use super::condition::UndecidedError;
use super::expression::EvaluateError;
use crate::engine::Mode;
use crate::machine::{MachineError, MoveError};
use crate::snapshot::SnapshotError;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// The line is no command.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An address cannot be computed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The machine refused, or cannot go on.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// There is no snapshot, or none that can be restored.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// `set` on a register that it does not change.
    #[error("${0} cannot be set; general registers, $rip and $rflags can")]
    Fixed(String),
    /// The guest stays in its mode.
    #[error("the guest cannot go on in {to}: {reason}")]
    Move {
        /// Where it was to go.
        to: Mode,
        /// Why it cannot.
        reason: MoveError,
    },
    /// The guest does not run any more.
    #[error("{0}; 'restart' starts it again")]
    Ended(String),
    /// No breakpoint has this number.
    #[error("there is no breakpoint {0}; 'info break' lists them")]
    NoBreakpoint(u32),
    /// No CPU has this number.
    #[error("there is no CPU {number}; the last one is {last}")]
    NoCpu {
        /// Which one was asked for.
        number: u64,
        /// The last one that there is.
        last: u64,
    },
    /// A condition has no value.
    #[error(transparent)]
    Undecided(#[from] UndecidedError),
    /// No device has this name.
    #[error("there is no device '{name}'; there are {names}")]
    NoDevice {
        /// The one that was asked for.
        name: String,
        /// Those that there are.
        names: String,
    },
    /// More was asked for than a person can read.
    #[error("{what} {asked} is more than one command shows; at most {most}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much was asked for.
        asked: u64,
        /// How much is possible.
        most: u64,
    },
    /// The guest cannot go back; why, and what to do.
    #[error("the guest cannot go back here: {0}")]
    NoWayBack(&'static str),
    /// `rewind` where it is not needed.
    #[error(
        "this guest goes back to any of its instructions: reverse-step, reverse-continue and who-wrote do"
    )]
    GoesBack,
    /// No snapshot has this number.
    #[error("there is no snapshot {0}; 'info snapshots' lists them")]
    NoSnapshot(usize),
    /// There is nothing before.
    #[error("this is the beginning of what can be gone back to")]
    Beginning,
    /// A guest that was to do again what it did before did something else: our fault, or that of a disk that has changed.
    #[error(
        "the guest did not do the same again: it left its way at position {0}; 'restart' starts it again"
    )]
    Diverged(u64),
    /// Not mapped, or a device.
    #[error("there is no memory at {0:#x}")]
    NotRam(u64),
    /// Not mapped, no RAM, or bytes that are no instruction.
    #[error("there is no instruction at {0:#x}: it is not mapped to RAM, or the bytes there are none")]
    NoInstruction(u64),
    /// `finish` without a caller.
    #[error("the return address of this function cannot be found; 'until ADDR' runs to an address")]
    NoCaller,
    /// `x` without an address and nothing examined before.
    #[error("an address is missing, as in 'x/8xb $rsp'")]
    NoAddress,
}
