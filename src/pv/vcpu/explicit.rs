//! VMCALL: the mirror is brought in step once for all that a hypercall changed, and what it mapped is mapped at once.
use super::PvVcpu;
use crate::arch::Rflags;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::engine::{Cause, EngineError, Platform};
use crate::pv::batch;
use crate::pv::sides::Side;

/// How far the guest's RDTSC is ahead of the clock's: it is native, whatever IA32_TSC_ADJUST says.
const TSC_ADJUST: u64 = 0;

impl PvVcpu {
    /// Makes the hypercall of the VMCALL at RIP, which is `length` bytes long; `is_counted` says whether it came as a
    /// hypercall. `false` if it is none: `single` then raises what is to be raised, or does what a debugger asks for.
    pub(super) fn explicit_call(
        &mut self,
        platform: &Platform,
        length: u64,
        is_counted: bool,
    ) -> Result<bool, EngineError> {
        if self.state.pending_exception.is_some() || self.state.rflags.contains(Rflags::TF) {
            return Ok(false);
        }
        let Some(stale) = platform.hypercall(&mut self.state, TSC_ADJUST) else { return Ok(false) };
        let counters = platform.counters(self.id);
        if !is_counted {
            counters.count(Cause::Hypercall);
        }
        self.state.rip = self.state.rip.wrapping_add(length);
        self.state.interrupt_shadow = false;
        if !stale.everything && stale.pages.is_empty() {
            return Ok(true);
        }
        counters.count(Cause::PageTableSync);
        self.single.forget_translations();
        let mode = PagingMode::of(&self.state);
        if stale.everything {
            self.sides.validate(&mode)?;
        }
        for range in &stale.pages {
            if !stale.everything {
                self.sides.refresh(&mode, range.first.page().0, range.count * PAGE_SIZE)?;
            }
            for Side { child, space } in self.sides.at_work() {
                batch::map(space, child, &self.ram, &mode, range)?;
            }
        }
        self.sides.enforce()?;
        Ok(true)
    }
}
