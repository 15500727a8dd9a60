//! What the host refuses: devices, files, closed and full outputs.
use crate::images::{LOOPS, guest};
use crate::program::{PROGRAM, Running, Told, command, tell, trivisor};
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program as someone without rights, at a place that they may read; none if we are nobody ourselves.
struct Nobody {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Nobody {
    fn new() -> Option<Self> {
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            println!("skipped: only root can become somebody else");
            return None;
        }
        if Command::new("setpriv").arg("--version").output().is_err() {
            println!("skipped: setpriv (util-linux) is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("trivisor");
        std::fs::copy(PROGRAM, &program).unwrap();
        Some(Self { dir, program })
    }

    fn tell(&self, arguments: &[&str]) -> Told {
        tell(
            Command::new("setpriv")
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .arg(&self.program)
                .args(arguments)
                .stdin(Stdio::null()),
        )
    }
}

#[test]
fn without_the_right_to_kvm_the_program_says_how_to_get_it() {
    let Some(nobody) = Nobody::new() else { return };
    let advice = match std::fs::metadata("/dev/kvm") {
        Ok(device) if device.mode() & 0o066 == 0o060 && device.gid() != 0 => "group kvm",
        Ok(device) if device.mode() & 0o006 == 0 => "setfacl",
        Ok(_) => return println!("skipped: here everybody may open /dev/kvm"),
        Err(error) => return println!("skipped: /dev/kvm: {error}"),
    };
    nobody.tell(&["run", "hello", "--mode", "kvm"]).one_sentence(1, &["/dev/kvm may", advice]);
    let doctor = nobody.tell(&["doctor"]);
    doctor.well();
    assert!(doctor.out.contains("/dev/kvm may"));
    nobody.tell(&["run", "hello"]).well();
}

#[test]
fn without_kvm_the_program_says_what_to_do() {
    // A mount namespace of its own, in which /dev has no kvm.
    let inside = format!("mount -t tmpfs none /dev && exec {PROGRAM} run hello --mode kvm");
    let told = tell(Command::new("unshare").args(["-m", "sh", "-c", &inside]).stdin(Stdio::null()));
    if told.err.contains("unshare") || told.err.contains("mount:") {
        return println!("skipped: no mount namespace here: {}", told.err.trim());
    }
    told.one_sentence(1, &["kvm is not available here", "/dev/kvm does not exist"]);
}

#[test]
fn unreadable_and_unwritable_files_are_told_in_one_sentence() {
    let Some(nobody) = Nobody::new() else { return };
    let path = guest(nobody.dir.path(), "secret", &LOOPS);
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    nobody.tell(&["run", path.to_str().unwrap()]).one_sentence(1, &["cannot read", "secret", "denied"]);
    let out = nobody.dir.path().join("reports");
    let words = ["reports", "denied"];
    let told =
        nobody.tell(&["bench", "--quick", "call_ret", "--mode", "emu", "--out", out.to_str().unwrap()]);
    told.one_sentence(1, &words);
    assert!(!out.exists());
    std::fs::create_dir(&out).unwrap();
    let told = nobody.tell(&["report", "--csv", "/proc/self/status", "--out", out.to_str().unwrap()]);
    told.one_sentence(1, &["/proc/self/status", "line 1"]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_full_disk_keeps_whole_rows_and_leaves_no_pieces() {
    // A limit on the size of files acts as a full disk does; the signal that comes with it must be ignored for that.
    for (blocks, what) in [(0, "before the first row"), (16, "among the rows")] {
        let dir = tempfile::tempdir().unwrap();
        let limited = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec {PROGRAM} bench --quick crc32 sha256 sieve quicksort --mode native --out {}",
            dir.path().display()
        );
        let told = tell(Command::new("sh").args(["-c", &limited]).stdin(Stdio::null()));
        told.one_sentence(1, &["File too large"]);
        let mut left = Vec::new();
        files(dir.path(), &mut left);
        if blocks == 0 {
            assert!(left.is_empty(), "{what}: {left:?}");
            continue;
        }
        assert!(left.iter().all(|path| !path.to_string_lossy().contains(".part")), "{what}: {left:?}");
        let csv = left.iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
        let text = std::fs::read_to_string(csv).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() > 1, "{what}");
        trivisor(&["report", "--csv", csv.to_str().unwrap(), "--out", dir.path().to_str().unwrap()]).well();
    }
}

/// All files below `dir`.
pub(crate) fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
fn a_place_that_cannot_be_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("file");
    std::fs::write(&taken, b"x").unwrap();
    let out = taken.join("reports");
    let told = trivisor(&["bench", "--quick", "call_ret", "--mode", "emu", "--out", out.to_str().unwrap()]);
    told.one_sentence(1, &["file/reports"]);
    assert_eq!(std::fs::read(&taken).unwrap(), b"x");
}

#[test]
fn full_and_closed_outputs_end_a_command_without_a_panic() {
    let full = |arguments: &[&str]| {
        let child =
            command(arguments).stdout(File::create("/dev/full").unwrap()).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        Told { status: output.status.code(), out: String::new(), err }
    };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let bench = ["bench", "--quick", "call_ret", "--mode", "emu", "--out", out];
    for arguments in [&["run", "hello"][..], &["list"], &["list", "--json"], &["doctor"], &bench] {
        full(arguments).one_sentence(1, &["cannot write to standard output", "No space left"]);
    }
    // Measured and drawn all the same.
    assert!(dir.path().join("index.html").exists());
    for arguments in [
        &["run", "hello"][..],
        &["list"],
        &["doctor"],
        &["--help"],
        &["report", "--out", out],
        &bench,
        &["run"],
    ] {
        // The reader is gone before the first byte.
        let mut running = Running::start(&mut command(arguments));
        drop(running.output());
        let told = running.end();
        assert!(told.status.is_some_and(|status| status <= 2) && !told.err.contains("panicked"), "{told:?}");
        assert!(told.err.is_empty() || told.status == Some(2), "{told:?}");
    }
    // Neither output, nor input, nor a place to complain.
    for arguments in
        [&["run", "hello"][..], &["list"], &["run", "not-there"], &["run", "triple_fault"], &bench]
    {
        let closed = format!("exec {PROGRAM} \"$@\" <&- >&- 2>&-");
        let status = Command::new("sh").args(["-c", &closed, "sh"]).args(arguments).status().unwrap();
        assert!(status.code().is_some_and(|code| code <= 2), "{arguments:?}: {status}");
        let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        let status = child.wait().unwrap();
        assert!(status.code().is_some_and(|code| code <= 2), "{arguments:?}: {status}");
    }
}
