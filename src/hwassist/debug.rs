//! Steps and breakpoints.
//!
//! A step is one instruction of [`crate::emulator::single`] between a save and a load: exact at every privilege level
//! and on every host, where KVM's own single-step trap runs into handlers, shows TF in pushed flags and stops late
//! after HLT (`docs/decisions/kvm-02-debugging.md`). Up to four breakpoints are the CPU's: the guest runs at its own
//! speed until one is hit. More of them, or a KVM that does not obey its debug registers, are found by stepping.
use super::vcpu::KvmVcpu;
use super::{host, is_pvm};
use crate::arch::Gva;
use crate::engine::{DebugEvent, DebugVcpu, EngineError, Exit, Platform, Vcpu};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};

/// Breakpoint registers of the CPU: DR0–DR3.
const REGISTERS: usize = 4;
/// DR7 with no breakpoint on: bit 10 always reads as one (SDM vol. 3B, 18.2.4).
const DR7_NONE: u64 = 0x400;

/// Where the guest is to stop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Stops {
    /// Nowhere.
    #[default]
    None,
    /// At the addresses that the CPU's registers hold.
    Hardware(Vec<u64>),
    /// At these, looked for after each instruction.
    Stepping(Vec<u64>),
}

fn guest_debug(at: &[u64]) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    if !at.is_empty() {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = DR7_NONE;
        for (i, &address) in at.iter().enumerate().take(REGISTERS) {
            debug.arch.debugreg[i] = address;
            // Global enable; condition and length 0: execution.
            debug.arch.debugreg[7] |= 2 << (2 * i);
        }
    }
    debug
}

impl KvmVcpu {
    /// Runs by steps until something ends it; the first instruction is executed even if it is at a breakpoint.
    fn run_by_steps(&mut self, platform: &Platform, at: &[u64]) -> Result<Exit, EngineError> {
        let mut state = self.save()?;
        self.forget_single();
        let ended = loop {
            match self.single().step_vcpu(&mut state, platform) {
                Ok(Exit::Debug(DebugEvent::Step)) if at.contains(&state.rip) => {
                    break Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(state.rip))));
                }
                Ok(Exit::Debug(DebugEvent::Step)) => {}
                other => break other,
            }
        };
        self.load(&state)?;
        self.catch_up(platform)?;
        ended
    }

    /// `run` where events are to be met that KVM keeps to itself.
    pub(super) fn run_seeing_all(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let at = match &self.stops {
            Stops::None => vec![],
            Stops::Hardware(at) | Stops::Stepping(at) => at.clone(),
        };
        self.run_by_steps(platform, &at)
    }

    /// `run` with breakpoints.
    pub(super) fn run_to_breakpoint(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        match self.stops.clone() {
            Stops::None => self.run_freely(platform),
            Stops::Stepping(at) => self.run_by_steps(platform, &at),
            Stops::Hardware(at) => {
                let rip = self.fd.get_regs().map_err(host("cannot read the registers of a vCPU"))?.rip;
                if at.contains(&rip) {
                    let exit = self.step(platform)?;
                    if exit != Exit::Debug(DebugEvent::Step) {
                        return Ok(exit);
                    }
                    let rip = self.fd.get_regs().map_err(host("cannot read the registers of a vCPU"))?.rip;
                    if at.contains(&rip) {
                        return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(rip))));
                    }
                }
                self.run_freely(platform)
            }
        }
    }
}

impl DebugVcpu for KvmVcpu {
    fn step(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut state = self.save()?;
        self.forget_single();
        let exit = self.single().step_vcpu(&mut state, platform);
        self.load(&state)?;
        self.catch_up(platform)?;
        exit
    }

    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError> {
        let mut at: Vec<u64> = at.iter().map(|gva| gva.0).collect();
        at.sort_unstable();
        at.dedup();
        let stops = match at.len() {
            0 => Stops::None,
            1..=REGISTERS if !is_pvm() => Stops::Hardware(at),
            _ => Stops::Stepping(at),
        };
        let registers: &[u64] = match &stops {
            Stops::Hardware(at) => at,
            _ => &[],
        };
        self.fd.set_guest_debug(&guest_debug(registers)).map_err(host("KVM refuses breakpoints"))?;
        self.stops = stops;
        Ok(())
    }

    fn interprets_with_breakpoints(&self) -> bool {
        is_pvm() || matches!(self.stops, Stops::Stepping(_))
    }
}
