//! Executes a plan: one run after another, each written to the CSV before the next begins.
//!
//! Nothing that was measured is lost: rows are with the kernel before the next run starts, whatever ends this process. A
//! column that cannot run is closed at its first refusal; a cell that failed twice in a row is given up, so that one bad
//! guest does not spend the time of all; and cells that are too slow for the deadline get fewer repetitions. Nothing here runs beside a timed region: this thread waits for the runner.

mod rows;
mod trim;

use super::checksum::Ballots;
use super::error::BenchError;
use super::fingerprint::{self, Fingerprint, Host, SideFile};
use super::measure::{Column, Request, RunError, Runner};
use super::plan::{self, Filter, Step};
use super::progress::Progress;
use super::record::{self, Writer};
use super::timestamp::Timestamp;
use super::workload::{self, Workload};
use crate::sys::affinity;
use rows::RowMaker;
use std::collections::BTreeMap;
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
    /// The columns, in order; those that are known to be absent carry the reason.
    pub columns: Vec<Column>,
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
            columns,
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
    let workloads: Vec<&'static Workload> =
        workload::all().iter().filter(|w| options.filter.wants_workload(w)).collect();
    if workloads.is_empty() {
        return Err(BenchError::NothingToRun(format!(
            "no workload fits {}",
            options.filter.workloads.join(", ")
        )));
    }
    let columns: Vec<&Column> =
        options.columns.iter().filter(|c| options.filter.wants_mode(&c.mode)).collect();
    if columns.is_empty() {
        return Err(BenchError::NothingToRun(format!("no mode fits {}", options.filter.modes.join(", "))));
    }
    let steps = plan::steps(workloads.len(), columns.len(), options.repetitions, options.seed, |w, c| {
        columns[c].absent.is_none() && runner.suits(workloads[w], columns[c])
    });
    let mut session = Session::begin(options, &workloads, &columns)?;
    progress.begin(steps.len());
    let ended = session.go(&steps, runner, progress);
    progress.end();
    ended?;
    Ok(session.end())
}

/// A run in progress.
struct Session<'a> {
    options: &'a Options,
    workloads: &'a [&'static Workload],
    columns: &'a [&'a Column],
    writer: Writer,
    side: SideFile,
    maker: RowMaker,
    ballots: Ballots,
    /// Short fingerprint by workload and column.
    fingerprints: Vec<Vec<String>>,
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
    fn begin(
        options: &'a Options,
        workloads: &'a [&'static Workload],
        columns: &'a [&'a Column],
    ) -> Result<Session<'a>, BenchError> {
        let run = free_name(options);
        let csv = record::data_dir(&options.out).join(format!("{run}.csv"));
        let host = Host::read(&options.kvm_label);
        let mut writer = Writer::create(&csv)?;
        let maker = RowMaker::new(&run);
        let mut side = side_file(options, &run);
        let fingerprints = workloads
            .iter()
            .map(|w| {
                let image = fingerprint::image_digest(w.image);
                let print = |c: &&Column| circumstances(options, &host, &image, c);
                let prints: Vec<Fingerprint> = columns.iter().map(print).collect();
                prints
                    .into_iter()
                    .map(|p| {
                        let short = p.short();
                        side.fingerprints.insert(short.clone(), p);
                        short
                    })
                    .collect()
            })
            .collect();
        let mut first: Vec<_> = host.facts().iter().map(|(name, words)| maker.fact(name, words)).collect();
        first.push(maker.fact("version", env!("CARGO_PKG_VERSION")));
        if let Some(load) = side.load_at_start {
            first.push(maker.fact(record::LOAD, &format!("{load:.2} at the start")));
        }
        first.extend(columns.iter().filter_map(|c| Some(maker.absent(c, c.absent.as_ref()?))));
        if let Err(error) = side.save(&csv).and_then(|()| writer.append(&first)) {
            side.discard(&csv);
            writer.discard();
            return Err(error);
        }
        Ok(Session {
            options,
            workloads,
            columns,
            writer,
            side,
            maker,
            ballots: Ballots::default(),
            fingerprints,
            closed: columns.iter().map(|c| c.absent.is_some()).collect(),
            timeouts: vec![Some(0); columns.len()],
            cost: BTreeMap::new(),
            allowed: None,
            failures: BTreeMap::new(),
            summary: Summary { run, csv, measured: 0, warmed: 0, failed: 0, rounds: 0, cut_short: None },
        })
    }

    fn go(
        &mut self,
        steps: &[Step],
        runner: &mut dyn Runner,
        progress: &mut dyn Progress,
    ) -> Result<(), BenchError> {
        let begun = Instant::now();
        let cpu = affinity::allowed().ok().and_then(|cpus| cpus.last().copied());
        for (done, step) in steps.iter().enumerate() {
            self.summary.rounds = step.repetition.saturating_sub(1);
            if self.options.deadline.is_some_and(|d| begun.elapsed() > d) {
                self.summary.cut_short = Some(CutShort::Deadline);
                return Ok(());
            }
            if step.repetition == 1 && self.allowed.is_none() {
                self.fit(begun.elapsed(), progress)?;
            }
            let (workload, column) = (self.workloads[step.workload], self.columns[step.column]);
            let allowed = self.allowed.as_ref().and_then(|a| a.get(&(step.workload, step.column)));
            if allowed.is_some_and(|most| step.repetition > *most) {
                continue;
            }
            let given_up = self.failures.get(&(step.workload, step.column)).is_some_and(|n| *n >= PATIENCE);
            if self.closed[step.column] || given_up {
                continue;
            }
            progress
                .step(done, &format!("{} in {}, repetition {}", workload.name, column.mode, step.repetition));
            let request = Request {
                budget_us: self.options.budget_us,
                timeout: self.options.timeout,
                cpu,
                stop: &self.options.stop,
            };
            let stopped = self.options.stop.load(Ordering::Relaxed);
            let result =
                if stopped { Err(RunError::Interrupted) } else { runner.run(workload, column, &request) };
            if let Ok(observation) = &result {
                self.cost.insert((step.workload, step.column), observation.wall);
            }
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
                    if matches!(error, RunError::Unsupported(_)) {
                        self.failures.insert((step.workload, step.column), PATIENCE);
                    }
                    vec![self.maker.failed(workload, column, step, &fingerprint, &error.to_string())]
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
        // A tenth is kept back: costs vary, and the rows themselves take time.
        let available = deadline.saturating_sub(elapsed).mul_f64(0.9);
        let allowed = trim::repetitions(&open, self.options.repetitions, available);
        let cut = allowed.values().filter(|n| **n < self.options.repetitions).count();
        if cut > 0 {
            let least = allowed.values().min().copied().unwrap_or_default();
            let words = format!(
                "{cut} of {} combinations of workload and mode, the slowest, get fewer than {} repetitions (at least \
                 {least}) to meet the deadline of {deadline:?}",
                allowed.len(),
                self.options.repetitions
            );
            progress.note(&words);
            self.writer.append(&[self.maker.fact("repetitions", &words)])?;
        }
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
        // A warm-up's figures are never valid, so it counts by whether it has any.
        let warmed = made.iter().any(|r| r.reason == record::WARM_UP && r.value.is_some());
        let valid = made.iter().any(|r| r.valid);
        let cell = (step.workload, step.column);
        if valid || warmed {
            *(if valid { &mut self.summary.measured } else { &mut self.summary.warmed }) += 1;
            self.timeouts[step.column] = None;
            self.failures.remove(&cell);
            return;
        }
        self.summary.failed += 1;
        let failures = self.failures.entry(cell).or_default();
        *failures = failures.saturating_add(1);
        if *failures == 1 || *failures > PATIENCE {
            let reason =
                made.iter().map(|r| r.reason.as_str()).find(|r| !r.is_empty()).unwrap_or("no figure");
            let (workload, column) = (self.workloads[step.workload], self.columns[step.column]);
            progress.note(&format!("{} in {}: {reason}", workload.name, column.mode));
        }
    }
}

/// A name for the run that no file has yet: two runs may begin within one second.
fn free_name(options: &Options) -> String {
    let name = Timestamp::now().compact();
    let dir = record::data_dir(&options.out);
    let mut free = name.clone();
    let mut number = 1;
    while dir.join(format!("{free}.csv")).exists() {
        number += 1;
        free = format!("{name}-{number}");
    }
    free
}

fn circumstances(options: &Options, host: &Host, image: &str, column: &Column) -> Fingerprint {
    Fingerprint {
        host: host.clone(),
        image_sha256: image.to_owned(),
        devices: options.devices.clone(),
        guest_clock: options.guest_clock.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: column.mode.clone(),
        column: [&column.engine, &column.interface, &column.peer, &column.options]
            .iter()
            .filter(|s| !s.is_empty())
            .map(|s| s.as_str())
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn side_file(options: &Options, run: &str) -> SideFile {
    let list = |items: &[String]| if items.is_empty() { "all".to_owned() } else { items.join(", ") };
    let pairs = [
        ("workloads", list(&options.filter.workloads)),
        ("modes", list(&options.filter.modes)),
        ("repetitions", options.repetitions.to_string()),
        ("seed", options.seed.to_string()),
        ("budget", format!("{} µs", options.budget_us)),
        ("timeout of a run", format!("{:?}", options.timeout)),
        ("deadline", options.deadline.map_or_else(|| "none".to_owned(), |d| format!("{d:?}"))),
    ];
    SideFile {
        run: run.to_owned(),
        load_at_start: fingerprint::load_average(),
        options: pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        fingerprints: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
