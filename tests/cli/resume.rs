//! `bench --resume`: a process that is killed, and the run that another one goes on with.
use crate::program::{Running, Told, command, trivisor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trivisor::bench::record::{self, Row};

const WORKLOADS: [&str; 2] = ["call_ret", "crc32"];
const REPETITIONS: u32 = 12;

fn few(out: &Path) -> Vec<String> {
    let out = out.to_str().unwrap().to_owned();
    let repetitions = REPETITIONS.to_string();
    let options = ["--budget", "1ms", "--mode", "native,emu", "--repetitions", &repetitions, "--out", &out];
    ["bench"].iter().chain(&WORKLOADS).chain(&options).map(|word| (*word).to_owned()).collect()
}

fn resume(out: &Path, more: &[&str]) -> Told {
    trivisor(&[&["bench", "--out", out.to_str().unwrap(), "--resume"][..], more].concat())
}

fn rows(csv: &Path) -> Vec<Row> {
    record::read(csv).map(|all| all.rows).unwrap_or_default()
}

/// How often each workload, mode and repetition was run to its end.
fn runs(rows: &[Row]) -> BTreeMap<(String, String, u32), usize> {
    let mut runs = BTreeMap::new();
    for row in rows.iter().filter(|row| row.metric == record::WALL) {
        *runs.entry((row.workload.clone(), row.mode.clone(), row.repetition)).or_default() += 1;
    }
    runs
}

/// A run that was killed when it had measured something, but not all.
fn killed(out: &Path) -> PathBuf {
    let measured =
        |csv: &PathBuf| rows(csv).iter().filter(|row| row.valid && row.repetition > 0).count() > 20;
    // On a busy host the run may be over before it is looked at.
    for _ in 0..20 {
        let mut running = Running::start(&mut command(&few(out)));
        while !record::newest(out).is_ok_and(|csv| measured(&csv)) && running.is_running() {
            std::thread::sleep(Duration::from_millis(2));
        }
        running.signal("KILL");
        let told = running.end();
        let csv = record::newest(out).unwrap();
        if told.status.is_none() {
            return csv;
        }
        assert_eq!(told.status, Some(0), "{told:?}");
        std::fs::remove_dir_all(record::data_dir(out)).unwrap();
    }
    panic!("no run could be killed before it was over");
}

#[test]
fn a_run_that_was_killed_is_completed_and_nothing_is_measured_twice() {
    let dir = tempfile::tempdir().unwrap();
    let csv = killed(dir.path());
    let before = rows(&csv);
    let finished = runs(&before);
    assert!(finished.len() > 4, "{finished:?}");

    let told = resume(dir.path(), &[]);
    told.well();
    assert!(told.out.contains("crc32") && told.out.contains("index.html"), "{told:?}");
    let after = rows(&csv);
    let runs = runs(&after);
    for workload in WORKLOADS {
        for mode in ["native", "emu"] {
            for repetition in 0..=REPETITIONS {
                let run = (workload.to_owned(), mode.to_owned(), repetition);
                assert_eq!(runs.get(&run), Some(&1), "{run:?}");
            }
        }
    }
    assert_eq!(runs.len(), WORKLOADS.len() * 2 * (REPETITIONS as usize + 1));
    let kept = finished.keys().all(|run| {
        let of = |row: &&Row| (&row.workload, &row.mode, row.repetition) == (&run.0, &run.1, run.2);
        before.iter().filter(of).eq(after.iter().filter(of))
    });
    assert!(kept, "what was measured before the end stays as it was");
    assert!(after.iter().any(|row| row.metric == record::RESUMED));
    assert_eq!(record::newest(dir.path()).unwrap(), csv, "no second file");

    // Its name, its file: it is complete, and stays as it is.
    let bytes = std::fs::read(&csv).unwrap();
    let name = csv.file_stem().unwrap().to_str().unwrap();
    for (told, page) in [
        (resume(dir.path(), &[name]), true),
        (trivisor(&["bench", "--no-report", "--resume", csv.to_str().unwrap()]), false),
    ] {
        assert_eq!(told.status, Some(0), "{told:?}");
        assert!(told.err.contains("is complete: nothing was left to measure"), "{told:?}");
        assert_eq!((told.out.contains("index.html"), told.err.lines().count()), (page, 1), "{told:?}");
    }
    assert_eq!(std::fs::read(&csv).unwrap(), bytes);
}

#[test]
fn a_run_that_cannot_be_resumed_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    resume(dir.path(), &[]).one_sentence(1, &["no measurements", "trivisor bench"]);
    resume(dir.path(), &["nothing"]).one_sentence(2, &["there is no run 'nothing'"]);
    resume(dir.path(), &["/nonexistent.csv"]).one_sentence(1, &["/nonexistent.csv"]);

    let csv = killed(dir.path());
    let half = std::fs::read(&csv).unwrap();
    for (more, words) in [
        (&["--repetitions", "3"][..], &["--repetitions was 12 there and is 3 here"][..]),
        (&["--quick"], &["--repetitions was 12"]),
        (&["--full"], &["--without was all there"]),
        (&["--mode", "emu"], &["--mode was native,emu"]),
        (&["--seed", "7"], &["--seed was 1"]),
        (&["--timeout", "1s"], &["--timeout was 10s"]),
        (&["--budget", "2ms"], &["--budget was 1ms"]),
        (&["--peers"], &["--peers was false"]),
        (&["--pairs"], &["--pairs was false"]),
        (&["--engine", "single"], &["--engine was "]),
    ] {
        resume(dir.path(), more).one_sentence(2, &[words, &["without --resume"]].concat());
    }
    resume(dir.path(), &["--deadline", "0s"]).one_sentence(2, &["--deadline", "no time at all"]);

    let side = csv.with_extension("json");
    let text = std::fs::read_to_string(&side).unwrap();
    std::fs::write(&side, text.replace("\"repetitions\": 12", "\"repetitions\": 13")).unwrap();
    resume(dir.path(), &[]).one_sentence(1, &["cannot resume", "was changed"]);
    std::fs::remove_file(&side).unwrap();
    resume(dir.path(), &[]).one_sentence(1, &["cannot resume", ".json is missing"]);
    std::fs::write(&side, text).unwrap();
    assert_eq!(std::fs::read(&csv).unwrap(), half, "a refusal changes nothing");

    // Options that say what the run's say are no conflict; the deadline may be another.
    let same = few(dir.path());
    let same: Vec<&str> = same[1..].iter().map(String::as_str).collect();
    trivisor(&[&["bench", "--deadline", "5m"][..], &same, &["--resume"]].concat()).well();
}

#[test]
fn a_run_that_goes_on_elsewhere_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut many = few(dir.path());
    let at = many.iter().position(|word| *word == REPETITIONS.to_string()).unwrap();
    many[at] = "1000".to_owned();
    let mut running = Running::start(&mut command(&many));
    while record::newest(dir.path()).map_or(0, |csv| rows(&csv).len()) < 40 {
        assert!(running.is_running(), "{:?}", running.end());
        std::thread::sleep(Duration::from_millis(5));
    }
    resume(dir.path(), &[]).one_sentence(1, &["another process is writing to it"]);
    running.signal("INT");
    assert_eq!(running.end().status, Some(130));
}
