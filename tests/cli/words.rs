//! Help, versions, JSON and colours.
use crate::program::{PROGRAM, command, tell, trivisor};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use trivisor::machine::Technique;

/// Widest line of help.
const MOST_COLUMNS: usize = 110;

#[test]
fn help_has_examples_and_fits_a_terminal() {
    let overview = trivisor(&["--help"]);
    overview.well();
    for name in ["run", "debug", "sites", "bench", "report", "list", "doctor"] {
        assert!(overview.out.contains(&format!("\n  {name} ")), "{name} is missing: {}", overview.out);
        let help = trivisor(&[name, "--help"]);
        help.well();
        assert_eq!(help.out, trivisor(&["help", name]).out);
        let example = format!("\n  trivisor {name}");
        assert!(help.out.contains("\nExamples:\n") && help.out.contains(&example), "{}", help.out);
        for line in help.out.lines().chain(overview.out.lines()) {
            assert!(line.chars().count() <= MOST_COLUMNS, "{name}: {line}");
        }
    }
    let version = trivisor(&["--version"]);
    version.well();
    assert_eq!(version.out, format!("trivisor {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_are_told_in_one_sentence() {
    for (arguments, words) in [
        (&["beench"][..], &["'beench'", "'bench'", "trivisor --help"][..]),
        (&["run"], &["<IMAGE>", "trivisor run --help"]),
        (&["run", "hello", "--mode", "xen"], &["'xen'", "emu, pv, kvm", "trivisor run --help"]),
        (&["run", "hello", "--mode"], &["--mode", "emu, pv, kvm"]),
        (&["run", "hello", "--what"], &["'--what'"]),
        (&["run", "hello", "hello"], &["'hello'"]),
        (&["run", "hello", "--timeout", "0"], &["--timeout", "no time at all"]),
        (&["run", "hello", "--timeout", "-1s"], &["--timeout", "not a duration"]),
        (&["run", "hello", "--timeout", "1e9"], &["--timeout", "not a duration"]),
        (&["run", "hello", "--timeout", "99999999999999999999m"], &["--timeout", "leave the option out"]),
        (&["run", "hello", "--mode", "kvm", "--deterministic"], &["--deterministic", "--mode emu"]),
        (&["run", "hello", "--mode", "kvm", "--protection-keys"], &["--protection-keys", "--mode emu"]),
        (&["debug", "hello", "--mode", "pv", "--protection-keys"], &["--protection-keys", "--mode emu"]),
        (&["run", "hello", "--common-cpu", "--protection-keys"], &["--common-cpu", "--protection-keys"]),
        (&["run", "hello", "--mode", "pv", "--cpus", "2"], &["--cpus", "2 CPUs"]),
        (
            &["run", "hello", "--disk", "a,rw"],
            &["--disk", "'rw' is neither ide nor cdrom nor ro nor overlay=FILE"],
        ),
        (&["run", "hello", "--disk", ""], &["--disk", "FILE[,ide|,cdrom][,ro][,overlay=FILE]"]),
        (&["run", "hello", "--bios", "bios.bin"], &["--bios", "[IMAGE]"]),
        (&["run", "hello", "--vgabios", "vgabios.bin"], &["--bios"]),
        (&["run", "hello", "--net", "user"], &["--net", "unix=PATH"]),
        (&["run", "hello", "--net", "pcap="], &["--net", "no file is named"]),
        (&["run", "hello", "--rng", "--deterministic"], &["--rng", "--deterministic"]),
        (&["sites", "hello", "--json", "--csv", "-"], &["--json", "--csv"]),
        (&["sites", "hello", "--mode", "kvm"], &["--mode", "pv"]),
        (&["run", "hello", "--engine", "translator,single"], &["--engine", "only 'bench' takes several"]),
        (&["run", "hello", "--without", "each"], &["--without", "'each'", "'bench'", "'all'"]),
        (&["debug", "hello", "--without", "each"], &["--without", "'each'", "'bench'"]),
        (&["run", "hello", "--without", "lazyflags"], &["'lazyflags'", "exists: 'lazy-flags'"]),
        (&["run", "hello", "--without", "windows,Groups"], &["'Groups'", "exists: 'groups'"]),
        (&["run", "hello", "--without", "all", "--mode", "pv"], &["--without", "--mode emu"]),
        (&["list", "--jsn"], &["'--jsn'", "'--json'"]),
        (&["report", "--csv"], &["--csv"]),
    ] {
        trivisor(arguments).one_sentence(2, words);
    }
    let bytes = OsStr::from_bytes(b"\xff\xfe");
    trivisor(&[bytes]).one_sentence(2, &["unrecognized subcommand", "trivisor --help"]);
    for arguments in [
        &[OsStr::new("run"), OsStr::new("hello"), OsStr::new("--append"), bytes][..],
        &[OsStr::new("bench"), bytes],
    ] {
        trivisor(arguments).one_sentence(2, &["UTF-8"]);
    }
    let bare = trivisor::<&str>(&[]);
    assert_eq!((bare.status, bare.out.as_str()), (Some(2), ""));
    assert!(bare.err.contains("Usage: trivisor"));
}

#[test]
fn help_says_what_each_technique_is() {
    for name in ["run", "debug", "bench"] {
        let help = trivisor(&[name, "--help"]);
        for one in Technique::ALL {
            let line = help.out.lines().find(|line| line.contains(&format!("- {}:", one.name())));
            assert!(line.is_some_and(|line| line.contains(one.about())), "{}: {}", one.name(), help.out);
        }
        assert!(help.out.contains("- all:") && help.out.contains("- each:") == (name == "bench"));
    }
    for without in ["all", "windows+lazy-flags", " windows , lazy-flags "] {
        trivisor(&["run", "hello", "--without", without]).well();
    }
}

#[test]
fn json_is_json_with_a_name_for_everything() {
    let list = trivisor(&["list", "--json"]);
    list.well();
    let list: Vec<serde_json::Value> = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list.len(), trivisor::bench::workload::all().len());
    assert!(list.iter().all(|w| w["name"].is_string() && w["kind"].is_string() && w["bytes"].is_u64()));
    let doctor = trivisor(&["doctor", "--json"]);
    doctor.well();
    let doctor: Vec<serde_json::Value> = serde_json::from_str(&doctor.out).unwrap();
    for mode in ["emu", "pv", "kvm"] {
        assert!(
            doctor.iter().any(|f| f["topic"] == mode && f["ok"].is_boolean() && f["finding"].is_string())
        );
    }
}

/// Sequences that choose colours and other looks: ESC [ … m.
fn looks(text: &str) -> usize {
    text.split("\x1b[")
        .skip(1)
        .filter(|rest| {
            rest.find(|c: char| !c.is_ascii_digit() && c != ';').is_some_and(|at| rest[at..].starts_with('m'))
        })
        .count()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        format!("{PROGRAM} bench --quick call_ret crc32 --mode native,emu --out {}", dir.path().display());
    for piped in [&["list"][..], &["doctor"], &["--help"], &["run", "--help"]] {
        assert!(!tell(&mut command(piped)).out.contains('\x1b'), "{piped:?}");
    }
    let on_terminal = |no_color: &str| {
        tell(
            Command::new("script")
                .args(["-qec", &line, "/dev/null"])
                .env("NO_COLOR", no_color)
                .env("TERM", "xterm-256color")
                .stdin(Stdio::null()),
        )
    };
    if Command::new("script").arg("--version").output().is_err() {
        return println!("skipped: script (util-linux) is not installed");
    }
    let coloured = on_terminal("");
    assert!(looks(&coloured.out) > 0, "{coloured:?}");
    let plain = on_terminal("1");
    assert_eq!(looks(&plain.out), 0, "{plain:?}");
}
