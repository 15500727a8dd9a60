//! Executes a plan: one run after another, each written to the CSV before the next begins.
//!
//! Nothing that was measured is lost: rows are with the kernel before the next run starts, whatever ends this process. A
//! column that cannot run is closed at its first refusal; a cell that failed twice in a row is given up, so that one bad
//! guest does not spend the time of all; and cells that are too slow for the deadline get fewer repetitions. Nothing here runs beside a timed region: this thread waits for the runner.

mod resume;
mod rows;
mod setup;
mod trim;

pub use resume::Unfinished;

use super::checksum::Ballots;
use super::error::BenchError;
use super::fingerprint::Host;
use super::measure::{Column, Request, RunError, Runner};
use super::plan::{Filter, Step};
use super::progress::Progress;
use super::record::{self, Writer};
use super::side::{Cut, FurtherColumns, SideFile};
use super::workload::Workload;
use crate::sys::{affinity, tsc};
use rows::RowMaker;
use setup::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Failures in a row after which a cell is given up.
const PATIENCE: u32 = 2;

/// Timeouts after which a column that never gave a figure is closed: each costs seconds that the others need.
const TIMEOUTS: u32 = 3;

/// Everything that a run depends on.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the report; the CSV goes to `data/<run>.csv` below it.
    pub out: PathBuf,
    /// Which workloads and modes.
    pub filter: Filter,
    /// Workloads that are not built in.
    pub further_workloads: Vec<&'static Workload>,
    /// The folder of the Linux guest among them: for whoever goes on with the run.
    pub linux: Option<PathBuf>,
    /// The columns, in order; those that are known to be absent carry the reason.
    pub columns: Vec<Column>,
    /// What was asked for beside native and the modes to have these columns: for whoever goes on with the run.
    pub further_columns: FurtherColumns,
    /// Repetitions after the warm-up.
    pub repetitions: u32,
    /// Seed of the order of runs.
    pub seed: u64,
    /// How long a calibrated measurement should take, in microseconds.
    pub budget_us: u64,
    /// When one run is given up.
    pub timeout: Duration,
    /// When no further run is begun.
    pub deadline: Option<Duration>,
    /// What KVM is on this host: `hardware`, `nested`, `emulated supervisor`, `none`.
    pub kvm_label: String,
    /// Devices of the machine, for the fingerprint.
    pub devices: String,
    /// Where guest time comes from, for the fingerprint.
    pub guest_clock: String,
    /// Raised when the user wants to stop.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    /// The defaults: everything that measures, ten repetitions, under five minutes.
    pub fn new(out: PathBuf, columns: Vec<Column>) -> Options {
        Options {
            out,
            filter: Filter::default(),
            further_workloads: Vec::new(),
            linux: None,
            columns,
            further_columns: FurtherColumns::default(),
            repetitions: 10,
            seed: 1,
            budget_us: 20_000,
            timeout: Duration::from_secs(10),
            deadline: Some(Duration::from_secs(270)),
            kvm_label: "none".to_owned(),
            devices: String::new(),
            guest_clock: "host TSC".to_owned(),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Name of the run.
    pub run: String,
    /// Where its rows are; there is no file if nothing was run at all.
    pub csv: PathBuf,
    /// Runs after the warm-up that gave at least one valid figure.
    pub measured: usize,
    /// Runs of the warm-up that went well; their figures do not count.
    pub warmed: usize,
    /// Runs that gave no figure.
    pub failed: usize,
    /// Whole rounds after the warm-up.
    pub rounds: u32,
    /// Why it ended before the plan did, if it did.
    pub cut_short: Option<CutShort>,
    /// It was gone on with, and nothing was left to do.
    pub was_complete: bool,
}

impl Summary {
    /// Runs in all, whatever came of them.
    pub fn runs(&self) -> usize {
        self.measured + self.warmed + self.failed
    }
}

/// Why a run ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutShort {
    /// The user stopped it.
    Interrupted,
    /// Its deadline passed.
    Deadline,
}

/// Executes all that `options` asks for. Guests that fail, columns that cannot run and a stop by the user are no errors.
///
/// # Errors
/// [`BenchError::NothingToRun`] if the filters leave nothing; [`BenchError::Io`] if rows cannot be written.
pub fn execute(
    options: &Options,
    runner: &mut dyn Runner,
    progress: &mut dyn Progress,
) -> Result<Summary, BenchError> {
    let plan = Plan::make(options, runner)?;
    let session = Session::begin(options, &plan)?;
    session.measure(runner, progress)
}

/// Goes on with a run that was stopped, under the options that it was asked for ([`Unfinished::asked`]); the deadline counts
/// from now.
///
/// # Errors
/// As [`execute`]; and [`BenchError::Resume`] where its rows and new ones would not be comparable.
pub fn resume(
    unfinished: Unfinished,
    options: &Options,
    runner: &mut dyn Runner,
    progress: &mut dyn Progress,
) -> Result<Summary, BenchError> {
    let mut options = options.clone();
    unfinished.leave_out(&mut options.columns)?;
    let plan = Plan::make(&options, runner)?;
    let (mut session, continuation) = unfinished.session(&options, &plan)?;
    if plan.steps.iter().all(|step| session.skips(step)) {
        session.summary.was_complete = true;
        session.summary.rounds = options.repetitions;
        return Ok(session.summary);
    }
    continuation.begin(&mut session)?;
    session.measure(runner, progress)
}

/// A run in progress.
struct Session<'a> {
    options: &'a Options,
    workloads: &'a [&'static Workload],
    columns: &'a [&'a Column],
    steps: &'a [Step],
    writer: Writer,
    side: SideFile,
    maker: RowMaker,
    ballots: Ballots,
    /// Short fingerprint by workload and column.
    fingerprints: Vec<Vec<String>>,
    /// Runs whose rows are written: workload, column, repetition.
    done: BTreeSet<(usize, usize, u32)>,
    /// Columns that refused.
    closed: Vec<bool>,
    /// Timeouts by column; none once it has given a figure.
    timeouts: Vec<Option<u32>>,
    /// What the last run of each cell cost.
    cost: BTreeMap<trim::Cell, Duration>,
    /// Repetitions of each cell, once the warm-up has shown what they cost.
    allowed: Option<BTreeMap<trim::Cell, u32>>,
    /// Failures in a row by workload and column.
    failures: BTreeMap<(usize, usize), u32>,
    summary: Summary,
}

impl<'a> Session<'a> {
    /// Opens the CSV and writes what is known beforehand.
    fn begin(options: &'a Options, plan: &'a Plan<'a>) -> Result<Session<'a>, BenchError> {
        let run = setup::free_name(options);
        let csv = record::data_dir(&options.out).join(format!("{run}.csv"));
        let host = Host::read(&options.kvm_label);
        let mut side = setup::side_file(options, &run);
        side.absent = plan.columns.iter().filter_map(|c| Some((c.mode.clone(), c.absent.clone()?))).collect();
        let fingerprints = plan.fingerprints(options, &host, &mut side.fingerprints);
        let writer = Writer::create(&csv)?;
        let mut session = Session::new(options, plan, writer, side, fingerprints);
        let written = session.side.save(&csv).and_then(|()| session.write_first(&host));
        if let Err(error) = written {
            session.side.discard(&csv);
            session.writer.discard();
            return Err(error);
        }
        Ok(session)
    }

    /// A session that has measured nothing.
    fn new(
        options: &'a Options,
        plan: &'a Plan<'a>,
        writer: Writer,
        side: SideFile,
        fingerprints: Vec<Vec<String>>,
    ) -> Session<'a> {
        let columns = &plan.columns;
        let summary = Summary {
            run: side.run.clone(),
            csv: writer.path().to_owned(),
            measured: 0,
            warmed: 0,
            failed: 0,
            rounds: 0,
            cut_short: None,
            was_complete: false,
        };
        Session {
            options,
            workloads: &plan.workloads,
            columns,
            steps: &plan.steps,
            writer,
            maker: RowMaker::new(&side.run),
            side,
            ballots: Ballots::default(),
            fingerprints,
            done: BTreeSet::new(),
            closed: columns.iter().map(|c| c.absent.is_some()).collect(),
            timeouts: vec![Some(0); columns.len()],
            cost: BTreeMap::new(),
            allowed: None,
            failures: BTreeMap::new(),
            summary,
        }
    }

    /// Writes what is known before anything is measured.
    fn write_first(&mut self, host: &Host) -> Result<(), BenchError> {
        let maker = &self.maker;
        let mut first: Vec<_> = host.facts().iter().map(|(name, words)| maker.fact(name, words)).collect();
        first.push(maker.fact("version", env!("CARGO_PKG_VERSION")));
        first.push(maker.fact(record::TSC, &format!("{} kHz", tsc::frequency() / 1000)));
        if let Some(load) = self.side.load_at_start {
            first.push(maker.fact(record::LOAD, &format!("{load:.2} at the start")));
        }
        first.extend(self.columns.iter().filter_map(|c| Some(maker.absent(c, c.absent.as_ref()?))));
        self.writer.append(&first)
    }

    /// Measures what is left of the plan.
    fn measure(
        mut self,
        runner: &mut dyn Runner,
        progress: &mut dyn Progress,
    ) -> Result<Summary, BenchError> {
        progress.begin(self.steps.len());
        let ended = self.go(runner, progress);
        progress.end();
        ended?;
        Ok(self.end())
    }

    /// Whether this run needs not be made: it was, or its column or cell is done with.
    fn skips(&self, step: &Step) -> bool {
        let cell = (step.workload, step.column);
        let allowed = self.allowed.as_ref().and_then(|a| a.get(&cell));
        self.closed[step.column]
            || self.done.contains(&(step.workload, step.column, step.repetition))
            || allowed.is_some_and(|most| step.repetition > *most)
            || self.failures.get(&cell).is_some_and(|n| *n >= PATIENCE)
    }

    fn go(&mut self, runner: &mut dyn Runner, progress: &mut dyn Progress) -> Result<(), BenchError> {
        let begun = Instant::now();
        let cpu = affinity::allowed().ok().and_then(|cpus| cpus.last().copied());
        for (done, step) in self.steps.iter().enumerate() {
            self.summary.rounds = step.repetition.saturating_sub(1);
            if self.skips(step) {
                continue;
            }
            if self.options.deadline.is_some_and(|d| begun.elapsed() > d) {
                self.summary.cut_short = Some(CutShort::Deadline);
                return Ok(());
            }
            if step.repetition > 0 && self.allowed.is_none() {
                self.fit(begun.elapsed(), progress)?;
                if self.skips(step) {
                    continue;
                }
            }
            let (workload, column) = (self.workloads[step.workload], self.columns[step.column]);
            progress
                .step(done, &format!("{} in {}, repetition {}", workload.name, column.mode, step.repetition));
            let request = Request {
                budget_us: self.options.budget_us,
                timeout: self.options.timeout,
                // The warm-up's figures do not count.
                keeps_times: step.repetition == 0,
                cpu,
                stop: &self.options.stop,
            };
            let stopped = self.options.stop.load(Ordering::Relaxed);
            let started = Instant::now();
            let result =
                if stopped { Err(RunError::Interrupted) } else { runner.run(workload, column, &request) };
            let wall = result.as_ref().map_or_else(|_| started.elapsed(), |observation| observation.wall);
            let fingerprint = self.fingerprints[step.workload][step.column].clone();
            let made = match result {
                Err(RunError::Interrupted) => {
                    self.summary.cut_short = Some(CutShort::Interrupted);
                    return Ok(());
                }
                Ok(observation) => {
                    self.maker.observed(workload, column, step, &fingerprint, &observation, &mut self.ballots)
                }
                Err(error) => {
                    if let Some(reason) = self.closes(step.column, &error) {
                        self.closed[step.column] = true;
                        progress.note(&format!("{}: {reason}", column.mode));
                        self.writer.append(&[self.maker.absent(column, &reason)])?;
                        continue;
                    }
                    self.maker.failed(workload, column, step, &fingerprint, &error, wall)
                }
            };
            self.writer.append(&made)?;
            self.settle(step, &made, progress);
        }
        self.summary.rounds = self.options.repetitions;
        Ok(())
    }

    /// The summary. A file without a run in it is taken away, unless it says why a column closed.
    fn end(self) -> Summary {
        let closed = self.columns.iter().zip(&self.closed).any(|(c, closed)| *closed && c.absent.is_none());
        if self.summary.runs() == 0 && !closed {
            self.side.discard(&self.summary.csv);
            self.writer.discard();
        }
        self.summary
    }

    /// Cuts repetitions of slow cells so that the rest of the plan fits the deadline, and writes that down.
    fn fit(&mut self, elapsed: Duration, progress: &mut dyn Progress) -> Result<(), BenchError> {
        let open: BTreeMap<trim::Cell, Duration> = self
            .cost
            .iter()
            .filter(|(cell, _)| !self.closed[cell.1] && self.failures.get(cell).is_none_or(|n| *n < PATIENCE))
            .map(|(cell, cost)| (*cell, *cost))
            .collect();
        let Some(deadline) = self.options.deadline else { return Ok(()) };
        // What a run that is gone on with has done already need not be done again.
        let had = self.done.iter().filter(|(_, _, repetition)| *repetition > 0);
        let had: Duration = had.filter_map(|(w, c, _)| open.get(&(*w, *c))).sum();
        // A tenth is kept back: costs vary, and the rows themselves take time.
        let available = deadline.saturating_sub(elapsed).mul_f64(0.9) + had;
        let mut allowed = trim::repetitions(&open, self.options.repetitions, available);
        let of = allowed.len();
        allowed.retain(|_, repetitions| *repetitions < self.options.repetitions);
        let cut = |(cell, repetitions): (&trim::Cell, &u32)| Cut {
            workload: self.workloads[cell.0].name.to_owned(),
            mode: self.columns[cell.1].mode.clone(),
            repetitions: *repetitions,
        };
        let cuts: Vec<Cut> = allowed.iter().map(cut).collect();
        if let Some(least) = cuts.iter().map(|cut| cut.repetitions).min() {
            let words = format!(
                "{} of {of} combinations of workload and mode, the slowest, get fewer than {} repetitions (at least \
                 {least}) to meet the deadline of {deadline:?}",
                cuts.len(),
                self.options.repetitions
            );
            progress.note(&words);
            self.writer.append(&[self.maker.fact(record::REPETITIONS, &words)])?;
        }
        // After the row: where this is missing, whoever goes on with the run fits it again.
        self.side.cuts = Some(cuts);
        self.side.save(self.writer.path())?;
        self.allowed = Some(allowed);
        Ok(())
    }

    /// The reason to close a column for good, if this error is one.
    fn closes(&mut self, column: usize, error: &RunError) -> Option<String> {
        match error {
            RunError::Unavailable(reason) => Some(reason.clone()),
            RunError::Timeout(_) => {
                let timeouts = self.timeouts[column].as_mut()?;
                *timeouts += 1;
                (*timeouts >= TIMEOUTS)
                    .then(|| format!("given up: no figure, and {TIMEOUTS} runs with {error}"))
            }
            _ => None,
        }
    }

    /// Counts a run that has been written, and notes the first failure of a cell.
    fn settle(&mut self, step: &Step, made: &[record::Row], progress: &mut dyn Progress) {
        let cell = (step.workload, step.column);
        self.done.insert((step.workload, step.column, step.repetition));
        let closing = made.iter().rfind(|r| r.metric == record::WALL);
        if let Some(wall) = closing.and_then(|r| r.value) {
            self.cost.insert(cell, Duration::from_nanos(wall as u64));
        }
        // A warm-up's figures are never valid, so it counts by whether it has any.
        let warmed = made.iter().any(|r| r.reason == record::WARM_UP && r.value.is_some());
        // Where its time went is valid, but no figure.
        let valid = step.repetition > 0 && made.iter().any(|r| r.valid);
        if valid || warmed {
            *(if valid { &mut self.summary.measured } else { &mut self.summary.warmed }) += 1;
            self.timeouts[step.column] = None;
            self.failures.remove(&cell);
            return;
        }
        self.summary.failed += 1;
        let useless = closing.is_some_and(|r| r.reason.starts_with(record::NOT_AGAIN));
        let failures = self.failures.entry(cell).or_default();
        *failures = if useless { PATIENCE + 1 } else { failures.saturating_add(1) };
        if *failures == 1 || *failures > PATIENCE {
            let reason =
                made.iter().map(|r| r.reason.as_str()).find(|r| !r.is_empty()).unwrap_or("no figure");
            let (workload, column) = (self.workloads[step.workload], self.columns[step.column]);
            progress.note(&format!("{} in {}: {reason}", workload.name, column.mode));
        }
    }
}

#[cfg(test)]
mod tests;
