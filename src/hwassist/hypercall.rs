//! Hypercalls: KVM answers VMCALL itself, so they come by a port, which the hypercall page writes to.
//!
//! Page-table entries that we write for the guest are no writes of the guest's to KVM: where it keeps shadows of page tables,
//! nothing tells it. So it is made to forget all translations ([`super::vm::Shared::forget_translations`]); that is slow,
//! and right on every host.
use super::vcpu::{KvmVcpu, Next};
use super::{host, is_pvm};
use crate::arch::state::gpr;
use crate::arch::{Width, layout};
use crate::engine::{Cause, EngineError, Exit, Hypercalls, Platform};
use std::sync::Arc;

impl KvmVcpu {
    /// Makes the call for which the guest has written to the port.
    pub(super) fn explicit_call(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        let counters = Arc::clone(platform.counters(self.id));
        // The instruction first: the state is then at the next one.
        while self.unfinished {
            self.fd.set_kvm_immediate_exit(1);
            match self.enter(platform, &counters)? {
                Next::Enter | Next::Interrupted => {}
                other => return self.follow(other, platform),
            }
        }
        let mut state = self.save_state()?;
        let cr3 = state.cr3;
        // kvm_pvm drops the offset of the TSC.
        let adjust = if is_pvm() { 0 } else { state.msrs.tsc_adjust };
        let Some(stale) = platform.hypercall(&mut state, adjust) else {
            let value = state.gpr[gpr::RAX] as u32;
            platform.pio_write(self.id, layout::HYPERCALL, Width::B4, value);
            return Ok(None);
        };
        counters.count(Cause::Hypercall);
        let mut regs = self.fd.get_regs().map_err(host("cannot read the registers of a vCPU"))?;
        regs.rax = state.gpr[gpr::RAX];
        self.fd.set_regs(&regs).map_err(host("cannot write the registers of a vCPU"))?;
        if state.cr3 != cr3 {
            let mut sregs = self.fd.get_sregs().map_err(host("cannot read the registers of a vCPU"))?;
            sregs.cr3 = state.cr3;
            self.fd.set_sregs(&sregs).map_err(host("cannot write the registers of a vCPU"))?;
        }
        if stale.everything || !stale.pages.is_empty() {
            self.shared.forget_translations()?;
        }
        Ok(None)
    }

    /// `single` has executed something, perhaps a hypercall.
    pub(super) fn catch_up(&self, platform: &Platform) -> Result<(), EngineError> {
        if platform.hypercalls().is_some_and(Hypercalls::come_by_port) {
            self.shared.forget_translations()?;
        }
        Ok(())
    }
}
