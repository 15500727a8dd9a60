//! Near branches: JMP, Jcc, CALL, RET, LOOP, JRCXZ. In 64-bit code each has a handler of its own; 16- and 32-bit code
//! shares [`legacy`], which checks the limit of CS.
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{ZF, holds};
use super::int::Int;
use super::lower::{by_condition, condition, is_general, wide};
use super::op::Op;
use super::{operand, stack};
use crate::arch::state::gpr::{RCX, RSP};
use crate::arch::{Exception, Gva, SegmentRegister};
use crate::emulator::front::block::CodeMode;
use crate::emulator::front::encoding::Encoding;
use crate::emulator::mmu::Fault;
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

const COUNT: u8 = RCX as u8;

fn jump(cx: &mut Cx, op: &Op) -> Step {
    cx.state.rip = op.imm;
    Ok(Flow::Jump)
}

fn jump_if<const CC: u8>(cx: &mut Cx, op: &Op) -> Step {
    cx.state.rip = if holds::<CC>(cx.flags) { op.imm } else { op.disp };
    Ok(Flow::Jump)
}

/// #GP(0) for a target that is not canonical; nothing was changed yet.
#[inline(always)]
fn checked(cx: &mut Cx, target: u64) -> Result<u64, Fault> {
    if Gva(target).is_canonical() { Ok(target) } else { Err(cx.raise(Exception::GP0)) }
}

fn jump_reg(cx: &mut Cx, op: &Op) -> Step {
    let target = cx.reg::<u64>(op.dst);
    cx.state.rip = checked(cx, target)?;
    Ok(Flow::Jump)
}

fn jump_mem(cx: &mut Cx, op: &Op) -> Step {
    let target = cx.load::<u64>(op)?;
    cx.state.rip = checked(cx, target)?;
    Ok(Flow::Jump)
}

#[inline(always)]
fn call_to(cx: &mut Cx, target: u64, next: u64) -> Step {
    let sp = cx.regs[RSP].wrapping_sub(8);
    cx.mmu.write(sp, next, true)?;
    cx.regs[RSP] = sp;
    cx.state.rip = target;
    Ok(Flow::Jump)
}

fn call(cx: &mut Cx, op: &Op) -> Step {
    call_to(cx, op.imm, op.disp)
}

/// A call to a target that is not canonical: the return address is stored, or its fault comes first; RSP stays.
#[cold]
fn call_nowhere(cx: &mut Cx, next: u64) -> Step {
    cx.mmu.write(cx.regs[RSP].wrapping_sub(8), next, true)?;
    Err(cx.raise(Exception::GP0))
}

fn call_reg(cx: &mut Cx, op: &Op) -> Step {
    let target = cx.reg::<u64>(op.dst);
    if !Gva(target).is_canonical() {
        return call_nowhere(cx, op.imm);
    }
    call_to(cx, target, op.imm)
}

fn call_mem(cx: &mut Cx, op: &Op) -> Step {
    let target = cx.load::<u64>(op)?;
    if !Gva(target).is_canonical() {
        return call_nowhere(cx, op.imm);
    }
    call_to(cx, target, op.imm)
}

/// RET; the immediate is zero for the plain form.
fn ret(cx: &mut Cx, op: &Op) -> Step {
    let sp = cx.regs[RSP];
    let target = cx.mmu.read::<u64>(sp, true)?;
    cx.state.rip = checked(cx, target)?;
    cx.regs[RSP] = sp.wrapping_add(8).wrapping_add(op.imm & 0xffff);
    Ok(Flow::Jump)
}

/// LOOP with the count register of the address size.
fn loop_count<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let count = T::of(cx.reg::<T>(COUNT).zx().wrapping_sub(1));
    cx.set_reg(COUNT, count);
    cx.state.rip = if count == T::default() { op.disp } else { op.imm };
    Ok(Flow::Jump)
}

fn loop_while<const EQUAL: bool, T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let count = T::of(cx.reg::<T>(COUNT).zx().wrapping_sub(1));
    cx.set_reg(COUNT, count);
    let goes_on = count != T::default() && (cx.flags & ZF != 0) == EQUAL;
    cx.state.rip = if goes_on { op.imm } else { op.disp };
    Ok(Flow::Jump)
}

fn jump_if_zero<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let zero = cx.reg::<T>(COUNT) == T::default();
    cx.state.rip = if zero { op.imm } else { op.disp };
    Ok(Flow::Jump)
}

/// A conditional branch of 16- and 32-bit code in a segment with a limit: the branch itself raises #GP(0), not what lies
/// beyond the limit.
fn conditional(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let (rip, count) = (cx.state.rip, cx.regs[RCX]);
    let step = match unlimited(&instruction) {
        Some(run) => run(cx, op)?,
        None => return Err(cx.raise(Exception::UD)),
    };
    let target = cx.state.rip;
    if let Err(fault) = in_code_segment(cx, target) {
        (cx.state.rip, cx.regs[RCX]) = (rip, count);
        return Err(fault);
    }
    Ok(step)
}

/// The handler of a conditional branch without regard to limits.
fn unlimited(instruction: &Instruction) -> Option<Handler> {
    let count_size = || Encoding::of(instruction.code()).address_size();
    Some(match instruction.mnemonic() {
        Mnemonic::Loop => wide!(count_size(), loop_count),
        Mnemonic::Loope => wide!(count_size(), loop_while<true>),
        Mnemonic::Loopne => wide!(count_size(), loop_while<false>),
        Mnemonic::Jcxz => jump_if_zero::<u16>,
        Mnemonic::Jecxz => jump_if_zero::<u32>,
        Mnemonic::Jrcxz => jump_if_zero::<u64>,
        _ if instruction.flow_control() == FlowControl::ConditionalBranch => {
            by_condition!(condition(instruction)?, jump_if)
        }
        _ => return None,
    })
}

/// #GP(0) if `target` is beyond the limit of CS.
fn in_code_segment(cx: &mut Cx, target: u64) -> Result<u64, Fault> {
    let limit = cx.state.segment(SegmentRegister::Cs).limit;
    if target > u64::from(limit) {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(target)
}

/// JMP, CALL and RET of 16- and 32-bit code.
fn legacy(cx: &mut Cx, op: &Op) -> Step {
    let Some(instruction) = op.instruction.as_deref().copied() else {
        return Err(cx.raise(Exception::UD));
    };
    let moved = instruction.stack_pointer_increment();
    if instruction.mnemonic() == Mnemonic::Ret {
        // The increment counts the immediate too.
        let size = (moved as usize).wrapping_sub((op.imm & 0xffff) as usize);
        let target = stack::peek(cx, 0, size)?;
        cx.state.rip = in_code_segment(cx, target)?;
        stack::advance(cx, moved as u64);
        return Ok(Flow::Jump);
    }
    let target = match instruction.op_kind(0) {
        OpKind::Register if instruction.op_register(0).size() == 2 => cx.reg::<u16>(op.dst).zx(),
        OpKind::Register => cx.reg::<u32>(op.dst).zx(),
        OpKind::Memory if instruction.memory_size().size() == 2 => cx.load::<u16>(op)?.zx(),
        OpKind::Memory => cx.load::<u32>(op)?.zx(),
        OpKind::NearBranch16 => op.imm & 0xffff,
        _ => op.imm & 0xffff_ffff,
    };
    let target = in_code_segment(cx, target)?;
    if moved < 0 {
        stack::push(cx, moved.unsigned_abs() as usize, instruction.next_ip())?;
    }
    cx.state.rip = target;
    Ok(Flow::Jump)
}

/// Whether the instruction sets RIP in every case, so that its block needs no end of its own.
pub(super) fn sets_rip(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::Interrupt
            | FlowControl::Exception
    )
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction, mode: CodeMode, op: &mut Op) -> Option<Handler> {
    let near = |i: &Instruction| {
        matches!(
            i.flow_control(),
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::Return
        ) && matches!(i.mnemonic(), Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret)
            && !matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
            && !is_far_pointer(i)
    };
    if let Some(run) = unlimited(instruction) {
        return Some(if mode.space() == 0 { run } else { conditional });
    }
    Some(match instruction.mnemonic() {
        _ if !near(instruction) => return None,
        _ if mode.bits() != 64 => legacy,
        Mnemonic::Ret => ret,
        Mnemonic::Jmp => match instruction.op_kind(0) {
            _ if is_general(instruction, 0) => jump_reg,
            OpKind::Memory => jump_mem,
            _ => jump,
        },
        _ => {
            // The return address of indirect calls goes where direct branches keep their target.
            if !matches!(instruction.op_kind(0), OpKind::NearBranch64) {
                op.imm = instruction.next_ip();
            }
            match instruction.op_kind(0) {
                _ if is_general(instruction, 0) => call_reg,
                OpKind::Memory => call_mem,
                _ => call,
            }
        }
    })
}

/// Whether the memory operand is a far pointer (selector and offset).
pub(super) fn is_far_pointer(instruction: &Instruction) -> bool {
    use iced_x86::MemorySize;
    instruction.op0_kind() == OpKind::Memory
        && matches!(
            instruction.memory_size(),
            MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
        )
}
