//! Single flags, hints, fences, cache lines, BOUND, and MOVNTI: the rest of the integer instructions.
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{self, CF};
use super::int::Int;
use super::lower::{operand_size, wide};
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::RAX;
use crate::arch::{Cr4, Exception, Rflags, Vector};
use iced_x86::{Instruction, Mnemonic};

fn nothing(_: &mut Cx, _: &Op) -> Step {
    Ok(Flow::Next)
}

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
    cx.set_reg(RAX as u8 | super::cx::HIGH_BYTE, low);
    Ok(Flow::Next)
}

fn sahf(cx: &mut Cx, _: &Op) -> Step {
    let low = u16::from(cx.reg::<u8>(RAX as u8 | super::cx::HIGH_BYTE));
    cx.flags = cx.flags & flags::OF | (low & 0xd5) << 8;
    Ok(Flow::Next)
}

/// CLFLUSH, CLFLUSHOPT, CLWB: caches are coherent; the address is checked as for a read.
fn cache_line(cx: &mut Cx, op: &Op) -> Step {
    let _value = cx.load::<u8>(op)?;
    Ok(Flow::Next)
}

fn movnti<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.src);
    cx.store(op, value)?;
    cx.stored()
}

/// UD0, UD1, UD2.
fn undefined(cx: &mut Cx, _: &Op) -> Step {
    Err(cx.raise(Exception::UD))
}

fn bound(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = operand_size(&instruction, 0);
    let at = cx.address(op, 2 * size, false)?;
    let stack = op.has(Op::STACK_SEGMENT);
    let (value, low, high) = if size == 2 {
        let low = cx.mmu.read::<u16>(at, stack)?.sx();
        let high = cx.mmu.read::<u16>(at.wrapping_add(2), stack)?.sx();
        (cx.reg::<u16>(op.dst).sx(), low, high)
    } else {
        let low = cx.mmu.read::<u32>(at, stack)?.sx();
        let high = cx.mmu.read::<u32>(at.wrapping_add(4), stack)?.sx();
        (cx.reg::<u32>(op.dst).sx(), low, high)
    };
    if (value as i64) < low as i64 || value as i64 > high as i64 {
        return Err(cx.raise(Exception::plain(Vector::BoundRange)));
    }
    Ok(Flow::Next)
}

/// SALC, undocumented: AL = CF ? 0xff : 0.
fn salc(cx: &mut Cx, _: &Op) -> Step {
    let value = if cx.flags & CF != 0 { 0xff_u8 } else { 0 };
    cx.set_reg(RAX as u8, value);
    Ok(Flow::Next)
}

/// ARPL: raises the RPL of the destination to that of the source.
fn arpl(cx: &mut Cx, op: &Op) -> Step {
    if !cx.is_protected() || cx.state.rflags.contains(Rflags::VM) {
        return Err(cx.raise(Exception::UD));
    }
    let instruction = operand::instruction(op);
    let selector = operand::read(cx, op, &instruction, 0)?;
    let other = u64::from(cx.reg::<u16>(op.src));
    let raise = selector & 3 < other & 3;
    if raise {
        operand::write(cx, op, &instruction, 0, selector & !3 | other & 3)?;
    }
    cx.flags = flags::with(cx.flags, flags::ZF, raise);
    cx.stored()
}

/// INVPCID, without PCIDs: the types that exist flush everything.
fn invpcid(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let kind = cx.reg::<u64>(op.dst);
    let at = cx.address(op, 16, false)?;
    let pcid = cx.mmu.read::<u64>(at, op.has(Op::STACK_SEGMENT))?;
    if kind > 3 || pcid >> 12 != 0 || pcid != 0 && !cx.state.cr4.contains(Cr4::PCIDE) {
        return Err(cx.raise(Exception::GP0));
    }
    cx.mmu.tlb.flush_all();
    super::control::renew(cx, op)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Pause
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Lfence
        | Mnemonic::Mfence
        | Mnemonic::Sfence
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchwt1
        | Mnemonic::Serialize
        | Mnemonic::Cldemote => nothing,
        Mnemonic::Clc => clc,
        Mnemonic::Stc => stc,
        Mnemonic::Cmc => cmc,
        Mnemonic::Cld => cld,
        Mnemonic::Std => std,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => cache_line,
        Mnemonic::Movnti => wide!(operand_size(instruction, 1), movnti),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => undefined,
        Mnemonic::Bound => bound,
        Mnemonic::Salc => salc,
        Mnemonic::Arpl => arpl,
        Mnemonic::Invpcid => invpcid,
        _ => return None,
    })
}
