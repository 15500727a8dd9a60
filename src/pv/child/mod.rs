//! The sandboxed child process in which guest code runs natively, and the hand-over between it and the engine.
//!
//! One word in shared memory says whose turn it is. The child sets it to ENGINE when it has something to report and
//! waits; the engine sets it to CHILD to let it go on. Both sides look for a while before they sleep (futex), each
//! having said first that it sleeps. The engine is also woken by its kick cell and by the death of the child.
//!
//! Nothing the child says is trusted: reports are copied once and checked here; what makes no sense is a
//! [`EngineError::GuestCrash`], after which the child is killed. Dropping a [`Child`] kills and reaps it.
#![expect(unsafe_code, reason = "process control")]
mod boot;
mod filter;
mod registers;
mod shared;
mod spawn;
pub(super) mod stub;

pub(super) use shared::Shared;

use super::layout::{SHARED, at, command, event, frame, turn};
use crate::engine::{EngineError, KickCell};
use crate::sys::{affinity, futex, tsc};
use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the engine looks at the turn word before it sleeps, in nanoseconds; none where there is one CPU only.
const LOOK_NS: u64 = 30_000;
/// How often the child looks before it sleeps; a look is about 50 ns.
const CHILD_LOOKS: u32 = 600;
/// A child that was told to stop and has not after this time is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a sleeping engine looks whether the child is alive.
const LIFE_CHECK: Duration = Duration::from_millis(50);

/// What woke the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awake {
    /// The child has reported.
    Report,
    /// The kick cell is raised; the child still runs.
    Attention,
}

/// Where the registers of a waiting child are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waiting {
    /// In the control page; vector registers live.
    Hypercall,
    /// In the signal frame at this offset of the shared area, with vector registers at `fpu`.
    Signal {
        /// Offset of the `ucontext_t`.
        frame: u64,
        /// Offset of the XSAVE area.
        fpu: u64,
    },
}

/// A report, checked for form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Report {
    /// A thunk called.
    Hypercall,
    /// Stopped by a kick.
    Kicked,
    /// Requests are done.
    Done,
    /// Guest code trapped.
    Trap(Trap),
}

/// A trap of guest code, as the kernel reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trap {
    /// Host signal.
    pub(super) signal: i32,
    /// Exception vector.
    pub(super) vector: u64,
    /// Error code.
    pub(super) error: u64,
    /// Faulting address, for #PF.
    pub(super) address: u64,
}

/// A child process.
#[derive(Debug)]
pub(super) struct Child {
    pid: i32,
    shared: Shared,
    waiting: Waiting,
    requests: Vec<[u64; 7]>,
    sent: usize,
    look_ticks: u64,
}

fn one_cpu() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| affinity::allowed().is_ok_and(|cpus| cpus.len() < 2))
}

impl Child {
    /// Starts a child over this guest RAM and this shadow text, up to the point where it waits to enter the guest.
    pub(super) fn start(ram: &File, text: &File, zone_offset: u64) -> Result<Self, EngineError> {
        let shared = Shared::new().map_err(|source| EngineError::Host {
            what: "cannot make the area shared with the guest's process",
            source,
        })?;
        shared.word(at::SPINS).store(if one_cpu() { 1 } else { CHILD_LOOKS }, Ordering::Relaxed);
        shared.word(at::TURN).store(turn::CHILD, Ordering::SeqCst);
        let pid = spawn::spawn(shared.file(), ram, text)?;
        let mut child = Self {
            pid,
            shared,
            waiting: Waiting::Hypercall,
            requests: Vec::new(),
            sent: 0,
            look_ticks: if one_cpu() { 0 } else { tsc::frequency() / 1_000_000 * LOOK_NS / 1000 },
        };
        child.await_report()?;
        if child.shared.word(at::EVENT).load(Ordering::Relaxed) != event::BOOT {
            return Err(crash("its process did not start as it should"));
        }
        boot::boot(&mut child, zone_offset)?;
        Ok(child)
    }

    /// The shared area.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Where the registers are, while the child waits.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// The child's process id, for tests.
    #[cfg(test)]
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Puts a system call on the list that the stub executes before it goes on.
    pub(super) fn request(&mut self, number: i64, arguments: [u64; 6]) -> Result<(), EngineError> {
        if self.requests.len() == at::REQUESTS_MOST {
            self.flush()?;
        }
        let [a, b, c, d, e, f] = arguments;
        self.requests.push([number as u64, a, b, c, d, e, f]);
        Ok(())
    }

    /// Has the stub execute the list now.
    pub(super) fn flush(&mut self) -> Result<(), EngineError> {
        if self.requests.is_empty() {
            return Ok(());
        }
        self.trip(0)
    }

    /// Has the stub execute the list and these commands, and waits for its answer. Registers are not touched.
    pub(super) fn trip(&mut self, commands: u32) -> Result<(), EngineError> {
        self.round(commands)?;
        self.check_results()
    }

    /// As [`Self::flush`], for requests that may fail.
    fn trip_unchecked(&mut self) -> Result<(), EngineError> {
        self.round(0)?;
        self.sent = 0;
        Ok(())
    }

    fn round(&mut self, commands: u32) -> Result<(), EngineError> {
        self.release(commands | command::REPORT);
        self.await_report()?;
        if self.shared.word(at::EVENT).load(Ordering::Relaxed) != event::DONE {
            return Err(crash("its process did not answer a request as it should"));
        }
        Ok(())
    }

    /// Lets the child go on.
    pub(super) fn release(&mut self, commands: u32) {
        for (i, request) in self.requests.iter().enumerate() {
            for (j, &value) in request.iter().enumerate() {
                self.shared.set(at::REQUESTS + at::REQUEST_SIZE * i as u64 + 8 * j as u64, value);
            }
        }
        self.sent = self.requests.len();
        self.requests.clear();
        self.shared.word(at::REQUEST_COUNT).store(self.sent as u32, Ordering::Relaxed);
        self.shared.word(at::COMMAND).store(commands, Ordering::Relaxed);
        self.shared.word(at::KICK).store(0, Ordering::Relaxed);
        self.shared.word(at::TURN).store(turn::CHILD, Ordering::SeqCst);
        if self.shared.word(at::CHILD_ASLEEP).load(Ordering::SeqCst) != 0 {
            futex::wake(self.shared.word(at::TURN));
        }
    }

    #[inline]
    fn has_reported(&self) -> bool {
        self.shared.word(at::TURN).load(Ordering::Acquire) == turn::ENGINE
    }

    /// Waits until the child reports or `kick` is raised.
    pub(super) fn wait(&mut self, kick: &KickCell) -> Result<Awake, EngineError> {
        let start = tsc::read();
        loop {
            for _ in 0..16 {
                if self.has_reported() {
                    return Ok(Awake::Report);
                }
                if kick.is_raised() {
                    return Ok(Awake::Attention);
                }
                std::hint::spin_loop();
            }
            if tsc::read().wrapping_sub(start) >= self.look_ticks {
                break;
            }
        }
        loop {
            self.shared.word(at::ENGINE_ASLEEP).store(1, Ordering::SeqCst);
            if !self.has_reported() && !kick.is_raised() {
                futex::wait_either((self.shared.word(at::TURN), turn::CHILD), (kick.word(), 0), LIFE_CHECK);
            }
            self.shared.word(at::ENGINE_ASLEEP).store(0, Ordering::SeqCst);
            if self.has_reported() {
                return Ok(Awake::Report);
            }
            if kick.is_raised() {
                return Ok(Awake::Attention);
            }
            self.check_alive()?;
        }
    }

    /// Waits for a report that must come: the stub is at work, or the child was told to stop.
    pub(super) fn await_report(&mut self) -> Result<(), EngineError> {
        let start = Instant::now();
        let ticks = tsc::read();
        while !self.has_reported() {
            if tsc::read().wrapping_sub(ticks) < self.look_ticks {
                std::hint::spin_loop();
                continue;
            }
            self.shared.word(at::ENGINE_ASLEEP).store(1, Ordering::SeqCst);
            if !self.has_reported() {
                futex::wait(self.shared.word(at::TURN), turn::CHILD, Some(LIFE_CHECK));
            }
            self.shared.word(at::ENGINE_ASLEEP).store(0, Ordering::SeqCst);
            if self.has_reported() {
                break;
            }
            self.check_alive()?;
            if start.elapsed() > PATIENCE {
                return Err(crash("it did not stop when it was told to"));
            }
        }
        Ok(())
    }

    /// Sends the kick signal: the stub looks whether to report.
    pub(super) fn signal(&self) {
        // SAFETY: our own child, not yet reaped, so the id is not another's.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.pid, super::layout::KICK_SIGNAL) };
    }

    fn check_alive(&self) -> Result<(), EngineError> {
        // SAFETY: all-zero is a valid siginfo_t; WNOWAIT leaves the child to be reaped by `drop`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is live; our own child.
        let result = unsafe {
            libc::waitid(
                libc::P_PID,
                self.pid as libc::id_t,
                &raw mut info,
                libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
            )
        };
        // SAFETY: waitid filled in the fields of a SIGCHLD, or left zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if result == 0 && pid == 0 {
            return Ok(());
        }
        Err(crash(&match info.si_code {
            libc::CLD_KILLED | libc::CLD_DUMPED if status == libc::SIGKILL => {
                "its process was killed from outside (SIGKILL): by a person, or by the host for want of memory".into()
            }
            libc::CLD_KILLED | libc::CLD_DUMPED => format!(
                "its process was ended by signal {status}: it damaged the monitor's part of its address space"
            ),
            _ => format!("its process ended with status {status}"),
        }))
    }

    fn check_results(&mut self) -> Result<(), EngineError> {
        for i in 0..std::mem::take(&mut self.sent) {
            let result = self.shared.get(at::REQUESTS + at::REQUEST_SIZE * i as u64 + 56) as i64;
            if (-4095..0).contains(&result) {
                let errno = std::io::Error::from_raw_os_error(-result as i32);
                return Err(crash(&format!("the host refused a mapping in its process: {errno}")));
            }
        }
        Ok(())
    }

    /// The report that has come. Where the registers are is noted.
    pub(super) fn report(&mut self) -> Result<Report, EngineError> {
        self.check_results()?;
        match self.shared.word(at::EVENT).load(Ordering::Acquire) {
            event::HYPERCALL => {
                self.waiting = Waiting::Hypercall;
                Ok(Report::Hypercall)
            }
            event::KICKED => {
                self.waiting = Waiting::Hypercall;
                Ok(Report::Kicked)
            }
            event::DONE => Ok(Report::Done),
            event::SIGNAL => self.signal_report(),
            other => Err(crash(&format!("its process reported {other}, which means nothing"))),
        }
    }

    fn signal_report(&mut self) -> Result<Report, EngineError> {
        let inside = |address: u64, length: u64| {
            let offset = address.wrapping_sub(SHARED);
            let last = at::SIGNAL_STACK + at::SIGNAL_STACK_SIZE;
            (offset >= at::SIGNAL_STACK && offset <= last - length && offset.is_multiple_of(8))
                .then_some(offset)
        };
        let odd = || crash("its process reported a signal frame that is none");
        let frame = inside(self.shared.get(at::SIGNAL_FRAME), frame::SIZE).ok_or_else(odd)?;
        let fpu = inside(self.shared.get(frame + frame::FPSTATE), 832).ok_or_else(odd)?;
        if self.shared.get(frame + frame::CS) & 0xffff != 0x33 {
            return Err(crash("it left 64-bit mode behind the monitor's back"));
        }
        self.waiting = Waiting::Signal { frame, fpu };
        let signal = i32::try_from(self.shared.get(at::SIGNAL)).map_err(|_| odd())?;
        if signal == super::layout::KICK_SIGNAL {
            return Ok(Report::Kicked);
        }
        Ok(Report::Trap(Trap {
            signal,
            vector: self.shared.get(frame + frame::TRAPNO),
            error: self.shared.get(frame + frame::ERROR),
            address: self.shared.get(frame + frame::CR2),
        }))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet reaped; a SIGKILLed process ends, so waitpid returns.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Whether programs may use RDFSBASE and its kin (bit 1 of AT_HWCAP2).
pub(super) fn has_fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// The error of a guest that broke its containment.
pub(super) fn crash(what: &str) -> EngineError {
    EngineError::GuestCrash(what.to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
