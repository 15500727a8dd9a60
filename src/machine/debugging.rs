//! What a debugger asks of a machine that stands: a CPU's state, one step, where runs are to stop, and which CPU stopped one.
//!
//! Two CPUs may meet something at the same time. The first stop is told; the others are kept and told by the next runs, one
//! each, if they still hold then. A CPU that stands at a breakpoint that was told goes on from it; the others, which were
//! only halted for company, stop at one at their first instruction, too. Each runs for a moment before a run is over.
use super::run::{self, Limits, Stop};
use super::{BOOT_CPU, Machine, MachineError};
use crate::arch::{CpuState, Gva};
use crate::engine::{Catch, Vcpu, VcpuId, Watch};
use std::collections::VecDeque;

/// A CPU's stop that was not told yet, and what was.
#[derive(Debug)]
pub(super) struct Stops {
    /// Which CPU stopped the last run or step.
    by: VcpuId,
    /// What others met meanwhile.
    kept: VecDeque<(VcpuId, Stop)>,
    /// Of each CPU, where it stands if that was told and it has not moved since.
    told: Vec<Option<Place>>,
    breakpoints: Vec<Gva>,
    watches: bool,
}

/// Where a CPU stands, so that moving shows.
type Place = (u64, [u64; 16]);

fn place(state: &CpuState) -> Place {
    (state.linear_rip(), state.gpr)
}

impl Stops {
    pub(super) fn new(cpus: usize) -> Self {
        let (kept, breakpoints) = (VecDeque::new(), Vec::new());
        Self { by: BOOT_CPU, kept, told: vec![None; cpus], breakpoints, watches: false }
    }

    /// The CPUs are in other states: what was met is past.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
        self.told.fill(None);
        self.by = BOOT_CPU;
    }

    /// As [`Self::forget`] for one CPU, but for what it did to the whole machine.
    fn forget_cpu(&mut self, cpu: VcpuId) {
        self.kept.retain(|(by, stop)| *by != cpu || !stop.is_at_a_place());
    }
}

impl Stop {
    /// Whether it is about where one CPU stands.
    pub(super) const fn is_at_a_place(&self) -> bool {
        matches!(self, Self::Breakpoint(_) | Self::Watched(_) | Self::Caught(_) | Self::Stepped)
    }
}

impl Machine {
    fn vcpu(&mut self, cpu: VcpuId) -> &mut dyn Vcpu {
        match usize::from(cpu.0).checked_sub(1) {
            Some(other) if other < self.executor.others.len() => self.executor.others[other].as_mut(),
            _ => self.executor.vcpu.as_mut(),
        }
    }

    /// Which CPU stopped the last run or step; the boot CPU if none did.
    #[must_use]
    pub fn stopped_cpu(&self) -> VcpuId {
        self.stops.by
    }

    /// Runs until something ends it.
    ///
    /// # Errors
    /// [`MachineError`]: the machine cannot go on.
    pub fn run(&mut self, limits: &Limits) -> Result<Stop, MachineError> {
        if let Some(stop) = self.next_kept(limits)? {
            return Ok(stop);
        }
        let several = !self.executor.others.is_empty();
        for (vcpu, told) in self.executor.vcpus().zip(&self.stops.told) {
            // With one, whoever runs it knows whether it goes on.
            let goes_on = if several { told.is_none() } else { limits.goes_on };
            if goes_on && let Some(debug) = vcpu.as_debug() {
                debug.go_on();
            }
        }
        let vcpus = self.platform.vcpus().zip(self.executor.vcpus().map(Box::as_mut));
        let vcpus = vcpus.filter(|(id, _)| limits.only.is_none_or(|only| only == *id));
        let ended =
            run::run(vcpus, &self.platform, (&self.host_timers, &self.pause), self.outlet.as_ref(), limits)?;
        self.stops.by = ended.by;
        self.stops.kept.extend(ended.later);
        if several {
            for id in self.platform.vcpus() {
                let stood = self.stops.told[usize::from(id.0)].take();
                let stops = id == ended.by && ended.stop.is_at_a_place();
                if stops || stood.is_some() {
                    let now = place(&self.state_of(id)?);
                    self.stops.told[usize::from(id.0)] = (stops || stood == Some(now)).then_some(now);
                }
            }
        }
        Ok(ended.stop)
    }

    /// The next stop that was not told when it came, if it still holds.
    fn next_kept(&mut self, limits: &Limits) -> Result<Option<Stop>, MachineError> {
        let concerns = |(by, _): &(VcpuId, Stop)| limits.only.is_none_or(|only| only == *by);
        while let Some(number) = self.stops.kept.iter().position(concerns) {
            let Some((by, stop)) = self.stops.kept.remove(number) else { break };
            let state = self.state_of(by)?;
            let holds = match stop {
                Stop::Breakpoint(at) => state.linear_rip() == at.0 && self.stops.breakpoints.contains(&at),
                Stop::Watched(_) => self.stops.watches,
                Stop::Caught(_) => self.platform.trace().catches(),
                _ => true,
            };
            if holds {
                self.stops.by = by;
                self.stops.told[usize::from(by.0)] = Some(place(&state));
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    /// Executes one instruction of a CPU, or enters the handler of an interrupt that waits for it; other CPUs stand
    /// meanwhile. Timers of that CPU that are due fire first.
    ///
    /// A CPU that has halted stays so, without waiting, until a later step finds an interrupt: a person at a prompt is
    /// not to be held up by a guest that nothing will wake. Where time is counted in instructions, a halted CPU's step
    /// takes the clock to the next deadline, because no instruction would.
    ///
    /// # Errors
    /// [`MachineError`], also if the mode cannot step.
    pub fn step_of(&mut self, cpu: VcpuId) -> Result<Stop, MachineError> {
        let pair = self.pair();
        let platform = std::sync::Arc::clone(&self.platform);
        self.stops.forget_cpu(cpu);
        self.stops.by = cpu;
        let stop = run::step(self.vcpu(cpu), &platform, cpu)?.ok_or(MachineError::NoDebug(pair))?;
        if platform.vcpus().len() > 1 {
            let now = place(&self.state_of(cpu)?);
            self.stops.told[usize::from(cpu.0)] = Some(now);
        }
        Ok(stop)
    }

    /// [`Self::step_of`] the boot CPU.
    ///
    /// # Errors
    /// As there.
    pub fn step(&mut self) -> Result<Stop, MachineError> {
        self.step_of(BOOT_CPU)
    }

    /// Replaces the set of breakpoints, at which each CPU stops the machine.
    ///
    /// # Errors
    /// [`MachineError`], also if the mode has none.
    pub fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), MachineError> {
        let pair = self.pair();
        for vcpu in self.executor.vcpus() {
            vcpu.as_debug().ok_or(MachineError::NoDebug(pair))?.set_breakpoints(at)?;
        }
        self.stops.breakpoints = at.to_vec();
        Ok(())
    }

    /// Replaces what is watched of the CPUs' accesses. Runs and steps end behind an instruction that made one.
    ///
    /// # Errors
    /// [`MachineError`], also if the mode cannot watch.
    pub fn set_watches(&mut self, watches: &[Watch]) -> Result<(), MachineError> {
        let pair = self.pair();
        for vcpu in self.executor.vcpus() {
            match vcpu.as_debug() {
                Some(debug) => debug.set_watches(watches)?,
                None if watches.is_empty() => {}
                None => return Err(MachineError::NoDebug(pair)),
            }
        }
        self.stops.watches = !watches.is_empty();
        Ok(())
    }

    /// From now on events that one of `catches` matches stop the machine; no others. The CPU that made the event stands
    /// behind its instruction, or before the first one of the handler that it entered.
    pub fn catch_events(&self, catches: Vec<Catch>) {
        let kicks = self.platform.vcpus().map(|cpu| std::sync::Arc::clone(self.platform.kick(cpu)));
        self.platform.trace().catch(catches, kicks.collect());
    }

    /// A CPU's architectural state.
    ///
    /// # Errors
    /// When the host does not hand it out.
    pub fn state_of(&mut self, cpu: VcpuId) -> Result<CpuState, MachineError> {
        Ok(self.vcpu(cpu).save()?)
    }

    /// Replaces a CPU's architectural state.
    ///
    /// # Errors
    /// When the host refuses it.
    pub fn set_state_of(&mut self, cpu: VcpuId, state: &CpuState) -> Result<(), MachineError> {
        self.stops.forget_cpu(cpu);
        Ok(self.vcpu(cpu).load(state)?)
    }

    /// The boot CPU's architectural state.
    ///
    /// # Errors
    /// When the host does not hand it out.
    pub fn state(&mut self) -> Result<CpuState, MachineError> {
        self.state_of(BOOT_CPU)
    }

    /// Replaces the boot CPU's architectural state.
    ///
    /// # Errors
    /// When the host refuses it.
    pub fn set_state(&mut self, state: &CpuState) -> Result<(), MachineError> {
        self.set_state_of(BOOT_CPU, state)
    }
}
