//! From a decoded instruction to a handler: each family is asked in turn, at decode time only.
use super::cx::{Cx, Flow, Handler, Step};
use super::op::Op;
use super::{alu, atomic, branch, moves, muldiv, stack, vector};
use crate::arch::Exception;
use crate::emulator::front::TOO_LONG;
use crate::emulator::front::block::CodeMode;
use crate::emulator::front::features::Features;
use crate::engine::{EngineError, Interpretation};
use iced_x86::{Code, ConditionCode, FlowControl, Instruction, OpKind, Register};

/// Picks the instance of a handler for an operand of 1, 2, 4 or 8 bytes.
macro_rules! sized {
    ($size:expr, $name:ident $(< $($generic:tt),+ >)?) => {
        match $size {
            1 => $name::<$($($generic,)+)? u8> as $crate::emulator::single::cx::Handler,
            2 => $name::<$($($generic,)+)? u16>,
            4 => $name::<$($($generic,)+)? u32>,
            _ => $name::<$($($generic,)+)? u64>,
        }
    };
}
pub(super) use sized;

/// The same for an operand of 2, 4 or 8 bytes.
macro_rules! wide {
    ($size:expr, $name:ident $(< $($generic:tt),+ >)?) => {
        match $size {
            2 => $name::<$($($generic,)+)? u16> as $crate::emulator::single::cx::Handler,
            4 => $name::<$($($generic,)+)? u32>,
            _ => $name::<$($($generic,)+)? u64>,
        }
    };
}
pub(super) use wide;

/// Picks the instance of a handler for a condition code.
macro_rules! by_condition {
    ($cc:expr, $name:ident $(, $generic:ty)*) => {
        match $cc {
            0 => $name::<0 $(, $generic)*> as $crate::emulator::single::cx::Handler,
            1 => $name::<1 $(, $generic)*>,
            2 => $name::<2 $(, $generic)*>,
            3 => $name::<3 $(, $generic)*>,
            4 => $name::<4 $(, $generic)*>,
            5 => $name::<5 $(, $generic)*>,
            6 => $name::<6 $(, $generic)*>,
            7 => $name::<7 $(, $generic)*>,
            8 => $name::<8 $(, $generic)*>,
            9 => $name::<9 $(, $generic)*>,
            10 => $name::<10 $(, $generic)*>,
            11 => $name::<11 $(, $generic)*>,
            12 => $name::<12 $(, $generic)*>,
            13 => $name::<13 $(, $generic)*>,
            14 => $name::<14 $(, $generic)*>,
            _ => $name::<15 $(, $generic)*>,
        }
    };
}
pub(super) use by_condition;

/// A prepared instruction and how it ends.
pub(crate) struct Lowered {
    /// The operation.
    pub op: Op,
    /// No instruction follows it in its block.
    pub ends: bool,
    /// It sets RIP itself.
    pub branches: bool,
}

/// Bytes of an operand; 8 if the operand has no size of its own.
pub(super) fn operand_size(instruction: &Instruction, operand: u32) -> usize {
    if operand >= instruction.op_count() {
        return 8;
    }
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory => instruction.memory_size().size(),
        _ => 8,
    }
}

/// The condition code of a conditional instruction, as in its opcode.
pub(super) fn condition(instruction: &Instruction) -> Option<u8> {
    match instruction.condition_code() {
        ConditionCode::None => None,
        cc => Some(cc as u8 - 1),
    }
}

fn undefined(cx: &mut Cx, _: &Op) -> Step {
    Err(cx.raise(Exception::UD))
}

fn too_long(cx: &mut Cx, _: &Op) -> Step {
    Err(cx.raise(TOO_LONG))
}

/// A valid instruction that we lack. Its bytes are read again for the message.
fn unsupported(cx: &mut Cx, op: &Op) -> Step {
    let rip = op.instruction.as_deref().map_or(0, Instruction::ip);
    let mut bytes = vec![0; usize::from(op.length)];
    let bank = cx.mmu.bank;
    let at = super::address::linear(cx.state, crate::arch::SegmentRegister::Cs, rip);
    if cx.mmu.read_bytes(bank, at, &mut bytes, false).is_err() {
        bytes.clear();
    }
    cx.broken(EngineError::Unsupported { rip, bytes })
}

fn set_rip(cx: &mut Cx, op: &Op) -> Step {
    cx.state.rip = op.imm;
    Ok(Flow::Jump)
}

/// The operation that ends a block without a branch.
pub(crate) fn fall_through(next: u64, block_rip: u64) -> Op {
    let mut op = Op::of(&Instruction::default(), set_rip, block_rip, 64);
    op.imm = next;
    op.offset = next.wrapping_sub(block_rip) as u16;
    op
}

/// Prepares `instruction`; `complete` is false if it is longer than an instruction can be.
pub(crate) fn lower(
    instruction: &Instruction,
    features: &Features,
    mode: CodeMode,
    block_rip: u64,
    complete: bool,
) -> Lowered {
    let bits = mode.bits();
    let mut op = Op::of(instruction, undefined, block_rip, bits);
    let invalid = instruction.code() == Code::INVALID || !features.offers(instruction);
    if invalid || !complete {
        if !complete {
            op.run = too_long;
        }
        return Lowered { op, ends: true, branches: true };
    }
    let slow_address = op.has(Op::SLOW_ADDRESS);
    let fast = fast(instruction, mode, &mut op);
    // Handlers outside the fast families, and addresses that need more than a sum, look at the instruction.
    if fast.is_none() || slow_address || bits != 64 {
        op.instruction = Some(Box::new(*instruction));
    }
    op.run = fast.or_else(|| other(instruction)).map_or(unsupported as Handler, |(_, handler)| handler);
    Lowered { op, ends: ends_block(instruction), branches: branch::sets_rip(instruction) }
}

/// A handler of the families that need no look at the instruction later, and its family.
fn fast(instruction: &Instruction, mode: CodeMode, op: &mut Op) -> Option<(&'static str, Handler)> {
    let of = |family| move |handler| (family, handler);
    moves::lower(instruction, op.has(Op::SLOW_ADDRESS))
        .map(of("moves"))
        .or_else(|| alu::lower(instruction).map(of("alu")))
        .or_else(|| branch::lower(instruction, mode, op).map(of("branch")))
        .or_else(|| stack::lower(instruction, mode.bits()).map(of("stack")))
        .or_else(|| muldiv::lower(instruction).map(of("muldiv")))
}

/// The same of the other families.
fn other(instruction: &Instruction) -> Option<(&'static str, Handler)> {
    atomic::lower(instruction)
        .map(|handler| ("atomic", handler))
        .or_else(|| super::rare(instruction))
        .or_else(|| vector::lower(instruction).map(|handler| ("vector", handler)))
}

/// What becomes of `instruction` here.
pub(crate) fn interpretation(
    instruction: &Instruction,
    features: &Features,
    mode: CodeMode,
) -> Interpretation {
    let offered = instruction.code() != Code::INVALID && features.offers(instruction);
    let mut op = Op::of(instruction, undefined, instruction.ip(), mode.bits());
    let found = fast(instruction, mode, &mut op).or_else(|| other(instruction)).filter(|_| offered);
    Interpretation { family: found.map(|(family, _)| family), offered, ends_block: ends_block(instruction) }
}

/// Whether the instruction is the last one of its block.
pub(crate) fn ends_block(instruction: &Instruction) -> bool {
    branch::sets_rip(instruction)
        || instruction.flow_control() != FlowControl::Next
        || super::changes_state(instruction)
}

/// Whether a register is one of the general ones.
pub(super) fn is_general(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
        && instruction.op_register(operand) != Register::None
        && instruction.op_register(operand).is_gpr()
}
