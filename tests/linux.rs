//! Boots a stock Linux kernel with a busybox initramfs to user space and back to power-off, and gives `run --kernel`
//! files that cannot be booted.
//!
//! The kernel and busybox are those of Debian's packages `linux-image-…-cloud-amd64` and `busybox-static`, unpacked into
//! `target/linux` (`.ci/run` does so) or the folder that `TRIVISOR_LINUX` names. Without them the boots say that they
//! are skipped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "linux/devices.rs"]
mod devices;
#[path = "images/iso9660.rs"]
mod iso9660;

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use trivisor::bench::fingerprint::EMULATED_SUPERVISOR;
use trivisor::engine::Mode;
use trivisor::machine;

/// Kernel and busybox, if they are there.
fn debian() -> Option<(PathBuf, PathBuf)> {
    let root = std::env::var_os("TRIVISOR_LINUX")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/linux"), PathBuf::from);
    let kernel = std::fs::read_dir(root.join("boot")).ok().and_then(|entries| {
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz")))
    });
    let busybox = Some(root.join("bin/busybox")).filter(|path| path.exists());
    if kernel.is_none() || busybox.is_none() {
        eprintln!(
            "skipped: no kernel and busybox in {}; see .ci/run for how they come there",
            root.display()
        );
    }
    kernel.zip(busybox)
}

/// An archive in the format that the kernel unpacks (`Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Cpio(Vec<u8>);

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let mut header = String::from("070701");
        let (size, name_size) = (contents.len() as u32, name.len() as u32 + 1);
        for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(header, "{field:08x}").unwrap();
        }
        self.0.extend([header.as_bytes(), name.as_bytes(), &[0]].concat());
        self.pad();
        self.0.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// busybox, and an `/init` of these lines.
    fn with_init(busybox: &[u8], lines: &str) -> Vec<u8> {
        Self::with_files(busybox, lines, &[])
    }

    /// The same, with these files beside.
    fn with_files(busybox: &[u8], lines: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut cpio = Self::default();
        for (name, contents) in files {
            cpio.add(name, 0o100_644, contents);
        }
        for folder in ["bin", "dev", "proc"] {
            cpio.add(folder, 0o40755, &[]);
        }
        cpio.add("bin/busybox", 0o100_755, busybox);
        cpio.add("init", 0o100_755, format!("#!/bin/busybox sh\nPATH=/bin\n{lines}").as_bytes());
        cpio.add("TRAILER!!!", 0, &[]);
        cpio.0
    }
}

fn run(arguments: &[&str]) -> Output {
    run_in("emu", "240s", arguments)
}

fn run_in(mode: &str, timeout: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trivisor"));
    command.args(["run", "--mode", mode, "--no-reboot", "--timeout", timeout, "--memory", "256M"]);
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A guest's `/init` that sums up its busybox; the line that it prints for that, and the file to boot it with.
fn summing(folder: &Path, busybox: &Path) -> (String, PathBuf) {
    let initrd = folder.join("initrd");
    let lines = "busybox sha256sum /bin/busybox\nbusybox echo last line\nbusybox poweroff -f\n";
    let busybox = std::fs::read(busybox).unwrap();
    std::fs::write(&initrd, Cpio::with_init(&busybox, lines)).unwrap();
    let digest: String = Sha256::digest(&busybox).iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("{digest}  /bin/busybox"), initrd)
}

/// Boots with an `/init` of these lines; what the guest printed. It must have ended well.
fn boot(kernel: &Path, busybox: &Path, lines: &str, engine: &str) -> String {
    boot_with(kernel, busybox, lines, &["--engine", engine], "")
}

/// As [`boot`], with these arguments, and these words beside the kernel's usual ones.
fn boot_with(kernel: &Path, busybox: &Path, lines: &str, arguments: &[&str], words: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd");
    std::fs::write(&initrd, Cpio::with_init(&std::fs::read(busybox).unwrap(), lines)).unwrap();
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let append = format!("console=ttyS0 quiet {words}");
    let image = ["--kernel", kernel, "--initrd", initrd, "--append", &append];
    let output = run(&[arguments, &image].concat());
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), printed);
    printed
}

#[test]
fn a_stock_kernel_reaches_user_space_and_switches_off() {
    let Some((kernel, busybox)) = debian() else { return };
    let lines = "busybox sha256sum /bin/busybox\n\
        busybox mount -t proc proc /proc\n\
        busybox mount -t devtmpfs dev /dev\n\
        for i in 1 2 3 4 5 6 7 8; do (busybox echo child $i) | busybox cat; done\n\
        busybox dd if=/dev/zero bs=64k count=64 2>/dev/null | busybox gzip | busybox gunzip | busybox md5sum\n\
        busybox cat /proc/interrupts\n\
        busybox echo last line\n\
        busybox poweroff -f\n";
    let printed = boot(&kernel, &busybox, lines, "translator");
    let digest = Sha256::digest(std::fs::read(&busybox).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(printed.contains(&format!("{digest}  /bin/busybox")), "{printed}");
    // MD5 of 4 MiB of zeros.
    assert!(printed.contains("b5cfa9d6c8febd618f91ac2843d50a1c"), "{printed}");
    assert!((1..=8).all(|i| printed.contains(&format!("child {i}"))), "{printed}");
    // Interrupts go by the I/O APIC, as the tables say.
    assert!(printed.contains("IO-APIC") && printed.contains("ttyS0"), "{printed}");
    assert!(printed.contains("last line"), "{printed}");
}

/// What init prints of the CPUs: how many there are, and the ticks that each spent on programs.
fn cpus(printed: &str) -> (usize, Vec<u32>) {
    let count = printed.lines().filter(|line| line.starts_with("processor")).count();
    let stat = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let is_cpu =
            name.len() > 3 && name.starts_with("cpu") && name[3..].bytes().all(|b| b.is_ascii_digit());
        is_cpu.then(|| words.next()?.parse().ok()).flatten()
    };
    (count, printed.lines().filter_map(stat).collect())
}

#[test]
fn a_stock_kernel_runs_programs_on_all_its_cpus() {
    let Some((kernel, busybox)) = debian() else { return };
    // Programs in the background read from /dev/null.
    let lines = "busybox mount -t proc proc /proc\n\
        busybox mount -t devtmpfs dev /dev\n\
        busybox grep ^processor /proc/cpuinfo\n\
        busy() { i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo through; }\n\
        busy & busy & busy & busy & wait\n\
        busybox dd if=/dev/zero bs=64k count=64 2>/dev/null | busybox gzip | busybox gunzip | busybox md5sum\n\
        busybox cat /proc/interrupts\n\
        busybox grep ^cpu /proc/stat\n\
        busybox poweroff -f\n";
    for number in ["2", "3"] {
        let printed = boot_with(&kernel, &busybox, lines, &["--cpus", number], "");
        let (count, busy) = cpus(&printed);
        assert_eq!((count, busy.len()), (number.parse().unwrap(), count), "{printed}");
        assert!(busy.iter().all(|ticks| *ticks > 0), "{printed}");
        assert_eq!(printed.matches("through").count(), 4, "{printed}");
        assert!(printed.contains("b5cfa9d6c8febd618f91ac2843d50a1c"), "{printed}");
        assert!(printed.contains("IO-APIC") && printed.contains("ttyS0"), "{printed}");
    }
}

/// The kernel that a bzImage packs, by the program that unpacks its format; `None` if the host has not got it.
fn unpacked(kernel: &Path) -> Option<Vec<u8>> {
    let file = std::fs::read(kernel).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let start = (usize::from(file[0x1f1]) + 1) * 512 + word(0x248);
    // The last word is the size of what is unpacked.
    let (packed, size) = (&file[start..start + word(0x24c) - 4], word(start + word(0x24c) - 4));
    let program = match packed {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => "gzip",
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed");
    std::fs::write(&path, packed).unwrap();
    let input = std::fs::File::open(&path).unwrap();
    let output = Command::new(program).args(["-d", "-c"]).stdin(input).output();
    let unpacked = output.ok().map(|output| output.stdout).filter(|bytes| bytes.len() == size);
    if unpacked.is_none() {
        eprintln!("skipped: {program} is not there, or does not unpack {}", kernel.display());
    }
    unpacked
}

#[test]
fn a_vmlinux_boots_by_its_note_and_without() {
    let Some((kernel, busybox)) = debian() else { return };
    let Some(mut vmlinux) = unpacked(&kernel) else { return };
    let lines = "busybox echo in user space\nbusybox poweroff -f\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinux");
    for has_note in [true, false] {
        if !has_note {
            let note = [18_u32.to_le_bytes(), *b"Xen\0"].concat();
            let at = vmlinux.windows(8).position(|bytes| bytes == note).unwrap();
            vmlinux[at] = 0xff;
        }
        std::fs::write(&path, &vmlinux).unwrap();
        let printed = boot(&path, &busybox, lines, "translator");
        assert!(printed.contains("in user space"), "{has_note}: {printed}");
    }
}

#[test]
fn a_stock_kernel_reaches_user_space_under_kvm() {
    let Some((kernel, busybox)) = debian() else { return };
    let emulated = match machine::availability(Mode::Kvm) {
        Ok(caps) => caps.label.starts_with(EMULATED_SUPERVISOR),
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    if emulated && std::env::var_os("TRIVISOR_LINUX_KVM").is_none() {
        println!(
            "skipped: this host's KVM emulates ring 0, where this has not passed yet; TRIVISOR_LINUX_KVM tries it"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (sum, initrd) = summing(folder.path(), &busybox);
    // README.md says what the words are for.
    let append = if emulated { format!("console=ttyS0 {SLOW_RING_0}") } else { "console=ttyS0".to_owned() };
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let image = ["--stats", "--kernel", kernel, "--initrd", initrd, "--append", &append];
    let output = run_in("kvm", if emulated { "3600s" } else { "240s" }, &image);
    let (printed, told) = (text(&output.stdout), text(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{told}\n{printed}");
    assert!(printed.contains(&sum), "{printed}");
    assert!(printed.contains("last line"), "{printed}");
    assert!(!emulated || told.lines().any(|line| line.ends_with(" syscall")), "{told}");
}

#[test]
fn a_stock_kernel_boots_while_it_is_switched_between_emu_and_kvm() {
    let Some((kernel, busybox)) = debian() else { return };
    if let Err(error) = machine::availability(Mode::Kvm) {
        println!("skipped: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (sum, initrd) = summing(folder.path(), &busybox);
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let moves = ["--switch-every", "10ms", "--switch-among", "emu,kvm", "--json"];
    let image = [&moves[..], &["--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0"]].concat();
    // Some seconds, and half a minute on a busy host whose KVM emulates ring 0.
    let output = run_in("emu", "900s", &image);
    let (printed, told) = (text(&output.stdout), text(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{told}\n{printed}");
    assert!(printed.contains(&sum), "{printed}");
    assert!(printed.contains("last line"), "{printed}");
    let told: serde_json::Value = serde_json::from_str(told.trim_end()).unwrap();
    assert_eq!(told["refused"].as_array().map(Vec::len), Some(0), "{told}");
    for direction in told["moves"].as_array().unwrap() {
        assert!(direction["count"].as_u64() > Some(10), "{told}");
    }
}

/// What spares a kernel work where ring 0 is slow.
const SLOW_RING_0: &str = "noxsave highres=off mitigations=off nowatchdog tsc=reliable no_timer_check \
    clearcpuid=59,129,137,141,151,297,308,580 cryptomgr.notests initcall_blacklist=trace_eval_init";

#[test]
fn a_guest_that_resets_ends_the_run() {
    let Some((kernel, busybox)) = debian() else { return };
    let printed = boot(&kernel, &busybox, "busybox echo here\nbusybox reboot -f\n", "translator");
    assert!(printed.contains("here"), "{printed}");
}

#[test]
fn what_cannot_be_booted_is_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let refused = |arguments: &[&str], status: i32| {
        let output = run(arguments);
        let told = text(&output.stderr);
        assert_eq!((output.status.code(), told.lines().count()), (Some(status), 1), "{told}");
        told
    };
    // The boot protocol's magic, and no more.
    let mut cut = vec![0; 0x206];
    cut[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    cut[0x202..0x206].copy_from_slice(b"HdrS");
    let cut = file("cut", &cut);
    assert!(refused(&["--kernel", &cut], 1).contains("truncated or damaged"));
    let text = file("text", b"not a kernel");
    assert!(refused(&["--kernel", &text], 1).contains("neither an ELF file nor a Linux bzImage"));
    let nothing = folder.path().join("nothing");
    assert!(refused(&["--kernel", nothing.to_str().unwrap()], 1).contains("cannot read"));
    let Some((kernel, _)) = debian() else { return };
    let whole = std::fs::read(&kernel).unwrap();
    let half = file("half", &whole[..whole.len() / 2]);
    assert!(refused(&["--kernel", &half], 1).contains("ends after"));
    let large = file("large", &vec![0; 250 << 20]);
    let kernel = kernel.to_str().unwrap();
    assert!(refused(&["--kernel", kernel, "--initrd", &large], 1).contains("--memory"));
    let empty = file("empty", &[]);
    assert!(refused(&["--kernel", kernel, "--initrd", &empty], 1).contains("is empty"));
}
