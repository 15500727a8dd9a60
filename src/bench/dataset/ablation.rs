//! What leaving techniques of the translator out costs, relative to the full translator of the same run.

use super::super::stats;
use super::{Dataset, Measure, Nature, TaskSet};
use crate::machine::{EmuEngine, Without};

/// How names of columns begin in which techniques are left out; their names follow, with `+` between.
pub const ABLATED: &str = "emu/without-";

/// Times of one column without some techniques, relative to the full translator's.
#[derive(Debug, Clone, PartialEq)]
pub struct Ablation {
    /// The techniques as the column names them.
    pub name: String,
    /// Geometric mean over the integer tasks; none if no such task has both figures.
    pub integer: Option<f64>,
    /// The same over the tasks of floating point and SIMD.
    pub vector: Option<f64>,
    /// What became slowest, by its label, and how much.
    pub most: (String, f64),
}

impl Dataset {
    /// What each column without some techniques costs: single techniques in their order, then several, last all. Nothing
    /// without a column of the full translator.
    pub fn ablations(&self) -> Vec<Ablation> {
        let by_name = format!("emu/{}", EmuEngine::Translator.name());
        let Some(full) = self.modes.iter().find(|mode| **mode == "emu" || **mode == by_name) else {
            return Vec::new();
        };
        let mut columns: Vec<(Without, &str)> = self
            .modes
            .iter()
            .filter_map(|mode| Some((mode.strip_prefix(ABLATED)?.parse().ok()?, mode.as_str())))
            .collect();
        columns.sort_by_key(|&(without, _)| (without.count(), without));
        columns.into_iter().filter_map(|(_, mode)| self.ablation(mode, full)).collect()
    }

    fn ablation(&self, mode: &str, full: &str) -> Option<Ablation> {
        let ratio = |measure: &Measure| {
            let time = |mode: &str| Some(measure.cell(mode)?.time?.mid);
            Some(time(mode)? / time(full)?).filter(|ratio| ratio.is_finite())
        };
        let mean = |set: TaskSet| {
            let tasks = self.measures.iter().filter(|measure| set.has(measure));
            stats::geometric_mean(&tasks.filter_map(ratio).collect::<Vec<_>>())
        };
        // A point of a sweep is a part of something.
        let whole = self.measures.iter().filter(|m| m.nature != Nature::Point);
        let ratios = whole.filter_map(|m| Some((m.label.clone(), ratio(m)?)));
        Some(Ablation {
            name: mode.strip_prefix(ABLATED)?.to_owned(),
            integer: mean(TaskSet::Integer),
            vector: mean(TaskSet::Vector),
            most: ratios.max_by(|(_, a), (_, b)| a.total_cmp(b))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;
    use crate::bench::record;

    #[test]
    fn each_is_compared_with_the_full_translator_in_the_order_of_techniques() {
        let mut rows = Vec::new();
        for (mode, crc32, sieve, matmul) in [
            ("emu", 1.0, 2.0, 4.0),
            ("emu/without-all", 8.0, 4.0, 400.0),
            ("emu/without-chaining", 2.0, 16.0, 4.0),
            ("emu/without-chaining+windows", 1.0, 2.0, 4.0),
            ("emu/without-groups", 1.0, 2.0, 12.0),
            ("emu/without-windows", 1.0, 2.0, 8.0),
            ("emu/without-sense", 9.0, 9.0, 9.0),
            ("emu/single", 9.0, 9.0, 9.0),
        ] {
            for (workload, value) in [("crc32", crc32), ("sieve", sieve), ("matmul", matmul)] {
                for repetition in 1..=3 {
                    let metric = format!("{workload}@ring3");
                    rows.push(row(workload, &metric, record::UNIT_TASK, mode, repetition, value));
                }
            }
        }
        let found = Dataset::from_rows(&rows).unwrap().ablations();
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["chaining", "windows", "groups", "chaining+windows", "all"]);
        let near = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        assert!(near(found[0].integer, 4.0) && near(found[0].vector, 1.0), "{found:?}");
        assert!(found[0].most.0.starts_with("sieve") && found[0].most.1 == 8.0, "{found:?}");
        assert!(near(found[4].integer, 4.0) && near(found[4].vector, 100.0), "{found:?}");
        rows.retain(|row| row.mode != "emu");
        assert_eq!(Dataset::from_rows(&rows).unwrap().ablations(), []);
    }
}
