//! `bench` and `report`: what they refuse, and what an end in the middle leaves.
use crate::host::files;
use crate::program::{Running, Told, command, trivisor};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trivisor::bench::record;
use trivisor::engine::Mode;
use trivisor::machine::{self, EmuEngine};

fn quick(out: &Path, more: &[&str]) -> Told {
    trivisor(&[&["bench", "--quick", "--out", out.to_str().unwrap()][..], more].concat())
}

fn left(out: &Path) -> Vec<PathBuf> {
    let mut left = Vec::new();
    files(out, &mut left);
    left
}

#[test]
fn what_cannot_be_measured_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["hello"][..], &["'hello' measures nothing", "trivisor run hello"][..]),
        (&["spin"], &["'spin' measures nothing"]),
        (&["crc32", "spin"], &["'spin' measures nothing", "trivisor run spin"]),
        (&["crc32", "hell*"], &["'hello' measures nothing"]),
        (&["not-there"], &["'not-there'", "trivisor list"]),
        (&["call_ret", "x*"], &["'x*'", "trivisor list"]),
        (&["--mode", "xen"], &["'xen'", "native, emu, pv, kvm"]),
        (&["--engine", "xen"], &["'xen'", "single"]),
        (&["--engine", "single", "--mode", "emu/other"], &["'emu/other'", "native, emu/single, pv, kvm"]),
        (&["--mode", "emu/single"], &["'emu/single'", "use --engine single"]),
        (&["--mode", "emu/without-windows"], &["'emu/without-windows'", "use --without windows"]),
        (&["--mode", "emu,qemu-tcg"], &["'qemu-tcg'", "needs --peers"]),
        (&["--mode", "emu", "--peers"], &["--peers", "add qemu-tcg"]),
        (&["--mode", "pv", "--without", "windows"], &["--without", "--mode", "add emu"]),
        (&["--engine", "single", "--mode", "emu/single", "--without", "all"], &["--without", "add emu"]),
        (&["--without", "window"], &["'window'", "a similar value exists: 'windows'", "all, each"]),
        (&["--without", "each,windows"], &["'each' stands alone"]),
        (&["--without", ""], &["--without", "lazy-flags"]),
        (&["--budget", "0"], &["--budget", "no time at all"]),
        (&["--timeout", "0"], &["--timeout", "no time at all"]),
        (&["--deadline", "0s"], &["--deadline", "no time at all"]),
        (&["--repetitions", "0"], &["--repetitions", "1..=1000"]),
        (&["--repetitions", "1001"], &["--repetitions", "1..=1000"]),
        (&["--seed", "-1"], &["-1"]),
        (&["--lang", "fr"], &["'fr'", "en, de, zh"]),
    ] {
        let mut all = vec!["bench", "--out", dir.path().to_str().unwrap()];
        all.extend(arguments);
        trivisor(&all).one_sentence(2, words);
    }
    quick(dir.path(), &["--repetitions", "3"]).one_sentence(2, &["--quick", "--repetitions"]);
    assert!(left(dir.path()).is_empty());
}

#[test]
fn a_mode_that_the_host_lacks_is_told_in_one_sentence() {
    for mode in Mode::ALL {
        if let Err(error) = machine::availability(mode) {
            let dir = tempfile::tempdir().unwrap();
            let told = quick(dir.path(), &["call_ret", "--mode", mode.name()]);
            told.one_sentence(1, &["nothing could be measured", &error.to_string()]);
            assert!(left(dir.path()).is_empty(), "no file of nothing");
            trivisor(&["run", "hello", "--mode", mode.name()]).one_sentence(1, &[&error.to_string()]);
        }
    }
}

#[test]
fn a_deadline_that_leaves_no_figure_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let told = quick(dir.path(), &["call_ret", "--mode", "emu", "--deadline", "1ms"]);
    told.one_sentence(1, &["nothing could be measured", "before --deadline was over"]);
}

#[test]
fn a_kernel_that_the_host_does_not_run_itself_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let told = quick(dir.path(), &["cpuid", "--mode", "native"]);
    told.one_sentence(1, &["none of these workloads is for native", "trivisor list"]);
}

#[test]
fn a_quick_run_leaves_rows_figures_and_a_page_and_no_escape_codes() {
    let dir = tempfile::tempdir().unwrap();
    let told = quick(dir.path(), &["call_ret", "crc32", "--mode", "native,emu"]);
    told.well();
    assert!(told.out.contains("call_ret") && told.out.contains("index.html") && !told.out.contains('\x1b'));
    let left = left(dir.path());
    let csv = left.iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
    let rows = record::read(csv).unwrap();
    assert!(!rows.torn && rows.rows.iter().any(|row| row.mode == "emu" && row.valid));
    assert!(left.iter().any(|path| path.ends_with("index.html")));
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn engines_that_are_named_have_columns_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let engines = EmuEngine::ALL.map(EmuEngine::name).join(",");
    let told = quick(dir.path(), &["call_ret", "--engine", &engines, "--mode", "native,emu", "--no-report"]);
    told.well();
    let csv = left(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
    let rows = record::read(&csv).unwrap().rows;
    for engine in EmuEngine::ALL {
        let mode = format!("emu/{}", engine.name());
        assert!(told.out.contains(&mode), "{told:?}");
        let valid = |row: &&record::Row| row.mode == mode && row.engine == engine.name() && row.valid;
        assert!(rows.iter().any(|row| valid(&row) && row.metric == "call_ret@ring3"), "{mode}");
    }
    assert!(rows.iter().all(|row| row.mode != "emu" && row.mode != "kvm"));
    trivisor(&["run", "hello", "--engine", "single"]).well();
    trivisor(&["run", "hello", "--engine", "single", "--mode", "pv"])
        .one_sentence(2, &["--engine", "--mode emu"]);
}

#[test]
fn techniques_that_are_left_out_have_columns_beside_the_full_translator() {
    let dir = tempfile::tempdir().unwrap();
    let without = ["--without", "all", "--without", "windows + groups", "--without", "groups, windows"];
    let more = [&without[..], &["call_ret", "crc32", "--engine", "single", "--mode", "emu"]].concat();
    let told = quick(dir.path(), &more);
    told.well();
    let csv = left(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
    let rows = record::read(&csv).unwrap().rows;
    let modes: BTreeSet<&str> = rows.iter().filter(|row| row.valid).map(|row| row.mode.as_str()).collect();
    let wanted = ["emu/single", "emu/translator", "emu/without-all", "emu/without-windows+groups"];
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), wanted);
    let block = told.out.split("left out: ").nth(1).unwrap_or_else(|| panic!("{told:?}"));
    assert!(block.contains("\nwindows+groups ") && block.contains("\nall "), "{told:?}");
    let page = std::fs::read_to_string(dir.path().join("index.html")).unwrap();
    assert_eq!(page.matches("without the techniques that its name says").count(), 1);
    assert!(page.contains("emu/without-all"));
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_says_so() {
    a_signal_keeps_what_was_measured("INT", 130, "Ctrl-C");
}

#[test]
fn sigterm_keeps_what_was_measured_and_is_told_from_ctrl_c() {
    a_signal_keeps_what_was_measured("TERM", 143, "SIGTERM");
}

fn a_signal_keeps_what_was_measured(signal: &str, status: i32, word: &str) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let some = ["bench", "--out", out, "--repetitions", "1000", "--mode", "native,emu", "call_ret", "crc32"];
    let running = Running::start(&mut command(&some));
    let csv = loop {
        let found = left(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "csv"));
        let measured = |csv: &PathBuf| {
            record::read(csv)
                .is_ok_and(|all| all.rows.iter().filter(|row| row.valid && row.repetition > 0).count() > 20)
        };
        match found.filter(measured) {
            Some(csv) => break csv,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    running.signal(signal);
    let told = running.end();
    assert_eq!(told.status, Some(status), "{told:?}");
    let last = told.err.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("trivisor: stopped by {word} after ")) && !told.err.contains("panicked"),
        "{told:?}"
    );
    assert!(told.out.contains("index.html") && told.out.contains(csv.to_str().unwrap()), "{told:?}");
    assert!(
        last.ends_with(&format!("'trivisor bench --resume {}' goes on with it", csv.display())),
        "{told:?}"
    );
    let left = left(dir.path());
    assert!(left.iter().any(|path| path.ends_with("index.html")));
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".part")), "{left:?}");
    assert!(!record::read(&csv).unwrap().torn);
    trivisor(&["report", "--out", out]).well();
}

#[test]
fn a_csv_file_that_is_none_is_told_in_one_sentence_and_leaves_the_old_page() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    trivisor(&["report", "--out", out]).one_sentence(1, &["no measurements", "trivisor bench"]);
    trivisor(&["report", "--csv", "/not/there.csv", "--out", out]).one_sentence(1, &["/not/there.csv"]);
    trivisor(&["report", "--csv", out, "--out", out]).one_sentence(1, &["directory"]);
    std::fs::write(dir.path().join("index.html"), "old").unwrap();
    let header = record::HEADER.join(",");
    let row = "r,2026-01-01T00:00:00Z,crc32,time,ns/task,emu,single,bare,,1";
    for (name, text, words) in [
        ("empty", String::new(), &["line 1", "columns"][..]),
        ("other", "a,b\n1,2\n".into(), &["line 1", "columns"]),
        ("short", format!("{header}\n1,2\n"), &["line 2", "2 fields"]),
        ("number", format!("{header}\n{row},fast,true,,f\n"), &["line 2", "value"]),
        ("infinite", format!("{header}\n{row},inf,true,,f\n"), &["line 2", "finite"]),
        ("valueless", format!("{header}\n{row},,true,,f\n"), &["line 2", "needs a value"]),
        ("header", format!("{header}\n"), &["no measurement"]),
    ] {
        let csv = dir.path().join(name);
        std::fs::write(&csv, text).unwrap();
        let told = trivisor(&["report", "--csv", csv.to_str().unwrap(), "--out", out]);
        told.one_sentence(1, &[&[name], words].concat());
    }
    let binary = dir.path().join("binary");
    std::fs::write(&binary, [0xff_u8; 4096]).unwrap();
    trivisor(&["report", "--csv", binary.to_str().unwrap(), "--out", out])
        .one_sentence(1, &["binary", "line 1"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("index.html")).unwrap(), "old");
    assert!(left(dir.path()).iter().all(|path| path.extension().is_none_or(|e| e == "html")));
}

#[test]
fn two_runs_are_compared_and_a_baseline_sets_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let few = [
        "bench",
        "--out",
        out,
        "--no-report",
        "--repetitions",
        "5",
        "--budget",
        "1ms",
        "--mode",
        "native,emu",
    ];
    let measured = trivisor(&[&few[..], &["call_ret", "crc32"]].concat());
    assert!(measured.status == Some(0), "{}", measured.err);
    let csv = record::newest(dir.path()).unwrap();
    // The same with all times of emu a thousandth as long: it is slower than that on the busiest host, where native waits, too.
    let shorter = dir.path().join("shorter.csv");
    let text = std::fs::read_to_string(&csv).unwrap();
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let mut writer = csv::Writer::from_path(&shorter).unwrap();
    writer.write_record(rows.headers().unwrap()).unwrap();
    for row in rows.records().map(Result::unwrap) {
        let is_time = row[4].starts_with("ns/") && &row[5] == "emu" && !row[10].is_empty();
        let value =
            if is_time { (row[10].parse::<f64>().unwrap() / 1000.0).to_string() } else { row[10].to_owned() };
        writer.write_record((0..row.len()).map(|i| if i == 10 { value.as_str() } else { &row[i] })).unwrap();
    }
    drop(writer);
    let (csv, shorter) = (csv.to_str().unwrap(), shorter.to_str().unwrap());

    let same = trivisor(&["compare", csv, csv, "--all", "--max-slowdown", "1%"]);
    let words = &same.out;
    assert!(
        same.status == Some(0) && words.contains("nothing is slower") && words.contains("crc32"),
        "{words}"
    );

    let slower = trivisor(&["compare", shorter, csv, "--max-slowdown", "5%"]);
    let words = &slower.out;
    assert_eq!(slower.status, Some(1), "{words}");
    assert!(words.contains("slower by more than 5 %: ") && words.contains("crc32"), "{words}");

    let json = trivisor(&["compare", shorter, csv, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let emu = found["differences"].as_array().unwrap().iter().filter(|one| one["mode"] == "emu");
    assert!(emu.clone().count() >= 2 && emu.clone().all(|one| one["basis"] == "slowdown"), "{found}");

    let now = trivisor(&[&few[..], &["crc32", "--baseline", shorter, "--max-slowdown", "10%"]].concat());
    let words = &now.out;
    assert_eq!(now.status, Some(1), "{words}");

    trivisor(&["compare", csv, "/nonexistent.csv"]).one_sentence(1, &["/nonexistent.csv"]);
    trivisor(&["bench", "--baseline", "/nonexistent.csv"]).one_sentence(1, &["/nonexistent.csv"]);
    trivisor(&["compare", csv, csv, "--max-slowdown", "inf"]).one_sentence(2, &["5%"]);
    trivisor(&["bench", "--max-slowdown", "5%"]).one_sentence(2, &["--baseline"]);
}
