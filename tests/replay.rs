//! Recorded runs, run again by the built binary: the same output, the same end; and recordings that are none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use trivisor::abi;

fn trivisor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trivisor")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A guest that echoes what is typed at the serial port, up to a `q`.
fn echo(folder: &TempDir) -> PathBuf {
    let code = [
        0x66,
        0xba,
        0xfd,
        0x03, // mov dx, 0x3fd
        0xec, // in al, dx
        0xa8,
        0x01, // test al, 1
        0x74,
        0xf7, // jz the first
        0x66,
        0xba,
        0xf8,
        0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xee, // out dx, al
        0x3c,
        b'q', // cmp al, 'q'
        0x75,
        0xed, // jne the first
        0x66,
        0xba,
        0xf4,
        0x00, // mov dx, 0xf4
        0xb0,
        abi::EXIT_OK, // mov al, EXIT_OK
        0xee,         // out dx, al
        0xf4,         // hlt
    ];
    let path = folder.path().join("echo");
    std::fs::write(&path, code).unwrap();
    path
}

/// Records that guest, to whom something is typed now and then.
fn typed(folder: &TempDir, words: &[&str]) -> (PathBuf, Output) {
    let (guest, file) = (echo(folder), folder.path().join("echo.rec"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_trivisor"))
        .args(["run", "--flat", "--timeout", "60s", "--record", text(&file), text(&guest)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for word in words {
        std::thread::sleep(Duration::from_millis(60));
        input.write_all(word.as_bytes()).unwrap();
    }
    drop(input);
    (file, child.wait_with_output().unwrap())
}

#[test]
fn a_recorded_run_is_run_again_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    for guest in ["hello", "timer_interrupt", "forkwait", "console", "triple_fault"] {
        let file = folder.path().join(guest);
        let first = trivisor(&["run", "--record", text(&file), guest]);
        for _ in 0..2 {
            let again = trivisor(&["replay", text(&file)]);
            assert_eq!(
                (&again.stdout, again.status),
                (&first.stdout, first.status),
                "{guest}: {}",
                said(&again)
            );
            assert_eq!(said(&again), said(&first), "{guest}");
        }
        let plain = trivisor(&["run", "--deterministic", guest]);
        assert!(plain.stdout == first.stdout, "{guest}: a recording changes nothing");
    }
}

#[test]
fn what_was_typed_is_typed_again_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // More at once than the serial port has room for, too.
    let long = "0123456789".repeat(30);
    let (file, first) = typed(&folder, &["he", "llo\n", &long, "\n", "q"]);
    assert!(first.status.success(), "{}", said(&first));
    assert_eq!(String::from_utf8_lossy(&first.stdout), format!("hello\n{long}\nq"));
    let again = trivisor(&["replay", text(&file)]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(again.stdout == first.stdout);
    // The debugger goes to the end of it, back, and to the end again; what was printed is shown once.
    let commands = ["continue", "reverse-step", "reverse-continue", "continue", "step"];
    let mut debug = vec!["debug", "--batch", "--replay", text(&file)];
    commands.iter().for_each(|command| debug.extend(["--command", command]));
    let debugged = trivisor(&debug);
    let shown = String::from_utf8_lossy(&debugged.stdout).into_owned();
    assert!(shown.contains(&long) && shown.matches("hello").count() == 1, "{shown}");
    assert_eq!(shown.matches("the guest switched off with status").count(), 3, "{shown}");
    assert_eq!(shown.matches("this is the beginning").count(), 1, "{shown}");
}

#[test]
fn a_run_that_was_stopped_ends_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spin");
    let first = trivisor(&["run", "--timeout", "300ms", "--record", text(&file), "spin"]);
    assert!(said(&first).contains("--timeout was over"), "{}", said(&first));
    let again = trivisor(&["replay", text(&file)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("the recording ends here"), "{}", said(&again));
    let debugged = trivisor(&[
        "debug",
        "--batch",
        "--replay",
        text(&file),
        "--command",
        "continue",
        "--command",
        "reverse-step",
        "--command",
        "step",
        "--command",
        "step",
    ]);
    let shown = String::from_utf8_lossy(&debugged.stdout).into_owned();
    assert_eq!(shown.matches("this is the end of the recording").count(), 2, "{shown}");
}

#[test]
fn recordings_that_are_cut_off_or_edited_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, first) = typed(&folder, &["hi", "q"]);
    assert!(first.status.success(), "{}", said(&first));
    let whole = std::fs::read(&file).unwrap();
    let bad = folder.path().join("bad");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).unwrap();
        let output = trivisor(&["replay", text(&bad)]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
        let lines = said(&output);
        assert!(
            lines.lines().count() == 1 && lines.contains("recording") || lines.contains("snapshot"),
            "{what}: {lines}"
        );
        lines
    };
    assert!(refused(b"", "empty").contains("is no recording"));
    assert!(refused(b"trivisor and more", "a snapshot").contains("is no recording"));
    for length in [8, 12, 100, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length], &format!("{length} bytes"));
    }
    assert!(refused(&[&whole[..], b"x"].concat(), "longer").contains("damaged"));
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for turn in 0..60 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // The small parts more often than the pages.
        let at =
            if turn % 3 == 0 { seed as usize % whole.len() } else { whole.len() - 1 - seed as usize % 3000 };
        let mut edited = whole.clone();
        edited[at] ^= 1 << (seed >> 61);
        refused(&edited, &format!("byte {at}"));
    }
    let mut other = whole.clone();
    other[8] = 9;
    assert!(refused(&other, "version").contains("has version 9"));
}

/// The file with its log changed by `change`, all checksums right.
fn edited(whole: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let number = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let log = 4096 + number(16);
    change(&mut bytes[log..]);
    let checksum = crc32fast::hash(&bytes[log..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_run_that_goes_another_way_is_told_with_the_position() {
    let folder = tempfile::tempdir().unwrap();
    let (file, first) = typed(&folder, &["a", "q"]);
    assert!(first.status.success(), "{}", said(&first));
    let whole = std::fs::read(&file).unwrap();
    let bad = folder.path().join("bad");
    let replayed = |bytes: Vec<u8>| {
        std::fs::write(&bad, bytes).unwrap();
        let output = trivisor(&["replay", text(&bad)]);
        assert_eq!(output.status.code(), Some(1));
        said(&output)
    };
    // The digest of RAM is the last.
    let memory = replayed(edited(&whole, |log| *log.last_mut().unwrap() ^= 1));
    assert!(memory.contains("at position") && memory.contains("its memory is another"), "{memory}");
    // The last input is another letter, so that the guest does not end.
    let typed = replayed(edited(&whole, |log| {
        let at = log.windows(3).position(|window| window == [0, 1, b'q']).unwrap();
        log[at + 2] = b'x';
    }));
    assert!(typed.contains("did not do what was recorded") && typed.contains("at position"), "{typed}");
}

#[test]
fn what_cannot_be_recorded_is_refused_before_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let at = text(&file);
    let output = trivisor(&["run", "--mode", "kvm", "--record", at, "hello"]);
    assert!(output.status.code() == Some(2) && said(&output).contains("--mode emu"), "{}", said(&output));
    let output = trivisor(&["run", "--rng", "--record", at, "hello"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!file.exists());
    std::fs::write(&file, b"precious").unwrap();
    let output = trivisor(&["run", "--record", at, "hello"]);
    assert!(said(&output).contains("what is there is no recording"), "{}", said(&output));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let output = trivisor(&["run", "--replay", at]);
    assert!(
        output.status.code() == Some(2) && said(&output).contains("trivisor replay"),
        "{}",
        said(&output)
    );
}
