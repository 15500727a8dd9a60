//! Protection keys: RDPKRU, WRPKRU, and what a change of their rights makes void (SDM 4.6.2).
use super::cx::{Cx, Handler, Step};
use super::op::Op;
use crate::arch::state::gpr::{RAX, RCX, RDX};
use crate::arch::{Cr4, Exception};
use crate::emulator::mmu::Fault;
use crate::emulator::single::cx::Flow;
use iced_x86::{Instruction, Mnemonic};

/// To be called after PKRU or IA32_PKRS was changed: what was remembered of data with the rights of before is forgotten.
pub(super) fn take_over(cx: &mut Cx) {
    let (before, cr4) = (cx.mmu.mode, cx.state.cr4);
    let user = before.pkru != cx.state.pkru && cr4.contains(Cr4::PKE);
    let supervisor = u64::from(before.pkrs) != cx.state.msrs.pkrs && cr4.contains(Cr4::PKS);
    if supervisor {
        cx.mmu.tlb.forget_data();
    } else if user {
        cx.mmu.tlb.forget_user_data(cr4.contains(Cr4::SMAP));
    }
    cx.refresh();
}

/// #UD unless CR4.PKE is set; then #GP(0) unless the registers that have to be are zero.
fn check(cx: &mut Cx, zero: &[usize]) -> Result<(), Fault> {
    if !cx.state.cr4.contains(Cr4::PKE) {
        return Err(cx.raise(Exception::UD));
    }
    if zero.iter().any(|&register| cx.regs[register] as u32 != 0) {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(())
}

fn rdpkru(cx: &mut Cx, _: &Op) -> Step {
    check(cx, &[RCX])?;
    cx.regs[RAX] = cx.state.pkru.into();
    cx.regs[RDX] = 0;
    Ok(Flow::Next)
}

fn wrpkru(cx: &mut Cx, op: &Op) -> Step {
    check(cx, &[RCX, RDX])?;
    cx.state.pkru = cx.regs[RAX] as u32;
    take_over(cx);
    super::control::renew(cx, op)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Rdpkru => Some(rdpkru),
        Mnemonic::Wrpkru => Some(wrpkru),
        _ => None,
    }
}
