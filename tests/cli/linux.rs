//! `bench --linux`: a stock kernel and busybox as a workload, where they are there; and what is said where they are not.
use crate::program::trivisor;
use std::path::{Path, PathBuf};
use trivisor::bench::record::{self, Row};

/// The folder of kernel and busybox that tests/linux.rs boots, too.
fn root() -> Option<PathBuf> {
    let root = std::env::var_os("TRIVISOR_LINUX")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/linux"), PathBuf::from);
    let is_there = root.join("bin/busybox").exists();
    if !is_there {
        println!("skipped: no kernel and busybox in {}; see .ci/run for how they come there", root.display());
    }
    is_there.then_some(root)
}

#[test]
fn what_is_missing_is_told_with_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let empty = dir.path().to_str().unwrap();
    let recipe = ["apt-get download busybox-static", "dpkg -x"];
    let with = |words: &[&'static str]| [words, &recipe].concat();
    trivisor(&["bench", "--out", out, "linux"]).one_sentence(2, &with(&["'linux' needs --linux DIR"]));
    trivisor(&["bench", "--out", out, "--linux"]).one_sentence(2, &with(&["--linux needs a folder"]));
    trivisor(&["bench", "--out", out, "--linux", empty]).one_sentence(1, &with(&["it has no kernel"]));
    std::fs::create_dir(dir.path().join("boot")).unwrap();
    std::fs::write(dir.path().join("boot/vmlinuz-1"), "none").unwrap();
    trivisor(&["bench", "--out", out, "--linux", empty]).one_sentence(1, &with(&["it has no busybox"]));
    assert!(!Path::new(out).exists());
}

#[test]
fn a_stock_kernel_is_a_workload_like_others() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let few = [
        "--repetitions",
        "1",
        "--mode",
        "native,emu,pv",
        "--out",
        out,
        "--deadline",
        "10m",
        "--timeout",
        "10m",
    ];
    let linux = ["--linux", root.to_str().unwrap(), "linux"];
    let told = trivisor(&[&["bench"], &few[..], &linux].concat());
    assert_eq!(told.status, Some(0), "{told:?}");
    assert!(told.err.contains("a stock kernel boots in emu and kvm"), "{told:?}");
    let csv = record::newest(dir.path()).unwrap();
    let rows = record::read(&csv).unwrap().rows;
    let valid = |mode: &str, metric: &str| {
        let fits = |row: &&Row| row.mode == mode && row.metric == metric && row.repetition == 1;
        rows.iter().find(fits).filter(|row| row.valid).and_then(|row| row.value)
    };
    for command in ["shell_loop", "fork_exec", "sha256sum", "gzip", "dd"] {
        let metric = format!("{command}@ring3");
        let checksum = format!("{metric}.checksum");
        let (native, emu) = (valid("native", &metric), valid("emu", &metric));
        assert!(
            [native, emu].iter().all(|ns| ns.is_some_and(|ns| ns > 0.0)),
            "{command}: {native:?}, {emu:?}"
        );
        assert_eq!(valid("native", &checksum), valid("emu", &checksum), "{command}");
    }
    assert!(valid("emu", "boot@ring0").is_some_and(|ns| ns > 1e6), "a boot takes more than a millisecond");
    assert!(valid("native", "boot@ring0").is_none() && valid("pv", "shell_loop@ring3").is_none());
    assert!(rows.iter().all(|row| row.workload == "linux" || row.workload == record::WHOLE_RUN));
    // Where the folder is the run knows itself.
    let again = trivisor(&["bench", "--no-report", "--out", out, "--resume"]);
    assert!(again.status == Some(0) && again.err.contains("is complete"), "{again:?}");
}
