//! Images that are none, and guests that misbehave.
use crate::images::{ECHOES, Elf, JUMPS_INTO_DEVICE, LOOPS, RESETS, file, guest};
use crate::program::{Running, command, modes, tell, trivisor};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use trivisor::bench::workload;

#[test]
fn each_bad_image_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let whole = workload::find("hello").unwrap().image;
    let elf = Elf::default();
    let shared = Elf { kind: 3, ..Elf::default() }.with(&LOOPS);
    let cases: [(&str, Vec<u8>, &[&str]); 16] = [
        ("script", b"#!/bin/sh\n".to_vec(), &["neither an ELF file", "--flat"]),
        ("empty", Vec::new(), &["neither an ELF file"]),
        ("arm", Elf { machine: 183, ..elf }.with(&LOOPS), &["AArch64", "x86-64"]),
        ("riscv", Elf { machine: 243, ..Elf::default() }.with(&LOOPS), &["RISC-V", "x86-64"]),
        ("ppc", Elf { machine: 21, order: 2, ..Elf::default() }.with(&LOOPS), &["PowerPC", "x86-64"]),
        ("unknown", Elf { machine: 0xbeef, ..Elf::default() }.with(&LOOPS), &["another machine", "x86-64"]),
        ("i386", Elf { machine: 3, class: 1, ..Elf::default() }.with(&LOOPS), &["32-bit", "64-bit"]),
        ("shared", Elf { kind: 3, ..Elf::default() }.with(&LOOPS), &["-static -no-pie"]),
        ("half-shared", shared[..shared.len() - 4].to_vec(), &["truncated or damaged"]),
        ("object", Elf { kind: 1, ..Elf::default() }.with(&LOOPS), &["object file"]),
        ("no-note", Elf { note: 17, ..Elf::default() }.with(&LOOPS), &["no PVH note"]),
        ("low", Elf { address: 0x5000, ..Elf::default() }.with(&LOOPS), &["0x5000", "link it higher"]),
        ("huge-bss", Elf { size: 1 << 40, ..Elf::default() }.with(&LOOPS), &["make it smaller"]),
        ("wrapping-bss", Elf { size: u64::MAX, ..Elf::default() }.with(&LOOPS), &["make it smaller"]),
        ("big-bss", Elf { size: 200 << 20, ..Elf::default() }.with(&LOOPS), &["202 MiB", "--memory 202M"]),
        ("half", whole[..whole.len() / 2].to_vec(), &["truncated or damaged"]),
    ];
    for (name, bytes, words) in cases {
        let path = file(dir.path(), name, &bytes);
        let told = trivisor(&["run".as_ref(), path.as_os_str()]);
        told.one_sentence(1, &[&[name], words].concat());
        assert_eq!(told.out, "");
    }
    for cut in [4, 5, 18, 20, 63, 64, 100, 0x100, 0x1000] {
        let path = file(dir.path(), "cut", &whole[..cut]);
        trivisor(&["run".as_ref(), path.as_os_str()]).one_sentence(1, &["truncated or damaged"]);
    }
    let empty = file(dir.path(), "empty", b"");
    trivisor(&["run".as_ref(), "--flat".as_ref(), empty.as_os_str()]).one_sentence(1, &["empty"]);
}

#[test]
fn what_is_no_file_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    trivisor(&["run", path]).one_sentence(1, &["is a directory"]);
    trivisor(&["run", "/dev/zero"]).one_sentence(1, &["is a device"]);
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    trivisor(&["run", pipe.to_str().unwrap()]).one_sentence(1, &["pipe or socket", "to a file"]);
    trivisor(&["run", "./not-there"]).one_sentence(1, &["cannot read ./not-there"]);
    trivisor(&["run", "not-there"]).one_sentence(2, &["'not-there'", "trivisor list"]);
    trivisor(&["run", "helo"]).one_sentence(2, &["'helo'", "did you mean 'hello'?", "trivisor list"]);
    trivisor(&["bench", "quicksrt"]).one_sentence(2, &["'quicksrt'", "did you mean 'quicksort'?"]);
    trivisor(&["run", ""]).one_sentence(2, &["trivisor list"]);
    trivisor(&[OsStr::new("run"), OsStr::from_bytes(b"hell\xff")]).one_sentence(2, &["trivisor list"]);
    let strange = file(dir.path(), "g", &Elf::default().with(&ECHOES));
    let renamed = dir.path().join(OsStr::from_bytes(b"g\xff\xfe"));
    std::fs::rename(strange, &renamed).unwrap();
    let told = trivisor(&["run".as_ref(), renamed.as_os_str(), "--memory".as_ref(), "1M".as_ref()]);
    told.one_sentence(1, &["--memory 3M"]);
}

#[test]
fn a_workload_is_not_hidden_by_a_file_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "hello", b"no image");
    let within = |name: &str| tell(command(&["run", name]).current_dir(dir.path()));
    within("hello").well();
    within("./hello").one_sentence(1, &["./hello", "neither an ELF file"]);
}

#[test]
fn each_absurd_size_is_told_in_one_sentence() {
    for (size, words) in [
        ("0", "between 4 KiB and 64 GiB"),
        ("3", "between 4 KiB and 64 GiB"),
        ("1T", "between 4 KiB and 64 GiB"),
        ("16777215T", "between 4 KiB and 64 GiB"),
        ("99999999999999999999T", "more than any machine has"),
        ("-1", "not a size"),
        ("lots", "not a size"),
        ("", "not a size"),
    ] {
        trivisor(&["run", "hello", "--memory", size]).one_sentence(2, &["--memory", words]);
    }
    for mode in modes() {
        for size in ["4K", "1M", "2M"] {
            let told = trivisor(&["run", "hello", "--memory", size, "--mode", mode.name()]);
            told.one_sentence(1, &["hello", "give it at least --memory 3M"]);
        }
    }
    trivisor(&["run", "hello", "--append", &"x".repeat(5000)]).one_sentence(2, &["--append", "at most"]);
}

#[test]
fn each_wrong_disk_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let short = file(dir.path(), "short", b"no disk");
    let image = file(dir.path(), "image", &[0; 4096]);
    let over = |overlay: &str| format!("{},overlay={overlay}", image.display());
    for (disk, words) in [
        ("/nonexistent.img".to_owned(), "cannot open the disk image /nonexistent.img"),
        ("/".to_owned(), "is a directory"),
        ("/dev/zero".to_owned(), "neither a file nor a block device"),
        (short.display().to_string(), "shorter than one sector"),
        (over(&short.display().to_string()), "short is no overlay"),
        (over("/nonexistent/o.cow"), "/nonexistent/o.cow"),
    ] {
        trivisor(&["run", "hello", "--disk", &disk]).one_sentence(1, &[words]);
    }
    let disk = image.display().to_string();
    trivisor(&["run", "hello", "--disk", &disk, "--disk", &disk]).one_sentence(2, &["named twice"]);
    let disks: Vec<_> = (0..40).flat_map(|_| ["--disk".to_owned(), format!("{disk},ro")]).collect();
    let all: Vec<_> = ["run", "hello"].into_iter().chain(disks.iter().map(String::as_str)).collect();
    trivisor(&all).one_sentence(1, &["no slot left"]);
    trivisor(&["run", "hello", "--disk", &disk, "--rng"]).well();
}

#[test]
fn a_triple_fault_is_told_in_one_sentence() {
    for mode in modes() {
        let told = trivisor(&["run", "triple_fault", "--mode", mode.name()]);
        told.one_sentence(1, &["triple_fault", "the guest crashed", "triple fault"]);
        assert_eq!(told.out, "About to triple-fault.\n", "{mode}");
    }
}

#[test]
fn a_jump_into_device_memory_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let raw = guest(dir.path(), "jumps", &JUMPS_INTO_DEVICE);
    for mode in modes() {
        for image in ["mmio_jump".as_ref(), raw.as_os_str()] {
            // What the registers do as code is the machine's business: it may end in a fault, or go round for ever.
            let told = trivisor(&[
                "run".as_ref(),
                image,
                "--mode".as_ref(),
                mode.name().as_ref(),
                "--timeout".as_ref(),
                "3s".as_ref(),
            ]);
            told.one_sentence(1, &[image.to_str().unwrap()]);
            assert!(!told.err.contains("[]"), "{told:?}");
        }
    }
}

#[test]
fn a_guest_that_loops_with_interrupts_off_ends_by_timeout_and_by_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = guest(dir.path(), "loops", &LOOPS);
    for mode in modes() {
        let told = trivisor(&["run", "spin", "--mode", mode.name(), "--timeout", "300ms"]);
        told.one_sentence(1, &["spin", "--timeout"]);
        for (signal, status, word) in [("INT", 130, "Ctrl-C"), ("TERM", 143, "SIGTERM")] {
            let mut running =
                Running::start(command(&["run", "--mode", mode.name()]).arg(&path).stdin(Stdio::piped()));
            running.wait_for("!");
            running.signal(signal);
            running.end().one_sentence(status, &["loops", "stopped by", word]);
        }
    }
}

#[test]
fn a_guest_that_resets_for_ever_ends_by_timeout_and_by_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = guest(dir.path(), "resets", &RESETS);
    for mode in modes() {
        let with = |more: &[&str]| {
            let mut command = command(&["run", "--mode", mode.name()]);
            command.arg(&path).args(more);
            command
        };
        let once = tell(&mut with(&["--no-reboot"]));
        once.well();
        assert_eq!(once.out, "!", "{mode}");
        tell(&mut with(&["--timeout", "400ms"])).one_sentence(1, &["--timeout"]);
        let mut running = Running::start(&mut with(&[]));
        running.wait_for("!!!");
        running.signal("INT");
        running.end().one_sentence(130, &["Ctrl-C"]);
    }
}

#[test]
fn a_guest_that_prints_a_gigabyte_costs_little_memory_and_ends_with_its_reader() {
    for mode in modes() {
        let mut running = Running::start(&mut command(&["run", "flood", "--mode", mode.name()]));
        let mut out = running.output();
        let mut page = vec![0; 64 << 10];
        let before = {
            out.read_exact(&mut page[..4096]).unwrap();
            running.peak_memory()
        };
        // Where each byte is an exit that costs tens of microseconds, a gigabyte would take hours.
        let pages = if mode == trivisor::engine::Mode::Emu { 512 } else { 2 };
        for _ in 0..pages {
            out.read_exact(&mut page).unwrap();
            assert!(page.is_ascii());
        }
        let grown = running.peak_memory() - before;
        assert!(grown < 8 << 10, "{mode}: {grown} KiB more after {} KiB of text", 64 * pages);
        drop(out);
        let told = running.end();
        assert_eq!(
            (told.status, told.err.as_str()),
            (Some(1), ""),
            "{mode}: a closed pipe is no one's mistake"
        );
    }
}

#[test]
fn a_reader_that_does_not_read_holds_neither_timeout_nor_signal() {
    let told = |more: &[&str], signal: bool| {
        let mut running = Running::start(command(&["run", "flood"]).args(more));
        let mut out = running.output();
        let mut first = [0];
        out.read_exact(&mut first).unwrap();
        if signal {
            // The pipe is full after 64 KiB and the program's buffer after as much again.
            std::thread::sleep(std::time::Duration::from_secs(1));
            running.signal("INT");
        }
        let told = running.end();
        drop(out);
        told
    };
    told(&["--timeout", "1s"], false).one_sentence(1, &["--timeout"]);
    told(&[], true).one_sentence(130, &["Ctrl-C"]);
}

#[test]
fn what_is_typed_reaches_the_guest_and_its_answer_comes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = guest(dir.path(), "echoes", &ECHOES);
    for mode in modes() {
        let mut running =
            Running::start(command(&["run", "--mode", mode.name()]).arg(&path).stdin(Stdio::piped()));
        let mut input = running.input();
        // No line ends anywhere: the prompt and each answer come alone.
        running.wait_for("?");
        for word in ["a", "bc", "the end"] {
            input.write_all(word.as_bytes()).unwrap();
            running.wait_for(word);
        }
        input.write_all(b".").unwrap();
        let told = running.end();
        told.well();
        assert_eq!(told.out, ".", "{mode}");
    }
}
