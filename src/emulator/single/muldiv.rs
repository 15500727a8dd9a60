//! MUL, IMUL, DIV, IDIV, MULX.
//!
//! Divisions leave the status flags, all of which are undefined then, as they were.
use super::cx::{Cx, Flow, Handler, Step, ZERO};
use super::int::{Int, Pair, Wide};
use super::lower::{operand_size, sized, wide};
use super::op::Op;
use crate::arch::Exception;
use crate::arch::state::gpr::{RAX, RDX};
use crate::emulator::mmu::Fault;
use iced_x86::{Instruction, Mnemonic, OpKind};

const AX: u8 = RAX as u8;
const DX: u8 = RDX as u8;

/// The one explicit operand of the one-operand forms.
fn source<T: Int>(cx: &mut Cx, op: &Op) -> Result<T, Fault> {
    if op.dst == ZERO { cx.load(op) } else { Ok(cx.reg(op.dst)) }
}

fn pair(cx: &Cx) -> Pair {
    Pair { rax: cx.reg(AX), rdx: cx.reg(DX) }
}

/// Sets what an operation on (R/E)AX and (R/E)DX, of bytes on AX, leaves there.
fn set_pair<T: Int>(cx: &mut Cx, result: Pair) {
    if T::BYTES == 1 {
        cx.set_reg::<u16>(AX, result.rax as u16);
    } else {
        cx.set_reg::<T>(AX, T::of(result.rax));
        cx.set_reg::<T>(DX, T::of(result.rdx));
    }
}

fn mul<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = source::<T>(cx, op)?;
    let (product, flags) = T::mul(pair(cx), b, cx.flags);
    set_pair::<T>(cx, product);
    cx.flags = flags;
    Ok(Flow::Next)
}

fn imul_wide<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = source::<T>(cx, op)?;
    let (product, flags) = T::imul_wide(pair(cx), b, cx.flags);
    set_pair::<T>(cx, product);
    cx.flags = flags;
    Ok(Flow::Next)
}

#[inline(always)]
fn imul_two<T: Wide>(cx: &mut Cx, op: &Op, a: T, b: T) -> Step {
    let (product, flags) = T::imul(a, b, cx.flags);
    cx.set_reg(op.dst, product);
    cx.flags = flags;
    Ok(Flow::Next)
}

fn imul_rr<T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let (a, b) = (cx.reg::<T>(op.dst), cx.reg::<T>(op.src));
    imul_two(cx, op, a, b)
}

fn imul_rm<T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let b = cx.load::<T>(op)?;
    let a = cx.reg::<T>(op.dst);
    imul_two(cx, op, a, b)
}

fn imul_rri<T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let a = cx.reg::<T>(op.src);
    imul_two(cx, op, a, T::of(op.imm))
}

fn imul_rmi<T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let a = cx.load::<T>(op)?;
    imul_two(cx, op, a, T::of(op.imm))
}

fn imul(instruction: &Instruction) -> Handler {
    let size = operand_size(instruction, 0);
    let memory = instruction.op_count() > 1 && instruction.op_kind(1) == OpKind::Memory;
    match (instruction.op_count(), memory) {
        (1, _) => sized!(size, imul_wide),
        (2, false) => wide!(size, imul_rr),
        (2, true) => wide!(size, imul_rm),
        (_, false) => wide!(size, imul_rri),
        (_, true) => wide!(size, imul_rmi),
    }
}

fn div<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let divisor = source::<T>(cx, op)?;
    let Some(result) = T::div(pair(cx), divisor) else { return Err(cx.raise(Exception::DE)) };
    set_pair::<T>(cx, result);
    Ok(Flow::Next)
}

fn idiv<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let divisor = source::<T>(cx, op)?;
    let Some(result) = T::idiv(pair(cx), divisor) else { return Err(cx.raise(Exception::DE)) };
    set_pair::<T>(cx, result);
    Ok(Flow::Next)
}

/// MULX: (E/R)DX times the source into two registers, flags untouched.
fn mulx<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = if op.aux == ZERO { cx.load::<T>(op)? } else { cx.reg::<T>(op.aux) };
    let product = u128::from(cx.reg::<T>(DX).zx()) * u128::from(b.zx());
    // If both are the same register, the high half stays.
    cx.set_reg(op.src, T::of(product as u64));
    cx.set_reg(op.dst, T::of((product >> T::BITS) as u64));
    Ok(Flow::Next)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let size = operand_size(instruction, 0);
    Some(match instruction.mnemonic() {
        Mnemonic::Mul => sized!(size, mul),
        Mnemonic::Imul => imul(instruction),
        Mnemonic::Div => sized!(size, div),
        Mnemonic::Idiv => sized!(size, idiv),
        Mnemonic::Mulx => wide!(size, mulx),
        _ => return None,
    })
}
