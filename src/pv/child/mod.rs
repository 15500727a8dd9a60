//! The sandboxed child process in which guest code runs natively, and the hand-over between it and the engine.
//!
//! One word in shared memory says whose turn it is. The child sets it to ENGINE when it has something to report and
//! waits; the engine sets it to CHILD to let it go on. Both sides look for a while before they sleep (futex), each
//! having said first that it sleeps. The engine is also woken by its kick cell and by the death of the child.
//!
//! Nothing the child says is trusted: reports are copied once and checked here; what makes no sense is a
//! [`EngineError::GuestCrash`], after which the child is killed. Dropping a [`Child`] kills and reaps it.
#![expect(unsafe_code, reason = "the auxiliary vector")]
mod boot;
mod confine;
mod filter;
mod keys;
mod pair;
mod place;
mod process;
mod registers;
mod shared;
mod spawn;
pub(super) mod stub;

pub(super) use pair::{Pairing, Who};
pub(super) use shared::Shared;

use super::layout::{SHARED, address_space, at, command, event, frame, turn};
use crate::engine::EngineError;
use crate::sys::{futex, tsc};
use keys::Keys;
use place::Placement;
use process::{End, Process};
use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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
    process: Process,
    place: Placement,
    shared: Shared,
    waiting: Waiting,
    requests: Vec<[u64; 7]>,
    /// Requests that were written to the shared area and whose results have not been looked at.
    sent: usize,
    /// RIP and host flags for the way out of a hypercall, to be written with the next release.
    resume: Option<(u64, u64)>,
    /// The kernel's process: the area with its door. `None` in a user's.
    door: Option<Shared>,
    /// A user's process.
    keys: Option<Keys>,
    /// A user's process: it was let go since it was known to be in the stub. See `keys.rs`.
    at_large: bool,
}

/// How a process is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Start {
    /// Where the thunk zone begins in the text's memory object.
    pub(super) zone_offset: u64,
    /// RDTSC raises a signal in it.
    pub(super) traps_time: bool,
}

impl Child {
    /// Starts the kernel's process over this guest RAM and this shadow text, up to the point where it waits to enter the
    /// guest.
    pub(super) fn start(ram: &File, text: &File, start: Start) -> Result<Self, EngineError> {
        let shared = Shared::new().map_err(no_area)?;
        Self::start_with(shared, Placement::new(), ram, text, start)
    }

    /// Starts a process for user programs, with area number `area`, beside this one, which is the kernel's.
    pub(super) fn start_user(
        &self,
        area: usize,
        ram: &File,
        text: &File,
        start: Start,
    ) -> Result<Self, EngineError> {
        let shared = self.shared.another(area).map_err(no_area)?;
        Self::start_with(shared, self.place.beside(), ram, text, start)
    }

    fn start_with(
        shared: Shared,
        place: Placement,
        ram: &File,
        text: &File,
        start: Start,
    ) -> Result<Self, EngineError> {
        shared.word(at::SPINS).store(place.child_looks(), Ordering::Relaxed);
        shared.word(at::PAIR_SPINS).store(1, Ordering::Relaxed);
        let door = (shared.area() == 0).then(|| shared.clone());
        shared.set(at::USER_AREA, if door.is_some() { SHARED } else { 0 });
        for way in [at::SYSCALL_WAY, at::SYSRET_WAY, at::IRET_WAY] {
            shared.set(way, stub::entries().hypercall);
        }
        shared.set(at::VMCALL_SLOW, 1);
        // Ring 3 does not decide about interrupts.
        shared.set(at::STOP, door.is_none().into());
        shared.word(at::TURN).store(turn::CHILD, Ordering::SeqCst);
        let ram_size = ram
            .metadata()
            .map_err(|source| EngineError::Host { what: "cannot ask for the size of guest RAM", source })?
            .len();
        let (keys, reader) = match &door {
            Some(_) => (None, None),
            None => Keys::new().map(|(keys, reader)| (Some(keys), Some(reader))).map_err(|source| {
                EngineError::Host { what: "cannot make a pipe to the guest's process", source }
            })?,
        };
        let process = spawn::spawn(&shared, ram, text, reader, address_space(ram_size))?;
        let mut child = Self {
            process,
            place,
            shared,
            waiting: Waiting::Hypercall,
            requests: Vec::new(),
            sent: 0,
            resume: None,
            door,
            keys,
            at_large: false,
        };
        child.place.update(child.process.pid());
        child.await_report()?;
        if child.shared.word(at::EVENT).load(Ordering::Relaxed) != event::BOOT {
            return Err(crash("its process did not start as it should"));
        }
        boot::boot(&mut child, start)?;
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

    /// Whether its area, which its program can read, holds its key.
    #[cfg(test)]
    pub(super) fn shows_its_key(&self) -> bool {
        let mut area = vec![0; super::layout::SHARED_SIZE as usize];
        self.shared.read(0, &mut area);
        let holds = |half: u32| area.windows(4).any(|bytes| bytes == half.to_le_bytes());
        self.keys.as_ref().is_some_and(|keys| keys.secret().into_iter().any(holds))
    }

    /// The child's process id, for tests.
    #[cfg(test)]
    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// To be called when the vCPU begins to run: the engine's thread may be on another CPU than before.
    pub(super) fn settle(&mut self) {
        self.place.update(self.process.pid());
    }

    /// Puts a system call on the list of what is executed before it goes on.
    pub(super) fn request(&mut self, number: i64, arguments: [u64; 6]) -> Result<(), EngineError> {
        let most = self.keys.as_ref().map_or(at::REQUESTS_MOST, Keys::most);
        if self.sent + self.requests.len() >= most {
            self.flush()?;
        }
        let [a, b, c, d, e, f] = arguments;
        self.requests.push([number as u64, a, b, c, d, e, f]);
        Ok(())
    }

    /// Whether the list has entries.
    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Has the stub execute the list now.
    pub(super) fn flush(&mut self) -> Result<(), EngineError> {
        if self.requests.is_empty() && self.sent == 0 {
            return Ok(());
        }
        if self.is_keyed() { self.confine() } else { self.trip(0) }
    }

    /// Has the stub execute these commands, and the list, and waits for its answer. Registers are not touched.
    pub(super) fn trip(&mut self, commands: u32) -> Result<(), EngineError> {
        if self.is_keyed() && self.has_requests() {
            self.confine()?;
        }
        self.round(commands)?;
        self.check_results()
    }

    /// As [`Self::flush`], for requests that some hosts refuse: what the first of them that was refused was told.
    fn try_flush(&mut self) -> Result<Result<(), std::io::Error>, EngineError> {
        self.round(0)?;
        Ok(self.results())
    }

    /// As [`Self::flush`], for requests that may fail.
    fn trip_unchecked(&mut self) -> Result<(), EngineError> {
        self.round(0)?;
        self.sent = 0;
        Ok(())
    }

    fn round(&mut self, commands: u32) -> Result<(), EngineError> {
        self.release(commands | command::REPORT)?;
        self.await_report()?;
        if self.shared.word(at::EVENT).load(Ordering::Relaxed) != event::DONE {
            return Err(crash("its process did not answer a request as it should"));
        }
        Ok(())
    }

    /// Lets the child go on.
    pub(super) fn release(&mut self, commands: u32) -> Result<(), EngineError> {
        self.hand_over(commands)?;
        self.wake();
        Ok(())
    }

    /// As [`Self::release`], but for waking it if it sleeps.
    pub(super) fn hand_over(&mut self, commands: u32) -> Result<(), EngineError> {
        if self.is_keyed() {
            debug_assert!(self.requests.is_empty(), "a user's requests go before it does");
            self.at_large |= commands & command::REPORT == 0;
            self.shared.put_word(at::REQUEST_COUNT, self.sent as u32);
        } else {
            self.write_requests();
        }
        self.shared.put_word(at::COMMAND, commands);
        self.shared.put_word(at::KICK, 0);
        if let Some((rip, flags)) = self.resume.take() {
            self.shared.put(at::RIP, rip);
            self.shared.put(at::RFLAGS, flags);
        }
        if commands & command::REPORT == 0 {
            // Should it come to wait for another than the engine, it does so outside of signal handlers.
            self.waiting = Waiting::Hypercall;
        }
        self.shared.word(at::TURN).store(turn::CHILD, Ordering::SeqCst);
        Ok(())
    }

    /// Whether it sleeps, or is about to.
    pub(super) fn is_asleep(&self) -> bool {
        let word = self.shared.word(at::CHILD_ASLEEP);
        word.load(Ordering::SeqCst) != 0
    }

    /// Wakes it if it sleeps.
    pub(super) fn wake(&self) {
        if !self.is_asleep() {
            return;
        }
        match &self.door {
            Some(door) => {
                door.word(at::DOOR).store(1, Ordering::SeqCst);
                futex::wake(door.word(at::DOOR));
            }
            None => futex::wake(self.shared.word(at::TURN)),
        }
    }

    /// Adds the list of requests to what the stub executes when it goes on next.
    fn write_requests(&mut self) {
        // What the last release sent was executed before the child reported, or still waits: all of it.
        let executed = self.sent == 0 || self.shared.word(at::REQUEST_COUNT).load(Ordering::Relaxed) == 0;
        let first = if executed { 0 } else { self.sent };
        for (i, request) in self.requests.iter().enumerate() {
            let base = at::REQUESTS + at::REQUEST_SIZE * (first + i) as u64;
            for (j, &value) in request.iter().enumerate() {
                self.shared.set(base + 8 * j as u64, value);
            }
        }
        self.sent = first + self.requests.len();
        self.requests.clear();
        self.shared.put_word(at::REQUEST_COUNT, self.sent as u32);
    }

    #[inline]
    fn turn(&self) -> u32 {
        self.shared.word(at::TURN).load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn has_reported(&self) -> bool {
        self.turn() == turn::ENGINE
    }

    /// Waits for a report that must come: the stub is at work, or the child was told to stop.
    pub(super) fn await_report(&mut self) -> Result<(), EngineError> {
        let start = Instant::now();
        let ticks = tsc::read();
        while !self.has_reported() {
            if tsc::read().wrapping_sub(ticks) < self.place.look_ticks() {
                std::hint::spin_loop();
                continue;
            }
            let asleep = self.shared.word(at::ENGINE_ASLEEP);
            asleep.store(1, Ordering::SeqCst);
            if !self.has_reported() {
                futex::wait(asleep, 1, Some(LIFE_CHECK));
            }
            asleep.store(0, Ordering::SeqCst);
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
        self.process.signal(super::layout::KICK_SIGNAL);
    }

    /// An error if it has ended.
    pub(super) fn check_alive(&self) -> Result<(), EngineError> {
        Err(crash(&match self.process.end() {
            None => return Ok(()),
            // A user's process ends itself where a request with a key was refused.
            Some(End::Signal(libc::SIGILL)) if let Some(error) = self.refusal() => return Err(refused(error)),
            Some(End::Signal(libc::SIGKILL)) => {
                "its process was killed from outside (SIGKILL): by a person, or by the host for want of memory".into()
            }
            Some(End::Signal(signal)) => format!(
                "its process was ended by signal {signal}: it damaged the monitor's part of its address space"
            ),
            Some(End::Status(status)) => format!("its process ended with status {status}"),
            Some(End::Unknown) => "its process ended, and the host did not keep the reason".into(),
        }))
    }

    /// What the host told the first of the requests that it refused.
    fn refusal(&self) -> Option<std::io::Error> {
        (0..self.sent as u64)
            .map(|i| self.shared.get(at::REQUESTS + at::REQUEST_SIZE * i + 56) as i64)
            .find(|result| (-4095..0).contains(result))
            .map(|error| std::io::Error::from_raw_os_error(-error as i32))
    }

    fn results(&mut self) -> Result<(), std::io::Error> {
        let refusal = self.refusal();
        self.sent = 0;
        refusal.map_or(Ok(()), Err)
    }

    fn check_results(&mut self) -> Result<(), EngineError> {
        self.results().map_err(refused)
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

/// Whether programs may use RDFSBASE and its kin (bit 1 of AT_HWCAP2).
pub(super) fn has_fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

fn no_area(source: std::io::Error) -> EngineError {
    EngineError::Host { what: "cannot make the area shared with the guest's process", source }
}

/// The error of a mapping that the host refused.
fn refused(error: std::io::Error) -> EngineError {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => crash(
            "it has mapped more memory than its process is allowed (address space or number of mappings)",
        ),
        _ => crash(&format!("the host refused a mapping in its process: {error}")),
    }
}

/// The error of a guest that broke its containment.
pub(super) fn crash(what: &str) -> EngineError {
    EngineError::GuestCrash(what.to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
#[path = "host_tests.rs"]
mod host_tests;
