//! Moves, conversions, LEA, conditional moves and sets, byte swaps.
use super::address;
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::holds;
use super::int::Int;
use super::lower::{by_condition, condition, operand_size, sized, wide};
use super::op::Op;
use crate::arch::state::gpr::{RAX, RDX};
use iced_x86::{Instruction, Mnemonic, OpKind};

const AL: u8 = RAX as u8;
const DL: u8 = RDX as u8;

fn mov_rr<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.src);
    cx.set_reg(op.dst, value);
    Ok(Flow::Next)
}

fn mov_ri<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    cx.set_reg(op.dst, T::of(op.imm));
    Ok(Flow::Next)
}

fn mov_rm<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.load::<T>(op)?;
    cx.set_reg(op.dst, value);
    Ok(Flow::Next)
}

fn mov_mr<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.src);
    cx.store(op, value)?;
    cx.stored()
}

fn mov_mi<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    cx.store(op, T::of(op.imm))?;
    cx.stored()
}

fn extend_reg<const SIGNED: bool, S: Int, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<S>(op.src);
    cx.set_reg(op.dst, T::of(if SIGNED { value.sx() } else { value.zx() }));
    Ok(Flow::Next)
}

fn extend_mem<const SIGNED: bool, S: Int, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.load::<S>(op)?;
    cx.set_reg(op.dst, T::of(if SIGNED { value.sx() } else { value.zx() }));
    Ok(Flow::Next)
}

fn extend<const SIGNED: bool>(instruction: &Instruction) -> Handler {
    let size = operand_size(instruction, 0);
    if instruction.op_kind(1) == OpKind::Register {
        match operand_size(instruction, 1) {
            1 => wide!(size, extend_reg<SIGNED, u8>),
            2 => wide!(size, extend_reg<SIGNED, u16>),
            _ => wide!(size, extend_reg<SIGNED, u32>),
        }
    } else {
        match operand_size(instruction, 1) {
            1 => wide!(size, extend_mem<SIGNED, u8>),
            2 => wide!(size, extend_mem<SIGNED, u16>),
            _ => wide!(size, extend_mem<SIGNED, u32>),
        }
    }
}

fn lea<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let offset = cx.offset(op);
    cx.set_reg(op.dst, T::of(offset));
    Ok(Flow::Next)
}

fn lea_cut<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let mask = op.instruction.as_deref().map_or(u64::MAX, address::mask);
    let offset = cx.offset(op) & mask;
    cx.set_reg(op.dst, T::of(offset));
    Ok(Flow::Next)
}

fn cmov_reg<const CC: u8, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let register = if holds::<CC>(cx.flags) { op.src } else { op.dst };
    let value = cx.reg::<T>(register);
    cx.set_reg(op.dst, value);
    Ok(Flow::Next)
}

fn cmov_mem<const CC: u8, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    // The source is read in any case, and its faults are raised.
    let source = cx.load::<T>(op)?;
    let value = if holds::<CC>(cx.flags) { source } else { cx.reg::<T>(op.dst) };
    cx.set_reg(op.dst, value);
    Ok(Flow::Next)
}

fn set_reg<const CC: u8>(cx: &mut Cx, op: &Op) -> Step {
    cx.set_reg(op.dst, u8::from(holds::<CC>(cx.flags)));
    Ok(Flow::Next)
}

fn set_mem<const CC: u8>(cx: &mut Cx, op: &Op) -> Step {
    cx.store(op, u8::from(holds::<CC>(cx.flags)))?;
    cx.stored()
}

fn bswap32(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<u32>(op.dst);
    cx.set_reg(op.dst, value.swap_bytes());
    Ok(Flow::Next)
}

fn bswap64(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<u64>(op.dst);
    cx.set_reg(op.dst, value.swap_bytes());
    Ok(Flow::Next)
}

/// The manual leaves the result undefined; hardware gives zero.
fn bswap16(cx: &mut Cx, op: &Op) -> Step {
    cx.set_reg(op.dst, 0_u16);
    Ok(Flow::Next)
}

fn swapped<T: Int>(value: T) -> T {
    T::of(value.zx().swap_bytes() >> (64 - T::BITS))
}

fn movbe_load<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.load::<T>(op)?;
    cx.set_reg(op.dst, swapped(value));
    Ok(Flow::Next)
}

fn movbe_store<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.src);
    cx.store(op, swapped(value))?;
    cx.stored()
}

/// CBW, CWDE, CDQE: the lower half of the accumulator, extended.
fn widen<S: Int, T: Int>(cx: &mut Cx, _: &Op) -> Step {
    let value = cx.reg::<S>(AL).sx();
    cx.set_reg(AL, T::of(value));
    Ok(Flow::Next)
}

/// CWD, CDQ, CQO: the accumulator's sign, spread over the data register.
fn spread<T: Int>(cx: &mut Cx, _: &Op) -> Step {
    let sign = (cx.reg::<T>(AL).sx() as i64) >> 63;
    cx.set_reg(DL, T::of(sign as u64));
    Ok(Flow::Next)
}

fn mov(instruction: &Instruction) -> Option<Handler> {
    let special = |i| instruction.op_kind(i) == OpKind::Register && !instruction.op_register(i).is_gpr();
    if special(0) || special(1) {
        return None;
    }
    let size = operand_size(instruction, 0);
    Some(match (instruction.op_kind(0), instruction.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => sized!(size, mov_rr),
        (OpKind::Register, OpKind::Memory) => sized!(size, mov_rm),
        (OpKind::Register, _) => sized!(size, mov_ri),
        (_, OpKind::Register) => sized!(size, mov_mr),
        _ => sized!(size, mov_mi),
    })
}

fn conditional(instruction: &Instruction) -> Option<Handler> {
    let name = instruction.code().mnemonic();
    let cc = condition(instruction)?;
    let size = operand_size(instruction, 0);
    let from_register = instruction.op_count() > 1 && instruction.op_kind(1) == OpKind::Register;
    Some(match () {
        () if is_set(name) && instruction.op_kind(0) == OpKind::Register => by_condition!(cc, set_reg),
        () if is_set(name) => by_condition!(cc, set_mem),
        () if from_register => match size {
            2 => by_condition!(cc, cmov_reg, u16),
            4 => by_condition!(cc, cmov_reg, u32),
            _ => by_condition!(cc, cmov_reg, u64),
        },
        () => match size {
            2 => by_condition!(cc, cmov_mem, u16),
            4 => by_condition!(cc, cmov_mem, u32),
            _ => by_condition!(cc, cmov_mem, u64),
        },
    })
}

fn is_set(name: Mnemonic) -> bool {
    matches!(
        name,
        Mnemonic::Seta
            | Mnemonic::Setae
            | Mnemonic::Setb
            | Mnemonic::Setbe
            | Mnemonic::Sete
            | Mnemonic::Setg
            | Mnemonic::Setge
            | Mnemonic::Setl
            | Mnemonic::Setle
            | Mnemonic::Setne
            | Mnemonic::Setno
            | Mnemonic::Setnp
            | Mnemonic::Setns
            | Mnemonic::Seto
            | Mnemonic::Setp
            | Mnemonic::Sets
    )
}

fn is_cmov(name: Mnemonic) -> bool {
    matches!(
        name,
        Mnemonic::Cmova
            | Mnemonic::Cmovae
            | Mnemonic::Cmovb
            | Mnemonic::Cmovbe
            | Mnemonic::Cmove
            | Mnemonic::Cmovg
            | Mnemonic::Cmovge
            | Mnemonic::Cmovl
            | Mnemonic::Cmovle
            | Mnemonic::Cmovne
            | Mnemonic::Cmovno
            | Mnemonic::Cmovnp
            | Mnemonic::Cmovns
            | Mnemonic::Cmovo
            | Mnemonic::Cmovp
            | Mnemonic::Cmovs
    )
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction, slow_address: bool) -> Option<Handler> {
    let size = operand_size(instruction, 0);
    Some(match instruction.mnemonic() {
        Mnemonic::Mov => return mov(instruction),
        Mnemonic::Movzx => extend::<false>(instruction),
        Mnemonic::Movsx | Mnemonic::Movsxd if size == operand_size(instruction, 1) => {
            // MOVSXD with a 16- or 32-bit destination moves without extending.
            match (size, instruction.op_kind(1)) {
                (2, OpKind::Register) => mov_rr::<u16>,
                (2, _) => mov_rm::<u16>,
                (_, OpKind::Register) => mov_rr::<u32>,
                _ => mov_rm::<u32>,
            }
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<true>(instruction),
        Mnemonic::Lea if slow_address => wide!(size, lea_cut),
        Mnemonic::Lea => wide!(size, lea),
        Mnemonic::Bswap => match size {
            2 => bswap16,
            4 => bswap32,
            _ => bswap64,
        },
        Mnemonic::Movbe if instruction.op_kind(0) == OpKind::Register => wide!(size, movbe_load),
        Mnemonic::Movbe => wide!(size, movbe_store),
        Mnemonic::Cbw => widen::<u8, u16>,
        Mnemonic::Cwde => widen::<u16, u32>,
        Mnemonic::Cdqe => widen::<u32, u64>,
        Mnemonic::Cwd => spread::<u16>,
        Mnemonic::Cdq => spread::<u32>,
        Mnemonic::Cqo => spread::<u64>,
        name if is_set(name) || is_cmov(name) => return conditional(instruction),
        _ => return None,
    })
}
