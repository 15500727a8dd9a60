//! Holds the architecture: who may import whom, where `unsafe` may stand, how long a file may be, and names that say
//! nothing.
//!
//! The rooms are the folders and files of `src/`; a room imports another if its code, comments and strings aside,
//! contains a path `crate::<room>`. Code for tests is held to the same table, but for what [`FOR_TESTS`] adds.
#[path = "architecture/source.rs"]
mod source;

use source::{Source, room_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Who may import whom. Every room has a row; a room may always import itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("abi", &[]),
    // CPUID shows the signature that the guests know from `abi`.
    ("arch", &["abi"]),
    // The host's CPUID is returned in the form that `arch` has for it.
    ("sys", &["arch"]),
    ("mem", &["arch", "sys"]),
    ("clock", &["arch", "sys"]),
    // Devices are behind a lock of `sys`, which they have from here.
    ("bus", &["arch", "mem", "clock", "sys"]),
    ("device", &["bus", "mem", "arch", "clock"]),
    // The host's end implements the traits that devices define.
    ("host", &["device", "bus", "mem", "arch", "clock"]),
    // Hypercalls are made here, for all backends; the guests know their numbers from `abi`.
    ("engine", &["arch", "mem", "bus", "clock", "sys", "abi"]),
    // Backends ask the clock that the platform hands out what kind it is.
    ("emulator", &["engine", "arch", "mem", "sys", "abi", "clock"]),
    ("pv", &["engine", "arch", "mem", "sys", "abi", "clock", "emulator"]),
    ("hwassist", &["engine", "arch", "mem", "sys", "abi", "clock", "emulator"]),
    ("loader", &["arch", "mem"]),
    (
        "machine",
        &[
            "abi", "arch", "sys", "mem", "clock", "bus", "device", "host", "engine", "emulator", "pv",
            "hwassist", "loader",
        ],
    ),
    ("snapshot", &["machine", "engine", "mem", "arch", "clock"]),
    ("debugger", &["machine", "engine", "mem", "arch", "snapshot"]),
    // Beside the machine: the guest's protocol, its images, and the host's clock and CPUs.
    ("bench", &["machine", "engine", "abi", "loader", "sys"]),
    (
        "cli",
        &[
            "abi", "arch", "sys", "mem", "clock", "bus", "device", "host", "engine", "emulator", "pv",
            "hwassist", "loader", "machine", "snapshot", "debugger", "bench",
        ],
    ),
    // The binary is a shell around the command line.
    ("main", &["cli"]),
];

/// What the tests inside a room may import beyond the table: they build small machines by hand.
const FOR_TESTS: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("machine", &["bench"]),
    ("emulator", &["bus"]),
    ("pv", &["bus"]),
    ("hwassist", &["bus"]),
];

/// Rooms that see only a part of another.
const ONLY_PART: &[(&str, &str, &str)] = &[("pv", "emulator", "single"), ("hwassist", "emulator", "single")];

/// Rooms whose files may have `unsafe`. Workloads are guests: bare machine code, and none of our concern here.
const MAY_BE_UNSAFE: &[&str] = &["sys", "mem", "emulator", "pv", "hwassist"];

/// Test files that may have it too: executes random machine code in a child process.
const UNSAFE_TESTS: &[&str] = &["tests/differential/oracle.rs"];

/// Lines that a file has at most.
const MOST_LINES: usize = 600;

/// Names of modules that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let all: Vec<_> = folders.iter().flat_map(|f| Source::read_all(root(), Path::new(f))).collect();
    assert!(all.len() > 10, "the sources were not found");
    all
}

/// Fails with one line for each finding.
fn expect_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn row<'a>(table: &[(&str, &'a [&'a str])], room: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(name, _)| *name == room).map(|(_, row)| *row)
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut findings = vec![];
    for source in sources(&["src"]) {
        let Some(room) = room_of(&source.path).filter(|room| room != "lib") else {
            continue;
        };
        let Some(allowed) = row(MAY_IMPORT, &room) else {
            findings.push(format!("{}: the room {room} has no row in the table", source.path));
            continue;
        };
        let more = if source.is_test { row(FOR_TESTS, &room).unwrap_or(&[]) } else { &[] };
        for import in source.imports() {
            let target = import.room.as_str();
            if target != room && !allowed.contains(&target) && !more.contains(&target) {
                findings.push(format!("{}:{}: {room} imports {target}", source.path, import.line));
            }
            let part = ONLY_PART.iter().find(|(from, to, _)| *from == room && *to == target);
            if let Some((_, _, part)) = part.filter(|(_, _, part)| import.next.as_deref() != Some(*part)) {
                let line = import.line;
                findings.push(format!("{}:{line}: {room} may use {target}::{part} only", source.path));
            }
        }
    }
    expect_none("imports against the table", &findings);
}

#[test]
fn the_plotter_reads_files_and_nothing_live() {
    let findings: Vec<_> = sources(&["src"])
        .iter()
        .filter(|s| s.path.starts_with("src/bench/plot"))
        .flat_map(|s| s.imports().into_iter().map(|i| (s.path.clone(), i)))
        .filter(|(_, import)| import.room != "bench")
        .map(|(path, import)| format!("{path}:{}: imports {}", import.line, import.room))
        .collect();
    expect_none("bench/plot imports from another room", &findings);
}

#[test]
fn the_table_has_no_circle_and_no_unknown_room() {
    let rooms: BTreeSet<_> = MAY_IMPORT.iter().map(|(room, _)| *room).collect();
    let mut left: BTreeMap<_, Vec<_>> = MAY_IMPORT.iter().map(|(r, row)| (*r, row.to_vec())).collect();
    assert_eq!(left.len(), MAY_IMPORT.len(), "a room has two rows");
    for (room, row) in MAY_IMPORT.iter().chain(FOR_TESTS) {
        for target in *row {
            assert!(rooms.contains(target), "{room} may import {target}, which has no row");
        }
    }
    while !left.is_empty() {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, row)| !row.iter().any(|r| left.contains_key(r)))
            .map(|(r, _)| *r)
            .collect();
        assert!(!free.is_empty(), "these rooms may import each other in a circle: {:?}", left.keys());
        free.iter().for_each(|room| drop(left.remove(room)));
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_says_why() {
    let mut findings = vec![];
    for source in sources(&["src", "tests"]) {
        if source.has_word("allow(unsafe_code") {
            findings.push(format!("{}: `allow` hides what `expect` with a reason would show", source.path));
        }
        let Some(line) = source.line_of_word("unsafe") else {
            continue;
        };
        let room = room_of(&source.path).unwrap_or_default();
        if !MAY_BE_UNSAFE.contains(&room.as_str()) && !UNSAFE_TESTS.contains(&source.path.as_str()) {
            findings.push(format!("{}:{line}: unsafe code in the room {room:?}", source.path));
        }
        if !source.code.contains("#![expect(unsafe_code") {
            findings.push(format!("{}:{line}: no #![expect(unsafe_code, reason = …)]", source.path));
        }
    }
    expect_none("unsafe code", &findings);
}

#[test]
fn files_can_be_held_in_the_head() {
    let findings: Vec<_> = sources(&["src", "tests", "workloads"])
        .iter()
        .filter(|s| s.lines > MOST_LINES)
        .map(|s| format!("{}: {} lines", s.path, s.lines))
        .collect();
    expect_none("files of more than 600 lines", &findings);
}

#[test]
fn modules_have_names_that_say_something() {
    let findings: Vec<_> = sources(&["src", "tests", "workloads"])
        .iter()
        .filter(|s| {
            let stems = s.path.trim_end_matches(".rs").split('/');
            stems.into_iter().any(|part| EMPTY_NAMES.contains(&part))
        })
        .map(|s| s.path.clone())
        .collect();
    expect_none("names that say nothing", &findings);
}
