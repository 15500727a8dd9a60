//! Arithmetic, logic, shifts and rotates: everything of the form `a = a op b` with flags.
use super::atomic::update_locked;
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::Flags;
use super::int::Int;
use super::lower::{operand_size, sized};
use super::op::Op;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// An operation on the destination `a` and a second value `b`.
pub(super) trait Binary {
    /// Whether the result is kept (not so for CMP and TEST).
    const WRITES: bool;
    fn apply<T: Int>(a: T, b: T, flags: Flags) -> (T, Flags);
}

macro_rules! operations {
    ($($name:ident $writes:literal |$a:ident, $b:ident, $f:ident| $result:expr;)+) => {$(
        struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Int>($a: T, $b: T, $f: Flags) -> (T, Flags) {
                $result
            }
        }
    )+};
}
operations! {
    Add true |a, b, f| T::add(a, b, f);
    Adc true |a, b, f| T::adc(a, b, f);
    Sub true |a, b, f| T::sub(a, b, f);
    Sbb true |a, b, f| T::sbb(a, b, f);
    And true |a, b, f| T::and(a, b, f);
    Or true |a, b, f| T::or(a, b, f);
    Xor true |a, b, f| T::xor(a, b, f);
    Cmp false |a, b, f| T::sub(a, b, f);
    Test false |a, b, f| T::and(a, b, f);
    Inc true |a, _b, f| T::inc(a, f);
    Dec true |a, _b, f| T::dec(a, f);
    Neg true |a, _b, f| T::neg(a, f);
    Not true |a, _b, f| (T::of(!a.zx()), f);
    Shl true |a, b, f| T::shl(a, b.zx() as u8, f);
    Shr true |a, b, f| T::shr(a, b.zx() as u8, f);
    Sar true |a, b, f| T::sar(a, b.zx() as u8, f);
    Rol true |a, b, f| T::rol(a, b.zx() as u8, f);
    Ror true |a, b, f| T::ror(a, b.zx() as u8, f);
    Rcl true |a, b, f| T::rcl(a, b.zx() as u8, f);
    Rcr true |a, b, f| T::rcr(a, b.zx() as u8, f);
}

fn register_value<O: Binary, T: Int>(cx: &mut Cx, op: &Op, b: T) -> Step {
    let (result, flags) = O::apply(cx.reg::<T>(op.dst), b, cx.flags);
    if O::WRITES {
        cx.set_reg(op.dst, result);
    }
    cx.flags = flags;
    Ok(Flow::Next)
}

fn reg_reg<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = cx.reg::<T>(op.src);
    register_value::<O, T>(cx, op, b)
}

fn reg_imm<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    register_value::<O, T>(cx, op, T::of(op.imm))
}

fn reg_mem<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = cx.load::<T>(op)?;
    register_value::<O, T>(cx, op, b)
}

#[inline(always)]
fn memory_value<O: Binary, T: Int>(cx: &mut Cx, op: &Op, b: T) -> Step {
    let mut flags = cx.flags;
    if O::WRITES {
        cx.update::<T>(op, |a| {
            let (result, f) = O::apply(a, b, flags);
            flags = f;
            result
        })?;
        cx.flags = flags;
        cx.stored()
    } else {
        let a = cx.load::<T>(op)?;
        cx.flags = O::apply(a, b, flags).1;
        Ok(Flow::Next)
    }
}

fn mem_reg<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = cx.reg::<T>(op.src);
    memory_value::<O, T>(cx, op, b)
}

fn mem_imm<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    memory_value::<O, T>(cx, op, T::of(op.imm))
}

fn locked<O: Binary, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = if op.src == super::cx::ZERO { T::of(op.imm) } else { cx.reg::<T>(op.src) };
    let before = cx.flags;
    let mut flags = before;
    update_locked::<T>(cx, op, |a| {
        let (result, f) = O::apply(a, b, before);
        flags = f;
        result
    })?;
    cx.flags = flags;
    cx.stored()
}

fn forms<O: Binary>(instruction: &Instruction) -> Option<Handler> {
    let size = operand_size(instruction, 0);
    let source = if instruction.op_count() > 1 { instruction.op_kind(1) } else { OpKind::Immediate8 };
    Some(match (instruction.op_kind(0), source) {
        (OpKind::Register, OpKind::Register) => sized!(size, reg_reg<O>),
        (OpKind::Register, OpKind::Memory) => sized!(size, reg_mem<O>),
        (OpKind::Register, _) => sized!(size, reg_imm<O>),
        _ if instruction.has_lock_prefix() => sized!(size, locked<O>),
        (_, OpKind::Register) => sized!(size, mem_reg<O>),
        _ => sized!(size, mem_imm<O>),
    })
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Add => forms::<Add>(instruction),
        Mnemonic::Adc => forms::<Adc>(instruction),
        Mnemonic::Sub => forms::<Sub>(instruction),
        Mnemonic::Sbb => forms::<Sbb>(instruction),
        Mnemonic::And => forms::<And>(instruction),
        Mnemonic::Or => forms::<Or>(instruction),
        Mnemonic::Xor => forms::<Xor>(instruction),
        Mnemonic::Cmp => forms::<Cmp>(instruction),
        Mnemonic::Test => forms::<Test>(instruction),
        Mnemonic::Inc => forms::<Inc>(instruction),
        Mnemonic::Dec => forms::<Dec>(instruction),
        Mnemonic::Neg => forms::<Neg>(instruction),
        Mnemonic::Not => forms::<Not>(instruction),
        Mnemonic::Shl | Mnemonic::Sal => forms::<Shl>(instruction),
        Mnemonic::Shr => forms::<Shr>(instruction),
        Mnemonic::Sar => forms::<Sar>(instruction),
        Mnemonic::Rol => forms::<Rol>(instruction),
        Mnemonic::Ror => forms::<Ror>(instruction),
        Mnemonic::Rcl => forms::<Rcl>(instruction),
        Mnemonic::Rcr => forms::<Rcr>(instruction),
        _ => None,
    }
}
