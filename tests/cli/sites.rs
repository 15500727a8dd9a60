//! What `trivisor sites` says of guests whose executions are known.
use crate::images::{LOOPS, guest};
use crate::program::{Told, modes, trivisor};
use serde_json::Value;
use trivisor::engine::Mode;

/// Whether the host has mode pv; why not is printed.
fn has_pv() -> bool {
    modes().contains(&Mode::Pv)
}

fn rows(told: &Told) -> Vec<Value> {
    let report: Value = serde_json::from_str(&told.out).unwrap();
    report["sites"].as_array().unwrap().clone()
}

/// Whether a row is in a function of this name.
fn is_in(row: &Value, function: &str) -> bool {
    row["symbol"].as_str().is_some_and(|symbol| symbol.starts_with(function))
}

#[test]
fn each_character_that_a_guest_prints_is_one_execution_of_an_out() {
    if !has_pv() {
        return;
    }
    let told = trivisor(&["sites", "--json", "hello"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    let (first, last) = told.err.split_once('\n').unwrap();
    let rows = rows(&told);
    for (function, text) in [("guest::console::Line::print", first), ("guest::succeed", last)] {
        let characters = text.len() as u64 + u64::from(text == first);
        let printed: Vec<_> = rows
            .iter()
            .filter(|row| is_in(row, function) && row["instruction"] == "out dx, al")
            .map(|row| row["count"].as_u64().unwrap())
            .collect();
        assert_eq!(printed.first(), Some(&characters), "{function}: {printed:?} of {text:?}");
    }
    // Each row is consistent with itself.
    for row in &rows {
        let (count, inside) = (row["count"].as_u64().unwrap(), row["in_process"].as_u64().unwrap());
        assert_eq!(count, inside + row["by_engine"].as_u64().unwrap(), "{row}");
        assert!(row["timed"].as_u64() <= row["by_engine"].as_u64(), "{row}");
        assert_eq!(row["cost_ns"].is_null(), row["timed"] == 0, "{row}");
        let (whole, own) = (row["replaced"].as_str().unwrap(), row["bytes"].as_str().unwrap());
        assert!(whole.contains(own), "{row}");
    }
}

#[test]
fn thunks_of_cli_and_sti_are_counted_as_often_as_the_guest_says() {
    if !has_pv() {
        return;
    }
    let told = trivisor(&["sites", "--json", "--sort", "count", "--append", "budget_us=2000", "cli_sti"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    // The guest tells how many pairs its longest timed region had, in a loop of sixteen; shorter ones came before.
    let pairs: u64 = told
        .err
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("iterations=")?.parse().ok())
        .max()
        .unwrap();
    let rows = rows(&told);
    let hot: Vec<&Value> = rows.iter().filter(|row| row["in_process"].as_u64() >= Some(pairs / 16)).collect();
    let of = |name: &str| hot.iter().filter(|row| row["instruction"] == name).count();
    assert_eq!((of("cli"), of("sti"), hot.len()), (16, 16, 32), "{hot:?}");
    assert!(hot.iter().all(|row| row["patch"] == "thunk" && row["count"] == hot[0]["count"]), "{hot:?}");
    let all = 16 * hot[0]["count"].as_u64().unwrap();
    assert!((pairs..4 * pairs).contains(&all), "{all} of {pairs}");
    assert_eq!(rows[0]["instruction"], hot[0]["instruction"], "the most often executed comes first");
}

#[test]
fn the_report_is_a_table_and_csv_whatever_ends_the_guest() {
    if !has_pv() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sites.csv");
    let path = file.to_str().unwrap();
    let told = trivisor(&["sites", "--csv", path, "triple_fault"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    assert!(told.err.contains("the guest crashed"), "{told:?}");
    let mut reader = csv::Reader::from_path(&file).unwrap();
    let columns = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cell = |record: &csv::StringRecord, name: &str| {
        record[columns.iter().position(|column| column == name).unwrap()].to_owned()
    };
    assert!(
        records.iter().any(|r| cell(r, "instruction") == "out dx, al" && cell(r, "patch") == "hypercall")
    );
    let sum: u64 = records.iter().map(|r| cell(r, "count").parse::<u64>().unwrap()).sum();
    assert!(told.out.contains(&format!("{} sites: ", records.len())), "{told:?}");
    assert!(told.out.contains(&format!("executed {sum} times")), "{told:?}");
    assert_eq!(told.out.lines().filter(|line| line.contains("0x")).count(), records.len(), "{told:?}");

    let alone = trivisor(&["sites", "--csv", "-", "hello"]);
    assert!(alone.out.starts_with(&columns.iter().collect::<Vec<_>>().join(",")), "{alone:?}");

    // In 32-bit code nothing is patched: it is interpreted. The report comes after a timeout, too.
    let loops = guest(dir.path(), "loops", &LOOPS);
    let told = trivisor(&["sites".as_ref(), "--timeout".as_ref(), "300ms".as_ref(), loops.as_os_str()]);
    assert!(told.status == Some(1) && told.err.contains("--timeout"), "{told:?}");
    assert!(!told.out.is_empty(), "{told:?}");

    let unwritable = trivisor(&["sites", "--csv", "/nowhere/at/all.csv", "hello"]);
    assert!(unwritable.status == Some(1) && unwritable.err.contains("cannot write /nowhere/at/all.csv"));
}
