//! The loop around each vCPU: run, wait while it halts, stop for a person, a deadline or the guest itself.
//!
//! The boot CPU's thread is the caller's; each other vCPU has one of its own while a run lasts. Deadlines reach the thread
//! whose vCPU's queue they are in, by a host timer that raises its kick cell; a further thread watches for time-out and
//! Ctrl-C. Whoever finds a reason to stop notes it, if it is the first, and kicks all vCPUs: each comes out at its next
//! instruction boundary, and the run ends when all have.
use super::{BOOT_CPU, MachineError};
use crate::arch::{Activity, CpuState, Gva};
use crate::clock::{Clock, ClockSource, Nanos, Timer, TimerClient};
use crate::engine::{
    Account, Cause, DebugEvent, Event, EventKind, Exit, KickCell, Platform, Vcpu, VcpuId, WatchHit,
};
use crate::host::console::Outlet;
use crate::sys::deadline::DeadlineTimer;
use crate::sys::signal::{self, Bound};
use crossbeam_channel::{RecvTimeoutError, bounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What ends a run beside the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// At most so long, host time.
    pub timeout: Option<Duration>,
    /// Ctrl-C and SIGTERM stop the run (see [`signal::catch_interrupts`]).
    pub interruptible: bool,
    /// At most so long, guest time.
    pub pause_after: Option<Duration>,
    /// Up to this position (see [`crate::engine::Progress`]), where the machine counts turns.
    pub until: Option<u64>,
    /// The run goes on with one that a limit cut off: a breakpoint at its first instruction counts, too.
    pub goes_on: bool,
    /// This CPU runs alone; the others stand.
    pub only: Option<VcpuId>,
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
    /// [`Limits::pause_after`] was over.
    Paused,
    /// At [`Limits::until`].
    Position,
    /// By a [`super::Bell`].
    Called,
    /// Behind an access to what is watched.
    Watched(WatchHit),
    /// At a breakpoint.
    Breakpoint(Gva),
    /// An event that was to be caught ([`super::Machine::catch_events`]).
    Caught(Event),
    /// One instruction was executed.
    Stepped,
}

impl Stop {
    /// What [`Stop::TripleFault`] is, in words.
    pub const CRASHED: &'static str = "the guest crashed: an exception could not be delivered, nor the double fault after it (triple fault)";

    /// What the guest wrote to isa-debug-exit, which makes `(value << 1) | 1` of it, the status of [`Stop::PowerOff`].
    #[must_use]
    pub const fn value_of(status: u32) -> u32 {
        status >> 1
    }
}

/// How often the watcher looks for Ctrl-C: a person does not notice, and it costs nothing.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// How long each vCPU runs at least, where another one is at a breakpoint at once.
const MOMENT: Duration = Duration::from_micros(200);
/// How long that is waited for on a busy host.
const LATEST: Duration = Duration::from_millis(50);

/// The host timers that stand at the next deadlines of the vCPUs' queues, while a run lasts.
pub(super) struct HostTimers(Vec<Arc<Mutex<Option<DeadlineTimer>>>>);

impl HostTimers {
    /// Lets the platform's timer queues set the host timers. With a counted clock the engine itself stops at deadlines.
    pub(super) fn observe(platform: &Arc<Platform>) -> Self {
        let observed = |vcpu| {
            let slot = Arc::new(Mutex::new(None));
            if platform.clock().source() == ClockSource::Real {
                let timer = Arc::clone(&slot);
                let weak: Weak<Platform> = Arc::downgrade(platform);
                platform.timers_of(vcpu).observe(move |deadline| {
                    if let Some(platform) = weak.upgrade() {
                        arm(&timer, &platform, deadline);
                    }
                });
            }
            slot
        };
        Self(platform.vcpus().map(observed).collect())
    }

    /// Makes the timer of a vCPU, whose thread is the calling one, and sets it to what is due next.
    fn start(&self, platform: &Platform, vcpu: VcpuId) -> Result<(), MachineError> {
        if platform.clock().source() != ClockSource::Real {
            return Ok(());
        }
        let slot = &self.0[usize::from(vcpu.0)];
        let timer = DeadlineTimer::for_current_thread()
            .map_err(|source| MachineError::Host { what: "cannot create a timer", source })?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
        if let Some(deadline) = platform.timers_of(vcpu).next_deadline() {
            arm(slot, platform, deadline);
        }
        Ok(())
    }

    fn stop(&self) {
        for slot in &self.0 {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
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

/// Ends a run at a guest time: a deadline in the boot CPU's queue beside those of the devices.
pub(super) struct Pause {
    timer: Timer,
    due: Arc<AtomicBool>,
    asked: Asked,
    /// The queue keeps no client alive.
    _client: Arc<Mutex<PauseClient>>,
}

/// Whether somebody asks for the end of a run, from outside.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    flag: Arc<AtomicBool>,
    kick: Arc<KickCell>,
}

impl Asked {
    pub(super) fn ask(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.kick.kick();
    }
}

struct PauseClient {
    due: Arc<AtomicBool>,
    kick: Arc<KickCell>,
}

impl TimerClient for PauseClient {
    fn timer_fired(&mut self, _: Nanos) {
        self.due.store(true, Ordering::SeqCst);
        self.kick.kick();
    }
}

impl Pause {
    pub(super) fn new(platform: &Platform) -> Self {
        let timer = platform.add_timer();
        let due = Arc::default();
        let kick = Arc::clone(platform.kick(BOOT_CPU));
        let asked = Asked { flag: Arc::default(), kick: Arc::clone(&kick) };
        let client = Arc::new(Mutex::new(PauseClient { due: Arc::clone(&due), kick }));
        timer.connect(&(Arc::clone(&client) as Arc<Mutex<dyn TimerClient>>));
        Self { timer, due, asked, _client: client }
    }

    /// Arms it for a run that begins now.
    fn begin(&self, clock: &Clock, after: Option<Duration>) {
        self.due.store(false, Ordering::SeqCst);
        // A call that came while nothing ran, or too late for the last run.
        if self.asked.flag.load(Ordering::SeqCst) {
            self.asked.kick.kick();
        }
        if let Some(after) = after {
            self.timer.arm(clock.now().after(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)));
        }
    }

    pub(super) fn asked(&self) -> Asked {
        self.asked.clone()
    }

    fn takes_call(&self) -> bool {
        self.asked.flag.swap(false, Ordering::SeqCst)
    }

    fn is_due(&self) -> bool {
        self.due.load(Ordering::SeqCst)
    }
}

/// One run of all vCPUs.
struct Run<'a> {
    platform: &'a Platform,
    host_timers: &'a HostTimers,
    pause: &'a Pause,
    /// There is a reason to stop.
    ends: AtomicBool,
    reasons: Mutex<Reasons>,
    /// When each vCPU began that has.
    begun: Mutex<Vec<Instant>>,
    /// How many there are.
    vcpus: usize,
}

/// Why a run stops.
#[derive(Default)]
struct Reasons {
    /// Whose reason came first; nobody's if it came from outside.
    first: Option<(Option<VcpuId>, Result<Stop, MachineError>)>,
    /// What other CPUs met before they stood.
    later: Vec<(VcpuId, Stop)>,
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) stop: Stop,
    /// Which CPU stopped it; the boot CPU if none did.
    pub(super) by: VcpuId,
    /// What other CPUs met before they stood.
    pub(super) later: Vec<(VcpuId, Stop)>,
}

impl Run<'_> {
    /// Stops all vCPUs, for this reason if there is none yet, or only a limit: what a guest did comes once.
    fn stop(&self, by: Option<VcpuId>, reason: Result<Stop, MachineError>) {
        let is_limit = |reason: &Result<Stop, MachineError>| {
            matches!(
                reason,
                Ok(Stop::Timeout | Stop::Interrupted | Stop::Paused | Stop::Position | Stop::Called)
            )
        };
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = reasons.first.as_ref().is_none_or(|(_, first)| is_limit(first));
        if limited && !(reasons.first.is_some() && is_limit(&reason)) {
            reasons.first = Some((by, reason));
        } else if let (Some(by), Ok(stop)) = (by, reason)
            && !is_limit(&Ok(stop))
        {
            reasons.later.push((by, stop));
        }
        drop(reasons);
        self.stop_all();
    }

    /// Waits until the other vCPUs have run for a moment. One that meets breakpoints in quick succession, and waits for another
    /// one to do something, would else keep it from ever doing that.
    fn let_others_go(&self) {
        let waits = Instant::now();
        while self.vcpus > 1 && !self.ends.load(Ordering::SeqCst) && waits.elapsed() < LATEST {
            let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            if begun.len() == self.vcpus && begun.iter().all(|began| began.elapsed() >= MOMENT) {
                return;
            }
            drop(begun);
            std::thread::sleep(MOMENT / 2);
        }
    }

    fn stop_all(&self) {
        self.ends.store(true, Ordering::SeqCst);
        for vcpu in self.platform.vcpus() {
            self.platform.kick(vcpu).kick();
        }
    }

    /// Runs a vCPU on the calling thread until the run ends, for a reason of its own or another's.
    fn drive(&self, vcpu: &mut dyn Vcpu, id: VcpuId) {
        // A thread that panics must not leave the others running.
        let all = StopsAll(self);
        let ended = bind(self.platform, id).and_then(|_bound| {
            self.host_timers.start(self.platform, id)?;
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            let ledger = self.platform.counters(id).ledger();
            ledger.begin();
            let ended = drive(vcpu, self.platform, id, (&self.ends, self.pause));
            ledger.end();
            ended
        });
        match ended {
            Ok(None) => {}
            Ok(Some(stop)) => {
                if stop.is_at_a_place() {
                    self.let_others_go();
                }
                self.stop(Some(id), Ok(stop));
            }
            Err(error) => self.stop(Some(id), Err(error)),
        }
        std::mem::forget(all);
    }
}

/// Stops all vCPUs when it is dropped.
struct StopsAll<'a>(&'a Run<'a>);

impl Drop for StopsAll<'_> {
    fn drop(&mut self) {
        self.0.stop_all();
    }
}

/// Runs these vCPUs, the first of them on the calling thread.
pub(super) fn run<'v>(
    vcpus: impl Iterator<Item = (VcpuId, &'v mut (dyn Vcpu + 'static))>,
    platform: &Platform,
    (host_timers, pause): (&HostTimers, &Pause),
    outlet: Option<&Outlet>,
    limits: &Limits,
) -> Result<Ended, MachineError> {
    // Time may have stood.
    platform.renew_clock_page();
    platform.trace().forget_caught();
    pause.begin(platform.clock(), limits.pause_after);
    platform.progress().set_target(limits.until);
    let vcpus: Vec<_> = vcpus.collect();
    let run = Run {
        platform,
        host_timers,
        pause,
        ends: AtomicBool::new(false),
        reasons: Mutex::default(),
        begun: Mutex::default(),
        vcpus: vcpus.len(),
    };
    std::thread::scope(|scope| {
        let run = &run;
        // Dropping the sender ends the watcher.
        let (_running, ended) = bounded::<()>(0);
        if limits.timeout.is_some() || limits.interruptible || outlet.is_some() {
            scope.spawn(move || {
                if let Some(reason) = watch(limits, outlet, &ended) {
                    // The vCPU's thread may wait for the console's reader.
                    if let Some(outlet) = outlet {
                        outlet.abandon();
                    }
                    run.stop(None, reason);
                }
            });
        }
        let mut vcpus = vcpus.into_iter();
        let first = vcpus.next();
        let mut threads = Vec::new();
        for (id, vcpu) in vcpus {
            let thread = std::thread::Builder::new().name(format!("vcpu {}", id.0));
            match thread.spawn_scoped(scope, move || run.drive(vcpu, id)) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    run.stop(
                        None,
                        Err(MachineError::Host { what: "cannot start a thread for a vCPU", source }),
                    );
                }
            }
        }
        if let Some((id, vcpu)) = first {
            run.drive(vcpu, id);
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    host_timers.stop();
    pause.timer.cancel();
    platform.progress().set_target(None);
    for vcpu in platform.vcpus() {
        // A kick that came too late for this run must not end the next one.
        platform.kick(vcpu).take_leave();
    }
    let Reasons { first, later } = run.reasons.into_inner().unwrap_or_else(PoisonError::into_inner);
    // A vCPU ends for no other reason.
    let (by, stop) = first.unwrap_or((None, Ok(Stop::Interrupted)));
    Ok(Ended { stop: stop?, by: by.unwrap_or(BOOT_CPU), later })
}

/// Waits for a reason to end the run; there is none if the run ended by itself.
fn watch(
    limits: &Limits,
    outlet: Option<&Outlet>,
    ended: &crossbeam_channel::Receiver<()>,
) -> Option<Result<Stop, MachineError>> {
    let start = Instant::now();
    loop {
        let left = limits.timeout.map(|t| t.saturating_sub(start.elapsed()));
        let pause = left.map_or(WATCH_INTERVAL, |l| l.min(WATCH_INTERVAL));
        if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
        if let Some(reason) = from_outside(limits, outlet, start) {
            return Some(reason);
        }
    }
}

/// A reason to end a run that began at `start` which does not come from the guest, if there is one.
pub(super) fn from_outside(
    limits: &Limits,
    outlet: Option<&Outlet>,
    start: Instant,
) -> Option<Result<Stop, MachineError>> {
    if limits.interruptible && signal::interrupted() {
        return Some(Ok(Stop::Interrupted));
    }
    if limits.timeout.is_some_and(|t| start.elapsed() >= t) {
        return Some(Ok(Stop::Timeout));
    }
    outlet.is_some_and(|o| o.failure().is_some()).then_some(Err(MachineError::Unheard))
}

/// Runs one vCPU; `None` if it was asked to stop because the run `ends`.
fn drive(
    vcpu: &mut dyn Vcpu,
    platform: &Platform,
    id: VcpuId,
    (ends, pause): (&AtomicBool, &Pause),
) -> Result<Option<Stop>, MachineError> {
    // Deadlines may have passed while the machine stood still.
    platform.kick(id).poke();
    loop {
        let exit = vcpu.run(platform)?;
        platform.counters(id).ledger().leaves_engine();
        let stop = match exit {
            Exit::Halted => {
                wait_for_interrupt(platform, id);
                continue;
            }
            Exit::Kicked => match platform.trace().take_caught(platform.kick(id)) {
                Some(event) => Stop::Caught(event),
                None if ends.load(Ordering::SeqCst) => return Ok(None),
                None if id == BOOT_CPU && pause.is_due() => Stop::Paused,
                None if id == BOOT_CPU && pause.takes_call() => Stop::Called,
                None => {
                    go_on(vcpu);
                    continue;
                }
            },
            // The boot CPU begins where the firmware would, which is gone: the machine begins anew.
            Exit::Init if id == BOOT_CPU => Stop::Reset,
            Exit::Init => {
                take_init(vcpu)?;
                continue;
            }
            Exit::StartUp(vector) => {
                take_start_up(vcpu, vector)?;
                // Its first instruction may be at a breakpoint.
                go_on(vcpu);
                continue;
            }
            Exit::Debug(DebugEvent::Step) => Stop::Stepped,
            Exit::Debug(DebugEvent::Breakpoint(at)) => Stop::Breakpoint(at),
            Exit::Debug(DebugEvent::Position) => Stop::Position,
            Exit::Debug(DebugEvent::Watched(hit)) => Stop::Watched(hit),
            Exit::PowerOff(status) => Stop::PowerOff(status),
            Exit::Reset => Stop::Reset,
            Exit::TripleFault => Stop::TripleFault,
        };
        return Ok(Some(stop));
    }
}

/// The vCPU's next run goes on with the one before.
fn go_on(vcpu: &mut dyn Vcpu) {
    if let Some(debug) = vcpu.as_debug() {
        debug.go_on();
    }
}

fn take_init(vcpu: &mut dyn Vcpu) -> Result<(), MachineError> {
    let state = vcpu.save()?.after_init();
    Ok(vcpu.load(&CpuState { activity: Activity::WaitsForStartUp, ..state })?)
}

fn take_start_up(vcpu: &mut dyn Vcpu, vector: u8) -> Result<(), MachineError> {
    let mut state = vcpu.save()?;
    if state.activity == Activity::WaitsForStartUp {
        state.start_up(vector);
        vcpu.load(&state)?;
    }
    Ok(())
}

/// One step of [`super::Machine::step_of`]; `None` if the mode cannot step.
pub(super) fn step(
    vcpu: &mut dyn Vcpu,
    platform: &Platform,
    id: VcpuId,
) -> Result<Option<Stop>, MachineError> {
    let _bound = bind(platform, id)?;
    // Makes the engine look at deadlines. No host timer is needed beside it: a step is over at once, and the next one
    // looks again.
    platform.kick(id).poke();
    platform.trace().forget_caught();
    let Some(debug) = vcpu.as_debug() else { return Ok(None) };
    let exit = debug.step(platform)?;
    if let Some(event) = platform.trace().take_caught(platform.kick(id)) {
        // The kick that came with it is not for the next step.
        platform.kick(id).take_leave();
        if matches!(exit, Exit::Debug(DebugEvent::Step) | Exit::Kicked | Exit::Halted) {
            return Ok(Some(Stop::Caught(event)));
        }
    }
    Ok(Some(match exit {
        Exit::Debug(DebugEvent::Step | DebugEvent::Position) | Exit::Kicked => Stop::Stepped,
        Exit::Halted => {
            skip_to_next_deadline(platform);
            Stop::Stepped
        }
        Exit::Debug(DebugEvent::Breakpoint(at)) => Stop::Breakpoint(at),
        Exit::Debug(DebugEvent::Watched(hit)) => Stop::Watched(hit),
        Exit::PowerOff(status) => Stop::PowerOff(status),
        Exit::Init if id != BOOT_CPU => {
            take_init(vcpu)?;
            Stop::Stepped
        }
        Exit::Reset | Exit::Init => Stop::Reset,
        Exit::StartUp(vector) => {
            take_start_up(vcpu, vector)?;
            Stop::Stepped
        }
        Exit::TripleFault => Stop::TripleFault,
    }))
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
        platform.count_turn();
        kick.poke();
    }
    true
}

/// The CPU has halted, or waits for a start-up message: sleep until its kick cell is raised, or, with a counted clock, go
/// to the next deadline at once.
fn wait_for_interrupt(platform: &Platform, id: VcpuId) {
    platform.counters(id).count(Cause::Idle);
    platform.trace().record(EventKind::Halt, 0, 0, 0);
    if !skip_to_next_deadline(platform) {
        let _idle = platform.counters(id).ledger().charge(Account::Idle);
        platform.kick(id).wait(None);
    }
}
