//! Builds the guests under `workloads/` with the toolchain that builds the crate, and lists them in `workloads.rs`; and
//! writes the table of instruction encodings.
//!
//! The support library is compiled once, then each workload is compiled and linked, on all cores. A guest depends only on
//! the files under `workloads/` and on `src/abi.rs`; no cargo profile or RUSTFLAGS reaches it, so that one compiler
//! gives one image.

#[path = "build/encodings.rs"]
mod encodings;

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// Folder under `workloads/`, and the `Kind` of what lies in it.
const KINDS: [(&str, &str); 5] =
    [("demo", "Demo"), ("nano", "Nano"), ("task", "Task"), ("sweep", "Sweep"), ("hostile", "Hostile")];

/// How a line of a guest's head begins that names the disk it wants.
const DISK: &str = "//! Disk: ";

/// What may stand behind [`DISK`], and the `DiskBus` that it means.
const BUSES: [(&str, &str); 2] = [("ide", "Ide"), ("virtio", "Virtio")];

const COMPILER_FLAGS: [&str; 13] = [
    "--edition=2024",
    "-Copt-level=3",
    "-Cdebuginfo=0",
    // Symbols stay: the patcher and the debugger read them.
    "-Cstrip=debuginfo",
    "-Cpanic=abort",
    "-Ccodegen-units=1",
    "-Crelocation-model=static",
    "-Cno-redzone=yes",
    "-Ctarget-cpu=x86-64",
    "-Ctarget-feature=+crt-static",
    "-Cembed-bitcode=no",
    "-Cdebug-assertions=no",
    "-Coverflow-checks=no",
];

const LINKER_FLAGS: [&str; 7] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noexecstack",
];

struct Guest {
    name: String,
    kind: &'static str,
    about: String,
    /// The `DiskBus` of the disk that it wants.
    disk: Option<&'static str>,
    source: PathBuf,
}

struct Toolchain {
    rustc: OsString,
    linker: Option<OsString>,
    root: PathBuf,
    out: PathBuf,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=workloads");
    println!("cargo:rerun-if-changed=src/abi.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    if let Err(message) = build() {
        eprintln!("\nThe guests under workloads/ could not be built.\n{message}");
        std::process::exit(1);
    }
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: build.rs is run by cargo"))
}

fn build() -> Result<(), String> {
    let host = variable("HOST")?.to_string_lossy().into_owned();
    if !(host.starts_with("x86_64-") && host.contains("-linux-")) {
        return Err(format!("They need an x86-64 Linux toolchain; this one is {host}."));
    }
    let tools = Toolchain {
        rustc: variable("RUSTC")?,
        linker: env::var_os("RUSTC_LINKER"),
        root: variable("CARGO_MANIFEST_DIR")?.into(),
        out: variable("OUT_DIR")?.into(),
    };
    encodings::write(&tools.out)?;
    let guests = find_guests(&tools.root.join("workloads"))?;
    tools.library()?;
    build_all(&tools, &guests)?;
    let list = tools.out.join("workloads.rs");
    fs::write(&list, listing(&guests)).map_err(|error| format!("cannot write {}: {error}", list.display()))
}

/// The name of a folder; other files are no workloads.
fn folder_name(entry: std::io::Result<fs::DirEntry>) -> Option<String> {
    let entry = entry.ok()?;
    if entry.file_type().ok()?.is_dir() { entry.file_name().into_string().ok() } else { None }
}

/// All guests in the order of [`KINDS`], by name within a kind.
fn find_guests(folder: &Path) -> Result<Vec<Guest>, String> {
    let mut guests: Vec<Guest> = Vec::new();
    for (part, kind) in KINDS {
        let folder = folder.join(part);
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        let mut names: Vec<String> = entries.filter_map(folder_name).collect();
        names.sort();
        for name in names {
            let source = folder.join(&name).join("main.rs");
            let text = fs::read_to_string(&source)
                .map_err(|error| format!("cannot read {}: {error}", source.display()))?;
            let about = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("//! "))
                .ok_or_else(|| format!("{} must begin with a line `//! what it does`", source.display()))?
                .to_owned();
            let disk = disk_of(&text).map_err(|why| format!("{}: {why}", source.display()))?;
            if guests.iter().any(|guest| guest.name == name) {
                return Err(format!("two workloads are called {name}"));
            }
            guests.push(Guest { name, kind, about, disk, source });
        }
    }
    Ok(guests)
}

/// The `DiskBus` of the disk that a guest wants, as the head of its source says.
fn disk_of(text: &str) -> Result<Option<&'static str>, String> {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    let Some(wanted) = head.filter_map(|line| line.strip_prefix(DISK)).next() else { return Ok(None) };
    let known = BUSES.iter().find(|(name, _)| *name == wanted);
    known.map(|(_, bus)| Some(*bus)).ok_or_else(|| format!("there are no {wanted} disks"))
}

/// Takes guests from a shared list on each core until none is left or one failed.
fn build_all(tools: &Toolchain, guests: &[Guest]) -> Result<(), String> {
    let waiting = Mutex::new((guests.iter(), Ok(())));
    let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
    let lock = || waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = {
                        let mut state = lock();
                        if state.1.is_ok() { state.0.next() } else { None }
                    };
                    let Some(guest) = next else { return };
                    if let Err(message) = tools.guest(guest) {
                        lock().1 = Err(message);
                    }
                }
            });
        }
    });
    waiting.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).1
}

impl Toolchain {
    fn compiler(&self) -> Command {
        let mut command = Command::new(&self.rustc);
        command.args(COMPILER_FLAGS).current_dir(&self.root);
        // Panic messages name files; the image must not depend on where the checkout lies.
        let mut remap = OsString::from("--remap-path-prefix=");
        remap.push(&self.root);
        remap.push("=.");
        command.arg(remap);
        command
    }

    fn run(&self, mut command: Command, what: &str) -> Result<(), String> {
        let output = command.output().map_err(|error| {
            format!("cannot start the Rust compiler {}: {error}", self.rustc.to_string_lossy())
        })?;
        let messages = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            for line in messages.lines().filter(|line| !line.trim().is_empty()) {
                println!("cargo:warning={what}: {line}");
            }
            return Ok(());
        }
        if messages.contains("linker") && messages.contains("not found") {
            return Err(format!(
                "{what}: no C compiler driver to link with; install `cc` (gcc or clang).\n{messages}"
            ));
        }
        Err(format!("{what}:\n{messages}"))
    }

    fn library(&self) -> Result<(), String> {
        let mut command = self.compiler();
        command
            .args(["--crate-name=guest", "--crate-type=rlib", "workloads/lib/lib.rs", "--out-dir"])
            .arg(&self.out);
        self.run(command, "workloads/lib")
    }

    fn guest(&self, guest: &Guest) -> Result<(), String> {
        let mut command = self.compiler();
        command.arg(format!("--crate-name={}", guest.name)).arg("--crate-type=bin");
        let mut library = OsString::from("guest=");
        library.push(self.out.join("libguest.rlib"));
        command.arg("--extern").arg(library).arg("-o").arg(self.out.join(format!("{}.elf", guest.name)));
        if let Some(linker) = &self.linker {
            let mut option = OsString::from("-Clinker=");
            option.push(linker);
            command.arg(option);
        }
        for flag in LINKER_FLAGS {
            command.arg(format!("-Clink-arg={flag}"));
        }
        let mut script = OsString::from("-Clink-arg=");
        script.push(self.root.join("workloads/lib/link.ld"));
        command.arg("-Clink-arg=-T").arg(script).arg(&guest.source);
        self.run(command, &format!("workload {}", guest.name))
    }
}

/// The table that `src/bench/workload.rs` includes.
fn listing(guests: &[Guest]) -> String {
    let mut text = String::from("static ALL: &[Workload] = &[\n");
    for Guest { name, kind, about, disk, .. } in guests {
        let disk = disk.map_or_else(|| "None".to_owned(), |bus| format!("Some(DiskBus::{bus})"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "    Workload {{ name: {name:?}, kind: Kind::{kind}, about: {about:?}, disk: {disk}, \
             image: &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.elf\"))).0 }},"
        );
    }
    text.push_str("];\n");
    text
}
