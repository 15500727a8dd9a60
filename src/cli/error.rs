//! What a person is told when a command fails.
use crate::bench::BenchError;
use crate::loader::LoadError;
use crate::machine::MachineError;
use std::io;
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
    /// An image cannot be loaded.
    #[error("{name}: {source}")]
    Image {
        /// File or workload.
        name: String,
        /// Why.
        source: LoadError,
    },
    /// A machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A measurement or report failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Standard output is closed or full.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
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
