//! How the guest moves as GDB says, and why it stopped.
use super::target::Guest;
use crate::debugger::error::DebuggerError;
use crate::debugger::motion::Outcome;
use crate::debugger::session::Session;
use crate::engine::{self, VcpuId, WatchHit};
use crate::machine::{Limits, Stop};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::multithread::{
    MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::breakpoints::WatchKind;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) type Reason = MultiThreadStopReason<u64>;

const RECORDING_ENDS: Reason = Reason::ReplayLog { tid: None, pos: ReplayLogPosition::End };

/// How GDB wants the guest to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Motion {
    /// All CPUs run, or one alone.
    Run(Option<VcpuId>),
    /// One CPU makes a step; the others stand.
    Step(VcpuId),
    RunBack,
    StepBack,
}

/// What GDB has said of the next motion so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Plan {
    steps: Option<VcpuId>,
    runs: Option<VcpuId>,
    others_stand: bool,
}

/// GDB counts threads from 1.
pub(super) fn tid_of(cpu: VcpuId) -> Tid {
    NonZeroUsize::MIN.saturating_add(cpu.0.into())
}

pub(super) fn cpu_of(tid: Tid) -> VcpuId {
    VcpuId(u8::try_from(tid.get() - 1).unwrap_or(u8::MAX))
}

impl Guest<'_> {
    /// Does what [`MultiThreadResume`] was told, for so long at most. `None`: the guest has not stopped.
    pub(super) fn go(&mut self, most: Duration) -> Result<Option<Reason>, DebuggerError> {
        match self.motion {
            Motion::Run(only) => return self.run(most, only),
            Motion::RunBack | Motion::StepBack => return self.go_back().map(Some),
            Motion::Step(cpu) => self.session.turn_to(cpu),
        }
        if let Some(reason) = self.ended() {
            return Ok(Some(reason));
        }
        if self.session.is_at_end() {
            return Ok(Some(RECORDING_ENDS));
        }
        let stop = self.timed(Session::step_guest)?;
        Ok(self.reason(stop))
    }

    /// Runs the guest, or one CPU of it, for so long at most.
    pub(super) fn run(
        &mut self,
        most: Duration,
        only: Option<VcpuId>,
    ) -> Result<Option<Reason>, DebuggerError> {
        if let Some(reason) = self.ended() {
            return Ok(Some(reason));
        }
        let goes_on = self.cut_off;
        let limits = Limits { timeout: Some(most), interruptible: true, goes_on, only, ..Limits::default() };
        let stop = self.timed(|session| session.run_guest(&limits))?;
        self.cut_off = stop == Stop::Timeout;
        Ok(self.reason(stop))
    }

    /// Goes back as GDB said.
    fn go_back(&mut self) -> Result<Reason, DebuggerError> {
        self.called.store(false, Ordering::Relaxed);
        let outcome = match self.motion {
            Motion::StepBack => self.session.turn_back()?,
            _ => self.session.run_back(&self.breakpoints)?,
        };
        self.session.tell_breakpoints(&self.breakpoints)?;
        Ok(match outcome {
            Outcome::Beginning => Reason::ReplayLog { tid: None, pos: ReplayLogPosition::Begin },
            Outcome::Interrupted => self.signal(Signal::SIGINT),
            Outcome::Watched(hit, _) => self.watched(&hit),
            _ if self.motion == Motion::StepBack => self.signal(Signal::SIGTRAP),
            _ => Reason::SwBreak(tid_of(self.session.cpu)),
        })
    }

    fn timed<T>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T, DebuggerError>,
    ) -> Result<T, DebuggerError> {
        self.session.machine.platform().clock().resume();
        let result = work(self.session);
        self.session.machine.platform().clock().pause();
        result
    }

    /// A guest that has ended does not run.
    fn ended(&self) -> Option<Reason> {
        self.session.ended.as_ref().map(|_| Reason::Terminated(Signal::SIGKILL))
    }

    /// A signal of the CPU that GDB looks at.
    pub(super) fn signal(&self, signal: Signal) -> Reason {
        Reason::SignalWithThread { tid: tid_of(self.session.cpu), signal }
    }

    fn watched(&self, hit: &WatchHit) -> Reason {
        let kind = match hit.kind {
            engine::WatchKind::Write => WatchKind::Write,
            engine::WatchKind::Read => WatchKind::Read,
            engine::WatchKind::Access => WatchKind::ReadWrite,
        };
        Reason::Watch { tid: tid_of(self.session.cpu), kind, addr: hit.at.0 }
    }

    fn reason(&mut self, stop: Stop) -> Option<Reason> {
        self.session.turn_to_stopped(stop);
        Some(match stop {
            Stop::Position if self.session.is_at_end() => RECORDING_ENDS,
            Stop::Timeout | Stop::Paused | Stop::Position | Stop::Called => return None,
            Stop::Stepped => self.signal(Signal::SIGTRAP),
            Stop::Breakpoint(_) => Reason::SwBreak(tid_of(self.session.cpu)),
            Stop::Caught(event) => {
                // GDB has no word for it; 'monitor info break' tells.
                let _told_there = self.session.caught(&event);
                self.signal(Signal::SIGTRAP)
            }
            Stop::Watched(hit) => self.watched(&hit),
            Stop::Interrupted => self.signal(Signal::SIGINT),
            stop => {
                let (why, reason) = match stop {
                    Stop::PowerOff(status) => {
                        ("the guest switched off", Reason::Exited(Stop::value_of(status) as u8))
                    }
                    Stop::TripleFault => {
                        ("the guest crashed (triple fault)", Reason::Terminated(Signal::SIGSEGV))
                    }
                    _ => ("the guest asked for a reset", Reason::Terminated(Signal::SIGHUP)),
                };
                self.session.ended = Some(why.to_owned());
                reason
            }
        })
    }
}

impl MultiThreadResume for Guest<'_> {
    fn resume(&mut self) -> Result<(), DebuggerError> {
        self.motion = match self.plan {
            Plan { steps: Some(cpu), .. } => Motion::Step(cpu),
            Plan { others_stand: true, runs, .. } => Motion::Run(runs),
            Plan { .. } => Motion::Run(None),
        };
        (self.cut_off, self.asked) = (false, true);
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), DebuggerError> {
        self.plan = Plan::default();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), DebuggerError> {
        self.plan.runs = self.cpu(tid);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    // GDB says by itself that a target cannot do what it does not offer.
    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        if self.session.timeline.is_some() { Some(self) } else { None }
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        if self.session.timeline.is_some() { Some(self) } else { None }
    }
}

impl MultiThreadSingleStep for Guest<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), DebuggerError> {
        self.plan.steps = self.cpu(tid);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Guest<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), DebuggerError> {
        self.plan.others_stand = true;
        Ok(())
    }
}

impl ReverseStep<Tid> for Guest<'_> {
    fn reverse_step(&mut self, _: Tid) -> Result<(), DebuggerError> {
        (self.motion, self.asked) = (Motion::StepBack, true);
        Ok(())
    }
}

impl ReverseCont<Tid> for Guest<'_> {
    fn reverse_cont(&mut self) -> Result<(), DebuggerError> {
        (self.motion, self.asked) = (Motion::RunBack, true);
        Ok(())
    }
}
