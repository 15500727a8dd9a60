//! Errors of the benchmark room: faults of the host, of files and of arguments; never of a guest.

use super::linux::RECIPE;
use super::side::Objection;
use std::path::PathBuf;

/// Why a benchmark, a table or a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or directory could not be read, written or renamed.
    #[error("{path}: {source}")]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a CSV file is no row of ours.
    #[error("{path}, line {line}: {what}")]
    Csv {
        /// The file in question.
        path: PathBuf,
        /// The line, counted from 1 (the header).
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A run's file is being written by another process.
    #[error("{0}: another process is writing to it; wait for its end, or stop it")]
    Busy(PathBuf),
    /// A run that was stopped cannot be gone on with.
    #[error("cannot resume {csv}: {objection}")]
    Resume {
        /// The run's CSV file.
        csv: PathBuf,
        /// Why not.
        #[source]
        objection: Objection,
    },
    /// A folder has no Linux guest in it.
    #[error("{folder}: {what}; how to get kernel and busybox: {RECIPE}")]
    Linux {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A directory holds no measurements yet.
    #[error("no measurements under {0}: run `trivisor bench` first")]
    NoData(PathBuf),
    /// A CSV file has a header but nothing to draw.
    #[error("{0} holds no measurement")]
    Empty(PathBuf),
    /// No workload or no mode is left after filtering.
    #[error("nothing to run: {0}")]
    NothingToRun(String),
    /// A figure could not be drawn.
    #[error("figure {figure}: {what}")]
    Figure {
        /// Name of the figure, as in its file name.
        figure: String,
        /// What the drawing library said.
        what: String,
    },
}

impl BenchError {
    /// Wraps an I/O error with the path it concerns.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> BenchError {
        BenchError::Io { path: path.into(), source }
    }
}
