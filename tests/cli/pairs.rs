//! Pairs of engine and interface beside the modes: which can be, which are refused, and what is told of them.
use crate::host::files;
use crate::program::{Told, trivisor};
use serde_json::Value;
use trivisor::bench::record;
use trivisor::engine::{Engine, Pair};
use trivisor::machine;

/// The arguments that name a pair.
fn arguments(pair: Pair) -> [&'static str; 4] {
    ["--engine", pair.engine.name(), "--interface", pair.interface.name()]
}

fn run(pair: Pair, guest: &str) -> Told {
    trivisor(&[&["run", guest][..], &arguments(pair)].concat())
}

/// Whether this host has the engine `direct`; why not is printed.
fn has_direct() -> bool {
    machine::availability(trivisor::engine::Mode::Pv)
        .inspect_err(|error| println!("skipped: {error}"))
        .is_ok()
}

#[test]
fn each_pair_runs_a_guest_or_says_in_one_sentence_why_not() {
    for pair in Pair::all() {
        match (pair.objection(), machine::availability(pair)) {
            (Some(reason), _) => run(pair, "hello").one_sentence(2, &[reason, "trivisor doctor"]),
            (None, Err(error)) => run(pair, "hello").one_sentence(1, &[&error.to_string()]),
            (None, Ok(_)) => {
                let told = run(pair, "hello");
                assert_eq!(told.status, Some(0), "{pair}: {told:?}");
                assert!(told.out.starts_with("Hello from a guest"), "{pair}: {told:?}");
            }
        }
    }
}

#[test]
fn a_mode_is_a_pair_and_goes_with_nothing_else() {
    for (arguments, words) in [
        (&["--mode", "kvm", "--engine", "direct"][..], &["--engine direct", "--mode pv", "--mode kvm"][..]),
        (&["--mode", "pv", "--engine", "translator"], &["--engine emu", "--mode emu", "--mode pv"]),
        (&["--mode", "pv", "--interface", "none"], &["--engine direct with --interface patched"]),
        (&["--interface", "patched"], &["engine emu with interface patched cannot be"]),
        (&["--engine", "direct", "--interface", "bare"], &["'bare'", "none, patched, pv"]),
        (&["--engine", "xen"], &["'xen'", "emu, direct, kvm, translator, single"]),
        (&["--engine", "direct", "--deterministic"], &["--deterministic", "--mode emu"]),
        (&["--engine", "direct", "--without", "all"], &["--without", "--mode emu"]),
    ] {
        trivisor(&[&["run", "hello"][..], arguments].concat()).one_sentence(2, words);
    }
    for arguments in [
        &["--engine", "emu"][..],
        &["--engine", "single", "--interface", "none"],
        &["--mode", "emu", "--engine", "translator", "--interface", "none"],
    ] {
        trivisor(&[&["run", "hello"][..], arguments].concat()).well();
    }
    if has_direct() {
        trivisor(&["run", "hello", "--engine", "direct"]).well();
        trivisor(&["run", "hello", "--mode", "pv", "--interface", "patched"]).well();
    }
}

#[test]
fn a_guest_without_patches_is_told_what_was_left_alone() {
    if !has_direct() {
        return;
    }
    let pair = Pair::find("direct/none").unwrap();
    let bounded = |command: &str, more: &[&str]| {
        let common = [command, "pushf_popf", "--timeout", "2s", "--append", "budget_us=1000"];
        trivisor(&[&common[..], &arguments(pair), more].concat())
    };
    let told = bounded("run", &[]);
    for word in ["not patched:", "pushfq at", "popfq at"] {
        assert!(told.err.contains(word), "{told:?}");
    }
    assert!(!told.err.contains("syscall"), "a system call is always seen: {told:?}");
    let stats = trivisor(&[&["run", "--stats", "hello"][..], &arguments(pair)].concat());
    assert!(stats.err.contains("direct/none: engine direct, interface none, trap-and-emulate"), "{stats:?}");
    let told = bounded("sites", &["--json"]);
    let report: Value = serde_json::from_str(&told.out).unwrap();
    let rows = report["sites"].as_array().unwrap();
    let of = |patch: &str| rows.iter().filter(|row| row["patch"] == patch).collect::<Vec<_>>();
    assert!(
        of("native").iter().any(|row| row["instruction"] == "popfq" && row["count"].is_null()),
        "{rows:?}"
    );
    assert!(of("fault").iter().any(|row| row["instruction"] == "sti" && row["by_engine"] != 0), "{rows:?}");
    assert_eq!(of("native").len() + of("fault").len(), rows.len(), "nothing is patched: {rows:?}");
    let table = trivisor(&["sites", "--interface", "none", "hello"]);
    assert!(table.out.contains(" native") && table.out.contains("?"), "{table:?}");
    trivisor(&["sites", "--engine", "kvm", "hello"]).one_sentence(2, &["'kvm'", "direct"]);
}

#[test]
fn doctor_lists_the_pairs_and_why_others_cannot_be() {
    let told = trivisor(&["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&told.out).unwrap();
    for pair in Pair::all() {
        let finding = findings.iter().find(|f| f["topic"] == pair.to_string()).unwrap();
        if let Some(reason) = pair.objection() {
            assert_eq!(finding["ok"], false);
            assert!(finding["finding"].as_str().unwrap().contains(reason), "{finding}");
        }
    }
}

#[test]
fn pairs_that_are_named_have_columns() {
    let dir = tempfile::tempdir().unwrap();
    let quick = |more: &[&str]| {
        trivisor(
            &[&["bench", "--quick", "--out", dir.path().to_str().unwrap(), "call_ret"][..], more].concat(),
        )
    };
    quick(&["--mode", "emu/patched"]).one_sentence(2, &["engine emu with interface patched cannot be"]);
    quick(&["--mode", "direct/patched"]).one_sentence(2, &["'direct/patched'", "its name is pv"]);
    quick(&["--mode", "direct/xen"]).one_sentence(2, &["'direct/xen'"]);
    if !has_direct() {
        return;
    }
    quick(&["--mode", "pv,direct/none"]).well();
    let mut left = Vec::new();
    files(dir.path(), &mut left);
    let csv = left.iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
    let rows = record::read(csv).unwrap().rows;
    for (mode, interface) in [("pv", "patched"), ("direct/none", "none")] {
        let found = rows.iter().any(|row| {
            row.valid
                && (&*row.mode, &*row.engine, &*row.interface) == (mode, Engine::Direct.name(), interface)
        });
        assert!(found, "{mode}");
    }
    let page = std::fs::read_to_string(dir.path().join("index.html")).unwrap();
    assert!(page.contains("trap-and-emulate"));
}
