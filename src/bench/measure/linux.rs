//! Runs the stock Linux guest: in our engines, in QEMU, and its commands on the host itself.
//!
//! One run is one boot, from the start of the machine (or of QEMU's process) to power-off. The guest times its commands with
//! the TSC, as all workloads do; when its first program printed its first line only the host knows, which fills it in.

use super::lookout::{Lookout, Sighting};
use super::machine::{Guest, run_machine};
use super::native::Pinned;
use super::qemu::{Boot, ImageFile, Process, boot};
use super::{Column, Observation, Request, RunError};
use crate::abi;
use crate::bench::NATIVE;
use crate::bench::linux::{BOOT_CYCLES, COMMAND_LINE, LinuxGuest, MEMORY, USER_SPACE};
use crate::engine::Engine;
use crate::loader::Image;
use crate::machine::{Capture, ConsoleSink};
use crate::sys::tsc;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A boot and its commands take tens of seconds in an engine that is busy: it has at least so long.
const LEAST_TIMEOUT: Duration = Duration::from_secs(180);

/// Bytes of console that are kept: a kernel that complains prints more than a workload.
const CONSOLE_MOST: usize = 4 << 20;

/// Mebibytes that the commands' files have at most, together.
const ROOM: usize = 104;

/// Why a KVM that emulates ring 0 does not boot it.
const TOO_SLOW: &str = "this host's KVM emulates ring 0, where a kernel takes minutes to boot; name kvm in --mode, with a \
                        --timeout of an hour, to measure it all the same";

/// Runs the Linux guest.
#[derive(Debug)]
pub struct LinuxRunner {
    guest: LinuxGuest,
    /// Whether KVM is too slow for it.
    slow_kvm: bool,
    /// Kernel and initial file system for QEMU, once it has been asked.
    files: Option<(ImageFile, ImageFile)>,
}

impl LinuxRunner {
    /// A runner of `guest`; `slow_kvm` says that KVM emulates ring 0 here and nobody insists.
    pub fn new(guest: LinuxGuest, slow_kvm: bool) -> LinuxRunner {
        LinuxRunner { guest, slow_kvm, files: None }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// As [`super::Runner::run`].
    pub(super) fn run(&mut self, column: &Column, request: &Request<'_>) -> Result<Observation, RunError> {
        let request = Request { timeout: request.timeout.max(LEAST_TIMEOUT), ..*request };
        if column.mode == NATIVE {
            return self.on_the_host(&request);
        }
        let (lookout, user_space) = Lookout::new(USER_SPACE);
        let begun = Instant::now();
        let mut observation = if column.peer.is_empty() {
            self.in_a_machine(column, &request, lookout)?
        } else {
            self.in_qemu(column, &request, lookout)?
        };
        fill_in_the_boot(&mut observation, &user_space, begun);
        Ok(observation)
    }

    fn in_a_machine(
        &self,
        column: &Column,
        request: &Request<'_>,
        lookout: Lookout,
    ) -> Result<Observation, RunError> {
        let engine = Engine::find(&column.engine);
        if engine == Some(Engine::Direct) {
            return Err(RunError::Unsupported(format!(
                "{} runs guests that are written for it; a stock kernel boots in emu and kvm",
                column.mode
            )));
        }
        if engine == Some(Engine::Kvm) && self.slow_kvm {
            return Err(RunError::Unsupported(TOO_SLOW.to_owned()));
        }
        let unfit = |error: &dyn std::error::Error| RunError::Unsupported(error.to_string());
        let image = Image::parse(&self.guest.kernel).map_err(|error| unfit(&error))?;
        let image = image.with_initrd(self.guest.initrd.clone()).map_err(|error| unfit(&error))?;
        let console = Capture::new(CONSOLE_MOST);
        let guest = Guest {
            image: &image,
            disk: None,
            memory: MEMORY,
            command_line: COMMAND_LINE.to_owned(),
            console: Box::new(Watched { console: console.clone(), lookout }),
        };
        let observation = run_machine(column, guest, request)?;
        Ok(Observation { console: console.text().into_bytes(), ..observation })
    }

    fn in_qemu(
        &mut self,
        column: &Column,
        request: &Request<'_>,
        lookout: Lookout,
    ) -> Result<Observation, RunError> {
        let files = match &mut self.files {
            Some(files) => files,
            none => {
                let file = |bytes: &[u8]| {
                    ImageFile::create(bytes)
                        .map_err(|e| RunError::Failed(format!("cannot write the image: {e}")))
                };
                none.insert((file(&self.guest.kernel)?, file(&self.guest.initrd)?))
            }
        };
        let kernel = Boot {
            kernel: files.0.path(),
            initrd: Some(files.1.path()),
            disk: None,
            memory: MEMORY,
            command_line: COMMAND_LINE,
            lookout: Some(lookout),
        };
        let (begun, ended) = boot(column, kernel, request)?;
        // QEMU ends well where a guest switches off; one that resets does not print its end.
        let misfortune = (!ended.status.success()).then(|| ended.in_words());
        Ok(observation(ended.console, misfortune, begun))
    }

    /// The same commands by the same busybox, in a folder in memory where there is one.
    fn on_the_host(&self, request: &Request<'_>) -> Result<Observation, RunError> {
        let failed = |error: io::Error| RunError::Failed(format!("the host: {error}"));
        let folder = Folder::create(&self.guest.ticks).map_err(failed)?;
        let (ticks, script) = (folder.ticks(), folder.path.join("commands.sh"));
        std::fs::write(&script, LinuxGuest::commands()).map_err(failed)?;
        let begun = Instant::now();
        // Children inherit the CPU.
        let pinned = Pinned::to(request.cpu);
        let child = Command::new(&self.guest.busybox)
            .arg("sh")
            .arg(&script)
            .env_clear()
            .envs([("busybox", self.guest.busybox.as_path()), ("ticks", &ticks), ("folder", &folder.path)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed);
        drop(pinned);
        let ended = Process::new(child?, None).wait(begun, request)?;
        let misfortune = (!ended.status.success()).then(|| ended.in_words());
        let mut console = ended.console;
        console.extend(format!("{}{} status=ok\n", abi::LINE_PREFIX, abi::RECORD_END).bytes());
        Ok(observation(console, misfortune, begun))
    }
}

fn observation(console: Vec<u8>, misfortune: Option<String>, begun: Instant) -> Observation {
    let tsc_khz = (tsc::frequency() / 1000).max(1);
    Observation { console, misfortune, wall: begun.elapsed(), tsc_khz, ..Observation::default() }
}

/// Puts the time from `begun` to the first line of user space into the guest's record of its boot. A guest that never came
/// so far keeps a record that will be refused, if it has one.
fn fill_in_the_boot(observation: &mut Observation, user_space: &Sighting, begun: Instant) {
    let Some(at) = user_space.at() else { return };
    let nanos = at.saturating_duration_since(begun).as_nanos();
    let cycles = (nanos * u128::from(observation.tsc_khz) / 1_000_000).max(1);
    let text = String::from_utf8_lossy(&observation.console);
    observation.console = text.replacen(BOOT_CYCLES, &format!("cycles={cycles}"), 1).into_bytes();
}

/// A console that is looked at as it is kept.
struct Watched {
    console: Capture,
    lookout: Lookout,
}

impl ConsoleSink for Watched {
    fn transmit(&mut self, bytes: &[u8]) {
        self.lookout.look(bytes);
        self.console.transmit(bytes);
    }
}

/// A folder of our own, in memory where that can be; removed when dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    /// One in memory, as the guest's files are, if there is room and programs may be run there (in a container there often
    /// is not); else where temporary files go.
    fn create(ticks: &[u8]) -> io::Result<Folder> {
        let in_memory = Folder::within(Path::new("/dev/shm")).and_then(|folder| {
            folder.try_out(ticks)?;
            Ok(folder)
        });
        match in_memory {
            Ok(folder) => Ok(folder),
            Err(_) => {
                let folder = Folder::within(&std::env::temp_dir())?;
                folder.try_out(ticks)?;
                Ok(folder)
            }
        }
    }

    /// A new folder that nobody else can look into.
    fn within(parent: &Path) -> io::Result<Folder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("trivisor-{}-{number}-{:x}", std::process::id(), tsc::read()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder { path })
    }

    /// The program that reads the clock.
    fn ticks(&self) -> PathBuf {
        self.path.join("ticks")
    }

    /// Puts the program that reads the clock there and runs it, and sees whether there is room for the files.
    fn try_out(&self, ticks: &[u8]) -> io::Result<()> {
        let room = self.path.join("room");
        let mut file = File::create(&room)?;
        (0..ROOM).try_for_each(|_| file.write_all(&[1; 1 << 20]))?;
        std::fs::remove_file(&room)?;
        std::fs::write(self.ticks(), ticks)?;
        std::fs::set_permissions(self.ticks(), std::fs::Permissions::from_mode(0o700))?;
        Command::new(self.ticks()).stdin(Stdio::null()).output().map(drop)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover is the system's to clear.
        let _stays = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::marks;

    #[test]
    fn the_boot_is_filled_in_once_and_only_if_it_was_seen() {
        let record =
            "@trivisor result workload=linux metric=boot ring=0 iterations=1 cycles=BOOT checksum=7\n";
        let told = || Observation {
            console: format!("{record}cycles=BOOT\n").into_bytes(),
            tsc_khz: 2_000_000,
            ..Observation::default()
        };
        let (mut lookout, seen) = Lookout::new(USER_SPACE);
        let begun = Instant::now();
        let mut unseen = told();
        fill_in_the_boot(&mut unseen, &seen, begun);
        assert_eq!(marks::parse(&unseen.console).refused, 1);
        lookout.look(USER_SPACE.as_bytes());
        let mut boot = told();
        fill_in_the_boot(&mut boot, &seen, begun);
        let transcript = marks::parse(&boot.console);
        let nanos = transcript.results[0].ns_per_iteration(2_000_000);
        assert!((nanos - seen.at().unwrap().duration_since(begun).as_nanos() as f64).abs() <= 1.0, "{nanos}");
        assert!(boot.console.ends_with(b"cycles=BOOT\n"));
    }
}
