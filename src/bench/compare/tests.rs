//! What is a difference, and what is none.
use super::super::dataset::tests::{row, text};
use super::super::random::SplitMix64;
use super::super::record::{self, Row};
use super::*;

const WORKLOADS: usize = 40;

/// A made-up run of two columns with a spread of 1 %, in which each `factor` slows a workload of emu down.
fn run(name: &str, seed: u64, repetitions: u32, factor: impl Fn(usize) -> f64) -> Dataset {
    let mut random = SplitMix64::new(seed);
    let mut rows = vec![text(record::WHOLE_RUN, "cpu", "", name)];
    for workload in 0..WORKLOADS {
        for repetition in 0..=repetitions {
            // The host's speed drifts, for all columns alike.
            let drift = 1.0 + f64::from(repetition) / 50.0;
            for (mode, slowdown) in [("native", 1.0), ("emu", 3.0 * factor(workload))] {
                let spread: f64 =
                    (0..4).map(|_| random.below(1000) as f64 / 1000.0 - 0.5).sum::<f64>() / 57.0;
                let value = 1e6 * drift * slowdown * (1.0 + spread);
                let workload = format!("w{workload}");
                rows.push(row(&workload, "time@ring3", record::UNIT_TASK, mode, repetition, value));
            }
        }
    }
    from(rows)
}

fn from(rows: Vec<Row>) -> Dataset {
    Dataset::from_rows(&rows).unwrap()
}

#[test]
fn the_same_twice_shows_no_difference() {
    let mut alarms = 0;
    for seed in 0..10 {
        let (a, b) = (run("A", 2 * seed, 10, |_| 1.0), run("A", 2 * seed + 1, 10, |_| 1.0));
        let found = Comparison::of(&a, &b, false);
        assert_eq!(found.differences.len(), WORKLOADS, "native says how busy the host was");
        assert!(!found.is_blind());
        alarms += found.differences.iter().filter(|one| one.verdict != Verdict::Same).count();
    }
    assert!(alarms <= WORKLOADS / 2, "{alarms} of {}", 10 * WORKLOADS);
}

/// A run with that many points of sweeps beside it, which take `factor` times their time.
fn with_points(name: &str, seed: u64, points: usize, factor: f64) -> Dataset {
    let plain = run(name, seed, 10, |workload| if workload == 0 { factor } else { 1.0 });
    let mut rows = Vec::new();
    for measure in &plain.measures {
        for (mode, cell) in &measure.cells {
            let unit = record::UNIT_TASK;
            let of = |s: &crate::bench::dataset::Sample| {
                row(&measure.workload, &measure.metric, unit, mode, s.repetition, s.value)
            };
            rows.extend(cell.samples.iter().map(of));
        }
    }
    let mut random = SplitMix64::new(seed ^ 77);
    for (point, repetition) in (1..=points).flat_map(|point| (1..=10).map(move |r| (point, r))) {
        let value = 1e3 * factor * (1.0 + random.below(1000) as f64 / 1e5);
        let metric = format!("op[bytes={point}]@ring0");
        rows.push(row("sweep", &metric, record::UNIT_POINT, "emu", repetition, value));
    }
    from(rows)
}

#[test]
fn points_of_sweeps_take_no_power_from_the_rest_and_are_in_no_mean() {
    let compared = |points| {
        let (a, b) = (with_points("A", 1, points, 1.0), with_points("A", 2, points, 1.2));
        Comparison::of(&a, &b, false)
    };
    let (without, with) = (compared(0), compared(300));
    let rest = |found: &Comparison| -> Vec<Difference> {
        found.differences.iter().filter(|one| !is_point(&one.metric)).cloned().collect()
    };
    assert_eq!(rest(&with), rest(&without));
    assert_eq!((with.means(), with.is_blind()), (without.means(), without.is_blind()));
    let slower = |one: &&Difference| is_point(&one.metric) && one.verdict == Verdict::Slower;
    assert_eq!(with.differences.iter().filter(slower).count(), 300);
}

#[test]
fn a_planted_slowdown_of_five_percent_is_found_and_named() {
    let planted = |workload| if workload < 8 { 1.05 } else { 1.0 };
    let (a, b) = (run("A", 1, 10, |_| 1.0), run("A", 2, 10, planted));
    let found = Comparison::of(&a, &b, false);
    let slower: Vec<_> =
        found.with(Verdict::Slower).map(|one| (one.label.as_str(), one.mode.as_str())).collect();
    for workload in 0..8 {
        assert!(slower.contains(&(format!("w{workload}").as_str(), "emu")), "{slower:?}");
    }
    assert!(slower.len() <= 9, "{slower:?}");
    assert_eq!(found.slower_by(0.2).count(), 0);
    assert!(found.slower_by(0.03).count() >= 7);
    let back = Comparison::of(&b, &a, false);
    assert!(back.with(Verdict::Faster).count() >= 8);
    let text = found.render(false);
    assert!(text.contains("w7") && text.contains("slower") && !text.contains("w20"), "{text}");
    assert!(found.render(true).contains("w20"));
}

#[test]
fn slowdowns_hide_what_another_host_makes_of_all_times() {
    let (a, mut b) = (run("A", 1, 10, |_| 1.0), Vec::new());
    for measure in run("B", 2, 10, |_| 1.0).measures {
        for (mode, cell) in &measure.cells {
            for sample in &cell.samples {
                let (workload, metric) = (&measure.workload, &measure.metric);
                b.push(row(workload, metric, record::UNIT_TASK, mode, sample.repetition, sample.value * 2.0));
            }
        }
    }
    b.push(text(record::WHOLE_RUN, "cpu", "", "B"));
    let b = from(b);
    let by_slowdown = Comparison::of(&a, &b, false);
    assert!(
        by_slowdown
            .differences
            .iter()
            .filter(|one| one.mode == "emu")
            .all(|one| one.basis == Basis::Slowdown)
    );
    assert!(by_slowdown.with(Verdict::Slower).filter(|one| one.mode == "emu").count() <= 2);
    let by_time = Comparison::of(&a, &b, true);
    assert_eq!(by_time.with(Verdict::Slower).count(), 2 * WORKLOADS);
    assert_eq!(by_time.facts, [("cpu".to_owned(), "A".to_owned(), "B".to_owned())]);
    assert_eq!(by_time.means().len(), 2);
}

#[test]
fn what_cannot_be_compared_is_told_with_the_reason() {
    let (a, few) = (run("A", 1, 10, |_| 1.0), run("A", 2, 3, |_| 1.0));
    let found = Comparison::of(&a, &few, false);
    assert!(found.differences.is_empty());
    assert_eq!(found.left_out.len(), WORKLOADS);
    assert!(found.left_out[0].2.contains("3 repetitions in B"), "{:?}", found.left_out[0]);
    let failed = Row {
        valid: false,
        value: None,
        reason: "timed out".into(),
        ..row("w0", "time@ring3", record::UNIT_TASK, "emu", 1, 0.0)
    };
    let rows = vec![failed, row("w0", "time@ring3", record::UNIT_TASK, "native", 1, 1.0)];
    let found = Comparison::of(&a, &from(rows), false);
    assert!(
        found.lost.contains(&("w0".into(), "emu".into(), "no figure in B: timed out".into())),
        "{:?}",
        found.left_out
    );
}

#[test]
fn a_comparison_that_could_find_nothing_says_so_and_names_what_one_run_lacks() {
    let (a, b) = (run("A", 1, 4, |_| 1.0), run("A", 2, 4, |_| 2.0));
    let found = Comparison::of(&a, &b, false);
    assert!(found.is_blind() && found.render(false).contains(TOO_FEW));
    assert_eq!(found.with(Verdict::Slower).count(), WORKLOADS, "all of them together are sure");
    let fewer = from(vec![row("w1", "time@ring3", record::UNIT_TASK, "native", 1, 1.0)]);
    let found = Comparison::of(&a, &fewer, false);
    assert_eq!((found.alone[0].len(), found.alone[1].len()), (WORKLOADS - 1, 0));
}
