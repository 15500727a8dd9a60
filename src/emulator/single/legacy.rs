//! Instructions that exist only outside 64-bit mode: decimal adjustments, BOUND, ARPL, SALC.
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{self, AF, CF, Flags, OF, PF, SF, ZF};
use super::int::Int;
use super::lower::operand_size;
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::RAX;
use crate::arch::{Exception, Rflags, Vector};
use iced_x86::{Instruction, Mnemonic};

const AX: u8 = RAX as u8;

fn status(value: u8) -> Flags {
    u8::and(value, value, 0).1 & (SF | ZF | PF)
}

/// DAA, DAS, AAA, AAS, AAM, AAD (SDM vol. 2A).
fn decimal(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let ax = cx.reg::<u16>(AX);
    let (al, ah) = (ax as u8, (ax >> 8) as u8);
    let low_digit = al & 0xf > 9 || cx.flags & AF != 0;
    match instruction.mnemonic() {
        name @ (Mnemonic::Daa | Mnemonic::Das) => {
            let subtract = name == Mnemonic::Das;
            let step =
                |value: u8, by: u8| if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) };
            let carry = al > 0x99 || cx.flags & CF != 0;
            let mut value = al;
            let mut borrow = false;
            if low_digit {
                borrow = if subtract { al < 6 } else { al > 0xf9 };
                value = step(value, 6);
            }
            if carry {
                value = step(value, 0x60);
            }
            cx.set_reg(AX, value);
            let carry = carry || borrow;
            cx.flags = flags::with(flags::with(status(value), AF, low_digit), CF, carry);
        }
        name @ (Mnemonic::Aaa | Mnemonic::Aas) => {
            let mut value = ax;
            if low_digit {
                value = if name == Mnemonic::Aaa { ax.wrapping_add(0x106) } else { ax.wrapping_sub(0x106) };
            }
            cx.set_reg::<u16>(AX, value & 0xff0f);
            cx.flags = flags::with(cx.flags & (SF | ZF | PF | OF), AF | CF, low_digit);
        }
        Mnemonic::Aam => {
            let base = instruction.immediate8();
            let (Some(tens), Some(ones)) = (al.checked_div(base), al.checked_rem(base)) else {
                return Err(cx.raise(Exception::DE));
            };
            cx.set_reg::<u16>(AX, u16::from(tens) << 8 | u16::from(ones));
            cx.flags = status(ones);
        }
        _ => {
            let value = al.wrapping_add(ah.wrapping_mul(instruction.immediate8()));
            cx.set_reg::<u16>(AX, value.into());
            cx.flags = status(value);
        }
    }
    Ok(Flow::Next)
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
    cx.flags = flags::with(cx.flags, ZF, raise);
    cx.stored()
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Daa | Mnemonic::Das | Mnemonic::Aaa | Mnemonic::Aas | Mnemonic::Aam | Mnemonic::Aad => {
            decimal
        }
        Mnemonic::Bound => bound,
        Mnemonic::Salc => salc,
        Mnemonic::Arpl => arpl,
        _ => return None,
    })
}
