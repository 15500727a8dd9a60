//! Every workload boots unchanged in QEMU (TCG), ends well, and its checksums are those of the native kernels.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trivisor::abi;
use trivisor::bench::measure::ScratchDisk;
use trivisor::bench::workload::{self, Kind, Workload};
use trivisor::bench::{kernels, native};

const QEMU: &str = "qemu-system-x86_64";

fn qemu() -> Option<()> {
    match Command::new(QEMU).arg("--version").stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Some(()),
        Ok(status) => {
            println!("skipped: {QEMU} --version ended with {status}");
            None
        }
        Err(error) => {
            println!("skipped: {QEMU} cannot be started ({error}); Debian has it in qemu-system-x86");
            None
        }
    }
}

/// Console output and exit status (`None`: stopped after `limit`, or `enough` bytes of output).
fn boot(workload: &Workload, limit: Duration, enough: usize) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join(workload.name);
    std::fs::write(&image, workload.image).unwrap();
    let disk = ScratchDisk::of(workload).unwrap();
    let mut child = Command::new(QEMU)
        .arg("-kernel")
        .arg(&image)
        .args(["-append", "budget_us=2000 tsc_khz=2000000", "-accel", "tcg", "-cpu", "max", "-m", "128"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(disk.iter().flat_map(ScratchDisk::qemu_arguments))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut console = child.stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut output = Vec::new();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if let Ok(bytes) = receiver.recv_timeout(Duration::from_millis(20)) {
            output.extend(bytes);
        }
        if start.elapsed() > limit || output.len() > enough {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
    };
    output.extend(receiver.iter().flatten());
    reader.join().unwrap();
    (String::from_utf8_lossy(&output).into_owned(), status)
}

fn records<'a>(output: &'a str, record: &str) -> Vec<BTreeMap<&'a str, &'a str>> {
    output
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix(abi::LINE_PREFIX)?.strip_prefix(record))
        .map(|fields| fields.split(' ').filter_map(|field| field.split_once('=')).collect())
        .collect()
}

/// What the native kernel gives, where this CPU can run it.
fn native_checksum(kernel: &kernels::Kernel) -> Option<u64> {
    (kernel.available)().then(|| (kernel.unit)(native::Scratch::prepared(kernel).bytes()))
}

fn check(workload: &Workload) {
    let name = workload.name;
    let (output, status) = boot(workload, Duration::from_secs(60), usize::MAX);
    let ends = records(&output, abi::RECORD_END);
    // QEMU has no hypercalls of ours.
    let is_absent = matches!(name, "hypercall_null" | "map_batch" | "clock_read");
    let status_word = if is_absent { "absent" } else { "ok" };
    assert!(ends.len() == 1 && ends[0].get("status") == Some(&status_word), "{name}:\n{output}");
    assert_eq!(status, Some(1), "{name}:\n{output}");
    // What a guest says of its own instructions.
    assert!(!output.contains(": wrong"), "{name}:\n{output}");
    let results = records(&output, abi::RECORD_RESULT);
    let measures = workload.kind != Kind::Demo && (!is_absent || name == "map_batch");
    assert_eq!(results.is_empty(), !measures, "{name}:\n{output}");
    for result in results {
        let number = |field: &str| result[field].parse::<u64>().unwrap();
        assert_eq!(result["workload"], name);
        assert!(number("iterations") > 0 && number("cycles") > 0, "{name}:\n{output}");
        assert!(matches!(number("ring"), 0 | 3), "{name}:\n{output}");
        let checksum = u64::from_str_radix(result["checksum"], 16).unwrap();
        assert_eq!(result["checksum"].len(), 16);
        match native::find(result["metric"]) {
            Some(kernel) => {
                let native = native_checksum(kernel).unwrap_or(checksum);
                assert_eq!(checksum, native, "{name}: metric {} differs from native", result["metric"]);
            }
            // What only a guest can do has no native column.
            None => assert!(
                workload.kind != Kind::Task
                    || matches!(name, "console" | "forkwait" | "disk_ide" | "disk_virtio"),
                "{name}: metric {} has no native kernel",
                result["metric"]
            ),
        }
        println!("{name} {} ring {}: {checksum:016x}", result["metric"], result["ring"]);
    }
}

#[test]
fn every_workload_ends_well_in_qemu() {
    if qemu().is_none() {
        return;
    }
    for workload in workload::all().iter().filter(|workload| workload.kind != Kind::Hostile) {
        check(workload);
    }
}

#[test]
fn hostile_guests_misbehave_as_they_say() {
    if qemu().is_none() {
        return;
    }
    let run = |name: &str, seconds, enough| {
        let (output, status) = boot(workload::find(name).unwrap(), Duration::from_secs(seconds), enough);
        assert!(!output.contains("status=ok"), "{name} ended as if nothing were wrong:\n{output}");
        (output, status)
    };
    // QEMU with -no-reboot ends with 0 when the CPU shuts down.
    assert_eq!(run("triple_fault", 20, usize::MAX), ("About to triple-fault.\n".into(), Some(0)));
    assert_eq!(run("spin", 2, usize::MAX), (String::new(), None));
    let (output, status) = run("flood", 60, 1 << 20);
    assert_eq!((output.len() > 1 << 20, status), (true, None));
    let (output, status) = run("mmio_jump", 20, usize::MAX);
    assert!(output.starts_with("About to jump") && status != Some(1), "{status:?}\n{output}");
}
