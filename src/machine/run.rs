//! The loop around a vCPU: run, wait while it halts, stop for a person, a deadline or the guest itself.
//!
//! The vCPU's thread is the caller's. Device deadlines reach it by a host timer that raises its kick cell; a second
//! thread watches for time-out and Ctrl-C and kicks.
use super::{BOOT_CPU, MachineError};
use crate::arch::Gva;
use crate::clock::{ClockSource, Nanos};
use crate::engine::{Cause, DebugEvent, DebugVcpu, EventKind, Exit, Platform, Vcpu, VcpuId};
use crate::host::console::Outlet;
use crate::sys::deadline::DeadlineTimer;
use crate::sys::signal::{self, Bound};
use crossbeam_channel::{RecvTimeoutError, bounded};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What ends a run beside the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// At most so long, host time.
    pub timeout: Option<Duration>,
    /// Ctrl-C and SIGTERM stop the run (see [`signal::catch_interrupts`]).
    pub interruptible: bool,
}

/// Why a run stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The guest switched off, with this status.
    PowerOff(u32),
    /// The guest asked for a reset.
    Reset,
    /// The guest could not take an exception.
    TripleFault,
    /// [`Limits::timeout`] was over.
    Timeout,
    /// Ctrl-C or SIGTERM; [`signal::interruption`] says which.
    Interrupted,
    /// At a breakpoint.
    Breakpoint(Gva),
    /// One instruction was executed.
    Stepped,
}

/// How often the watcher looks for Ctrl-C: a person does not notice, and it costs nothing.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

const GOING: u8 = 0;
const TIMED_OUT: u8 = 1;
const INTERRUPTED: u8 = 2;
const UNHEARD: u8 = 3;

/// The host timer that stands at the devices' next deadline, while a run lasts.
pub(super) struct HostTimer(Arc<Mutex<Option<DeadlineTimer>>>);

impl HostTimer {
    /// Lets the platform's timer queue set the host timer. With a counted clock the engine itself stops at deadlines.
    pub(super) fn observe(platform: &Arc<Platform>) -> Self {
        let slot = Arc::new(Mutex::new(None));
        if platform.clock().source() == ClockSource::Real {
            let timer = Arc::clone(&slot);
            let weak: Weak<Platform> = Arc::downgrade(platform);
            platform.timers().observe(move |deadline| {
                if let Some(platform) = weak.upgrade() {
                    arm(&timer, &platform, deadline);
                }
            });
        }
        Self(slot)
    }

    /// Makes the timer for the calling thread and sets it to what is due next.
    fn start(&self, platform: &Platform) -> Result<(), MachineError> {
        if platform.clock().source() != ClockSource::Real {
            return Ok(());
        }
        let timer = DeadlineTimer::for_current_thread()
            .map_err(|source| MachineError::Host { what: "cannot create a timer", source })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
        if let Some(deadline) = platform.timers().next_deadline() {
            arm(&self.0, platform, deadline);
        }
        Ok(())
    }

    fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn arm(timer: &Mutex<Option<DeadlineTimer>>, platform: &Platform, deadline: Nanos) {
    if let Some(timer) = timer.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        timer.arm(Some(Duration::from_nanos(deadline.since(platform.clock().now()))));
    }
}

fn bind(platform: &Platform, vcpu: VcpuId) -> Result<Bound, MachineError> {
    platform
        .kick(vcpu)
        .bind()
        .map_err(|source| MachineError::Host { what: "cannot install the kick signal's handler", source })
}

pub(super) fn run(
    vcpu: &mut dyn Vcpu,
    platform: &Platform,
    host_timer: &HostTimer,
    outlet: Option<&Outlet>,
    limits: &Limits,
) -> Result<Stop, MachineError> {
    let _bound = bind(platform, BOOT_CPU)?;
    host_timer.start(platform)?;
    // Time may have stood.
    platform.renew_clock_page();
    let verdict = AtomicU8::new(GOING);
    let result = std::thread::scope(|scope| {
        // Dropping the sender ends the watcher.
        let (_running, ended) = bounded::<()>(0);
        if limits.timeout.is_some() || limits.interruptible || outlet.is_some() {
            let verdict = &verdict;
            scope.spawn(move || {
                if let Some(reason) = watch(limits, outlet, &ended) {
                    verdict.store(reason, Ordering::SeqCst);
                    // The vCPU's thread may wait for the console's reader.
                    if let Some(outlet) = outlet {
                        outlet.abandon();
                    }
                    platform.kick(BOOT_CPU).kick();
                }
            });
        }
        drive(vcpu, platform, &verdict)
    });
    host_timer.stop();
    // A kick that came too late for this run must not end the next one.
    platform.kick(BOOT_CPU).take_leave();
    result
}

/// Waits for a reason to end the run; there is none if the run ended by itself.
fn watch(limits: &Limits, outlet: Option<&Outlet>, ended: &crossbeam_channel::Receiver<()>) -> Option<u8> {
    let start = Instant::now();
    loop {
        let left = limits.timeout.map(|t| t.saturating_sub(start.elapsed()));
        let pause = left.map_or(WATCH_INTERVAL, |l| l.min(WATCH_INTERVAL));
        if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
        if limits.interruptible && signal::interrupted() {
            return Some(INTERRUPTED);
        }
        if limits.timeout.is_some_and(|t| start.elapsed() >= t) {
            return Some(TIMED_OUT);
        }
        if outlet.is_some_and(|o| o.failure().is_some()) {
            return Some(UNHEARD);
        }
    }
}

fn drive(vcpu: &mut dyn Vcpu, platform: &Platform, verdict: &AtomicU8) -> Result<Stop, MachineError> {
    // Deadlines may have passed while the machine stood still.
    platform.kick(BOOT_CPU).poke();
    loop {
        match vcpu.run(platform)? {
            Exit::Halted => wait_for_interrupt(platform),
            Exit::Kicked => match verdict.load(Ordering::SeqCst) {
                TIMED_OUT => return Ok(Stop::Timeout),
                INTERRUPTED => return Ok(Stop::Interrupted),
                UNHEARD => return Err(MachineError::Unheard),
                _ => {}
            },
            Exit::Debug(DebugEvent::Step) => return Ok(Stop::Stepped),
            Exit::Debug(DebugEvent::Breakpoint(at)) => return Ok(Stop::Breakpoint(at)),
            Exit::PowerOff(status) => return Ok(Stop::PowerOff(status)),
            Exit::Reset => return Ok(Stop::Reset),
            Exit::TripleFault => return Ok(Stop::TripleFault),
        }
    }
}

/// One step of [`super::Machine::step`].
pub(super) fn step(vcpu: &mut dyn DebugVcpu, platform: &Platform) -> Result<Stop, MachineError> {
    let _bound = bind(platform, BOOT_CPU)?;
    // Makes the engine look at deadlines. No host timer is needed beside it: a step is over at once, and the next one
    // looks again.
    platform.kick(BOOT_CPU).poke();
    Ok(match vcpu.step(platform)? {
        Exit::Debug(DebugEvent::Step) | Exit::Kicked => Stop::Stepped,
        Exit::Halted => {
            skip_to_next_deadline(platform);
            Stop::Stepped
        }
        Exit::Debug(DebugEvent::Breakpoint(at)) => Stop::Breakpoint(at),
        Exit::PowerOff(status) => Stop::PowerOff(status),
        Exit::Reset => Stop::Reset,
        Exit::TripleFault => Stop::TripleFault,
    })
}

/// With a counted clock, takes a halted CPU's time to the next deadline and says that it did.
fn skip_to_next_deadline(platform: &Platform) -> bool {
    let (ClockSource::Counted { .. }, Some(deadline)) =
        (platform.clock().source(), platform.timers().next_deadline())
    else {
        return false;
    };
    let kick = platform.kick(BOOT_CPU);
    if !kick.is_raised() {
        platform.clock().skip_to(deadline);
        kick.poke();
    }
    true
}

/// The CPU has halted: sleep until its kick cell is raised, or, with a counted clock, go to the next deadline at once.
fn wait_for_interrupt(platform: &Platform) {
    platform.counters(BOOT_CPU).count(Cause::Idle);
    platform.trace().record(EventKind::Halt, 0, 0, 0);
    if !skip_to_next_deadline(platform) {
        platform.kick(BOOT_CPU).wait(None);
    }
}
