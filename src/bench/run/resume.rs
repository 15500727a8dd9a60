//! Going on with a run that was stopped: what of it is there, and whether new rows may stand beside it.
//!
//! The CSV is the truth. Its rows are read back into the state that the run had after the last whole run in it, through the
//! same bookkeeping as when they were written; what follows that run is cut off first, a torn line or a part of a run's rows.
//! Nothing is changed before it is sure that the run can be gone on with.

use super::setup::{Plan, deadline_in_words};
use super::{Options, Session};
use crate::bench::checksum::Ballots;
use crate::bench::error::BenchError;
use crate::bench::fingerprint::{self, Host};
use crate::bench::measure::{Column, TIMED_OUT};
use crate::bench::plan::Step;
use crate::bench::progress::Silent;
use crate::bench::record::{self, Row, Writer};
use crate::bench::side::{Asked, Cut, Objection, SideFile};
use crate::bench::timestamp::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// A run that was stopped. While this lives no other process can go on with it.
#[derive(Debug)]
pub struct Unfinished {
    writer: Writer,
    side: SideFile,
    /// The rows that stay.
    rows: Vec<Row>,
    /// Their bytes with the header's; 0 if not even the first rows are whole.
    length: u64,
}

impl Unfinished {
    /// Reads the run of this CSV file. Changes nothing.
    ///
    /// # Errors
    /// [`BenchError::Busy`] if it is still being written; [`BenchError::Resume`] if its side file does not say how to go on;
    /// those of [`record::read`].
    pub fn open(csv: &Path) -> Result<Unfinished, BenchError> {
        let (writer, bytes) = Writer::reopen(csv)?;
        let side = SideFile::load_to_resume(csv)?;
        let mut rows =
            if record::is_torn_header(&bytes) { Vec::new() } else { record::parse(csv, &bytes)?.rows };
        if rows.iter().any(|row| row.run != side.run) {
            return Err(BenchError::Resume { csv: csv.to_owned(), objection: Objection::OtherRows });
        }
        rows.truncate(whole(&rows));
        // One row, one line; the header is the first.
        let mut ends =
            bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at as u64 + 1);
        let length = if rows.is_empty() { Some(0) } else { ends.nth(rows.len()) };
        let length = length
            .ok_or_else(|| BenchError::Resume { csv: csv.to_owned(), objection: Objection::OtherRows })?;
        Ok(Unfinished { writer, side, rows, length })
    }

    /// What the run was asked for.
    pub fn asked(&self) -> &Asked {
        &self.side.asked
    }

    /// Leaves out the columns that were absent when the run began: the order of runs follows from those that were not.
    pub(super) fn leave_out(&self, columns: &mut [Column]) -> Result<(), BenchError> {
        for column in columns {
            let then = self.side.absent.get(&column.mode).cloned();
            if then.is_none()
                && self.side.fingerprints.values().any(|print| print.mode == column.mode)
                && let Some(reason) = column.absent.clone()
            {
                return Err(self.refuse(Objection::Gone { mode: column.mode.clone(), reason }));
            }
            column.absent = then;
        }
        Ok(())
    }

    /// The run's CSV file.
    pub fn csv(&self) -> &Path {
        self.writer.path()
    }

    /// Gives it another deadline, which counts from when it goes on. What was cut for the old one is no longer.
    pub fn give_deadline(&mut self, deadline: Duration) {
        self.side.asked.deadline = Some(deadline);
        self.side.cuts = None;
    }

    /// The session as it was after the last whole run, if new rows may stand beside the old ones; and how to go on.
    pub(super) fn session<'a>(
        self,
        options: &'a Options,
        plan: &'a Plan<'a>,
    ) -> Result<(Session<'a>, Continuation), BenchError> {
        let host = Host::read(&options.kvm_label);
        let mut now = BTreeMap::new();
        let fingerprints = plan.fingerprints(options, &host, &mut now);
        let name_of = |digest: &str| {
            let workload = plan.workloads.iter().find(|w| fingerprint::image_digest(w.image) == digest);
            workload.map_or_else(|| "a workload".to_owned(), |w| w.name.to_owned())
        };
        self.side.compare(&now, name_of).map_err(|objection| self.refuse(objection))?;
        let csv = self.writer.path().to_owned();
        let mut session = Session::new(options, plan, self.writer, self.side, fingerprints);
        session.recall(&self.rows).map_err(|objection| BenchError::Resume { csv, objection })?;
        let before = self.rows.iter().filter(|row| row.metric == record::RESUMED).count();
        Ok((session, Continuation { length: self.length, before, host }))
    }

    fn refuse(&self, objection: Objection) -> BenchError {
        BenchError::Resume { csv: self.writer.path().to_owned(), objection }
    }
}

/// What is written before a run is gone on with.
pub(super) struct Continuation {
    /// Bytes of the CSV that stay.
    length: u64,
    /// How often the run was gone on with before.
    before: usize,
    host: Host,
}

impl Continuation {
    /// Cuts off what is not whole, and writes down that the run goes on, and by which deadline.
    pub(super) fn begin(&self, session: &mut Session<'_>) -> Result<(), BenchError> {
        let (name, words) = deadline_in_words(session.options);
        session.side.options.insert(name, words);
        session.side.save(session.writer.path())?;
        session.writer.cut_back(self.length)?;
        if self.length == 0 {
            session.write_first(&self.host)?;
        }
        let times = match self.before + 1 {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        let load = fingerprint::load_average().map(|load| format!(", load average {load:.2}"));
        let words = format!(
            "{times}, last at {} after {} runs{}",
            Timestamp::now().rfc3339(),
            session.summary.runs(),
            load.unwrap_or_default()
        );
        session.writer.append(&[session.maker.fact(record::RESUMED, &words)])
    }
}

impl Session<'_> {
    /// Takes rows that are in the file already as if they had just been written.
    fn recall(&mut self, rows: &[Row]) -> Result<(), Objection> {
        let planned: BTreeSet<_> =
            self.steps.iter().map(|step| (step.workload, step.column, step.repetition)).collect();
        for made in rows.chunk_by(|a, b| run_of(a) == run_of(b)) {
            let (workload, mode, repetition) = run_of(&made[0]);
            let column = self.columns.iter().position(|column| column.mode == mode);
            if workload == record::WHOLE_RUN {
                let refused = made.iter().any(|row| row.metric == record::ALL_METRICS);
                if let Some(column) = column.filter(|_| refused) {
                    self.closed[column] = true;
                }
                continue;
            }
            let workload = self.workloads.iter().position(|known| known.name == workload);
            let (workload, column) = workload.zip(column).ok_or(Objection::OtherRows)?;
            let cell = (workload, column, repetition);
            if !planned.contains(&cell) || self.done.contains(&cell) {
                return Err(Objection::OtherRows);
            }
            note(&mut self.ballots, made);
            let timed_out =
                |row: &Row| row.metric == record::ALL_METRICS && row.reason.starts_with(TIMED_OUT);
            if made.iter().any(timed_out)
                && let Some(timeouts) = &mut self.timeouts[column]
            {
                *timeouts += 1;
            }
            self.settle(&Step { workload, column, repetition }, made, &mut Silent);
        }
        let cell = |cut: &Cut| {
            let workload = self.workloads.iter().position(|known| known.name == cut.workload)?;
            let column = self.columns.iter().position(|column| column.mode == cut.mode)?;
            Some(((workload, column), cut.repetitions))
        };
        self.allowed = self.side.cuts.as_ref().map(|cuts| cuts.iter().filter_map(cell).collect());
        Ok(())
    }
}

/// Which run a row is of: workload, mode and repetition.
fn run_of(row: &Row) -> (&str, &str, u32) {
    (&row.workload, &row.mode, row.repetition)
}

/// Casts the votes that a run's checksums were when its rows were made; those of a run in trouble were none.
fn note(ballots: &mut Ballots, made: &[Row]) {
    for row in made {
        let voted = row.reason.is_empty() || row.reason == record::WARM_UP;
        if let Some(metric) = row.metric.strip_suffix(record::CHECKSUM).filter(|_| voted)
            && let Some(value) = row.value
        {
            ballots.note(&row.workload, metric, &row.mode, value as u64);
        }
    }
}

/// How many rows stay: all but those of a last run that is not whole. Without a run the first rows may not be whole either.
fn whole(rows: &[Row]) -> usize {
    let is_run = |row: &Row| row.workload != record::WHOLE_RUN;
    let torn = rows.last().filter(|row| is_run(row) && row.metric != record::WALL);
    let end = torn.map_or(rows.len(), |last| {
        rows.iter().rposition(|row| run_of(row) != run_of(last)).map_or(0, |before| before + 1)
    });
    if rows[..end].iter().any(is_run) { end } else { 0 }
}
