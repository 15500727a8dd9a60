//! What GDB asks of a guest.
use super::registers;
use crate::arch::{CpuState, Gva};
use crate::debugger::command::{self, Command};
use crate::debugger::error::DebuggerError;
use crate::debugger::memory::Space;
use crate::debugger::motion::Outcome;
use crate::debugger::session::Session;
use crate::engine::{self, Watch, WatchHit};
use crate::machine::{Limits, Stop};
use gdbstub::common::Signal;
use gdbstub::outputln;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use std::time::Duration;

/// POSIX' EFAULT and EINVAL, which GDB shows by number.
const FAULT: u8 = 14;
const INVALID: u8 = 22;

type Reason = SingleThreadStopReason<u64>;

const RECORDING_ENDS: Reason = Reason::ReplayLog { tid: None, pos: ReplayLogPosition::End };

/// A session as GDB's target.
pub(super) struct Guest<'a> {
    session: &'a mut Session,
    /// Addresses of GDB's breakpoints; one that is set twice is here twice.
    breakpoints: Vec<Gva>,
    motion: Motion,
    /// The run under way was cut off to look for what GDB says.
    cut_off: bool,
    asked: bool,
}

/// How GDB wants the guest to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Motion {
    Run,
    Step,
    RunBack,
    StepBack,
}

impl<'a> Guest<'a> {
    pub(super) fn new(session: &'a mut Session) -> Self {
        Self { session, breakpoints: Vec::new(), motion: Motion::Run, cut_off: false, asked: false }
    }

    /// Whether anything was asked of the guest.
    pub(super) fn was_asked(&self) -> bool {
        self.asked
    }

    /// Takes GDB's breakpoints and watchpoints away.
    pub(super) fn leave(&mut self) -> Result<(), DebuggerError> {
        self.breakpoints.clear();
        self.session.watched.clear();
        self.session.tell_watches()?;
        self.session.tell_breakpoints(&[])
    }

    /// Does what [`SingleThreadResume`] was told, for so long at most. `None`: the guest has not stopped.
    pub(super) fn go(&mut self, most: Duration) -> Result<Option<Reason>, DebuggerError> {
        match self.motion {
            Motion::Run => return self.run(most),
            Motion::RunBack | Motion::StepBack => return self.go_back().map(Some),
            Motion::Step => {}
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

    /// Runs the guest for so long at most.
    pub(super) fn run(&mut self, most: Duration) -> Result<Option<Reason>, DebuggerError> {
        if let Some(reason) = self.ended() {
            return Ok(Some(reason));
        }
        let goes_on = self.cut_off;
        let limits = Limits { timeout: Some(most), interruptible: true, goes_on, ..Limits::default() };
        let stop = self.timed(|session| session.run_guest(&limits))?;
        self.cut_off = stop == Stop::Timeout;
        Ok(self.reason(stop))
    }

    /// Goes back as GDB said.
    fn go_back(&mut self) -> Result<Reason, DebuggerError> {
        let outcome = match self.motion {
            Motion::StepBack => self.session.turn_back()?,
            _ => self.session.run_back(&self.breakpoints)?,
        };
        self.session.tell_breakpoints(&self.breakpoints)?;
        Ok(match outcome {
            Outcome::Beginning => Reason::ReplayLog { tid: None, pos: ReplayLogPosition::Begin },
            Outcome::Interrupted => Reason::Signal(Signal::SIGINT),
            Outcome::Watched(hit, _) => watched(&hit),
            _ if self.motion == Motion::StepBack => Reason::DoneStep,
            _ => Reason::SwBreak(()),
        })
    }

    fn watch(&mut self) -> TargetResult<bool, Self> {
        self.session.tell_watches().map(|()| true).map_err(|_| TargetError::Errno(INVALID))
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

    fn reason(&mut self, stop: Stop) -> Option<Reason> {
        Some(match stop {
            Stop::Position if self.session.is_at_end() => RECORDING_ENDS,
            Stop::Timeout | Stop::Paused | Stop::Position | Stop::Called => return None,
            Stop::Stepped => Reason::DoneStep,
            Stop::Breakpoint(_) => Reason::SwBreak(()),
            Stop::Caught(event) => {
                // GDB has no word for it; 'monitor info break' tells.
                let _told_there = self.session.caught(&event);
                Reason::Signal(Signal::SIGTRAP)
            }
            Stop::Watched(hit) => watched(&hit),
            Stop::Interrupted => Reason::Signal(Signal::SIGINT),
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

    fn state(&mut self) -> TargetResult<CpuState, Self> {
        self.asked = true;
        self.session.machine.state().map_err(|error| TargetError::Fatal(error.into()))
    }

    fn tell_breakpoints(&mut self) -> TargetResult<bool, Self> {
        match self.session.tell_breakpoints(&self.breakpoints) {
            Ok(()) => Ok(true),
            Err(_) => Err(TargetError::Errno(INVALID)),
        }
    }

    fn set(&mut self, at: u64) -> TargetResult<bool, Self> {
        self.breakpoints.push(Gva(at));
        self.tell_breakpoints().inspect_err(|_| {
            self.breakpoints.pop();
        })
    }

    fn clear(&mut self, at: u64) -> TargetResult<bool, Self> {
        let Some(place) = self.breakpoints.iter().position(|&other| other == Gva(at)) else {
            return Ok(false);
        };
        self.breakpoints.swap_remove(place);
        self.tell_breakpoints()
    }
}

impl Target for Guest<'_> {
    type Arch = X86_64_SSE;
    type Error = DebuggerError;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64_SSE, DebuggerError> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Guest<'_> {
    fn read_registers(&mut self, registers: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        *registers = registers::of_state(&self.state()?);
        Ok(())
    }

    fn write_registers(&mut self, registers: &X86_64CoreRegs) -> TargetResult<(), Self> {
        let mut state = self.state()?;
        registers::into_state(registers, &mut state).map_err(|_| TargetError::Errno(INVALID))?;
        self.session.machine.set_state(&state).map_err(|_| TargetError::Errno(INVALID))?;
        self.session.begin_anew();
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let state = self.state()?;
        // Behind the last address there is nothing.
        let room = usize::try_from(u64::MAX - start).unwrap_or(usize::MAX).saturating_add(1);
        let length = data.len().min(room);
        let bytes = self.session.memory(&state).read_prefix(Space::Virtual, start, length);
        if bytes.is_empty() && !data.is_empty() {
            return Err(TargetError::Errno(FAULT));
        }
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Self> {
        let state = self.state()?;
        let fits = start.checked_add(data.len().saturating_sub(1) as u64).is_some();
        let written = fits && self.session.memory(&state).write(Space::Virtual, start, data);
        if written {
            self.session.begin_anew();
        }
        written.then_some(()).ok_or(TargetError::Errno(FAULT))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Guest<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), DebuggerError> {
        (self.motion, self.cut_off, self.asked) = (Motion::Run, false, true);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    // GDB says by itself that a target cannot do what it does not offer.
    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        if self.session.timeline.is_some() { Some(self) } else { None }
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        if self.session.timeline.is_some() { Some(self) } else { None }
    }
}

impl SingleThreadSingleStep for Guest<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), DebuggerError> {
        self.motion = Motion::Step;
        Ok(())
    }
}

impl ReverseStep<()> for Guest<'_> {
    fn reverse_step(&mut self, (): ()) -> Result<(), DebuggerError> {
        (self.motion, self.asked) = (Motion::StepBack, true);
        Ok(())
    }
}

impl ReverseCont<()> for Guest<'_> {
    fn reverse_cont(&mut self) -> Result<(), DebuggerError> {
        (self.motion, self.asked) = (Motion::RunBack, true);
        Ok(())
    }
}

impl Breakpoints for Guest<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

// None of ours is written into the guest's code, so both kinds are the same.
impl SwBreakpoint for Guest<'_> {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.set(at)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.clear(at)
    }
}

impl HwBreakpoint for Guest<'_> {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.set(at)
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.clear(at)
    }
}

impl HwWatchpoint for Guest<'_> {
    fn add_hw_watchpoint(&mut self, at: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        self.session.watched.push(Watch { at: Gva(at), length, kind: ours(kind) });
        self.watch().inspect_err(|_| {
            self.session.watched.pop();
        })
    }

    fn remove_hw_watchpoint(&mut self, at: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watch = Watch { at: Gva(at), length, kind: ours(kind) };
        let Some(place) = self.session.watched.iter().position(|&other| other == watch) else {
            return Ok(false);
        };
        self.session.watched.remove(place);
        self.watch()
    }
}

impl MonitorCmd for Guest<'_> {
    /// The session's own commands, as far as the guest stays where it is: GDB would not learn that it had moved.
    fn handle_monitor_cmd(&mut self, line: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), DebuggerError> {
        let line = String::from_utf8_lossy(line);
        let answer = match command::parse(&line) {
            Ok(None) => Ok(String::new()),
            Ok(Some(command)) if stays(&command) => {
                let answer = self.session.execute(&command).map(|reply| reply.text);
                // The session knows its own breakpoints, and we GDB's.
                answer.and_then(|text| self.session.tell_breakpoints(&self.breakpoints).map(|()| text))
            }
            Ok(Some(_)) => Ok("this is GDB's to do; 'monitor help' lists what only looks, too".to_owned()),
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(text) => outputln!(out, "{text}"),
            Err(error) => outputln!(out, "{error}"),
        }
        Ok(())
    }
}

fn ours(kind: WatchKind) -> engine::WatchKind {
    match kind {
        WatchKind::Write => engine::WatchKind::Write,
        WatchKind::Read => engine::WatchKind::Read,
        WatchKind::ReadWrite => engine::WatchKind::Access,
    }
}

/// A stop behind an access.
fn watched(hit: &WatchHit) -> Reason {
    let kind = match hit.kind {
        engine::WatchKind::Write => WatchKind::Write,
        engine::WatchKind::Read => WatchKind::Read,
        engine::WatchKind::Access => WatchKind::ReadWrite,
    };
    Reason::Watch { tid: (), kind, addr: hit.at.0 }
}

fn stays(command: &Command) -> bool {
    use Command as C;
    matches!(
        command,
        C::Registers(_)
            | C::Register(_)
            | C::Print(_)
            | C::Examine { .. }
            | C::Memory { .. }
            | C::Disassemble { .. }
            | C::Walk(_)
            | C::Trace(_)
            | C::Stats
            | C::Sites(_)
            | C::Gdt
            | C::Idt
            | C::Backtrace
            | C::Symbols(_)
            | C::Mode(_)
            | C::Catch { .. }
            | C::Breakpoints
            | C::Delete(_)
            | C::Help(_)
    )
}
