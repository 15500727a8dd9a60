//! What a person is told when a command fails.
use crate::bench::BenchError;
use crate::engine::EngineError;
use crate::loader::LoadError;
use crate::machine::MachineError;
use crate::mem::MemoryError;
use crate::snapshot::SnapshotError;
use crate::snapshot::recording::RecordingError;
use crate::sys::signal::{self, Interruption};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command failed: one sentence, and an exit status.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The arguments are well-formed but make no sense.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image cannot be loaded.
    #[error("{name}: {source}")]
    Image {
        /// File or workload.
        name: String,
        /// Why.
        source: LoadError,
    },
    /// A guest's machine could not be built, or could not go on.
    #[error("{name}: {source}")]
    Guest {
        /// File or workload.
        name: String,
        /// Why.
        source: MachineError,
    },
    /// A machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// There is no snapshot, or none that can be restored.
    #[error(transparent)]
    Snapshot(SnapshotError),
    /// There is no recording, or a run was not the recorded one.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A measurement or report failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Standard output is closed or full.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A run with nothing to show for it.
    #[error("nothing could be measured: {0}")]
    NothingMeasured(String),
    /// Two runs of which nothing can be compared.
    #[error("{a} and {b} measured nothing in common", a = a.display(), b = b.display())]
    NothingInCommon {
        /// The first file.
        a: PathBuf,
        /// The second.
        b: PathBuf,
    },
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl CliError {
    /// The error of the guest `name`. What is wrong with the command line or the host is not laid on the guest.
    pub(super) fn of_guest(name: &OsStr, error: MachineError) -> Self {
        let name = name.display().to_string();
        match error {
            MachineError::Memory(error @ MemoryError::Size(_)) => Self::Usage(format!("--memory: {error}")),
            MachineError::Load(error @ LoadError::CommandLine(..)) => {
                Self::Usage(format!("--append: {error}"))
            }
            error @ MachineError::Cpus { .. } => Self::Usage(format!("--cpus: {error}")),
            MachineError::Load(source) => Self::Image { name, source },
            error @ (MachineError::Memory(_)
            | MachineError::Disk(_)
            | MachineError::Net(_)
            | MachineError::NoSlot
            | MachineError::Refused(_)
            | MachineError::NoIdePlace
            | MachineError::NoVirtioPlace
            | MachineError::Engine(EngineError::Unavailable { .. })) => Self::Machine(error),
            source => Self::Guest { name, source },
        }
    }

    /// The error of the guest `name` that was to begin or go on.
    pub(super) fn of_start(name: &OsStr, error: SnapshotError) -> Self {
        match error {
            SnapshotError::Machine(error) => Self::of_guest(name, error),
            error => Self::Snapshot(error),
        }
    }

    /// The process's exit status.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether the reader of our output went away, which is nothing to talk about.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<SnapshotError> for CliError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Machine(error) => Self::Machine(error),
            error => Self::Snapshot(error),
        }
    }
}

/// Tells the person which signal ended a command, in the sentence that `sentence` makes of its name; gives the exit
/// status, 128 and the signal's number.
pub(super) fn interrupted(sentence: impl FnOnce(&str) -> String) -> ExitCode {
    // Nothing else sets the mark on which commands stop.
    let by = signal::interruption().unwrap_or(Interruption::CtrlC);
    say(&sentence(by.name()));
    ExitCode::from(by.exit_status())
}

/// Tells the person one sentence. That nobody can read it is no reason to fail, or to panic.
pub(super) fn say(sentence: &str) {
    let _unheard = writeln!(io::stderr(), "trivisor: {sentence}");
}
