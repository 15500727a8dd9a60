//! Starts the program, and ends it if it hangs.
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Far beyond what any command here needs, on a busy host too: two boots of Linux with all that is measured in them.
const HANGS: Duration = Duration::from_secs(900);

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_trivisor");

/// What a command told.
#[derive(Debug)]
pub(crate) struct Told {
    /// The exit status; none if a signal killed it.
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Told {
    /// Asserts a failure that is told as it should be: one sentence on standard error that has these words.
    #[track_caller]
    pub(crate) fn one_sentence(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        let sentence = self.err.strip_prefix("trivisor: ").unwrap_or_else(|| panic!("{self:?}"));
        for word in words {
            assert!(sentence.contains(word), "'{word}' is not in: {sentence}");
        }
        for noise in ["panicked", "Err(", "Some(", "\x1b"] {
            assert!(!sentence.contains(noise), "{sentence}");
        }
    }

    /// Asserts success without a word on standard error.
    #[track_caller]
    pub(crate) fn well(&self) {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{self:?}");
    }
}

/// A command of the program, without input.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn trivisor<S: AsRef<OsStr>>(arguments: &[S]) -> Told {
    tell(&mut command(arguments))
}

/// Runs a command to its end.
pub(crate) fn tell(command: &mut Command) -> Told {
    Running::start(command).end()
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<thread::JoinHandle<String>>,
}

impl Running {
    /// Starts `command` with pipes for both outputs.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take();
        let mut stderr = child.stderr.take().unwrap();
        let err = thread::spawn(move || text(&mut stderr));
        Self { child, out, err: Some(err) }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its standard input, if it is a pipe.
    pub(crate) fn input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Its standard output, to read it or to close it.
    pub(crate) fn output(&mut self) -> ChildStdout {
        self.out.take().unwrap()
    }

    /// Reads standard output until it ends with `wanted`; a program that hangs before is ended.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        let mut out = self.out.take().unwrap();
        let wanted = wanted.to_owned();
        let reader = thread::spawn(move || {
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(wanted.as_bytes()) {
                assert_eq!(
                    out.read(&mut byte).unwrap(),
                    1,
                    "the output ended: {}",
                    String::from_utf8_lossy(&seen)
                );
                seen.push(byte[0]);
            }
            out
        });
        let start = Instant::now();
        while !reader.is_finished() {
            if start.elapsed() > HANGS {
                self.child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.out = Some(reader.join().unwrap());
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// The most memory it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Told {
        let out = self.out.take().map(|mut out| thread::spawn(move || text(&mut out)));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > HANGS {
                self.child.kill().unwrap();
                panic!("the program hangs");
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(!status.core_dumped());
        Told {
            status: status.code(),
            out: out.map(|out| out.join().unwrap()).unwrap_or_default(),
            err: self.err.take().unwrap().join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails leaves no guest behind; one that has ended cannot be killed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) use crate::available::modes;
