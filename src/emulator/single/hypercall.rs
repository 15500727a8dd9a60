//! VMCALL: what it asks for is made by [`crate::engine::Platform::hypercall`].
use super::cx::{Cx, Handler, Step};
use super::op::Op;
use crate::arch::Exception;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{Cause, Hypercalls, Stale};
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

/// Makes the call that the registers ask for; `false` if none is taken.
fn make(cx: &mut Cx) -> bool {
    cx.leave();
    let adjust = cx.state.msrs.tsc_adjust;
    let Some(stale) = cx.platform.hypercall(cx.state, adjust) else { return false };
    cx.platform.counters(cx.mmu.vcpu).count(Cause::Hypercall);
    cx.enter();
    forget(cx, &stale);
    true
}

/// #UD where no hypercalls are taken.
fn vmcall(cx: &mut Cx, op: &Op) -> Step {
    if !make(cx) {
        return Err(cx.raise(Exception::UD));
    }
    super::control::renew(cx, op)
}

/// A write to the hypercalls' port, where that is the way in: single steps of a guest that KVM runs. `false` if it is an
/// ordinary one.
pub(super) fn by_port(cx: &mut Cx) -> bool {
    if !cx.platform.hypercalls().is_some_and(Hypercalls::come_by_port) || !make(cx) {
        return false;
    }
    cx.mmu.stop = true;
    true
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    (instruction.mnemonic() == Mnemonic::Vmcall).then_some(vmcall)
}
