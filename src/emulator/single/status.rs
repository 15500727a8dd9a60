//! Instructions that change single flags of RFLAGS.
use super::cx::{Cx, Flow, HIGH_BYTE, Handler, Step};
use super::flags::{self, CF};
use super::op::Op;
use crate::arch::Rflags;
use crate::arch::state::gpr::RAX;
use iced_x86::{Instruction, Mnemonic};

const AH: u8 = RAX as u8 | HIGH_BYTE;

fn clc(cx: &mut Cx, _: &Op) -> Step {
    cx.flags &= !CF;
    Ok(Flow::Next)
}

fn stc(cx: &mut Cx, _: &Op) -> Step {
    cx.flags |= CF;
    Ok(Flow::Next)
}

fn cmc(cx: &mut Cx, _: &Op) -> Step {
    cx.flags ^= CF;
    Ok(Flow::Next)
}

fn cld(cx: &mut Cx, _: &Op) -> Step {
    cx.state.rflags.remove(Rflags::DF);
    Ok(Flow::Next)
}

fn std(cx: &mut Cx, _: &Op) -> Step {
    cx.state.rflags.insert(Rflags::DF);
    Ok(Flow::Next)
}

/// The low byte of RFLAGS has the form of the flags' upper half.
fn lahf(cx: &mut Cx, _: &Op) -> Step {
    let low = (flags::into_rflags(cx.flags, Rflags::FIXED).bits() & 0xff) as u8;
    cx.set_reg(AH, low);
    Ok(Flow::Next)
}

fn sahf(cx: &mut Cx, _: &Op) -> Step {
    let low = u16::from(cx.reg::<u8>(AH));
    cx.flags = cx.flags & flags::OF | (low & 0xd5) << 8;
    Ok(Flow::Next)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Clc => clc,
        Mnemonic::Stc => stc,
        Mnemonic::Cmc => cmc,
        Mnemonic::Cld => cld,
        Mnemonic::Std => std,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        _ => return None,
    })
}
