//! A peer: the same guest images in `qemu-system-x86_64`, with its translator and with KVM.
//!
//! Each run is a process of its own with the guest's console on its standard output. It is killed at the timeout, when the
//! user stops, and when it reports an internal error (after which it would stand still for ever); of its output no more than
//! [`CONSOLE_LIMIT`] is kept; its image file is removed whatever happens.

use super::lookout::Lookout;
use super::machine::no_disk;
use super::{Column, Observation, Request, RunError, Runner, ScratchDisk};
use crate::abi;
use crate::bench::fingerprint::EMULATED_SUPERVISOR;
use crate::bench::workload::Workload;
use crate::engine::Interface;
use crate::machine::MachineSpec;
use crate::sys::tsc;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Name of the program.
pub const QEMU: &str = "qemu-system-x86_64";

/// Most bytes of console that are kept.
const CONSOLE_LIMIT: usize = 4 << 20;

/// How often a running process is looked at: below a percent of the shortest run.
const POLL: Duration = Duration::from_millis(2);

/// Runs guests in QEMU.
#[derive(Debug, Default)]
pub struct QemuRunner {
    images: Vec<(&'static str, ImageFile)>,
}

/// Why QEMU on a KVM that emulates ring 0 is left out of a run that does not name it: firmware and kernel code take about
/// two seconds a run there, fifteen times what QEMU's translator takes, and the whole plan would get fewer repetitions.
const TOO_SLOW: &str = "this host's KVM emulates ring 0, so that each start of QEMU takes seconds and the other columns \
                        would lose repetitions; name qemu-kvm in --mode to measure it all the same";

/// The two columns, absent with the reason where they cannot run, or would starve the others (unless `insisted`).
pub(super) fn columns(kvm_label: &str, insisted: bool) -> Vec<Column> {
    let version = version();
    [("qemu-tcg", "tcg"), ("qemu-kvm", "kvm")]
        .into_iter()
        .map(|(mode, accelerator)| {
            let absent = match &version {
                Err(reason) => Some(reason.clone()),
                Ok(_) if accelerator == "kvm" => no_kvm().or_else(|| {
                    let slow = kvm_label.starts_with(EMULATED_SUPERVISOR) && !insisted;
                    slow.then(|| TOO_SLOW.to_owned())
                }),
                Ok(_) => None,
            };
            Column {
                peer: version.clone().unwrap_or_else(|_| "QEMU".to_owned()),
                options: format!("-accel {accelerator} {}", cpu_model(accelerator).join(" ")),
                absent,
                ..Column::new(mode, accelerator, Interface::None.name())
            }
        })
        .collect()
}

/// `QEMU 7.2.22`, or why there is none.
fn version() -> Result<String, String> {
    let output =
        Command::new(QEMU).arg("--version").output().map_err(|_| format!("{QEMU} is not installed"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_ascii_whitespace().skip_while(|w| *w != "version").nth(1);
    Ok(format!("QEMU {}", number.unwrap_or("of unknown version")))
}

/// Why KVM cannot be used, if so.
fn no_kvm() -> Option<String> {
    File::options().read(true).write(true).open("/dev/kvm").err().map(|e| format!("/dev/kvm: {e}"))
}

fn cpu_model(accelerator: &str) -> [&'static str; 2] {
    ["-cpu", if accelerator == "kvm" { "host" } else { "max" }]
}

impl Runner for QemuRunner {
    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError> {
        let image =
            self.image(workload).map_err(|e| RunError::Failed(format!("cannot write the image: {e}")))?;
        let disk = ScratchDisk::of(workload).map_err(no_disk)?;
        let tsc_khz = (tsc::frequency() / 1000).max(1);
        let command_line = request.command_line(tsc_khz);
        let guest = Boot {
            kernel: image,
            initrd: None,
            disk: disk.as_ref(),
            memory: MachineSpec::DEFAULT_MEMORY,
            command_line: &command_line,
            lookout: None,
        };
        let (begun, ended) = boot(column, guest, request)?;
        Ok(Observation {
            misfortune: misfortune(&ended),
            console: ended.console,
            wall: begun.elapsed(),
            tsc_khz,
            ..Observation::default()
        })
    }
}

/// What QEMU is to boot.
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: Option<&'a Path>,
    /// Its disk, which the holder keeps.
    pub(super) disk: Option<&'a ScratchDisk>,
    /// Bytes of RAM, whole megabytes.
    pub(super) memory: u64,
    pub(super) command_line: &'a str,
    /// Looks at what is printed.
    pub(super) lookout: Option<Lookout>,
}

/// Runs a guest to its end in the QEMU of `column`; says when it was started.
///
/// # Errors
/// As [`Runner::run`].
pub(super) fn boot(
    column: &Column,
    guest: Boot<'_>,
    request: &Request<'_>,
) -> Result<(Instant, Ended), RunError> {
    let begun = Instant::now();
    let child = Command::new(QEMU)
        .args(["-accel", &column.engine])
        .args(cpu_model(&column.engine))
        .args(["-machine", "pc", "-m", &(guest.memory >> 20).to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-monitor", "none"])
        .args(["-device", &format!("isa-debug-exit,iobase={:#x},iosize=4", abi::PORT_DEBUG_EXIT)])
        .arg("-kernel")
        .arg(guest.kernel)
        .args(guest.initrd.into_iter().flat_map(|initrd| [OsStr::new("-initrd"), initrd.as_os_str()]))
        .args(["-append", guest.command_line])
        .args(guest.disk.into_iter().flat_map(ScratchDisk::qemu_arguments))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A terminal's Ctrl-C is for us alone, or the run that it ends would look like one that failed.
        .process_group(0)
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => RunError::Unavailable(format!("{QEMU} is not installed")),
            _ => RunError::Failed(format!("{QEMU}: {e}")),
        })?;
    Ok((begun, Process::new(child, guest.lookout).wait(begun, request)?))
}

impl QemuRunner {
    /// The file that holds a workload's image; written once.
    fn image(&mut self, workload: &Workload) -> io::Result<&Path> {
        let at = match self.images.iter().position(|(name, _)| *name == workload.name) {
            Some(at) => at,
            None => {
                self.images.push((workload.name, ImageFile::create(workload.image)?));
                self.images.len() - 1
            }
        };
        Ok(&self.images[at].1.path)
    }
}

/// What QEMU's end says, if not that the guest went well. A warning is no misfortune of such a guest.
fn misfortune(ended: &Ended) -> Option<String> {
    // isa-debug-exit ends the process with (value << 1) | 1.
    let well = i32::from(abi::EXIT_OK) << 1 | 1;
    match ended.status.code() {
        Some(code) if code == well => None,
        Some(0) if ended.complaint.is_empty() => Some("the machine was reset or powered off".to_owned()),
        _ => Some(ended.in_words()),
    }
}

/// How a process ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// What it printed on its standard output.
    pub(super) console: Vec<u8>,
    /// What it printed on standard error.
    complaint: Vec<u8>,
}

impl Ended {
    /// Its status, with the first line of what it complained of.
    pub(super) fn in_words(&self) -> String {
        let words = String::from_utf8_lossy(&self.complaint);
        match words.lines().map(str::trim).find(|l| !l.is_empty()) {
            Some(line) => format!("{}: {line}", self.status),
            None => self.status.to_string(),
        }
    }
}

/// A child process whose output is collected; killed when dropped.
pub(super) struct Process {
    child: Child,
    console: Option<Collector>,
    complaint: Option<Collector>,
}

impl Process {
    /// Collects what `child` prints; `lookout` looks at its standard output.
    pub(super) fn new(mut child: Child, lookout: Option<Lookout>) -> Process {
        let console = child.stdout.take().map(|pipe| Collector::start(pipe, lookout));
        let complaint = child.stderr.take().map(|pipe| Collector::start(pipe, None));
        Process { child, console, complaint }
    }

    /// Waits for the end.
    pub(super) fn wait(mut self, begun: Instant, request: &Request<'_>) -> Result<Ended, RunError> {
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) if request.stopped() => return Err(RunError::Interrupted),
                Ok(Some(status)) => {
                    let text = |c: Option<Collector>| c.map(Collector::finish).unwrap_or_default();
                    let (console, complaint) = (text(self.console.take()), text(self.complaint.take()));
                    return Ok(Ended { status, console, complaint });
                }
                Ok(None) if request.stopped() => return Err(RunError::Interrupted),
                Ok(None) if begun.elapsed() > request.timeout => {
                    return Err(RunError::Timeout(request.timeout));
                }
                Ok(None) => {
                    if let Some(error) = self.complaint.as_ref().and_then(Collector::internal_error) {
                        return Err(RunError::Unsupported(error));
                    }
                    std::thread::sleep(POLL);
                }
                Err(e) => return Err(RunError::Failed(format!("cannot wait for a process: {e}"))),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail harmlessly if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end in a thread of its own. Beyond the limit it closes the pipe, so that a flood is not stored.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn start(mut pipe: impl Read + Send + 'static, mut lookout: Option<Lookout>) -> Collector {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // What was read before an error still counts.
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                if let Some(lookout) = &mut lookout {
                    lookout.look(&chunk[..n]);
                }
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend_from_slice(&chunk[..n]);
                if all.len() >= CONSOLE_LIMIT {
                    break;
                }
            }
        });
        Collector { bytes, thread }
    }

    /// QEMU's message that it stands still because KVM gave up, if it is there.
    fn internal_error(&self) -> Option<String> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().find(|l| l.contains("internal error"))?;
        let detail = text.lines().find(|l| *l == "emulation failure").map(|l| format!(" ({l})"));
        Some(format!("{}{}", line.trim(), detail.unwrap_or_default()))
    }

    fn finish(self) -> Vec<u8> {
        // A reader that panicked leaves what it had.
        let _ = self.thread.join();
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A file with a guest image, removed when dropped.
#[derive(Debug)]
pub(super) struct ImageFile {
    path: PathBuf,
}

impl ImageFile {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `image` into a new file.
    pub(super) fn create(image: &[u8]) -> io::Result<ImageFile> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("trivisor-{}-{number}.elf", std::process::id()));
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let file_guard = ImageFile { path };
        file.write_all(image)?;
        Ok(file_guard)
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        // It lies in the temporary directory; a leftover is the system's to clear.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{marks, workload};
    use std::sync::atomic::AtomicBool;

    fn tcg() -> Option<Column> {
        let column = columns("none", false).swap_remove(0);
        if let Some(reason) = &column.absent {
            println!("skipped: {reason}");
            return None;
        }
        Some(column)
    }

    #[test]
    fn kvm_that_emulates_ring_0_is_left_out_unless_it_is_named() {
        let reason = |label: &str, insisted| columns(label, insisted).swap_remove(1).absent;
        let label = "emulated supervisor (kvm_pvm): ring 0 at 0.05 % of native speed";
        let elsewhere = reason("hardware", false);
        assert_eq!(reason(label, true), elsewhere, "only what the host lacks keeps a named column out");
        match elsewhere {
            None => assert_eq!(reason(label, false), Some(TOO_SLOW.to_owned())),
            // Without QEMU or /dev/kvm that is the reason.
            lacking => assert_eq!(reason(label, false), lacking),
        }
    }

    #[test]
    fn a_guest_measures_in_the_translator() {
        let (Some(column), stop) = (tcg(), AtomicBool::new(false)) else { return };
        let request = Request {
            budget_us: 100,
            timeout: Duration::from_secs(60),
            keeps_times: false,
            cpu: None,
            stop: &stop,
        };
        let workload = workload::find("crc32").unwrap();
        let mut runner = QemuRunner::default();
        let observation = runner.run(workload, &column, &request).unwrap();
        let transcript = marks::parse(&observation.console);
        assert_eq!(observation.misfortune, None);
        assert_eq!(transcript.end, Some(marks::End::Ok));
        let native = super::super::NativeRunner.run(workload, &Column::native(), &request).unwrap();
        let native = marks::parse(&native.console);
        assert_eq!(transcript.results[0].checksum, native.results[0].checksum);
        let path = runner.images[0].1.path.clone();
        drop(runner);
        assert!(!path.exists());
    }

    #[test]
    fn a_guest_that_spins_is_killed_at_its_timeout_and_at_a_stop() {
        let Some(column) = tcg() else { return };
        let workload = workload::find("spin").unwrap();
        let stop = AtomicBool::new(false);
        let request = Request {
            budget_us: 100,
            timeout: Duration::from_millis(300),
            keeps_times: false,
            cpu: None,
            stop: &stop,
        };
        let mut runner = QemuRunner::default();
        assert_eq!(runner.run(workload, &column, &request), Err(RunError::Timeout(request.timeout)));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(runner.run(workload, &column, &request), Err(RunError::Interrupted));
    }
}
