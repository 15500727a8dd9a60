//! Which workload runs in which column when.
//!
//! A randomised complete block design: each round runs every workload once in every column; the workloads of a round come
//! in random order, and the columns of a workload directly after one another, also in random order. So the modes of one
//! workload are compared within seconds, before the host's speed drifts, and none has a fixed place. Round 0 is the warm-up.
//! A run that is stopped early holds about as many repetitions of everything.

use super::base_mode;
use super::random::SplitMix64;
use super::workload::{Kind, Workload};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Names of workloads, with `*` and `?`; empty for all of the kinds.
    pub workloads: Vec<String>,
    /// Kinds; ignored for workloads that are named without `*` and `?`.
    pub kinds: Vec<Kind>,
    /// Modes; empty for all.
    pub modes: Vec<String>,
}

impl Default for Filter {
    /// Everything that measures.
    fn default() -> Filter {
        Filter { workloads: Vec::new(), kinds: vec![Kind::Nano, Kind::Task, Kind::Sweep], modes: Vec::new() }
    }
}

impl Filter {
    /// Whether a workload is wanted.
    pub fn wants_workload(&self, workload: &Workload) -> bool {
        if self.workloads.is_empty() {
            self.kinds.contains(&workload.kind)
        } else {
            self.workloads.iter().any(|pattern| {
                let of_kind = pattern == workload.name || self.kinds.contains(&workload.kind);
                of_kind && matches(pattern, workload.name)
            })
        }
    }

    /// Whether a mode is wanted.
    pub fn wants_mode(&self, mode: &str) -> bool {
        self.modes.is_empty() || self.modes.iter().any(|pattern| fits_mode(pattern, mode))
    }
}

/// Whether the name of a column fits a pattern; `emu` also fits each of its engines, as in `emu/single`.
pub fn fits_mode(pattern: &str, column: &str) -> bool {
    matches(pattern, column) || matches(pattern, base_mode(column))
}

/// Whether `name` fits a pattern in which `*` stands for any text and `?` for one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on if the text taken by the last `*` was too short.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            retry = Some((p + 1, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((after, taken)) = retry {
            retry = Some((after, taken + 1));
            (p, n) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// One run of one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Index of the workload.
    pub workload: usize,
    /// Index of the column.
    pub column: usize,
    /// 0 for the warm-up, then from 1.
    pub repetition: u32,
}

/// All steps in order, for `workloads` × `columns` as far as `suits(workload, column)` allows.
pub fn steps(
    workloads: usize,
    columns: usize,
    repetitions: u32,
    seed: u64,
    suits: impl Fn(usize, usize) -> bool,
) -> Vec<Step> {
    let mut random = SplitMix64::new(seed);
    let mut steps = Vec::new();
    for repetition in 0..=repetitions {
        let mut order: Vec<usize> = (0..workloads).collect();
        random.shuffle(&mut order);
        for workload in order {
            let mut block: Vec<usize> = (0..columns).filter(|c| suits(workload, *c)).collect();
            random.shuffle(&mut block);
            steps.extend(block.into_iter().map(|column| Step { workload, column, repetition }));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("crc32", "crc32", true),
            ("crc*", "crc32", true),
            ("*", "", true),
            ("*32", "crc32", true),
            ("c?c32", "crc32", true),
            ("*c*2*", "crc32", true),
            ("crc", "crc32", false),
            ("?", "", false),
            ("*x*", "crc32", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_mode_means_all_its_engines() {
        for (pattern, column, fits) in [
            ("emu", "emu", true),
            ("emu", "emu/single", true),
            ("e*", "emu/single", true),
            ("emu/single", "emu/single", true),
            ("emu/single", "emu/other", false),
            ("emu/single", "emu", false),
            ("pv", "emu/single", false),
        ] {
            assert_eq!(fits_mode(pattern, column), fits, "{pattern} {column}");
        }
    }

    #[test]
    fn named_workloads_need_not_be_of_the_kinds() {
        let spin = Workload { name: "spin", kind: Kind::Hostile, about: "", disk: None, image: &[] };
        assert!(!Filter::default().wants_workload(&spin));
        let wants = |pattern: &str| {
            let named = Filter { workloads: vec![pattern.into()], ..Filter::default() };
            named.wants_workload(&spin)
        };
        assert!(wants("spin") && !wants("sp*"), "a pattern means those that measure");
    }

    #[test]
    fn no_column_has_a_fixed_place() {
        let steps = steps(1, 4, 200, 1, |_, _| true);
        let first = |c| steps.chunks(4).filter(|block| block[0].column == c).count();
        for column in 0..4 {
            assert!((25..=80).contains(&first(column)), "column {column} came first {} times", first(column));
        }
    }

    proptest! {
        #[test]
        fn each_cell_runs_once_a_round_in_blocks(w in 1usize..8, c in 1usize..5, reps in 0u32..6, seed: u64) {
            let suits = |a: usize, b: usize| !(a * 3 + b).is_multiple_of(5);
            let all = steps(w, c, reps, seed, suits);
            let cells = (0..w).flat_map(|a| (0..c).map(move |b| (a, b))).filter(|(a, b)| suits(*a, *b)).count();
            prop_assert_eq!(all.len(), cells * (reps as usize + 1));
            prop_assert!(all.is_sorted_by_key(|s| s.repetition));
            for round in 0..=reps {
                let mut seen: Vec<(usize, usize)> =
                    all.iter().filter(|s| s.repetition == round).map(|s| (s.workload, s.column)).collect();
                let blocks = seen.chunk_by(|a, b| a.0 == b.0).count();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), cells);
                seen.dedup_by_key(|s| s.0);
                prop_assert_eq!(blocks, seen.len(), "a workload's columns run directly after one another");
            }
            prop_assert_eq!(all, steps(w, c, reps, seed, suits));
        }

        #[test]
        fn matching_ends_and_stars_match_all(name in "[a-z]{0,12}", pattern in "[a-z*?]{0,12}") {
            let _ = matches(&pattern, &name);
            let split = name.len() / 2;
            let around = format!("{}*{}", &name[..split], &name[split..]);
            prop_assert!(matches(&around, &name));
        }
    }
}
