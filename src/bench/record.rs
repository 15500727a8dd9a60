//! The CSV that holds every observation: one row, one observation, one line.
//!
//! Tidy data: `pandas.read_csv(f)` or R's `read.csv` load it as it is. Conventions, which only this file states:
//! - `value` is empty exactly where there is no figure; `valid` says whether it may be used, `reason` why not.
//! - `unit` tells a figure's nature: [`UNIT_NANO`] the cost of one operation, [`UNIT_TASK`] the time of one fixed unit of
//!   work, [`UNIT_POINT`] the cost of one operation of the size that the metric names, [`UNIT_COUNT`] a count, [`UNIT_FOLD`] a checksum folded to 32 bits, [`UNIT_TEXT`] a fact in words (in `reason`).
//! - a metric measured by a guest is named `metric@ringN`; `.iterations` and `.checksum` belong to it.
//! - a point of a sweep is named `metric[WHAT=SIZE]@ringN`, as `rep_outs[bytes=4096]@ring0` ([`super::sweep`]); a regular
//!   expression such as `(.+)\[(\w+)=(\d+)\]` takes it apart. Points have a unit of their own, so that means and tables of
//!   operations and tasks leave them out.
//! - `exits.<cause>` count why the guest was left in the timed regions that its metrics report, all regions of a run
//!   together; `count.<cause>` are counts of the whole run, boot and calibration included; `wall` is the time of the whole
//!   run as the host saw it.
//! - repetition 0 is the warm-up and never valid, but for `time.<account>`, nanoseconds of its timed regions on each account
//!   ([`Account`]): it keeps that, which no run does whose figures count. `time.unattributed` is by how much the accounts differ from
//!   what the guest timed itself; the marks of its regions are on the accounts, and before and behind what it times.
//! - the rows of one run (one workload, mode and repetition) stand together, and [`WALL`] is the last of them: where it is
//!   missing at the end of a file, its writer was stopped in the middle of them.
//!
//! The writer hands each batch of rows to the kernel in one call before it returns, so that a crash loses nothing that was
//! measured; the reader forgives one torn line at the end of the file and nothing else.

use super::error::BenchError;
#[cfg(doc)]
use crate::engine::Account;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Nanoseconds for one operation (call, exit, trap …).
pub const UNIT_NANO: &str = "ns/op";
/// Nanoseconds for one fixed unit of work of a whole task.
pub const UNIT_TASK: &str = "ns/task";
/// Nanoseconds for one operation of a size that the metric names: a point of a sweep.
pub const UNIT_POINT: &str = "ns/point";
/// Nanoseconds of host time.
pub const UNIT_NS: &str = "ns";
/// A plain count.
pub const UNIT_COUNT: &str = "count";
/// A checksum, folded to 32 bits.
pub const UNIT_FOLD: &str = "fold32";
/// No figure: `reason` holds a fact in words.
pub const UNIT_TEXT: &str = "text";
/// Prefix of metrics that count exits by cause, in the timed regions.
pub const EXITS: &str = "exits.";
/// Prefix of metrics that say where the time of the timed regions went, by account.
pub const TIMES: &str = "time.";
/// Prefix of other counts, of the whole run.
pub const COUNT: &str = "count.";
/// Suffix of the metric that counts the iterations of a timed region.
pub const ITERATIONS: &str = ".iterations";
/// Suffix of the metric that holds a checksum.
pub const CHECKSUM: &str = ".checksum";
/// Name of the fact that tells how fast the host's TSC runs, in kHz, as `2400000 kHz`.
pub const TSC: &str = "tsc";
/// Name of the fact that tells the load average.
pub const LOAD: &str = "load average";
/// Workload name of rows that concern the run as a whole.
pub const WHOLE_RUN: &str = "(run)";
/// Metric of rows that concern everything a workload measures (it never came so far as to name one).
pub const ALL_METRICS: &str = "(all)";
/// Metric that closes the rows of one run: how long it took, whatever came of it.
pub const WALL: &str = "wall";
/// How the `reason` of [`WALL`] begins where the run showed that trying again is of no use.
pub const NOT_AGAIN: &str = "not tried again: ";
/// Name of the fact that tells which repetitions were left out to meet the deadline.
pub const REPETITIONS: &str = "repetitions";
/// Name of the fact that tells that the run was stopped and gone on with.
pub const RESUMED: &str = "resumed";
/// `reason` of repetition 0.
pub const WARM_UP: &str = "warm-up";

/// The greatest value that a row may have: no time, in nanoseconds, and no count is near it.
const GREATEST: f64 = 1e24;

/// Longest text in a field; longer ones (a guest chose them) are cut.
const MAX_TEXT: usize = 400;

/// One observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the run; sorts by time.
    pub run: String,
    /// When the observation was written, UTC, RFC 3339.
    pub time: String,
    /// The workload, or [`WHOLE_RUN`].
    pub workload: String,
    /// What was measured.
    pub metric: String,
    /// Unit of `value`.
    pub unit: String,
    /// `native`, `emu`, `pv`, `kvm`, a pair of engine and interface as `direct/none`, or a peer; empty for facts about the run.
    pub mode: String,
    /// Who executes instructions.
    pub engine: String,
    /// What the guest sees: `none`, `patched` or `pv`.
    pub interface: String,
    /// The other monitor, if it is one.
    pub peer: String,
    /// 0 for the warm-up, then from 1.
    pub repetition: u32,
    /// The figure, finite; none where there is none.
    pub value: Option<f64>,
    /// Whether the figure may be used.
    pub valid: bool,
    /// Why not; or, for [`UNIT_TEXT`], the fact.
    pub reason: String,
    /// Short hash of the circumstances, see [`super::fingerprint`].
    pub fingerprint: String,
}

/// Column names, in order.
pub const HEADER: [&str; 14] = [
    "run",
    "time",
    "workload",
    "metric",
    "unit",
    "mode",
    "engine",
    "interface",
    "peer",
    "repetition",
    "value",
    "valid",
    "reason",
    "fingerprint",
];

/// The first line of every file.
fn header_line() -> String {
    HEADER.join(",") + "\n"
}

/// Whether `bytes` are the beginning of a file whose header has no end yet.
pub fn is_torn_header(bytes: &[u8]) -> bool {
    bytes.len() < header_line().len() && header_line().as_bytes().starts_with(bytes)
}

/// Why a number is no figure, if so.
fn objection(value: f64) -> Option<&'static str> {
    if !value.is_finite() {
        Some("not a finite number")
    } else if value.abs() > GREATEST {
        Some("out of all bounds")
    } else {
        None
    }
}

/// Text that fits one line of one field: control characters become blanks, excess is cut.
pub fn clean(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect();
    flat.trim().to_owned()
}

/// Appends rows to a file and leaves nothing in a buffer. The file is locked while it lives, so that no other process goes
/// on with the same run; the lock ends with this process, however it ends.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes that are whole rows.
    length: u64,
}

impl Writer {
    /// Creates `path` (which must not exist yet) and its directory, and writes the header.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> Result<Writer, BenchError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| BenchError::io(dir, e))?;
        }
        let file =
            File::options().append(true).create_new(true).open(path).map_err(|e| BenchError::io(path, e))?;
        // A file system that knows no locks takes the guard away, not the measurement.
        let _unguarded = file.try_lock();
        let mut writer = Writer { file, path: path.to_owned(), length: 0 };
        if let Err(error) = writer.put(header_line().as_bytes()) {
            writer.discard();
            return Err(error);
        }
        Ok(writer)
    }

    /// Opens the file of a run that was stopped, to go on with it, and gives what is in it. Nothing is changed yet.
    ///
    /// # Errors
    /// [`BenchError::Busy`] if another process writes to it; else what the file system says.
    pub fn reopen(path: &Path) -> Result<(Writer, Vec<u8>), BenchError> {
        let io = |error| BenchError::io(path, error);
        let mut file = File::options().read(true).append(true).open(path).map_err(io)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => BenchError::Busy(path.to_owned()),
            TryLockError::Error(error) => io(error),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let length = bytes.len() as u64;
        Ok((Writer { file, path: path.to_owned(), length }, bytes))
    }

    /// Cuts the file back to its first `length` bytes, the end of a row; with 0 the header is written again.
    ///
    /// # Errors
    /// What the file system says.
    pub fn cut_back(&mut self, length: u64) -> Result<(), BenchError> {
        self.file.set_len(length).map_err(|error| BenchError::io(&self.path, error))?;
        self.length = length;
        if length == 0 { self.put(header_line().as_bytes()) } else { Ok(()) }
    }

    /// Appends `rows`; when this returns they are with the kernel. A value that is not finite is written as no figure.
    ///
    /// # Errors
    /// What the file system says (a full disk, say).
    pub fn append(&mut self, rows: &[Row]) -> Result<(), BenchError> {
        let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        for row in rows {
            let mut row = row.clone();
            for field in [
                &mut row.run,
                &mut row.time,
                &mut row.workload,
                &mut row.metric,
                &mut row.unit,
                &mut row.mode,
                &mut row.engine,
                &mut row.interface,
                &mut row.peer,
                &mut row.reason,
                &mut row.fingerprint,
            ] {
                *field = clean(field);
            }
            if let Some(objection) = row.value.and_then(objection) {
                row.value = None;
                row.valid = false;
                row.reason = objection.to_owned();
            }
            csv.serialize(&row).map_err(|e| self.broken(&e.to_string()))?;
        }
        let bytes = csv.into_inner().map_err(|e| self.broken(&e.to_string()))?;
        self.put(&bytes)
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        if let Err(error) = self.file.write_all(bytes) {
            // A full disk takes a part of the rows. If it cannot be taken back either, the reader forgives it.
            let _torn = self.file.set_len(self.length);
            return Err(BenchError::io(&self.path, error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Removes a file that has come to nothing.
    pub fn discard(self) {
        // The reason for which it came to nothing matters more than one for which it stays.
        let _stays = std::fs::remove_file(&self.path);
    }

    fn broken(&self, what: &str) -> BenchError {
        BenchError::io(&self.path, std::io::Error::other(what.to_owned()))
    }
}

/// Rows of a file, and whether its last line was torn.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// All whole rows, in order.
    pub rows: Vec<Row>,
    /// The last line had no end and was left out: its writer was stopped in the middle of it.
    pub torn: bool,
}

/// Reads a CSV file of this program.
///
/// # Errors
/// [`BenchError::Csv`] with file and line for anything that is not a row; [`BenchError::Io`] if it cannot be read.
pub fn read(path: &Path) -> Result<Loaded, BenchError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(|e| BenchError::io(path, e))?;
    parse(path, &bytes)
}

/// Parses the bytes of a CSV file; `path` is for messages only.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Loaded, BenchError> {
    let torn = !bytes.is_empty() && bytes.last() != Some(&b'\n');
    let whole = if torn { bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) } else { bytes.len() };
    let error = |line: u64, what: String| BenchError::Csv { path: path.to_owned(), line, what };
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(&bytes[..whole]);
    let headers = reader.headers().map_err(|e| error(1, plain(&e)))?.clone();
    if headers.iter().ne(HEADER) {
        return Err(error(
            1,
            format!("the columns are not those of a trivisor measurement ({})", HEADER.join(",")),
        ));
    }
    let mut rows = Vec::new();
    for result in reader.records() {
        let record = result.map_err(|e| error(e.position().map_or(0, csv::Position::line), plain(&e)))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|e| error(line, plain(&e)))?;
        if let Some(objection) = row.value.and_then(objection) {
            return Err(error(line, format!("value is {objection}")));
        }
        if row.valid && row.value.is_none() {
            return Err(error(line, "a valid row needs a value".to_owned()));
        }
        rows.push(row);
    }
    Ok(Loaded { rows, torn })
}

/// A CSV error in words, without the position (which the caller gives).
fn plain(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => match err.field() {
            Some(field) => {
                let name = HEADER.get(field as usize).copied().unwrap_or("?");
                format!("column `{name}`: {}", err.kind())
            }
            None => err.kind().to_string(),
        },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where {expected_len} belong")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

/// The directory below `out` that holds the CSV files.
pub fn data_dir(out: &Path) -> PathBuf {
    out.join("data")
}

/// The CSV file of the newest run below `out`.
///
/// # Errors
/// [`BenchError::NoData`] if there is none.
pub fn newest(out: &Path) -> Result<PathBuf, BenchError> {
    let dir = data_dir(out);
    let entries = std::fs::read_dir(&dir).map_err(|_| BenchError::NoData(dir.clone()))?;
    entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "csv"))
        .max()
        .ok_or(BenchError::NoData(dir))
}

/// Writes a whole file or nothing: into a temporary neighbour first, which is then renamed.
///
/// # Errors
/// What the file system says.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), BenchError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_data()))
        .and_then(|()| std::fs::rename(&part, path));
    written.map_err(|e| {
        // The original error matters; a leftover that cannot be removed either does not.
        let _ = std::fs::remove_file(&part);
        BenchError::io(path, e)
    })
}

#[cfg(test)]
mod tests;
