//! What GDB asks of a guest.
use super::registers;
use crate::arch::{CpuState, Gva};
use crate::debugger::command::{self, Command};
use crate::debugger::error::DebuggerError;
use crate::debugger::memory::Space;
use crate::debugger::session::Session;
use crate::machine::{Limits, Stop};
use gdbstub::common::Signal;
use gdbstub::outputln;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, SwBreakpoint, SwBreakpointOps,
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

/// A session as GDB's target.
pub(super) struct Guest<'a> {
    session: &'a mut Session,
    /// Addresses of GDB's breakpoints; one that is set twice is here twice.
    breakpoints: Vec<Gva>,
    steps: bool,
    asked: bool,
}

impl<'a> Guest<'a> {
    pub(super) fn new(session: &'a mut Session) -> Self {
        Self { session, breakpoints: Vec::new(), steps: false, asked: false }
    }

    /// Whether anything was asked of the guest.
    pub(super) fn was_asked(&self) -> bool {
        self.asked
    }

    /// Takes GDB's breakpoints away.
    pub(super) fn leave(&mut self) -> Result<(), DebuggerError> {
        self.breakpoints.clear();
        self.session.tell_breakpoints(&[])
    }

    /// Does what [`SingleThreadResume`] was told, for so long at most. `None`: the guest has not stopped.
    pub(super) fn go(&mut self, most: Duration) -> Result<Option<Reason>, DebuggerError> {
        if !self.steps {
            return self.run(most);
        }
        if let Some(reason) = self.ended() {
            return Ok(Some(reason));
        }
        let stop = self.timed(|session| Ok(session.machine.step()?))?;
        Ok(self.reason(stop))
    }

    /// Runs the guest for so long at most.
    pub(super) fn run(&mut self, most: Duration) -> Result<Option<Reason>, DebuggerError> {
        if let Some(reason) = self.ended() {
            return Ok(Some(reason));
        }
        let limits = Limits { timeout: Some(most), interruptible: true, pause_after: None };
        let stop = self.timed(|session| Ok(session.machine.run(&limits)?))?;
        Ok(self.reason(stop))
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
            Stop::Timeout | Stop::Paused => return None,
            Stop::Stepped => Reason::DoneStep,
            Stop::Breakpoint(_) => Reason::SwBreak(()),
            Stop::Caught(event) => {
                // GDB has no word for it; 'monitor info break' tells.
                let _told_there = self.session.caught(&event);
                Reason::Signal(Signal::SIGTRAP)
            }
            Stop::Interrupted => Reason::Signal(Signal::SIGINT),
            stop => {
                let (why, reason) = match stop {
                    // isa-debug-exit makes (value << 1) | 1 of what the guest wrote.
                    Stop::PowerOff(status) => ("the guest switched off", Reason::Exited((status >> 1) as u8)),
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
        self.session.machine.set_state(&state).map_err(|_| TargetError::Errno(INVALID))
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
        written.then_some(()).ok_or(TargetError::Errno(FAULT))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Guest<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), DebuggerError> {
        (self.steps, self.asked) = (false, true);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Guest<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), DebuggerError> {
        self.steps = true;
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
