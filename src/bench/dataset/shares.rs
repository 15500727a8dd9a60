//! What divides the timed regions of a run: their exits by cause, and their time by account.
//!
//! A workload that sweeps sizes has no bar: it would add up regions of all of them.

use super::super::record::{self, Row};
use super::super::stats;
use crate::engine::{Account, UNATTRIBUTED};
use std::collections::{BTreeMap, BTreeSet};

/// How the timed regions of one workload in one mode divide.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareBar {
    /// The workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Median of a run by name, largest first; what never occurred is left out.
    pub parts: Vec<(String, f64)>,
    /// Their sum.
    pub total: f64,
    /// Median number of measured iterations in the same runs, if any were reported.
    pub iterations: Option<f64>,
}

impl ShareBar {
    /// Which part of the time guest code had, of a bar of times.
    pub fn guest_code(&self) -> f64 {
        let part = self.parts.iter().find(|(name, _)| name == Account::Guest.name());
        part.map_or(0.0, |(_, ns)| ns / self.total)
    }
}

/// How often each mode had to leave guest code, by cause: the counts of valid repetitions.
pub(super) fn exits(rows: &[&Row], modes: &[String]) -> Vec<ShareBar> {
    collect(rows, modes, record::EXITS, |row| row.valid && row.repetition > 0)
}

/// Where each mode's time went, by account, in nanoseconds: of the warm-up, which keeps that. What is on no account is left out.
pub(super) fn times(rows: &[&Row], modes: &[String]) -> Vec<ShareBar> {
    let counts = |row: &Row| {
        row.repetition == 0
            && match row.metric.strip_prefix(record::TIMES) {
                Some(account) => row.valid && account != UNATTRIBUTED,
                None => row.value.is_some(),
            }
    };
    collect(rows, modes, record::TIMES, counts)
}

/// By which part the accounts of each of `times` differ from what its guest timed itself.
pub(super) fn differences(rows: &[&Row], times: &[ShareBar]) -> Vec<f64> {
    let unattributed = |bar: &ShareBar| {
        let of_bar = |row: &&&Row| row.valid && row.workload == bar.workload && row.mode == bar.mode;
        let is_it = |row: &&&Row| row.metric.strip_prefix(record::TIMES) == Some(UNATTRIBUTED);
        rows.iter().filter(is_it).find(of_bar)?.value
    };
    times
        .iter()
        .filter(|bar| bar.total > 0.0)
        .filter_map(|bar| Some(unattributed(bar)? / bar.total))
        .collect()
}

/// Collects what begins with `prefix` in the rows that count, workloads by name.
fn collect(rows: &[&Row], modes: &[String], prefix: &str, counts: impl Fn(&Row) -> bool) -> Vec<ShareBar> {
    let mut order: BTreeSet<&str> = BTreeSet::new();
    let mut values: BTreeMap<(&str, &str), BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    let mut iterations: BTreeMap<(&str, &str), BTreeMap<u32, f64>> = BTreeMap::new();
    let mut repetitions: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
    let sweeps: BTreeSet<&str> =
        rows.iter().filter(|row| row.unit == record::UNIT_POINT).map(|row| row.workload.as_str()).collect();
    for row in rows.iter().filter(|row| counts(row) && !sweeps.contains(row.workload.as_str())) {
        let (Some(value), key) = (row.value, (row.workload.as_str(), row.mode.as_str())) else {
            continue;
        };
        if let Some(part) = row.metric.strip_prefix(prefix) {
            order.insert(key.0);
            values.entry(key).or_default().entry(part).or_default().push(value);
            repetitions.entry(key).or_default().insert(row.repetition);
        } else if row.metric.ends_with(record::ITERATIONS) {
            *iterations.entry(key).or_default().entry(row.repetition).or_default() += value;
        }
    }
    let mut bars = Vec::new();
    for workload in order {
        for mode in modes {
            let key = (workload, mode.as_str());
            let Some(by_name) = values.get_mut(&key) else {
                continue;
            };
            // A repetition that has no row of a part had none of it.
            let runs = repetitions.get(&key).map_or(0, BTreeSet::len);
            let mut parts: Vec<(String, f64)> = by_name
                .iter_mut()
                .filter_map(|(part, values)| {
                    values.resize(runs.max(values.len()), 0.0);
                    Some(((*part).to_owned(), stats::median(values)?)).filter(|(_, n)| *n > 0.0)
                })
                .collect();
            parts.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let done: Vec<f64> =
                iterations.get(&key).map(|m| m.values().copied().collect()).unwrap_or_default();
            bars.push(ShareBar {
                workload: workload.to_owned(),
                mode: mode.clone(),
                // An empty sum of floats would be -0.
                total: parts.iter().fold(0.0, |sum, (_, n)| sum + n),
                parts,
                iterations: stats::median(&done),
            });
        }
    }
    bars
}
