//! Two runs side by side: what differs between them, and how sure that is.
//!
//! Runs are made at different times, perhaps on different hosts, so that times differ for reasons that nobody asked about.
//! Where both runs have native, a column is held against native within each round, and these slowdowns are compared; times
//! are where there is none (most single operations have no native), or where that was asked for; those of native itself, which say how
//! busy the hosts were, only then. A difference is one if a rank test says so after the correction for
//! having asked so often, and if the interval of the ratio does not hold 1.

use super::dataset::{Cell, Dataset, Measure, UNMEASURED};
use super::language::Language;
use super::significance::{false_discovery, rank_sum};
use super::stats::{self, Interval};
use super::sweep::is_point;
use super::{NATIVE, quantity};
use serde::Serialize;
use std::collections::BTreeMap;

/// Seed of every test and bootstrap, so that two files always give one answer.
const SEED: u64 = 0x636f_6d70_6172_6521;
/// The share of false alarms among what is called a difference.
pub const LEVEL: f64 = 0.05;
/// Repetitions on each side below which not even one question could be answered: of three and three one in ten is as far apart.
const FEWEST: usize = 4;

/// What of two runs is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Time relative to native in the same round.
    Slowdown,
    /// Time.
    Time,
}

/// What the second run is to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It takes longer.
    Slower,
    /// It takes less long.
    Faster,
    /// No difference shows.
    Same,
}

impl Verdict {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Same => "same",
        }
    }
}

/// One measure in one column, in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The workload.
    pub workload: String,
    /// The metric as in the CSV.
    pub metric: String,
    /// Short name.
    pub label: String,
    /// The column.
    pub mode: String,
    /// What is compared.
    pub basis: Basis,
    /// The median in the first run: nanoseconds, or a slowdown.
    pub before: f64,
    /// The median in the second.
    pub after: f64,
    /// Second by first, with its 95 % interval.
    #[serde(serialize_with = "interval")]
    pub ratio: Interval,
    /// The probability of such a difference by chance.
    pub p: f64,
    /// The same, corrected for all that is compared here: points of sweeps, and the rest.
    pub q: f64,
    /// What follows.
    pub verdict: Verdict,
    /// Repetitions in the first run and in the second.
    pub repetitions: [usize; 2],
}

fn interval<S: serde::Serializer>(interval: &Interval, to: S) -> Result<S::Ok, S::Error> {
    [interval.low, interval.mid, interval.high].serialize(to)
}

/// A run, as far as a comparison names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Name of the run.
    pub run: String,
    /// Host and date.
    pub provenance: String,
}

impl Side {
    fn of(data: &Dataset) -> Self {
        Self { run: data.run.clone(), provenance: data.provenance(Language::English) }
    }
}

/// Two runs compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first run.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// Facts of the hosts that are not the same: name, in the first run, in the second.
    pub facts: Vec<(String, String, String)>,
    /// All that could be compared, in the order of tables.
    pub differences: Vec<Difference>,
    /// What could not: measure, column, why.
    pub left_out: Vec<(String, String, String)>,
    /// What has a figure in the first run, and was tried in the second and has none: measure, column, why.
    pub lost: Vec<(String, String, String)>,
    /// Measures that are in the first run only, and in the second only.
    pub alone: [Vec<String>; 2],
}

impl Comparison {
    /// Compares the runs `a` and `b`, by time only if that is asked for.
    pub fn of(a: &Dataset, b: &Dataset, by_time: bool) -> Self {
        let mut found = Self {
            a: Side::of(a),
            b: Side::of(b),
            facts: unequal_facts(a, b),
            differences: Vec::new(),
            left_out: Vec::new(),
            lost: Vec::new(),
            alone: [only_in(a, b), only_in(b, a)],
        };
        for measure in &b.measures {
            let Some(before) = counterpart(a, measure) else { continue };
            let wanted = |mode: &&String| b.modes.contains(mode) && (by_time || *mode != NATIVE);
            for mode in a.modes.iter().filter(wanted) {
                let (Some(old), Some(new)) = (before.cell(mode), measure.cell(mode)) else { continue };
                match difference(measure, mode, old, new, by_time) {
                    Ok(difference) => found.differences.push(difference),
                    Err(why) if why == UNMEASURED => {}
                    Err(why) => {
                        let lost = old.time.is_some() && new.time.is_none();
                        let list = if lost { &mut found.lost } else { &mut found.left_out };
                        list.push((measure.label.clone(), mode.clone(), why));
                    }
                }
            }
        }
        // Points of sweeps are many: they are a family of their own, so that they take no power from the rest.
        for points in [false, true] {
            let mut family: Vec<&mut Difference> =
                found.differences.iter_mut().filter(|one| is_point(&one.metric) == points).collect();
            let corrected = false_discovery(&family.iter().map(|one| one.p).collect::<Vec<_>>());
            for (one, q) in family.iter_mut().zip(corrected) {
                one.q = q;
            }
        }
        for one in &mut found.differences {
            let q = one.q;
            one.verdict = match one.ratio {
                ratio if q <= LEVEL && ratio.low > 1.0 => Verdict::Slower,
                ratio if q <= LEVEL && ratio.high < 1.0 => Verdict::Faster,
                _ => Verdict::Same,
            };
        }
        found
    }

    /// Those with this verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(move |one| one.verdict == verdict)
    }

    /// Those that are slower for sure, and by more than this share of the time before (0.05: 5 %).
    pub fn slower_by(&self, share: f64) -> impl Iterator<Item = &Difference> {
        self.with(Verdict::Slower).filter(move |one| one.ratio.mid > 1.0 + share)
    }

    /// Whether no difference could be one, however large: too few repetitions for so many questions. The least probability of
    /// a rank test, of both sides wholly apart, is 2 of all arrangements.
    pub fn is_blind(&self) -> bool {
        let least = |one: &Difference| {
            let [a, b] = one.repetitions;
            // n choose k, as a product of ratios.
            let arrangements = (1..=a).fold(1.0, |product, i| product * (b + i) as f64 / i as f64);
            (2.0_f64 / arrangements).max(1.0 / super::significance::ARRANGEMENTS as f64)
        };
        let is_blind = |points: bool| {
            let family = || self.differences.iter().filter(|one| is_point(&one.metric) == points);
            family().map(least).fold(1.0, f64::min) * family().count() as f64 > LEVEL
        };
        // Sweeps alone are asked for rarely, and decide then.
        is_blind(self.differences.iter().all(|one| is_point(&one.metric)))
    }

    /// The geometric mean of the ratios of each column that has some, but for those of points of sweeps.
    pub fn means(&self) -> Vec<(String, f64)> {
        let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for one in self.differences.iter().filter(|one| !is_point(&one.metric)) {
            ratios.entry(&one.mode).or_default().push(one.ratio.mid);
        }
        let mean =
            |(mode, ratios): (&str, Vec<f64>)| Some((mode.to_owned(), stats::geometric_mean(&ratios)?));
        ratios.into_iter().filter_map(mean).collect()
    }

    /// The comparison as text, each line of it ended; with `all`, what is the same is listed, too.
    pub fn render(&self, all: bool) -> String {
        let mut out =
            format!("A: {}, {}\nB: {}, {}\n", self.a.run, self.a.provenance, self.b.run, self.b.provenance);
        for (name, a, b) in &self.facts {
            out.push_str(&format!("{name}: {a} in A, {b} in B\n"));
        }
        let shown: Vec<&Difference> =
            self.differences.iter().filter(|one| all || one.verdict != Verdict::Same).collect();
        if !shown.is_empty() {
            out.push('\n');
            out.push_str(&table(&shown));
        }
        let count = |verdict| self.with(verdict).count();
        out.push_str(&format!(
            "\nof {} compared B is slower in {}, faster in {}; in {} no difference shows\n",
            self.differences.len(),
            count(Verdict::Slower),
            count(Verdict::Faster),
            count(Verdict::Same)
        ));
        let means: Vec<_> =
            self.means().iter().map(|(mode, mean)| format!("{mode} {}", quantity::ratio(*mean))).collect();
        if !means.is_empty() {
            out.push_str(&format!("geometric mean of B/A: {}\n", means.join(", ")));
        }
        for (label, mode, why) in &self.lost {
            out.push_str(&format!("lost: {label} in {mode}: {why}\n"));
        }
        for (run, names) in ["A", "B"].into_iter().zip(&self.alone) {
            if !names.is_empty() {
                out.push_str(&format!("only in {run}: {}\n", names.join(", ")));
            }
        }
        if self.is_blind() {
            out.push_str(TOO_FEW);
            out.push('\n');
        }
        for (label, mode, why) in &self.left_out {
            out.push_str(&format!("not compared: {label} in {mode}: {why}\n"));
        }
        out.push_str(&format!(
            "A slowdown is against native in the same round, a time where there is no native. q: the share of false alarms among \
             differences up to this one; a difference has q of at most {LEVEL}, and 1 is not in the 95 % interval of B/A.\n"
        ));
        out
    }
}

/// What a comparison says that cannot find anything.
pub const TOO_FEW: &str = "with so few repetitions no single difference among so many could be a sure one: measure with more --repetitions";

fn counterpart<'a>(data: &'a Dataset, measure: &Measure) -> Option<&'a Measure> {
    data.measures.iter().find(|one| one.workload == measure.workload && one.metric == measure.metric)
}

/// The measures of `a` that `b` has not.
fn only_in(a: &Dataset, b: &Dataset) -> Vec<String> {
    a.measures.iter().filter(|one| counterpart(b, one).is_none()).map(|one| one.label.clone()).collect()
}

fn table(shown: &[&Difference]) -> String {
    let head = ["measure", "mode", "A", "B", "B/A", "95 % interval", "q", "B is"].map(str::to_owned);
    let lines: Vec<[String; 8]> = std::iter::once(head)
        .chain(shown.iter().map(|one| {
            let figure = |value: f64| match one.basis {
                Basis::Slowdown => quantity::ratio(value),
                Basis::Time => quantity::time(value),
            };
            let Interval { low, mid, high } = one.ratio;
            [
                one.label.clone(),
                one.mode.clone(),
                figure(one.before),
                figure(one.after),
                format!("{mid:.3}"),
                format!("{low:.3} to {high:.3}"),
                format!("{:.4}", one.q),
                one.verdict.name().to_owned(),
            ]
        }))
        .collect();
    let widths: Vec<usize> = (0..8)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (text, &width))| {
            // Names to the left, figures to the right.
            if (2..7).contains(&column) { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// One cell of both runs; its `q` and verdict are found later, from all.
fn difference(
    measure: &Measure,
    mode: &str,
    old: &Cell,
    new: &Cell,
    by_time: bool,
) -> Result<Difference, String> {
    for (cell, run) in [(old, "A"), (new, "B")] {
        if cell.time.is_none() {
            let why = cell.note.as_deref().unwrap_or(UNMEASURED);
            return Err(if why == UNMEASURED {
                why.to_owned()
            } else {
                format!("no figure in {run}: {why}")
            });
        }
        if cell.samples.len() < FEWEST {
            let count = cell.samples.len();
            return Err(format!("{count} repetitions in {run}, and fewer than {FEWEST} tell nothing"));
        }
    }
    let by_slowdown = !by_time && old.ratios.len().min(new.ratios.len()) >= FEWEST;
    let times = |cell: &Cell| cell.samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
    let (basis, before, after) = if by_slowdown {
        (Basis::Slowdown, old.ratios.clone(), new.ratios.clone())
    } else {
        (Basis::Time, times(old), times(new))
    };
    let found = || {
        Some(Difference {
            workload: measure.workload.clone(),
            metric: measure.metric.clone(),
            label: measure.label.clone(),
            mode: mode.to_owned(),
            basis,
            before: stats::median(&before)?,
            after: stats::median(&after)?,
            ratio: stats::ratio_interval(&after, &before, SEED)?,
            p: rank_sum(&before, &after, SEED)?,
            q: 1.0,
            verdict: Verdict::Same,
            repetitions: [before.len(), after.len()],
        })
    };
    found().ok_or_else(|| UNMEASURED.to_owned())
}

/// Facts of the hosts that both runs tell, and that differ, but for the load.
fn unequal_facts(a: &Dataset, b: &Dataset) -> Vec<(String, String, String)> {
    a.facts
        .iter()
        .filter(|(name, _)| name != super::record::LOAD)
        .filter_map(|(name, value)| {
            let other = b.fact(name)?;
            (other != value).then(|| (name.clone(), value.clone(), other.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
