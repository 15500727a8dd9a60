//! The CPUs of a guest with several: which one commands are about, and which one stopped.
use super::error::DebuggerError;
use super::memory::linear_rip;
use super::session::{Reply, Session};
use super::view::cpus::{self, Cpu, Cpus};
use super::view::{Hex, stats};
use crate::arch::CpuState;
use crate::engine::VcpuId;
use crate::machine::Stop;
use serde_json::json;

impl Session {
    /// The state of the CPU that commands are about.
    pub(super) fn state(&mut self) -> Result<CpuState, DebuggerError> {
        Ok(self.machine.state_of(self.cpu)?)
    }

    /// Whether there is another CPU to tell this one from.
    pub(super) fn has_several_cpus(&self) -> bool {
        self.machine.platform().vcpus().len() > 1
    }

    /// From now on commands are about this CPU.
    pub(super) fn turn_to(&mut self, cpu: VcpuId) {
        if cpu != self.cpu {
            self.cpu = cpu;
            // Counted by CPU.
            self.counted = stats::Counts::default();
        }
    }

    /// After a run or step: commands are about the CPU that met something.
    pub(super) fn turn_to_stopped(&mut self, stop: Stop) {
        if matches!(stop, Stop::Breakpoint(_) | Stop::Watched(_) | Stop::Caught(_)) {
            self.turn_to(self.machine.stopped_cpu());
        }
    }

    /// `cpus`.
    pub(super) fn list_cpus(&mut self) -> Result<Reply, DebuggerError> {
        let mut list = Vec::new();
        for id in self.machine.platform().vcpus() {
            let state = self.machine.state_of(id)?;
            let at = linear_rip(&state);
            list.push(Cpu {
                number: id.0,
                selected: id == self.cpu,
                activity: cpus::activity(state.activity),
                bits: state.code_bits(),
                ring: state.cpl(),
                address: Hex(at),
                symbol: self.symbols.label(at),
            });
        }
        Ok(Reply::view(&Cpus { cpus: list }))
    }

    /// `cpu N`.
    pub(super) fn select_cpu(&mut self, number: u64) -> Result<Reply, DebuggerError> {
        let found = self.machine.platform().vcpus().find(|id| u64::from(id.0) == number);
        let last = self.machine.platform().vcpus().len() as u64 - 1;
        self.turn_to(found.ok_or(DebuggerError::NoCpu { number, last })?);
        let place = self.location()?;
        let mut reply = Reply::view(&place);
        reply.text = format!("CPU {}\n{place}", self.cpu.0);
        reply.data["cpu"] = json!(self.cpu.0);
        Ok(reply)
    }
}
