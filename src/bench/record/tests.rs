//! The CSV survives what can happen to it: odd text, torn tails, foreign files.

use super::*;
use proptest::prelude::*;

fn row(reason: &str, value: Option<f64>) -> Row {
    Row {
        run: "20260101T000000Z".into(),
        time: "2026-01-01T00:00:00.000Z".into(),
        workload: "crc32".into(),
        metric: "crc32@ring3".into(),
        unit: UNIT_TASK.into(),
        mode: "emu".into(),
        engine: "emulator".into(),
        interface: "none".into(),
        peer: String::new(),
        repetition: 1,
        value,
        valid: value.is_some(),
        reason: reason.into(),
        fingerprint: "aa-bb".into(),
    }
}

fn file_with(rows: &[Row]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data").join("r.csv");
    Writer::create(&path).unwrap().append(rows).unwrap();
    (dir, path)
}

#[test]
fn each_row_is_one_line_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.csv");
    let mut writer = Writer::create(&path).unwrap();
    for n in 0..5 {
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1 + n);
        writer.append(&[row("a\nb\r\"c\",d", Some(1.5))]).unwrap();
    }
    let loaded = read(&path).unwrap();
    assert_eq!(loaded.rows[0].reason, "a b \"c\",d");
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let (_dir, path) = file_with(&[]);
    assert!(matches!(Writer::create(&path), Err(BenchError::Io { .. })));
}

#[test]
fn a_torn_tail_is_left_out_wherever_it_is_cut() {
    let (_dir, path) = file_with(&[row("", Some(1.0)), row("", Some(2.0))]);
    let bytes = std::fs::read(&path).unwrap();
    let header = HEADER.join(",").len() + 1;
    for cut in header..bytes.len() {
        let loaded = parse(&path, &bytes[..cut]).unwrap();
        assert!(loaded.rows.len() < 2);
        assert_eq!(loaded.torn, bytes[cut - 1] != b'\n');
    }
}

#[test]
fn errors_name_file_line_and_column() {
    let path = Path::new("some.csv");
    let head = HEADER.join(",");
    let good = "r,t,w,m,u,emu,e,i,,1,2.5,true,,f";
    for (bad, says) in [
        ("r,t,w,m,u,emu,e,i,,one,2.5,true,,f", "column `repetition`"),
        ("r,t,w,m,u,emu,e,i,,1,NaN,true,,f", "not a finite number"),
        ("r,t,w,m,u,emu,e,i,,1,,true,,f", "needs a value"),
        ("r,t,w", "3 fields where 14 belong"),
    ] {
        let text = format!("{head}\n{good}\n{bad}\n");
        let error = parse(path, text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("some.csv, line 3: ") && error.contains(says), "{error}");
    }
    let error = parse(path, b"a,b\n1,2\n").unwrap_err().to_string();
    assert!(error.starts_with("some.csv, line 1: the columns"), "{error}");
}

#[test]
fn infinity_is_written_as_no_figure() {
    let (_dir, path) = file_with(&[row("", Some(f64::INFINITY))]);
    let loaded = read(&path).unwrap();
    assert_eq!(loaded.rows[0].value, None);
    assert!(!loaded.rows[0].valid);
}

#[test]
fn replacing_leaves_no_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    replace_file(&path, b"one").unwrap();
    replace_file(&path, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(replace_file(&dir.path().join("none").join("y"), b"").is_err());
}

#[test]
fn newest_is_the_last_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(newest(dir.path()), Err(BenchError::NoData(_))));
    for name in ["20260102T000000Z", "20260101T000000Z"] {
        Writer::create(&data_dir(dir.path()).join(format!("{name}.csv"))).unwrap();
    }
    assert!(newest(dir.path()).unwrap().ends_with("20260102T000000Z.csv"));
}

proptest! {
    #[test]
    fn rows_come_back_as_written(reason in any::<String>(), value in prop::option::of(any::<f64>())) {
        let mut written = row(&reason, value);
        let (_dir, path) = file_with(std::slice::from_ref(&written));
        let text = std::fs::read_to_string(&path).unwrap();
        prop_assert_eq!(text.lines().count(), 2);
        written.reason = clean(&reason);
        if let Some(words) = value.and_then(objection) {
            written = Row { value: None, valid: false, reason: words.to_owned(), ..written };
        }
        prop_assert_eq!(read(&path).unwrap().rows, vec![written]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(Path::new("x"), &bytes);
        let mut with_header = HEADER.join(",").into_bytes();
        with_header.push(b'\n');
        with_header.extend(&bytes);
        let _ = parse(Path::new("x"), &with_header);
    }
}
