//! VMCALL: what it asks for is made by [`crate::engine::Platform::hypercall`].
use super::cx::{Cx, Handler, Step};
use super::op::Op;
use crate::arch::Exception;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{Cause, Stale};
use iced_x86::{Instruction, Mnemonic};

/// Beyond so many pages, all translations are forgotten at once.
const ONE_BY_ONE: u64 = 64;

fn forget(cx: &mut Cx, stale: &Stale) {
    let pages = stale.pages.iter().fold(0_u64, |n, range| n.saturating_add(range.count));
    if stale.everything || pages > ONE_BY_ONE {
        return cx.mmu.tlb.flush_all();
    }
    for range in &stale.pages {
        for page in 0..range.count {
            cx.mmu.tlb.flush_page(range.first.0.wrapping_add(page * PAGE_SIZE));
        }
    }
}

/// #UD where no hypercalls are taken.
fn vmcall(cx: &mut Cx, op: &Op) -> Step {
    cx.leave();
    let adjust = cx.state.msrs.tsc_adjust;
    let Some(stale) = cx.platform.hypercall(cx.state, adjust) else {
        return Err(cx.raise(Exception::UD));
    };
    cx.platform.counters(cx.mmu.vcpu).count(Cause::Hypercall);
    cx.enter();
    forget(cx, &stale);
    super::control::renew(cx, op)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    (instruction.mnemonic() == Mnemonic::Vmcall).then_some(vmcall)
}
