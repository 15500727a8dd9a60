//! Operands by iced's description, for handlers that are not worth an instance per form.
use super::cx::Cx;
use super::int::Int;
use super::lower::operand_size;
use super::op::{Op, register};
use crate::emulator::mmu::Fault;
use crate::emulator::single::address::segment_of;
use iced_x86::{Instruction, OpKind, Register};

/// The decoded instruction behind `op`; every rare operation has one.
pub(super) fn instruction(op: &Op) -> Instruction {
    op.instruction.as_deref().copied().unwrap_or_default()
}

/// A register of any kind that can be an integer operand.
pub(super) fn read_register(cx: &Cx, name: Register) -> u64 {
    let code = register(name);
    match name.size() {
        _ if name.is_segment_register() => u64::from(cx.state.segment(segment_of(name)).selector),
        1 => cx.reg::<u8>(code).zx(),
        2 => cx.reg::<u16>(code).zx(),
        4 => cx.reg::<u32>(code).zx(),
        _ => cx.reg::<u64>(code),
    }
}

/// Sets a general register with the rules of its size.
pub(super) fn write_register(cx: &mut Cx, name: Register, value: u64) {
    let code = register(name);
    match name.size() {
        1 => cx.set_reg(code, value as u8),
        2 => cx.set_reg(code, value as u16),
        4 => cx.set_reg(code, value as u32),
        _ => cx.set_reg(code, value),
    }
}

/// The value of an operand, zero-extended; immediates as the decoder extends them.
pub(super) fn read(cx: &mut Cx, op: &Op, instruction: &Instruction, operand: u32) -> Result<u64, Fault> {
    match instruction.op_kind(operand) {
        OpKind::Register => Ok(read_register(cx, instruction.op_register(operand))),
        OpKind::Memory => match operand_size(instruction, operand) {
            1 => cx.load::<u8>(op).map(Int::zx),
            2 => cx.load::<u16>(op).map(Int::zx),
            4 => cx.load::<u32>(op).map(Int::zx),
            _ => cx.load::<u64>(op),
        },
        _ => Ok(instruction.immediate(operand)),
    }
}

/// Sets a general register or memory operand.
pub(super) fn write(
    cx: &mut Cx,
    op: &Op,
    instruction: &Instruction,
    operand: u32,
    value: u64,
) -> Result<(), Fault> {
    if instruction.op_kind(operand) == OpKind::Register {
        write_register(cx, instruction.op_register(operand), value);
        return Ok(());
    }
    match operand_size(instruction, operand) {
        1 => cx.store(op, value as u8),
        2 => cx.store(op, value as u16),
        4 => cx.store(op, value as u32),
        _ => cx.store(op, value),
    }
}
