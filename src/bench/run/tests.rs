//! Whole runs with a made-up runner: what is written when things go well, badly, or are stopped.

use super::*;
use crate::bench::dataset::{Dataset, Nature};
use crate::bench::measure::Observation;
use crate::bench::progress::Silent;
use crate::bench::{marks, table};
use std::path::Path;

/// What the made-up runner does for a workload in a column, at its n-th call for that cell.
type Script = Box<dyn FnMut(&Workload, &Column, u32) -> Result<Observation, RunError>>;

struct Actor {
    script: Script,
    calls: BTreeMap<(String, String), u32>,
}

impl Runner for Actor {
    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError> {
        let n = self.calls.entry((workload.name.to_owned(), column.mode.clone())).or_default();
        *n += 1;
        let mut observation = (self.script)(workload, column, *n)?;
        if !request.keeps_times {
            observation.times.clear();
        }
        Ok(observation)
    }
}

fn said(workload: &Workload, cycles: u64, checksum: u64) -> Observation {
    let name = workload.name;
    let text = format!(
        "hello\n@trivisor result workload={name} metric={name} ring=3 iterations=10 cycles={cycles} \
         checksum={checksum:x}\n@trivisor end status=ok\n"
    );
    Observation {
        console: text.into_bytes(),
        counters: vec![("port-io".into(), 700), ("instruction".into(), 1_000_000)],
        timed: vec![("port-io".into(), 40), ("instruction".into(), 3)],
        times: vec![],
        wall: Duration::from_millis(1),
        tsc_khz: 1_000_000,
        misfortune: None,
    }
}

fn options(dir: &tempfile::TempDir) -> Options {
    let columns = vec![
        Column::native(),
        Column::new("emu", "translator", "none"),
        Column::new("pv", "direct", "patched"),
        Column { absent: Some("/dev/kvm: no such file".into()), ..Column::new("kvm", "kvm", "none") },
    ];
    Options {
        filter: Filter { workloads: vec!["crc32".into(), "sha256".into()], ..Filter::default() },
        repetitions: 4,
        ..Options::new(dir.path().to_owned(), columns)
    }
}

fn run(
    options: &Options,
    script: impl FnMut(&Workload, &Column, u32) -> Result<Observation, RunError> + 'static,
) -> (Summary, Dataset, Actor) {
    let mut actor = Actor { script: Box::new(script), calls: BTreeMap::new() };
    let summary = execute(options, &mut actor, &mut Silent).unwrap();
    let data = Dataset::load(&summary.csv).unwrap();
    (summary, data, actor)
}

fn cost(mode: &str) -> u64 {
    match mode {
        "native" => 1000,
        "emu" => 50_000,
        _ => 1100,
    }
}

#[test]
fn a_good_run_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, data, actor) = run(&options(&dir), |w, c, n| Ok(said(w, cost(&c.mode) + u64::from(n), 7)));
    assert_eq!((summary.measured, summary.warmed, summary.failed, summary.rounds), (24, 6, 0, 4));
    assert_eq!(data.of(Nature::Task).count(), 2);
    let emu = data.measures[0].cell("emu").unwrap();
    assert_eq!(emu.samples.len(), 4, "the warm-up does not count");
    assert!((49.0..51.0).contains(&emu.slowdown.unwrap().mid));
    assert_eq!(data.absent["kvm"], "/dev/kvm: no such file");
    assert!(!actor.calls.keys().any(|(_, mode)| mode == "kvm"));
    // Instructions are no cause of an exit, and what boot left the guest for is none of the timed region's.
    assert!(data.exits.iter().all(|b| b.parts == [("port-io".to_owned(), 40.0)]));
    let side = SideFile::load(&summary.csv).unwrap();
    let rows = record::read(&summary.csv).unwrap().rows;
    let count = |metric: &str| rows.iter().find(|r| r.metric == metric).and_then(|r| r.value);
    assert_eq!((count("count.instruction"), count("exits.port-io")), (Some(1e6), Some(40.0)));
    assert_eq!(count("exits.instruction").or(count("count.port-io")), None);
    assert!(
        rows.iter().filter(|r| r.value.is_some()).all(|r| side.fingerprints.contains_key(&r.fingerprint))
    );
    assert!(table::render(&data, table::Style::default()).contains("crc32"));
}

#[test]
fn rows_are_there_before_the_next_run_begins() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let data_dir = record::data_dir(dir.path());
    let mut before = 0;
    run(&options, move |w, c, _| {
        let lines = std::fs::read_to_string(record::newest(data_dir.parent().unwrap()).unwrap())
            .unwrap()
            .lines()
            .count();
        assert!(lines > before, "{lines} after {before}");
        before = lines;
        Ok(said(w, cost(&c.mode), 7))
    });
}

#[test]
fn a_stop_keeps_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let stop = Arc::clone(&options.stop);
    let mut runs = 0;
    let (summary, data, _) = run(&options, move |w, c, _| {
        runs += 1;
        stop.store(runs >= 14, Ordering::Relaxed);
        Ok(said(w, cost(&c.mode), 7))
    });
    assert_eq!((summary.measured, summary.warmed, summary.cut_short), (8, 6, Some(CutShort::Interrupted)));
    assert!(data.measures.iter().any(|m| m.cell("emu").unwrap().time.is_some()));
}

#[test]
fn a_deadline_stops_at_once_with_the_rest_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { deadline: Some(Duration::ZERO), ..options(&dir) };
    let mut actor = Actor { script: Box::new(|w, _, _| Ok(said(w, 1, 7))), calls: BTreeMap::new() };
    let summary = execute(&options, &mut actor, &mut Silent).unwrap();
    assert_eq!((summary.runs(), summary.cut_short), (0, Some(CutShort::Deadline)));
    let left = std::fs::read_dir(record::data_dir(dir.path())).unwrap().count();
    assert_eq!(left, 0, "a run of nothing leaves no file");
}

#[test]
fn the_warm_up_tells_where_time_went_and_no_other_repetition_does() {
    let dir = tempfile::tempdir().unwrap();
    // The guest times 1000 of the 1010 ns that are on accounts: its TSC has 1 GHz.
    let (summary, data, _) = run(&options(&dir), |w, c, _| {
        let times = if c.mode != "native" {
            vec![("guest-code".into(), 900.0), ("dispatch".into(), 110.0)]
        } else {
            vec![]
        };
        Ok(Observation { times, ..said(w, 1000, 7) })
    });
    assert_eq!((summary.measured, summary.warmed), (24, 6), "the warm-up is no measurement");
    let rows = record::read(&summary.csv).unwrap().rows;
    let times: Vec<_> = rows.iter().filter(|r| r.metric.starts_with(record::TIMES)).collect();
    assert_eq!(times.len(), 2 * 2 * 3, "two workloads, two modes, two accounts and what is on none");
    assert!(times.iter().all(|r| r.repetition == 0 && r.valid && r.unit == record::UNIT_NS));
    assert_eq!(data.times.len(), 4);
    for bar in &data.times {
        assert_eq!((bar.total, bar.iterations), (1010.0, Some(10.0)), "{bar:?}");
        assert_eq!(bar.parts[0], ("guest-code".to_owned(), 900.0));
    }
    assert!(data.time_differences.iter().all(|part| (part - 10.0 / 1010.0).abs() < 1e-9));
    assert_eq!(data.time_differences.len(), 4);
}

#[test]
fn a_run_that_keeps_no_time_or_ends_badly_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let (_, data, _) = run(&options(&dir), |w, c, _| {
        let times = if c.mode == "pv" { vec![("guest-code".into(), 1.0)] } else { vec![] };
        let misfortune = (c.mode == "pv").then(|| "triple fault".to_owned());
        Ok(Observation { times, misfortune, ..said(w, 1000, 7) })
    });
    assert_eq!((data.times.len(), data.time_differences.len()), (0, 0));
}

#[test]
fn slow_cells_give_way_to_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    // 54 of the 60 seconds may be planned, and one run of the slow cell is said to take ten.
    let options = Options { repetitions: 40, deadline: Some(Duration::from_secs(60)), ..options(&dir) };
    let (summary, data, actor) = run(&options, |w, c, _| {
        let slow = c.mode == "pv" && w.name == "crc32";
        Ok(Observation {
            wall: if slow { Duration::from_secs(10) } else { Duration::from_micros(1) },
            ..said(w, cost(&c.mode), 7)
        })
    });
    let calls = |w: &str, m: &str| actor.calls[&(w.to_owned(), m.to_owned())];
    assert_eq!((calls("crc32", "emu"), calls("sha256", "pv"), calls("crc32", "pv")), (41, 41, 1 + 5));
    assert_eq!(summary.rounds, 40);
    assert!(data.fact("repetitions").unwrap().starts_with("1 of 6 "));
}

#[test]
fn another_checksum_is_diverged_and_has_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    let (_, data, _) =
        run(&options(&dir), |w, c, _| Ok(said(w, cost(&c.mode), if c.mode == "pv" { 8 } else { 7 })));
    let measure = &data.measures[0];
    let pv = measure.cell("pv").unwrap();
    assert!(pv.time.is_none() && pv.note.as_ref().unwrap().starts_with("diverged"), "{pv:?}");
    assert!(measure.cell("emu").unwrap().time.is_some());
}

#[test]
fn a_checksum_that_changes_late_takes_the_whole_figure() {
    let dir = tempfile::tempdir().unwrap();
    let (_, data, _) = run(&options(&dir), |w, c, n| {
        Ok(said(w, cost(&c.mode), if c.mode == "emu" && n == 5 { 9 } else { 7 }))
    });
    assert!(data.measures[0].cell("emu").unwrap().time.is_none());
}

#[test]
fn failures_are_given_up_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, data, actor) = run(&options(&dir), |w, c, _| match (w.name, c.mode.as_str()) {
        ("crc32", "emu") => Err(RunError::Timeout(Duration::from_secs(20))),
        ("crc32", "pv") => Err(RunError::Unsupported("0f 01 ca at 0x200000".into())),
        ("sha256", "pv") => {
            Ok(Observation { misfortune: Some("triple fault".into()), ..Observation::default() })
        }
        _ => Ok(said(w, cost(&c.mode), 7)),
    });
    let calls = |w: &str, m: &str| actor.calls[&(w.to_owned(), m.to_owned())];
    assert_eq!((calls("crc32", "emu"), calls("crc32", "pv"), calls("sha256", "pv")), (2, 1, 2));
    assert_eq!((summary.failed, calls("sha256", "emu")), (5, 5));
    let find = |w: &str, m: &str| {
        let measure = data.measures.iter().find(|x| x.workload == w).unwrap();
        measure.cell(m).unwrap().note.clone().unwrap()
    };
    assert_eq!(find("crc32", "emu"), "no end after 20s");
    assert_eq!(find("crc32", "pv"), "0f 01 ca at 0x200000");
    assert_eq!(find("sha256", "pv"), "triple fault");
}

#[test]
fn an_unavailable_column_is_closed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_, data, actor) = run(&options(&dir), |w, c, _| {
        if c.mode == "pv" { Err(RunError::Unavailable("no seccomp".into())) } else { Ok(said(w, 1, 7)) }
    });
    assert_eq!(actor.calls.iter().filter(|((_, m), _)| m == "pv").map(|(_, n)| n).sum::<u32>(), 1);
    assert_eq!(data.absent["pv"], "no seccomp");
}

#[test]
fn a_column_that_only_times_out_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let late = || Err(RunError::Timeout(Duration::from_secs(10)));
    let (summary, data, actor) =
        run(&options(&dir), move |w, c, _| if c.mode == "pv" { late() } else { Ok(said(w, 1, 7)) });
    assert_eq!(actor.calls.iter().filter(|((_, m), _)| m == "pv").map(|(_, n)| n).sum::<u32>(), TIMEOUTS);
    assert_eq!(data.absent["pv"], "given up: no figure, and 3 runs with no end after 10s");
    assert_eq!(summary.measured + summary.warmed, 20);
}

#[test]
fn a_guest_that_lies_gives_no_figures() {
    let lies: [&[u8]; 4] = [
        b"@trivisor result workload=other metric=a ring=3 iterations=1 cycles=1 checksum=1\n@trivisor end status=ok\n",
        b"@trivisor result workload=crc32 metric=crc32 ring=3 iterations=1 cycles=1 checksum=1\n",
        b"@trivisor end status=failed reason=oops\n",
        b"@trivisor result workload=crc32\n@trivisor end status=ok\n",
    ];
    for lie in lies {
        let dir = tempfile::tempdir().unwrap();
        let (summary, data, _) = run(&options(&dir), move |_, _, _| {
            Ok(Observation { console: lie.to_vec(), tsc_khz: 1, ..Observation::default() })
        });
        assert_eq!(summary.measured, 0);
        assert!(data.measures.iter().all(|m| m.cells.values().all(|c| c.time.is_none())));
        assert!(marks::parse(lie).results.len() <= 1);
    }
}

#[test]
fn nothing_to_run_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut none = options(&dir);
    none.filter.workloads = vec!["zzz".into()];
    let mut actor = Actor { script: Box::new(|w, _, _| Ok(said(w, 1, 7))), calls: BTreeMap::new() };
    let error = execute(&none, &mut actor, &mut Silent).unwrap_err();
    assert_eq!(error.to_string(), "nothing to run: no workload fits zzz");
    assert!(!record::data_dir(dir.path()).exists());
}

/// Rows as they would be had they all been written at the same time, without what tells that a run was gone on with.
fn timeless(csv: &Path) -> Vec<record::Row> {
    let loaded = record::read(csv).unwrap();
    assert!(!loaded.torn);
    let mut rows = loaded.rows;
    rows.retain(|row| row.metric != record::RESUMED && row.metric != record::LOAD);
    for row in &mut rows {
        row.time.clear();
        // How long a run took that gave nothing is measured.
        row.value = row.value.filter(|_| row.metric != record::WALL);
    }
    rows
}

/// Everything that can come of a run, the same at each call for the same cell and repetition.
fn eventful(workload: &Workload, column: &Column, n: u32) -> Result<Observation, RunError> {
    match (workload.name, column.mode.as_str(), n) {
        ("crc32", "pv", _) => Err(RunError::Unsupported("0f 01 ca, \"quoted\"".into())),
        ("sha256", "pv", 2) => Err(RunError::Timeout(Duration::from_secs(10))),
        ("sha256", "emu", 3..) => {
            Ok(Observation { misfortune: Some("triple fault".into()), ..Observation::default() })
        }
        ("lz", "emu", 4) => Err(RunError::Failed("an accident".into())),
        ("lz", "direct/none", 2) => Err(RunError::Unavailable("no seccomp".into())),
        ("crc32", "direct/none", 3) => Ok(said(workload, 5, 8)),
        _ => Ok(said(workload, cost(&column.mode) + u64::from(n), 7)),
    }
}

fn eventful_options(dir: &tempfile::TempDir) -> Options {
    let mut options = options(dir);
    options.filter.workloads.push("lz".into());
    options.columns.push(Column::new("direct/none", "direct", "none"));
    options
}

/// As [`eventful`], for an actor that does not know how often its forerunner was asked.
struct Repeatable {
    known: BTreeMap<(String, String), u32>,
    asked: u32,
    /// At which call to raise the mark to stop.
    stop: Option<(u32, Arc<AtomicBool>)>,
}

impl Repeatable {
    /// After the rows in `csv`, of which `column` was asked as often as it has runs.
    fn after(csv: Option<&Path>) -> Repeatable {
        let mut known: BTreeMap<(String, String), BTreeSet<u32>> = BTreeMap::new();
        let rows = csv.map(timeless).unwrap_or_default();
        for row in rows.iter().filter(|row| row.metric == record::WALL) {
            known.entry((row.workload.clone(), row.mode.clone())).or_default().insert(row.repetition);
        }
        let known = known.into_iter().map(|(cell, runs)| (cell, runs.len() as u32)).collect();
        Repeatable { known, asked: 0, stop: None }
    }
}

impl Runner for Repeatable {
    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        _: &Request<'_>,
    ) -> Result<Observation, RunError> {
        self.asked += 1;
        if let Some((at, stop)) = &self.stop {
            stop.store(self.asked >= *at, Ordering::Relaxed);
        }
        let n = self.known.entry((workload.name.to_owned(), column.mode.clone())).or_default();
        *n += 1;
        eventful(workload, column, *n)
    }
}

/// A whole run, and a copy of its files in a folder of its own whose CSV has only its first `length` bytes.
fn stopped_at(whole: &Path, length: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join(whole.file_name().unwrap());
    let bytes = std::fs::read(whole).unwrap();
    std::fs::write(&csv, &bytes[..length]).unwrap();
    std::fs::copy(SideFile::path_for(whole), SideFile::path_for(&csv)).unwrap();
    (dir, csv)
}

/// What of a stopped run's CSV stays, as a file of its own: for [`Repeatable::after`].
fn kept(csv: &Path) -> Repeatable {
    let bytes = std::fs::read(csv).unwrap();
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if end == 0 {
        return Repeatable::after(None);
    }
    let whole = csv.with_extension("kept");
    std::fs::write(&whole, &bytes[..end]).unwrap();
    Repeatable::after(Some(&whole))
}

fn an_eventful_run(dir: &tempfile::TempDir) -> (Options, Summary) {
    let options = eventful_options(dir);
    let summary = execute(&options, &mut Repeatable::after(None), &mut Silent).unwrap();
    (options, summary)
}

mod resuming {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_file_cut_at_any_byte_ends_as_if_it_had_never_been(part in 0.0f64..=1.0) {
            let dir = tempfile::tempdir().unwrap();
            let (options, summary) = an_eventful_run(&dir);
            let bytes = std::fs::read(&summary.csv).unwrap().len();
            let (_copy, csv) = stopped_at(&summary.csv, (bytes as f64 * part) as usize);
            let mut runner = kept(&csv);
            let again = resume(Unfinished::open(&csv).unwrap(), &options, &mut runner, &mut Silent).unwrap();
            prop_assert_eq!(timeless(&csv), timeless(&summary.csv));
            prop_assert_eq!(
                (again.measured, again.warmed, again.failed, again.rounds),
                (summary.measured, summary.warmed, summary.failed, summary.rounds)
            );
            prop_assert_eq!(&again.csv, &csv);
        }
    }

    #[test]
    fn stop_after_stop_still_comes_to_the_same_end() {
        let dir = tempfile::tempdir().unwrap();
        let (options, summary) = an_eventful_run(&dir);
        let (_copy, csv) = stopped_at(&summary.csv, 0);
        let mut last = None;
        for _ in 0..60 {
            let mut runner = kept(&csv);
            options.stop.store(false, Ordering::Relaxed);
            runner.stop = Some((2, Arc::clone(&options.stop)));
            last = Some(resume(Unfinished::open(&csv).unwrap(), &options, &mut runner, &mut Silent).unwrap());
            if last.as_ref().unwrap().cut_short.is_none() {
                break;
            }
        }
        assert_eq!(last.unwrap().cut_short, None);
        assert_eq!(timeless(&csv), timeless(&summary.csv));
    }

    #[test]
    fn a_complete_run_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (options, summary) = an_eventful_run(&dir);
        let before = std::fs::read(&summary.csv).unwrap();
        let unfinished = Unfinished::open(&summary.csv).unwrap();
        let mut runner = Repeatable::after(Some(&summary.csv));
        let again = resume(unfinished, &options, &mut runner, &mut Silent).unwrap();
        assert!(again.was_complete && runner.asked == 0);
        assert_eq!((again.measured, again.failed), (summary.measured, summary.failed));
        assert_eq!(std::fs::read(&summary.csv).unwrap(), before);
    }

    #[test]
    fn a_run_that_is_being_written_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let out = dir.path().to_owned();
        let (summary, ..) = run(&options, move |w, c, _| {
            let error = Unfinished::open(&record::newest(&out).unwrap()).unwrap_err();
            assert!(error.to_string().contains("another process is writing to it"), "{error}");
            Ok(said(w, cost(&c.mode), 7))
        });
        assert_eq!(summary.failed, 0);
        let csv = record::newest(dir.path()).unwrap();
        let first = Unfinished::open(&csv).unwrap();
        assert!(matches!(Unfinished::open(&csv), Err(BenchError::Busy(_))));
        drop(first);
        Unfinished::open(&csv).unwrap();
    }

    #[test]
    fn what_would_not_be_comparable_is_refused_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (options, summary) = an_eventful_run(&dir);
        let bytes = std::fs::read(&summary.csv).unwrap();
        let (_copy, csv) = stopped_at(&summary.csv, bytes.len() / 2);
        let told = |options: &Options, csv: &Path| {
            let unfinished = Unfinished::open(csv);
            let resumed =
                unfinished.and_then(|it| resume(it, options, &mut Repeatable::after(None), &mut Silent));
            resumed.unwrap_err().to_string()
        };
        let mut other = Options { kvm_label: "hardware".into(), ..options.clone() };
        assert!(told(&other, &csv).contains("the host is not as it was (KVM: none then, hardware now)"));
        other = Options { devices: "others".into(), ..options.clone() };
        assert!(told(&other, &csv).contains("not as it was"), "{}", told(&other, &csv));
        other = options.clone();
        other.columns[1].peer = "QEMU 9".into();
        assert!(told(&other, &csv).contains("emu is not as it was"), "{}", told(&other, &csv));
        other = options.clone();
        other.columns[2].absent = Some("no ptrace".into());
        assert!(told(&other, &csv).contains("pv could run when it began and cannot now (no ptrace)"));
        other = Options {
            filter: Filter { workloads: vec!["crc32".into()], ..Filter::default() },
            ..options.clone()
        };
        assert!(told(&other, &csv).contains("its rows are not those"), "{}", told(&other, &csv));
        assert_eq!(std::fs::read(&csv).unwrap(), bytes[..bytes.len() / 2]);

        // A column that can run now but could not then stays out.
        let mut more = options.clone();
        more.columns[3].absent = None;
        resume(Unfinished::open(&csv).unwrap(), &more, &mut kept(&csv), &mut Silent).unwrap();
        assert_eq!(timeless(&csv), timeless(&summary.csv));

        // Rows of another run, and rows that stand twice.
        let text = String::from_utf8(bytes).unwrap();
        std::fs::write(&csv, text.replace(&summary.run, "another")).unwrap();
        assert!(told(&options, &csv).contains("its rows are not those"));
        let twice = format!("{text}{}", text.split_once('\n').unwrap().1);
        std::fs::write(&csv, twice).unwrap();
        assert!(told(&options, &csv).contains("its rows are not those"));
        std::fs::remove_file(SideFile::path_for(&csv)).unwrap();
        assert!(told(&options, &csv).contains(".json is missing"));
    }

    #[test]
    fn cuts_hold_until_there_is_another_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { repetitions: 40, deadline: Some(Duration::from_secs(60)), ..options(&dir) };
        let slow = |w: &Workload, c: &Column| w.name == "crc32" && c.mode == "pv";
        let script = move |w: &Workload, c: &Column, _: u32| {
            let wall = if slow(w, c) { Duration::from_secs(10) } else { Duration::from_micros(1) };
            Ok(Observation { wall, ..said(w, cost(&c.mode), 7) })
        };
        let (summary, ..) = run(&options, script);
        let bytes = std::fs::read(&summary.csv).unwrap().len();
        let mut actor = Actor { script: Box::new(script), calls: BTreeMap::new() };
        let runs = |csv: &Path| {
            let rows = record::read(csv).unwrap().rows;
            let of = |row: &&record::Row| {
                row.metric == record::WALL && row.workload == "crc32" && row.mode == "pv"
            };
            rows.iter().filter(of).count()
        };
        assert_eq!(runs(&summary.csv), 1 + 5);
        let (_copy, csv) = stopped_at(&summary.csv, bytes * 3 / 4);
        resume(Unfinished::open(&csv).unwrap(), &options, &mut actor, &mut Silent).unwrap();
        assert_eq!(timeless(&csv), timeless(&summary.csv));
        let complete = |csv: &Path| {
            let mut idle = Actor { script: Box::new(script), calls: BTreeMap::new() };
            resume(Unfinished::open(csv).unwrap(), &options, &mut idle, &mut Silent).unwrap().was_complete
        };
        assert!(complete(&csv));

        // Five more fit: 54 of the 60 seconds, again.
        let mut more = Unfinished::open(&csv).unwrap();
        more.give_deadline(Duration::from_secs(60));
        assert!(!resume(more, &options, &mut actor, &mut Silent).unwrap().was_complete);
        assert_eq!(runs(&csv), 1 + 5 + 5);
        let data = Dataset::load(&csv).unwrap();
        assert!(data.fact(record::REPETITIONS).unwrap().contains("at least 10"));
        assert!(data.fact(record::RESUMED).unwrap().starts_with("2 times, last at "));
        assert!(complete(&csv));
        let side = SideFile::load_to_resume(&csv).unwrap();
        assert_eq!(side.cuts.unwrap()[0].repetitions, 10);
    }
}
