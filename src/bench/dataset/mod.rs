//! Rows of one run, grouped and judged: what tables, figures and pages show.
//!
//! Everything here follows from CSV rows alone. A *measure* is one thing measured (a nano operation, a task); it has a cell
//! per mode with its samples, median, interval, slowdown to native, and the reason where there is no figure. The guards of
//! a fair comparison are applied again at this point, whoever wrote the file: rows of unequal circumstances are *not
//! comparable*, and modes whose checksums disagree have *diverged*; neither gets a figure.

mod ablation;
mod disturbance;
mod means;
mod series;
mod shares;

pub use ablation::{ABLATED, Ablation};
pub use means::{Means, TaskSet};
pub use series::Series;
pub use shares::ShareBar;

use super::checksum::Ballots;
use super::error::BenchError;
use super::fingerprint::comparable_part;
use super::language::{Language, figures, terms};
use super::record::{self, Row};
use super::stats::{self, Interval};
use super::sweep::Point;
use super::{MODE_ORDER, NATIVE, base_mode};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Seed of every bootstrap, so that one file always gives one page.
const SEED: u64 = 0x7472_6976_6973_6f72;

/// Note of a cell that was never meant to be filled.
pub const UNMEASURED: &str = terms::NOTE_UNMEASURED.en;

/// What a measure's figure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// The cost of one operation.
    Nano,
    /// The time of one fixed unit of work.
    Task,
    /// The cost of one operation of a given size: a point of a sweep.
    Point,
}

/// One repetition's figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Repetition, from 1.
    pub repetition: u32,
    /// Nanoseconds.
    pub value: f64,
    /// Far from the median; marked, not dropped.
    pub outlier: bool,
}

/// One mode's results for one measure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cell {
    /// Valid repetitions, in order.
    pub samples: Vec<Sample>,
    /// Median in nanoseconds with its 95 % interval; none where there is no figure.
    pub time: Option<Interval>,
    /// Time relative to native, with its 95 % interval; none without a native figure.
    pub slowdown: Option<Interval>,
    /// Time relative to native in each round that has both, in the order of rounds.
    pub ratios: Vec<f64>,
    /// Why there is no figure; or, beside a figure, what went wrong in some repetitions.
    pub note: Option<String>,
}

/// One thing measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// The workload.
    pub workload: String,
    /// The metric as in the CSV, with its ring.
    pub metric: String,
    /// Short name for tables and figures, unique in the dataset.
    pub label: String,
    /// What the figure means.
    pub nature: Nature,
    /// Results by mode; every mode of the dataset has a cell.
    pub cells: BTreeMap<String, Cell>,
}

impl Measure {
    /// What is measured: the label, without the size if this is a point of a sweep.
    pub fn what(&self) -> String {
        Point::parse(&self.metric).map_or_else(|| self.label.clone(), |point| point.base)
    }

    /// The cell of `mode`.
    pub fn cell(&self, mode: &str) -> Option<&Cell> {
        self.cells.get(mode)
    }
}

/// One run, ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Name of the run.
    pub run: String,
    /// When its first row was written.
    pub started: String,
    /// Facts about the host and the run, by name, as the rows give them.
    pub facts: Vec<(String, String)>,
    /// Modes in the order in which they are shown.
    pub modes: Vec<String>,
    /// Measures: nano operations first, then tasks, then points of sweeps, each by name.
    pub measures: Vec<Measure>,
    /// Exit counts by cause.
    pub exits: Vec<ShareBar>,
    /// Where the time of the timed regions went by account, in nanoseconds.
    pub times: Vec<ShareBar>,
    /// By which part the accounts of each of them differ from what the guest timed itself.
    pub time_differences: Vec<f64>,
    /// Modes that could not run at all, with the reason.
    pub absent: BTreeMap<String, String>,
    /// Workload, mode and reason of what gave no figure in any mode.
    pub failures: Vec<(String, String, String)>,
}

impl Dataset {
    /// Loads the newest run in a CSV file.
    ///
    /// # Errors
    /// Those of [`record::read`]; [`BenchError::Empty`] if the file has no row.
    pub fn load(path: &Path) -> Result<Dataset, BenchError> {
        let loaded = record::read(path)?;
        Dataset::from_rows(&loaded.rows).ok_or_else(|| BenchError::Empty(path.to_owned()))
    }

    /// Groups and judges rows; of several runs the newest counts. `None` if there are no rows.
    pub fn from_rows(rows: &[Row]) -> Option<Dataset> {
        let run = rows.iter().map(|r| r.run.as_str()).max()?.to_owned();
        let rows: Vec<&Row> = rows.iter().filter(|r| r.run == run).collect();
        let modes = modes_of(&rows);
        let mut measures = group(&rows, &modes);
        label(&mut measures);
        let natives = native_samples(&measures);
        measures.par_iter_mut().zip(&natives).for_each(|(measure, native)| summarise(measure, native));
        // The order of rows is the random order of the run; readers look names up.
        measures.sort_by(|a, b| (a.nature, &a.workload, &a.metric).cmp(&(b.nature, &b.workload, &b.metric)));
        let absent = absent(&rows, &modes, &measures);
        let times = shares::times(&rows, &modes);
        Some(Dataset {
            started: rows.first().map(|r| r.time.clone()).unwrap_or_default(),
            facts: facts_of(&rows),
            exits: shares::exits(&rows, &modes),
            time_differences: shares::differences(&rows, &times),
            times,
            failures: failures(&rows, &measures),
            run,
            modes,
            measures,
            absent,
        })
    }

    /// A fact by name.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Measures of one nature.
    pub fn of(&self, nature: Nature) -> impl Iterator<Item = &Measure> {
        self.measures.iter().filter(move |m| m.nature == nature)
    }

    /// One line that says where and when: for titles.
    pub fn provenance(&self, language: Language) -> String {
        let date = self.started.get(..10).unwrap_or(&self.started);
        let kvm = self.fact("kvm label").map(|l| format!(" · KVM: {l}")).unwrap_or_default();
        format!("{} · {date}{kvm}", self.fact("cpu").unwrap_or(figures::HOST_UNKNOWN.of(language)))
    }
}

/// Modes that occur, known ones in their order, others after them by name.
fn modes_of(rows: &[&Row]) -> Vec<String> {
    let found: BTreeSet<&str> = rows.iter().map(|r| r.mode.as_str()).filter(|m| !m.is_empty()).collect();
    let mut modes: Vec<&str> = found.into_iter().collect();
    // Stable: engines of one mode, and unknown modes, stay in the order of their names.
    modes.sort_by_key(|m| MODE_ORDER.iter().position(|known| known == &base_mode(m)).unwrap_or(usize::MAX));
    modes.into_iter().map(str::to_owned).collect()
}

fn facts_of(rows: &[&Row]) -> Vec<(String, String)> {
    let mut facts: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter(|r| r.workload == record::WHOLE_RUN && r.unit == record::UNIT_TEXT) {
        if row.metric == record::ALL_METRICS {
            continue;
        }
        // A run that was gone on with may say something anew.
        match facts.iter_mut().find(|(known, _)| *known == row.metric) {
            Some((_, words)) => words.clone_from(&row.reason),
            None => facts.push((row.metric.clone(), row.reason.clone())),
        }
    }
    facts
}

fn nature_of(unit: &str) -> Option<Nature> {
    match unit {
        record::UNIT_NANO => Some(Nature::Nano),
        record::UNIT_TASK => Some(Nature::Task),
        record::UNIT_POINT => Some(Nature::Point),
        _ => None,
    }
}

/// Makes the measures with their samples and notes, not yet summarised.
fn group(rows: &[&Row], modes: &[String]) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    let mut index: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut ballots = Ballots::default();
    let standard = standard_circumstances(rows);
    for row in rows {
        if let Some(metric) = row.metric.strip_suffix(record::CHECKSUM) {
            if let Some(value) = row.value {
                ballots.note(&row.workload, metric, &row.mode, value as u64);
            }
            continue;
        }
        let Some(nature) = nature_of(&row.unit) else {
            continue;
        };
        if row.metric == record::ALL_METRICS || row.mode.is_empty() {
            continue;
        }
        let at = *index.entry((&row.workload, &row.metric)).or_insert_with(|| {
            measures.push(Measure {
                workload: row.workload.clone(),
                metric: row.metric.clone(),
                label: String::new(),
                nature,
                cells: modes.iter().map(|m| (m.clone(), Cell::default())).collect(),
            });
            measures.len() - 1
        });
        let Some(cell) = measures[at].cells.get_mut(&row.mode) else {
            continue;
        };
        match row.value {
            _ if row.repetition == 0 && row.reason == record::WARM_UP => {}
            Some(value) if row.valid && value > 0.0 => {
                if standard.get(row.workload.as_str()) == Some(&comparable_part(&row.fingerprint)) {
                    cell.samples.push(Sample { repetition: row.repetition, value, outlier: false });
                } else {
                    cell.note = Some(terms::NOTE_OTHER_CIRCUMSTANCES.en.to_owned());
                }
            }
            _ => cell.note = Some(row.reason.clone()),
        }
    }
    for measure in &mut measures {
        for (mode, cell) in &mut measure.cells {
            let objection = ballots.objection(&measure.workload, &measure.metric, mode);
            let diverged = cell.note.as_ref().is_some_and(|n| n.starts_with("diverged"));
            if objection.is_some() || diverged {
                cell.samples.clear();
                cell.note = cell.note.take().filter(|_| diverged).or(objection);
            } else if cell.samples.is_empty() && cell.note.is_none() {
                cell.note = Some(why_empty(rows, &measure.workload, mode));
            }
        }
    }
    measures
}

/// For each workload the circumstances under which most of its valid rows were measured.
fn standard_circumstances<'a>(rows: &[&'a Row]) -> BTreeMap<&'a str, &'a str> {
    let mut votes: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.valid && nature_of(&r.unit).is_some()) {
        *votes.entry(&row.workload).or_default().entry(comparable_part(&row.fingerprint)).or_default() += 1;
    }
    votes
        .into_iter()
        .filter_map(|(workload, parts)| Some((workload, parts.into_iter().max_by_key(|(_, n)| *n)?.0)))
        .collect()
}

/// The reason given for a whole workload or a whole mode, if rows state one.
fn why_empty(rows: &[&Row], workload: &str, mode: &str) -> String {
    rows.iter()
        .filter(|r| r.mode == mode && r.metric == record::ALL_METRICS)
        .find(|r| r.workload == workload || r.workload == record::WHOLE_RUN)
        .map_or_else(|| UNMEASURED.to_owned(), |r| r.reason.clone())
}

/// Short labels: the metric for nano operations, the workload for tasks; more where that is ambiguous.
fn label(measures: &mut [Measure]) {
    let parts: Vec<(String, String)> = measures
        .iter()
        .map(|m| m.metric.split_once("@ring").unwrap_or((&m.metric, "")))
        .map(|(base, ring)| (base.to_owned(), ring.to_owned()))
        .collect();
    let plain: Vec<String> = measures
        .iter()
        .zip(&parts)
        .map(|(m, (base, _))| {
            let alone = measures.iter().zip(&parts).all(|(o, (b, _))| o.workload != m.workload || b == base);
            match m.nature {
                Nature::Nano | Nature::Point => base.clone(),
                Nature::Task if alone => m.workload.clone(),
                Nature::Task if base.starts_with(&m.workload) => base.clone(),
                Nature::Task => format!("{} {base}", m.workload),
            }
        })
        .collect();
    let with_ring: Vec<String> = plain
        .iter()
        .zip(&parts)
        .map(|(name, (_, ring))| {
            let clash = plain.iter().filter(|p| *p == name).count() > 1;
            if clash && !ring.is_empty() { format!("{name} (ring {ring})") } else { name.clone() }
        })
        .collect();
    for (i, measure) in measures.iter_mut().enumerate() {
        let clash = with_ring.iter().filter(|w| **w == with_ring[i]).count() > 1;
        measure.label =
            if clash { format!("{} {}", measure.workload, measure.metric) } else { with_ring[i].clone() };
    }
}

/// Modes without any figure, with the reason: those that said they cannot run, and those that failed alike everywhere.
fn absent(rows: &[&Row], modes: &[String], measures: &[Measure]) -> BTreeMap<String, String> {
    let mut absent: BTreeMap<String, String> = rows
        .iter()
        .filter(|r| r.workload == record::WHOLE_RUN && r.metric == record::ALL_METRICS)
        .map(|r| (r.mode.clone(), r.reason.clone()))
        .collect();
    let workloads: BTreeSet<&str> = measures.iter().map(|m| m.workload.as_str()).collect();
    for mode in modes {
        let tried: Vec<(&Measure, &Cell)> = measures
            .iter()
            .filter_map(|m| Some((m, m.cell(mode)?)))
            .filter(|(_, c)| c.note.as_deref() != Some(UNMEASURED))
            .collect();
        let Some(reason) = tried.first().and_then(|(_, c)| c.note.as_ref()) else {
            continue;
        };
        let alike = tried.iter().all(|(_, c)| c.samples.is_empty() && c.note.as_ref() == Some(reason));
        // What was not tried says nothing of the mode: one workload's failure is not everything.
        let reached: BTreeSet<&str> = tried.iter().map(|(m, _)| m.workload.as_str()).collect();
        if alike && reached.len() > 1 && reached == workloads {
            absent.entry(mode.clone()).or_insert_with(|| reason.clone());
        }
    }
    absent
}

/// For each measure the native repetitions that it is held against. The host has no ring 0, so a kernel timed there is held
/// against the same kernel in the host's process (ring 3).
fn native_samples(measures: &[Measure]) -> Vec<Vec<Sample>> {
    fn native(measure: &Measure) -> Option<&Vec<Sample>> {
        measure.cells.get(NATIVE).map(|c| &c.samples).filter(|s| !s.is_empty())
    }
    let base = |m: &Measure| m.metric.split("@ring").next().unwrap_or_default().to_owned();
    measures
        .iter()
        .map(|measure| {
            let elsewhere = || {
                measures
                    .iter()
                    .filter(|o| o.nature == measure.nature && o.workload == measure.workload)
                    .filter(|o| base(o) == base(measure))
                    .find_map(native)
            };
            native(measure).or_else(elsewhere).cloned().unwrap_or_default()
        })
        .collect()
}

/// Fills medians, intervals, outlier marks and slowdowns.
fn summarise(measure: &mut Measure, native: &[Sample]) {
    for cell in measure.cells.values_mut() {
        let own: Vec<f64> = cell.samples.iter().map(|s| s.value).collect();
        for (sample, mark) in cell.samples.iter_mut().zip(stats::outliers(&own)) {
            sample.outlier = mark;
        }
        cell.time = stats::median_interval(&own, SEED);
        cell.ratios = ratios(&cell.samples, native);
        cell.slowdown = slowdown(cell, native);
    }
}

/// Time relative to native within each round that has both.
fn ratios(own: &[Sample], native: &[Sample]) -> Vec<f64> {
    own.iter()
        .filter_map(|s| Some(s.value / native.iter().find(|n| n.repetition == s.repetition)?.value))
        .collect()
}

/// Time relative to native: the median over rounds of the ratio within a round, because both ran within seconds there and
/// the host's speed drifts between rounds. With fewer than three common rounds the ratio of the medians stands in.
fn slowdown(cell: &Cell, native: &[Sample]) -> Option<Interval> {
    if cell.ratios.len() >= 3 {
        return stats::median_interval(&cell.ratios, SEED);
    }
    let values = |samples: &[Sample]| samples.iter().map(|s| s.value).collect::<Vec<f64>>();
    stats::ratio_interval(&values(&cell.samples), &values(native), SEED)
}

/// Workloads that named no metric in any mode, with each mode's reason.
fn failures(rows: &[&Row], measures: &[Measure]) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for row in rows.iter().filter(|r| r.metric == record::ALL_METRICS && r.workload != record::WHOLE_RUN) {
        if !measures.iter().any(|m| m.workload == row.workload)
            && !found.iter().any(|(w, m, _)| *w == row.workload && *m == row.mode)
        {
            found.push((row.workload.clone(), row.mode.clone(), row.reason.clone()));
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests;
