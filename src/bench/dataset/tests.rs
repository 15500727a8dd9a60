//! The judgement of rows: guards, labels, reasons; and a synthetic run of realistic spread that figures are tested with.

use super::super::random::SplitMix64;
use super::*;

pub(crate) fn row(workload: &str, metric: &str, unit: &str, mode: &str, repetition: u32, value: f64) -> Row {
    Row {
        run: "20260101T120000Z".into(),
        time: "2026-01-01T12:00:00.000Z".into(),
        workload: workload.into(),
        metric: metric.into(),
        unit: unit.into(),
        mode: mode.into(),
        engine: String::new(),
        interface: String::new(),
        peer: String::new(),
        repetition,
        value: Some(value),
        valid: repetition > 0,
        reason: if repetition > 0 { String::new() } else { record::WARM_UP.into() },
        fingerprint: format!("same-{mode}"),
    }
}

pub(crate) fn text(workload: &str, metric: &str, mode: &str, words: &str) -> Row {
    Row {
        value: None,
        valid: false,
        reason: words.into(),
        ..row(workload, metric, record::UNIT_TEXT, mode, 1, 0.0)
    }
}

/// A made-up run: `tasks` tasks and 22 nano operations in six modes, five orders of magnitude, gaps of each kind.
pub(crate) fn synthetic(tasks: usize) -> Vec<Row> {
    let mut random = SplitMix64::new(42);
    let mut rows = vec![
        text(record::WHOLE_RUN, "cpu", "", "Made-up <CPU> & Co. 9000 \"Turbo\" @ 3.70GHz"),
        text(record::WHOLE_RUN, "kernel", "", "6.18.0"),
        text(record::WHOLE_RUN, "kvm label", "", "emulated supervisor"),
        text(record::WHOLE_RUN, record::ALL_METRICS, "qemu-kvm", "/dev/kvm: permission denied"),
    ];
    let task_names = [
        "crc32",
        "sha256",
        "quicksort",
        "sieve",
        "lz",
        "pointer-chase",
        "recursion",
        "virtual-dispatch",
        "matmul-f64",
        "nbody",
        "sse2-stream",
        "avx2-stream",
        "membw",
        "forkwait",
        "pipe-pingpong",
        "fault-storm",
        "console-bytewise",
        "console-batched",
        "disk-ide",
        "disk-virtio",
    ];
    let nano_names = [
        "call-ret",
        "cpuid",
        "rdtsc",
        "rdmsr",
        "wrmsr",
        "cr3-write",
        "cr8-write",
        "cli-sti",
        "pushf-popf",
        "lidt",
        "invlpg",
        "hypercall",
        "port-out",
        "mmio-read",
        "syscall",
        "int80",
        "divide-error",
        "page-fault",
        "pte-change",
        "self-ipi",
        "timer-interrupt",
        "hlt-wake",
    ];
    let modes = [("native", 1.0), ("emu", 40.0), ("pv", 1.05), ("kvm", 1.01), ("qemu-tcg", 8.0)];
    let mut noise = |scale: f64| {
        let u = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        1.0 + scale * u * u
    };
    for i in 0..tasks {
        let name = task_names.get(i).map_or_else(|| format!("extra-task-{i}"), |n| (*n).to_owned());
        let metric = format!("{name}@ring3");
        let base = 1e4 * 3f64.powi((i * 7 % 9) as i32);
        for (m, (mode, factor)) in modes.iter().enumerate() {
            if *mode == "pv" && i == 7 {
                rows.push(text(&name, record::ALL_METRICS, "pv", "unsupported: 0f 01 ca at 0x201000"));
                continue;
            }
            let wild = if *mode == "kvm" && i % 5 == 3 {
                900.0
            } else {
                1.0 + (i * (m + 1) % 7) as f64 * 0.3 * (factor - 1.0)
            };
            for r in 0..=10 {
                let spike = if r == 6 && i % 4 == 0 { 1.6 } else { 1.0 };
                let value = base * factor * wild * noise(0.08) * spike;
                rows.push(row(&name, &metric, record::UNIT_TASK, mode, r, value));
                let sum = if *mode == "qemu-tcg" && i == 9 { 8.0 } else { 7.0 };
                rows.push(row(&name, &format!("{metric}.checksum"), record::UNIT_FOLD, mode, r, sum));
                rows.push(row(
                    &name,
                    &format!("{metric}.iterations"),
                    record::UNIT_COUNT,
                    mode,
                    r,
                    5.0e7 / base,
                ));
                if !["native", "qemu-tcg"].contains(mode) {
                    for (c, cause) in
                        ["port-io", "mmio", "hypercall", "page-fault", "interrupt", "halt"].iter().enumerate()
                    {
                        let n = 10f64.powi(((i + c * m) % 6) as i32).round();
                        rows.push(row(&name, &format!("exits.{cause}"), record::UNIT_COUNT, mode, r, n));
                    }
                    let accounts =
                        [("guest-code", 60.0), ("dispatch", 5.0), ("hypercall", 30.0), ("unattributed", 0.5)];
                    for (account, part) in accounts.into_iter().filter(|_| r == 0) {
                        let ns = value * part * (m as f64 + 1.0);
                        let time = row(&name, &format!("time.{account}"), record::UNIT_NS, mode, r, ns);
                        rows.push(Row { valid: true, reason: String::new(), ..time });
                    }
                }
            }
        }
    }
    for (i, name) in nano_names.iter().enumerate() {
        for (m, (mode, _)) in modes.iter().enumerate().skip(usize::from(i > 2)) {
            let base = [1.2, 60.0, 900.0, 2600.0, 140.0][m] * 1.9f64.powi((i * 5 % 11) as i32);
            for r in 0..=10 {
                let metric = format!("{name}@ring0");
                rows.push(row("nano", &metric, record::UNIT_NANO, mode, r, base * noise(0.3)));
            }
        }
    }
    rows
}

#[test]
fn a_realistic_run_is_grouped() {
    let data = Dataset::from_rows(&synthetic(20)).unwrap();
    assert_eq!(data.modes, ["native", "emu", "pv", "kvm", "qemu-tcg", "qemu-kvm"]);
    assert_eq!((data.of(Nature::Task).count(), data.of(Nature::Nano).count()), (20, 22));
    let crc = data.of(Nature::Task).find(|m| m.label == "crc32").unwrap();
    let emu = crc.cell("emu").unwrap();
    assert_eq!(emu.samples.len(), 10);
    assert!((30.0..80.0).contains(&emu.slowdown.unwrap().mid));
    assert!(emu.samples.iter().any(|s| s.outlier && s.repetition == 6));
    assert_eq!(crc.cell("native").unwrap().slowdown.unwrap().mid, 1.0);
    assert_eq!(crc.cell("qemu-kvm").unwrap().note.as_deref(), Some("/dev/kvm: permission denied"));
    let dispatch = data.of(Nature::Task).find(|m| m.label == "virtual-dispatch").unwrap();
    assert!(dispatch.cell("pv").unwrap().note.as_ref().unwrap().starts_with("unsupported"));
    let nbody = data.of(Nature::Task).find(|m| m.label == "nbody").unwrap();
    let tcg = nbody.cell("qemu-tcg").unwrap();
    assert!(tcg.time.is_none() && tcg.note.as_ref().unwrap().starts_with("diverged"));
    // 20 tasks less the two in which a mode has no figure; all modes over the same set.
    assert_eq!(data.means()[0].tasks, 18);
}

#[test]
fn points_of_sweeps_are_in_no_mean_and_no_list_of_tasks() {
    let mut rows = synthetic(8);
    let without = Dataset::from_rows(&rows).unwrap();
    for mode in ["native", "emu", "pv", "kvm"] {
        for (size, repetition) in [(1, 1), (1, 2), (1, 3), (64, 1), (64, 2), (64, 3)] {
            let metric = format!("crc32[bytes={size}]@ring3");
            let value = f64::from(size * if mode == "emu" { 1000 } else { 1 });
            rows.push(row("sweep", &metric, record::UNIT_POINT, mode, repetition, value));
            rows.push(row("sweep", "exits.port-io", record::UNIT_COUNT, mode, repetition, 9.0));
        }
    }
    let with = Dataset::from_rows(&rows).unwrap();
    assert_eq!(with.means(), without.means());
    assert_eq!(with.exits, without.exits, "a sweep has no bar");
    for nature in [Nature::Nano, Nature::Task] {
        assert!(with.of(nature).eq(without.of(nature)));
    }
    assert_eq!(with.of(Nature::Point).count(), 2);
    assert_eq!(with.series().len(), 1);
}

#[test]
fn the_same_rows_give_the_same_figures() {
    let rows = synthetic(8);
    assert_eq!(Dataset::from_rows(&rows), Dataset::from_rows(&rows));
}

#[test]
fn other_circumstances_are_not_comparable() {
    let mut rows: Vec<Row> =
        (1..=5).map(|r| row("a", "a@ring3", record::UNIT_TASK, "native", r, 10.0)).collect();
    rows.extend((1..=4).map(|r| Row {
        fingerprint: "other-emu".into(),
        ..row("a", "a@ring3", record::UNIT_TASK, "emu", r, 20.0)
    }));
    let data = Dataset::from_rows(&rows).unwrap();
    let emu = data.measures[0].cell("emu").unwrap();
    assert!(emu.time.is_none() && emu.note.as_ref().unwrap().starts_with("not comparable"));
}

#[test]
fn rings_and_shared_names_are_told_apart() {
    let mut rows = vec![
        row("crc32", "crc32@ring3", record::UNIT_TASK, "emu", 1, 1.0),
        row("crc32", "crc32@ring0", record::UNIT_TASK, "emu", 1, 1.0),
        row("disk", "read@ring0", record::UNIT_TASK, "emu", 1, 1.0),
        row("disk", "write@ring0", record::UNIT_TASK, "emu", 1, 1.0),
        row("chase", "chase_l1@ring3", record::UNIT_TASK, "emu", 1, 1.0),
        row("chase", "chase_memory@ring3", record::UNIT_TASK, "emu", 1, 1.0),
        row("x", "cpuid@ring3", record::UNIT_NANO, "emu", 1, 1.0),
        row("y", "cpuid@ring3", record::UNIT_NANO, "emu", 1, 1.0),
    ];
    let data = Dataset::from_rows(&rows).unwrap();
    let labels: Vec<&str> = data.measures.iter().map(|m| m.label.as_str()).collect();
    assert_eq!(labels[..2], ["x cpuid@ring3", "y cpuid@ring3"]);
    let tasks = ["chase_l1", "chase_memory", "crc32 (ring 0)", "crc32 (ring 3)", "disk read", "disk write"];
    assert_eq!(labels[2..], tasks);
    rows.clear();
    assert!(Dataset::from_rows(&rows).is_none());
}

#[test]
fn a_mode_that_fails_alike_everywhere_is_absent() {
    let mut rows = Vec::new();
    for name in ["a", "b"] {
        rows.push(row(name, &format!("{name}@ring3"), record::UNIT_TASK, "emu", 1, 10.0));
        rows.push(text(name, record::ALL_METRICS, "kvm", "KVM internal error"));
        rows.push(text(name, record::ALL_METRICS, "pv", &format!("cannot run {name}")));
    }
    let data = Dataset::from_rows(&rows).unwrap();
    assert_eq!(
        data.absent.into_iter().collect::<Vec<_>>(),
        [("kvm".to_owned(), "KVM internal error".to_owned())]
    );
}

#[test]
fn one_workload_that_fails_is_not_everything() {
    let mut rows = vec![text("a", record::ALL_METRICS, "kvm", "KVM internal error")];
    for (name, ring) in [("a", 0), ("a", 3), ("b", 3)] {
        rows.push(row(name, &format!("{name}@ring{ring}"), record::UNIT_TASK, "emu", 1, 10.0));
    }
    let data = Dataset::from_rows(&rows).unwrap();
    assert!(data.absent.is_empty(), "{:?}", data.absent);
    let note = |metric: &str| {
        let measure = data.measures.iter().find(|m| m.metric == metric).unwrap();
        measure.cell("kvm").unwrap().note.clone().unwrap()
    };
    assert_eq!((note("a@ring0").as_str(), note("b@ring3").as_str()), ("KVM internal error", UNMEASURED));
}

#[test]
fn drift_between_rounds_does_not_widen_a_slowdown() {
    // The host gets slower by half from round to round; within a round the ratio is 2.
    let drift = |r: u32| 1.5f64.powi(r as i32);
    let rows: Vec<Row> = (1..=8)
        .flat_map(|r| {
            let native = row("a", "a@ring3", record::UNIT_TASK, "native", r, 10.0 * drift(r));
            [native, row("a", "a@ring0", record::UNIT_TASK, "emu", r, 20.0 * drift(r))]
        })
        .collect();
    let data = Dataset::from_rows(&rows).unwrap();
    let ring0 = data.measures.iter().find(|m| m.metric == "a@ring0").unwrap();
    let slowdown = ring0.cell("emu").unwrap().slowdown.unwrap();
    assert!((slowdown.mid - 2.0).abs() < 1e-9 && slowdown.high - slowdown.low < 1e-9, "{slowdown:?}");
}

#[test]
fn only_the_newest_run_counts() {
    let mut rows = vec![row("a", "a@ring3", record::UNIT_TASK, "emu", 1, 1.0)];
    rows.push(Row { run: "20270101T000000Z".into(), ..row("b", "b@ring3", record::UNIT_TASK, "pv", 1, 1.0) });
    let data = Dataset::from_rows(&rows).unwrap();
    assert_eq!((data.measures.len(), data.measures[0].label.as_str()), (1, "b"));
}

#[test]
fn counters_that_are_absent_count_as_none() {
    let mut rows = Vec::new();
    for r in 1..=3 {
        rows.push(row("a", "exits.port-io", record::UNIT_COUNT, "emu", r, 10.0));
        rows.push(row("a", "a@ring3.iterations", record::UNIT_COUNT, "emu", r, 5.0));
    }
    rows.push(row("a", "exits.mmio", record::UNIT_COUNT, "emu", 1, 99.0));
    let data = Dataset::from_rows(&rows).unwrap();
    assert_eq!(data.exits[0].parts, [("port-io".to_owned(), 10.0)]);
    assert_eq!((data.exits[0].total, data.exits[0].iterations), (10.0, Some(5.0)));
}

#[test]
fn a_workload_that_never_measured_is_a_failure_not_a_measure() {
    let data = Dataset::from_rows(&[text("bad", record::ALL_METRICS, "emu", "triple fault")]).unwrap();
    assert!(data.measures.is_empty());
    assert_eq!(data.failures, [("bad".to_owned(), "emu".to_owned(), "triple fault".to_owned())]);
}

#[test]
fn engines_of_a_mode_stand_in_its_place() {
    let mut rows = synthetic(3);
    for row in &mut rows {
        if row.mode == "emu" {
            row.mode = "emu/single".into();
        }
    }
    let other: Vec<Row> = rows
        .iter()
        .filter(|row| row.mode == "emu/single")
        .map(|row| Row { mode: "emu/another".into(), ..row.clone() })
        .collect();
    rows.extend(other);
    let data = Dataset::from_rows(&rows).unwrap();
    let at = |mode: &str| data.modes.iter().position(|m| m == mode).unwrap();
    assert_eq!((at("native"), at("emu/another"), at("emu/single")), (0, 1, 2), "{:?}", data.modes);
    let cell = |mode: &str| data.measures[0].cell(mode).unwrap().time;
    assert!(cell("emu/single").is_some() && cell("emu/single") == cell("emu/another"));
}
