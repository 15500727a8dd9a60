//! What GDB asks of a guest.
use super::described::{Block, Described, X86};
use super::motion::{Motion, Plan, cpu_of, tid_of};
use super::registers;
use crate::arch::{CpuState, Gva};
use crate::debugger::error::DebuggerError;
use crate::debugger::memory::Space;
use crate::debugger::session::Session;
use crate::debugger::view::cpus;
use crate::engine::{self, VcpuId, Watch};
use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// POSIX' EFAULT and EINVAL, which GDB shows by number.
const FAULT: u8 = 14;
const INVALID: u8 = 22;

/// A session as GDB's target.
pub(super) struct Guest<'a> {
    pub(super) session: &'a mut Session,
    /// Addresses of GDB's breakpoints; one that is set twice is here twice.
    pub(super) breakpoints: Vec<Gva>,
    pub(super) motion: Motion,
    pub(super) plan: Plan,
    /// The run under way was cut off to look for what GDB says.
    pub(super) cut_off: bool,
    pub(super) asked: bool,
    /// GDB wants the guest to stop while it goes back.
    pub(super) called: Arc<AtomicBool>,
    /// What GDB is told of the CPU.
    pub(super) described: Described,
    /// What each CPU does, as GDB's list of threads was told last.
    doing: Vec<&'static str>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(session: &'a mut Session, described: Described) -> Self {
        Self {
            session,
            breakpoints: Vec::new(),
            motion: Motion::Run(None),
            plan: Plan::default(),
            cut_off: false,
            asked: false,
            called: Arc::default(),
            described,
            doing: Vec::new(),
        }
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

    fn watch(&mut self) -> TargetResult<bool, Self> {
        self.session.tell_watches().map(|()| true).map_err(|_| TargetError::Errno(INVALID))
    }

    /// The state of the CPU that GDB asks about, which `monitor` is about from then on, too.
    fn state(&mut self, tid: Tid) -> TargetResult<CpuState, Self> {
        self.asked = true;
        let cpu = self.cpu(tid).ok_or(TargetError::Errno(INVALID))?;
        self.session.turn_to(cpu);
        self.session.state().map_err(TargetError::Fatal)
    }

    /// The CPU of a thread, if there is one.
    pub(super) fn cpu(&self, tid: Tid) -> Option<VcpuId> {
        self.session.machine.platform().vcpus().find(|cpu| tid_of(*cpu) == tid)
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
    type Arch = X86;
    type Error = DebuggerError;

    fn base_ops(&mut self) -> BaseOps<'_, X86, DebuggerError> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest<'_> {
    fn read_registers(&mut self, block: &mut Block, tid: Tid) -> TargetResult<(), Self> {
        let registers = registers::of_state(&self.state(tid)?);
        *block = Block { described: self.described, registers };
        Ok(())
    }

    fn write_registers(&mut self, block: &Block, tid: Tid) -> TargetResult<(), Self> {
        let mut state = self.state(tid)?;
        registers::block_into_state(block, &mut state).map_err(|_| TargetError::Errno(INVALID))?;
        let cpu = self.session.cpu;
        self.session.machine.set_state_of(cpu, &state).map_err(|_| TargetError::Errno(INVALID))?;
        self.session.begin_anew();
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let state = self.state(tid)?;
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

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let state = self.state(tid)?;
        let fits = start.checked_add(data.len().saturating_sub(1) as u64).is_some();
        let written = fits && self.session.memory(&state).write(Space::Virtual, start, data);
        if written {
            self.session.begin_anew();
        }
        written.then_some(()).ok_or(TargetError::Errno(FAULT))
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), DebuggerError> {
        self.doing.clear();
        for cpu in self.session.machine.platform().vcpus() {
            self.doing.push(cpus::activity(self.session.machine.state_of(cpu)?.activity));
            thread_is_active(tid_of(cpu));
        }
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Guest<'_> {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, DebuggerError> {
        let cpu = cpu_of(tid);
        let doing = self.doing.get(usize::from(cpu.0)).copied().unwrap_or_default();
        let text = format!("CPU {} [{doing}]", cpu.0);
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl TargetDescriptionXmlOverride for Guest<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::Errno(FAULT));
        }
        let xml = self.described.xml();
        let rest =
            usize::try_from(offset).ok().and_then(|offset| xml.as_bytes().get(offset..)).unwrap_or_default();
        let length = length.min(rest.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
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

fn ours(kind: WatchKind) -> engine::WatchKind {
    match kind {
        WatchKind::Write => engine::WatchKind::Write,
        WatchKind::Read => engine::WatchKind::Read,
        WatchKind::ReadWrite => engine::WatchKind::Access,
    }
}
