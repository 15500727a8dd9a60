//! Mean slowdowns: over all tasks, and over those that stress one part of a technique.

use super::super::NATIVE;
use super::super::language::{Language, terms};
use super::super::linux;
use super::super::stats;
use super::{Dataset, Measure, Nature};

/// Tasks whose slowdowns are averaged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSet {
    /// All of them; a kernel that is timed in ring 0 and in ring 3 is one task, in ring 3.
    All,
    /// Integer code that runs from the caches, in ring 3.
    Integer,
    /// Floating point and vectors, in ring 3.
    Vector,
}

/// Metrics of [`TaskSet::Integer`], without their ring.
const INTEGER: [&str; 8] =
    ["crc32", "sha256", "quicksort", "sieve", "lz", "pointer_chase_l1", "recursion", "virtual_dispatch"];

/// Metrics of [`TaskSet::Vector`], without their ring.
const VECTOR: [&str; 4] = ["matmul", "nbody", "sse2_stream", "avx2_stream"];

impl TaskSet {
    /// All sets, in the order in which they are shown.
    pub const ALL: [TaskSet; 3] = [TaskSet::All, TaskSet::Integer, TaskSet::Vector];

    /// A sentence that says of what a mean over the set is taken.
    pub fn about(self, language: Language) -> String {
        let (text, members): (_, &[&str]) = match self {
            TaskSet::All => (terms::READING_MEAN_OF_TASKS, &[]),
            TaskSet::Integer => (terms::READING_MEAN_OF_INTEGER, &INTEGER),
            TaskSet::Vector => (terms::READING_MEAN_OF_VECTOR, &VECTOR),
        };
        text.with(language, &[("members", &language.list(members))])
    }

    pub(super) fn has(self, measure: &Measure) -> bool {
        let listed =
            |names: &[&str]| measure.metric.strip_suffix("@ring3").is_some_and(|base| names.contains(&base));
        match self {
            // Natively they are the work of another kernel.
            TaskSet::All => measure.workload != linux::NAME,
            TaskSet::Integer => listed(&INTEGER),
            TaskSet::Vector => listed(&VECTOR),
        }
    }
}

/// The mean slowdowns of a set of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Means {
    /// Which tasks.
    pub set: TaskSet,
    /// How many of them every mode completed: the mean is taken over these.
    pub tasks: usize,
    /// Geometric mean by mode, in the order of [`Dataset::modes`]; none for a mode without a slowdown anywhere.
    pub by_mode: Vec<Option<f64>>,
}

impl Means {
    /// `8 integer tasks`, `1 task`.
    pub fn count(&self, language: Language) -> String {
        let text = match (self.set, self.tasks) {
            (TaskSet::All, 1) => terms::ONE_TASK,
            (TaskSet::All, _) => terms::TASKS,
            (TaskSet::Integer, 1) => terms::ONE_INTEGER,
            (TaskSet::Integer, _) => terms::INTEGER,
            (TaskSet::Vector, 1) => terms::ONE_VECTOR,
            (TaskSet::Vector, _) => terms::VECTOR,
        };
        text.with(language, &[("count", &self.tasks.to_string())])
    }
}

impl Dataset {
    /// The means of all tasks, and of each part of them that has at least two of its tasks and is not the whole.
    pub fn means(&self) -> Vec<Means> {
        let mut found: Vec<Means> = TaskSet::ALL.into_iter().filter_map(|set| self.means_of(set)).collect();
        let all = found.first().map_or(0, |means| means.tasks);
        found.retain(|means| means.set == TaskSet::All || (2..all).contains(&means.tasks));
        found
    }

    /// The mean slowdown of a mode over all tasks.
    pub fn mean_slowdown(&self, mode: &str) -> Option<f64> {
        let at = self.modes.iter().position(|m| m == mode)?;
        self.means_of(TaskSet::All)?.by_mode[at]
    }

    /// Whether a task is a kernel timed in ring 0 whose figure in ring 3 is there too: it would count twice.
    fn counts_in_ring3(&self, task: &Measure) -> bool {
        task.metric.strip_suffix("@ring0").is_some_and(|base| {
            self.of(Nature::Task)
                .any(|o| o.workload == task.workload && o.metric.strip_suffix("@ring3") == Some(base))
        })
    }

    /// Means over the tasks of `set` in which every mode shown with a figure anywhere has one: the same tasks for every
    /// mode, or the means would not compare. `None` if there is no such task.
    fn means_of(&self, set: TaskSet) -> Option<Means> {
        let slowdown = |task: &Measure, mode: &str| Some(task.cell(mode)?.slowdown?.mid);
        let contenders: Vec<&String> = self
            .modes
            .iter()
            .filter(|m| *m != NATIVE && self.of(Nature::Task).any(|t| slowdown(t, m).is_some()))
            .collect();
        let shared: Vec<&Measure> = self
            .of(Nature::Task)
            .filter(|t| {
                set.has(t) && !self.counts_in_ring3(t) && contenders.iter().all(|m| slowdown(t, m).is_some())
            })
            .collect();
        let mean = |mode: &String| {
            let all: Vec<f64> = shared.iter().filter_map(|t| slowdown(t, mode)).collect();
            // Native has a part of them only, the host having no ring 0; it is 1 there.
            stats::geometric_mean(&all)
        };
        let by_mode: Vec<Option<f64>> = self.modes.iter().map(mean).collect();
        by_mode.iter().any(Option::is_some).then_some(Means { set, tasks: shared.len(), by_mode })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;
    use crate::bench::kernels;
    use crate::bench::record;

    #[test]
    fn sets_name_kernels_that_there_are() {
        for name in INTEGER.iter().chain(&VECTOR) {
            assert!(kernels::ALL.iter().any(|kernel| kernel.name == *name), "{name}");
        }
    }

    #[test]
    fn each_set_has_its_own_mean_over_what_all_modes_did() {
        let mut rows = Vec::new();
        // Of the integer tasks lz has no figure in pv; quicksort counts once, in ring 3.
        for (metric, emu, pv) in [
            ("crc32@ring3", 2.0, Some(1.0)),
            ("sieve@ring3", 8.0, Some(4.0)),
            ("lz@ring3", 100.0, None),
            ("matmul@ring3", 3.0, Some(1.0)),
            ("nbody@ring3", 27.0, Some(1.0)),
            ("quicksort@ring3", 2.0, Some(1.0)),
            ("quicksort@ring0", 2.0, Some(1.0)),
        ] {
            let workload = metric.split('@').next().unwrap();
            for repetition in 1..=3 {
                let mut add = |mode: &str, factor: f64| {
                    let value = 1000.0 * factor;
                    rows.push(row(workload, metric, record::UNIT_TASK, mode, repetition, value));
                };
                if metric.ends_with("@ring3") {
                    add("native", 1.0);
                }
                add("emu", emu);
                if let Some(pv) = pv {
                    add("pv", pv);
                }
            }
        }
        let data = Dataset::from_rows(&rows).unwrap();
        let means = data.means();
        let told: Vec<(TaskSet, usize)> = means.iter().map(|m| (m.set, m.tasks)).collect();
        assert_eq!(told, [(TaskSet::All, 5), (TaskSet::Integer, 3), (TaskSet::Vector, 2)]);
        let near = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        let integer = (near(means[1].by_mode[1], 32f64.cbrt()), near(means[1].by_mode[2], 4f64.cbrt()));
        assert_eq!(integer, (true, true), "{means:?}");
        assert!(means.iter().all(|m| near(m.by_mode[0], 1.0)), "{means:?}");
        assert!(near(means[2].by_mode[1], 9.0) && near(means[2].by_mode[2], 1.0), "{means:?}");
        assert!(near(data.mean_slowdown("emu"), (2.0f64 * 8.0 * 3.0 * 27.0 * 2.0).powf(1.0 / 5.0)));
        assert_eq!(means[1].count(Language::English), "3 integer tasks");
        assert_eq!(Means { tasks: 1, ..means[0].clone() }.count(Language::German), "1 Aufgabe");
    }
}
