//! MUL, IMUL, DIV, IDIV, MULX.
use super::cx::{Cx, Flow, Handler, Step, ZERO};
use super::flags::{self, CF, Flags, OF, PF, SF};
use super::int::{Int, Wide};
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

/// Sets the double-width result of a multiplication: AX for bytes, (R/E)DX:(R/E)AX otherwise.
fn set_product<T: Int>(cx: &mut Cx, product: u128) {
    if T::BYTES == 1 {
        cx.set_reg::<u16>(AX, product as u16);
    } else {
        cx.set_reg::<T>(AX, T::of(product as u64));
        cx.set_reg::<T>(DX, T::of((product >> T::BITS) as u64));
    }
}

/// CF and OF say whether the upper half matters; SF follows the low half as on hardware, the others stay undefined.
fn product_flags<T: Int>(before: Flags, low: T, overflow: bool) -> Flags {
    let f = T::and(low, low, before).1 & (SF | PF);
    flags::with(f, CF | OF, overflow)
}

fn mul<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = source::<T>(cx, op)?;
    let product = u128::from(cx.reg::<T>(AX).zx()) * u128::from(b.zx());
    set_product::<T>(cx, product);
    cx.flags = product_flags::<T>(cx.flags, T::of(product as u64), product >> T::BITS != 0);
    Ok(Flow::Next)
}

fn imul_wide<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = source::<T>(cx, op)?;
    let product = i128::from(cx.reg::<T>(AX).sx() as i64) * i128::from(b.sx() as i64);
    set_product::<T>(cx, product as u128);
    let low = T::of(product as u64);
    cx.flags = product_flags::<T>(cx.flags, low, i128::from(low.sx() as i64) != product);
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

/// The dividend: AX for bytes, (R/E)DX:(R/E)AX otherwise.
fn dividend<T: Int>(cx: &Cx) -> u128 {
    if T::BYTES == 1 {
        cx.reg::<u16>(AX).into()
    } else {
        u128::from(cx.reg::<T>(DX).zx()) << T::BITS | u128::from(cx.reg::<T>(AX).zx())
    }
}

fn set_quotient<T: Int>(cx: &mut Cx, quotient: u64, remainder: u64) {
    if T::BYTES == 1 {
        cx.set_reg::<u16>(AX, (remainder as u16) << 8 | quotient as u16 & 0xff);
    } else {
        cx.set_reg::<T>(AX, T::of(quotient));
        cx.set_reg::<T>(DX, T::of(remainder));
    }
}

/// Divides, or `None` if the quotient does not fit or the divisor is zero.
fn divide<T: Int>(dividend: u128, divisor: u64) -> Option<(u64, u64)> {
    if let Ok(small) = u64::try_from(dividend) {
        let quotient = small.checked_div(divisor)?;
        return (quotient <= T::of(u64::MAX).zx()).then(|| (quotient, small % divisor));
    }
    let divisor = u128::from(divisor);
    let quotient = dividend.checked_div(divisor)?;
    (quotient <= u128::from(T::of(u64::MAX).zx())).then(|| (quotient as u64, (dividend % divisor) as u64))
}

fn div<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let divisor = source::<T>(cx, op)?.zx();
    let Some((quotient, remainder)) = divide::<T>(dividend::<T>(cx), divisor) else {
        return Err(cx.raise(Exception::DE));
    };
    set_quotient::<T>(cx, quotient, remainder);
    Ok(Flow::Next)
}

fn idiv<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let divisor = source::<T>(cx, op)?.sx() as i64;
    // The dividend has twice the bits of T: its sign is spread over the rest of the i128.
    let unused = 128 - 2 * T::BITS;
    let dividend = (dividend::<T>(cx) << unused) as i128 >> unused;
    let result = divide_signed(dividend, divisor)
        .filter(|&(quotient, _)| i128::from(T::of(quotient as u64).sx() as i64) == quotient);
    let Some((quotient, remainder)) = result else {
        return Err(cx.raise(Exception::DE));
    };
    set_quotient::<T>(cx, quotient as u64, remainder as u64);
    Ok(Flow::Next)
}

fn divide_signed(dividend: i128, divisor: i64) -> Option<(i128, i128)> {
    if let Ok(small) = i64::try_from(dividend)
        && let (Some(quotient), Some(remainder)) = (small.checked_div(divisor), small.checked_rem(divisor))
    {
        return Some((quotient.into(), remainder.into()));
    }
    let divisor = i128::from(divisor);
    Some((dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?))
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
