//! Exit counts by cause: how often each mode had to leave guest code in the timed regions, and why.

use super::super::record::{self, Row};
use super::super::stats;
use std::collections::{BTreeMap, BTreeSet};

/// What made one mode leave the guest in the timed regions of one workload.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitBar {
    /// The workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Median count of a run by cause, largest first; causes that never occurred are left out.
    pub causes: Vec<(String, f64)>,
    /// Their sum.
    pub total: f64,
    /// Median number of measured iterations in the same runs, if any were reported.
    pub iterations: Option<f64>,
}

/// Collects the counters of valid repetitions, workloads by name.
pub(super) fn collect(rows: &[&Row], modes: &[String]) -> Vec<ExitBar> {
    let mut order: BTreeSet<&str> = BTreeSet::new();
    let mut counts: BTreeMap<(&str, &str), BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    let mut iterations: BTreeMap<(&str, &str), BTreeMap<u32, f64>> = BTreeMap::new();
    let mut repetitions: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.valid && r.repetition > 0) {
        let (Some(value), key) = (row.value, (row.workload.as_str(), row.mode.as_str())) else {
            continue;
        };
        if let Some(cause) = row.metric.strip_prefix(record::EXITS) {
            order.insert(key.0);
            counts.entry(key).or_default().entry(cause).or_default().push(value);
            repetitions.entry(key).or_default().insert(row.repetition);
        } else if row.metric.ends_with(record::ITERATIONS) {
            *iterations.entry(key).or_default().entry(row.repetition).or_default() += value;
        }
    }
    let mut bars = Vec::new();
    for workload in order {
        for mode in modes {
            let key = (workload, mode.as_str());
            let Some(by_cause) = counts.get_mut(&key) else {
                continue;
            };
            // A repetition that has no row of a cause had none of it.
            let runs = repetitions.get(&key).map_or(0, BTreeSet::len);
            let mut causes: Vec<(String, f64)> = by_cause
                .iter_mut()
                .filter_map(|(cause, values)| {
                    values.resize(runs.max(values.len()), 0.0);
                    Some(((*cause).to_owned(), stats::median(values)?)).filter(|(_, n)| *n > 0.0)
                })
                .collect();
            causes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let done: Vec<f64> =
                iterations.get(&key).map(|m| m.values().copied().collect()).unwrap_or_default();
            bars.push(ExitBar {
                workload: workload.to_owned(),
                mode: mode.clone(),
                // An empty sum of floats would be -0.
                total: causes.iter().fold(0.0, |sum, (_, n)| sum + n),
                causes,
                iterations: stats::median(&done),
            });
        }
    }
    bars
}
