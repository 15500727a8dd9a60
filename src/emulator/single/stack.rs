//! PUSH, POP, ENTER, LEAVE, PUSHA, POPA, PUSHF, POPF. Pushes and pops of 64-bit code have handlers of their own; the
//! general ones work with any operand and stack size.
use super::address;
use super::cx::{Cx, Flow, Handler, Step};
use super::int::Int;
use super::lower::is_general;
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::{RBP, RSP};
use crate::arch::{Exception, Rflags, SegmentRegister};
use crate::emulator::front::encoding::Encoding;
use crate::emulator::mmu::Fault;
use iced_x86::{Instruction, Mnemonic, OpKind};

#[inline(always)]
fn push64<T: Int>(cx: &mut Cx, value: T) -> Step {
    let sp = cx.regs[RSP].wrapping_sub(T::BYTES as u64);
    cx.mmu.write(sp, value, true)?;
    cx.regs[RSP] = sp;
    cx.stored()
}

fn push_reg<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.dst);
    push64(cx, value)
}

fn push_imm<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    push64(cx, T::of(op.imm))
}

fn push_mem<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.load::<T>(op)?;
    push64(cx, value)
}

fn pop_reg<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let sp = cx.regs[RSP];
    let value = cx.mmu.read::<T>(sp, true)?;
    cx.regs[RSP] = sp.wrapping_add(T::BYTES as u64);
    cx.set_reg(op.dst, value);
    Ok(Flow::Next)
}

fn pop_mem<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let sp = cx.regs[RSP];
    let value = cx.mmu.read::<T>(sp, true)?;
    // The address of the destination is computed with the stack pointer after the pop.
    cx.regs[RSP] = sp.wrapping_add(T::BYTES as u64);
    if let Err(fault) = cx.store(op, value) {
        cx.regs[RSP] = sp;
        return Err(fault);
    }
    cx.stored()
}

fn leave64(cx: &mut Cx, _: &Op) -> Step {
    let frame = cx.regs[RBP];
    let value = cx.mmu.read::<u64>(frame, true)?;
    cx.regs[RBP] = value;
    cx.regs[RSP] = frame.wrapping_add(8);
    Ok(Flow::Next)
}

/// The bits of the stack pointer in use.
pub(super) fn pointer_mask(cx: &Cx) -> u64 {
    if cx.state.is_64bit_code() {
        u64::MAX
    } else if cx.state.segment(SegmentRegister::Ss).is_big() {
        0xffff_ffff
    } else {
        0xffff
    }
}

/// Moves the stack pointer by `bytes`, wrapping in its size.
pub(super) fn advance(cx: &mut Cx, bytes: u64) {
    let mask = pointer_mask(cx);
    let moved = cx.regs[RSP].wrapping_add(bytes) & mask;
    set_pointer(cx, moved);
}

/// Sets the stack pointer in its size.
pub(super) fn set_pointer(cx: &mut Cx, value: u64) {
    let mask = pointer_mask(cx);
    // 32-bit stacks clear the upper half as every 32-bit register write does.
    let kept = if mask == 0xffff { cx.regs[RSP] & !mask } else { 0 };
    cx.regs[RSP] = kept | value & mask;
}

fn place(cx: &mut Cx, offset: u64, size: usize, write: bool) -> Result<u64, Fault> {
    let at = cx.regs[RSP].wrapping_add(offset) & pointer_mask(cx);
    address::in_segment(cx, SegmentRegister::Ss, at, size, write)
}

/// Reads `size` bytes at `offset` from the top of the stack.
pub(super) fn peek(cx: &mut Cx, offset: u64, size: usize) -> Result<u64, Fault> {
    let at = place(cx, offset, size, false)?;
    match size {
        2 => cx.mmu.read::<u16>(at, true).map(Int::zx),
        4 => cx.mmu.read::<u32>(at, true).map(Int::zx),
        _ => cx.mmu.read::<u64>(at, true),
    }
}

/// Writes `size` bytes at `offset` from the top of the stack, without moving it.
pub(super) fn poke(cx: &mut Cx, offset: u64, size: usize, value: u64) -> Result<(), Fault> {
    let at = place(cx, offset, size, true)?;
    match size {
        2 => cx.mmu.write(at, value as u16, true),
        4 => cx.mmu.write(at, value as u32, true),
        _ => cx.mmu.write(at, value, true),
    }
}

/// Pushes `size` bytes.
pub(crate) fn push(cx: &mut Cx, size: usize, value: u64) -> Result<(), Fault> {
    let back = (size as u64).wrapping_neg();
    poke(cx, back, size, value)?;
    advance(cx, back);
    Ok(())
}

/// How many bytes a push or pop moves.
fn moved(instruction: &Instruction) -> usize {
    instruction.stack_pointer_increment().unsigned_abs() as usize
}

fn push_any(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let value = operand::read(cx, op, &instruction, 0)?;
    push(cx, moved(&instruction), value)?;
    cx.stored()
}

fn pop_any(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = moved(&instruction);
    let before = cx.regs[RSP];
    let value = peek(cx, 0, size)?;
    advance(cx, size as u64);
    if let Err(fault) = operand::write(cx, op, &instruction, 0, value) {
        cx.regs[RSP] = before;
        return Err(fault);
    }
    cx.stored()
}

fn leave_any(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = if instruction.mnemonic() == Mnemonic::Leave {
        // `stack_pointer_increment` has no meaning for LEAVE; its operand size is that of the code.
        Encoding::of(instruction.code()).operand_size()
    } else {
        8
    };
    let mask = pointer_mask(cx);
    let frame = cx.regs[RBP] & mask;
    let at = address::in_segment(cx, SegmentRegister::Ss, frame, size, false)?;
    match size {
        2 => {
            let value = cx.mmu.read::<u16>(at, true)?;
            cx.set_reg(RBP as u8, value);
        }
        4 => {
            let value = cx.mmu.read::<u32>(at, true)?;
            cx.set_reg(RBP as u8, value);
        }
        _ => cx.regs[RBP] = cx.mmu.read::<u64>(at, true)?,
    }
    set_pointer(cx, frame.wrapping_add(size as u64));
    Ok(Flow::Next)
}

fn enter(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = Encoding::of(instruction.code()).operand_size().clamp(2, 8);
    let allocated = u64::from(instruction.immediate16());
    let level = u64::from(instruction.immediate8_2nd() & 31);
    let mask = pointer_mask(cx);
    let step = size as u64;
    let rbp = cx.regs[RBP];
    poke(cx, step.wrapping_neg(), size, rbp)?;
    let frame = cx.regs[RSP].wrapping_sub(step) & mask;
    let mut down = step;
    for i in 1..level {
        let from = rbp.wrapping_sub(i * step) & mask;
        let at = address::in_segment(cx, SegmentRegister::Ss, from, size, false)?;
        let display = match size {
            2 => cx.mmu.read::<u16>(at, true)?.zx(),
            4 => cx.mmu.read::<u32>(at, true)?.zx(),
            _ => cx.mmu.read::<u64>(at, true)?,
        };
        down += step;
        poke(cx, down.wrapping_neg(), size, display)?;
    }
    if level > 0 {
        down += step;
        poke(cx, down.wrapping_neg(), size, frame)?;
    }
    // The last word of the new frame must be writable too.
    let last = down.wrapping_add(allocated).wrapping_neg();
    let at = place(cx, last, size, true)?;
    cx.mmu.check_write(at, size, true)?;
    match size {
        2 => cx.set_reg(RBP as u8, frame as u16),
        4 => cx.set_reg(RBP as u8, frame as u32),
        _ => cx.regs[RBP] = frame,
    }
    advance(cx, down.wrapping_add(allocated).wrapping_neg());
    cx.stored()
}

fn push_all(cx: &mut Cx, op: &Op) -> Step {
    let size = moved(&operand::instruction(op)) / 8;
    for i in 0..8_u64 {
        let value = cx.regs[i as usize];
        let below = (i + 1) * size as u64;
        poke(cx, below.wrapping_neg(), size, value)?;
    }
    advance(cx, (8 * size as u64).wrapping_neg());
    cx.stored()
}

fn pop_all(cx: &mut Cx, op: &Op) -> Step {
    let size = moved(&operand::instruction(op)) / 8;
    let mut values = [0; 8];
    for (i, value) in values.iter_mut().enumerate() {
        *value = peek(cx, (7 - i as u64) * size as u64, size)?;
    }
    for (i, value) in values.into_iter().enumerate().filter(|&(i, _)| i != RSP) {
        match size {
            2 => cx.set_reg(i as u8, value as u16),
            _ => cx.set_reg(i as u8, value as u32),
        }
    }
    advance(cx, 8 * size as u64);
    Ok(Flow::Next)
}

fn push_flags(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    if cx.is_virtual_8086() && cx.state.rflags.iopl() < 3 {
        return Err(cx.raise(Exception::GP0));
    }
    let hidden = Rflags::VM | Rflags::RF;
    let image = (cx.rflags() - hidden).bits();
    push(cx, moved(&instruction), image)?;
    cx.stored()
}

/// The bits of RFLAGS that `size` bytes loaded at this privilege may change (SDM vol. 2B, POPF).
pub(super) fn writable_flags(cx: &Cx, size: usize) -> Rflags {
    let mut writable = Rflags::STATUS | Rflags::TF | Rflags::DF | Rflags::NT | Rflags::AC | Rflags::ID;
    if cx.state.cpl() == 0 {
        writable |= Rflags::IOPL;
    }
    if cx.state.cpl() <= cx.state.rflags.iopl() || !cx.is_protected() {
        writable |= Rflags::IF;
    }
    if size == 2 {
        writable = Rflags::from_bits_retain(writable.bits() & 0xffff);
    }
    writable
}

fn pop_flags(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = moved(&instruction);
    if cx.is_virtual_8086() && cx.state.rflags.iopl() < 3 {
        return Err(cx.raise(Exception::GP0));
    }
    let image = Rflags::from_bits_retain(peek(cx, 0, size)?);
    let writable = writable_flags(cx, size);
    let before = cx.rflags();
    let after = (before - writable - Rflags::RF) | image & writable | Rflags::FIXED;
    advance(cx, size as u64);
    cx.set_rflags(after);
    let watched = Rflags::IF | Rflags::TF | Rflags::AC;
    if (before ^ after).intersects(watched) {
        cx.refresh();
        cx.state.rip = instruction.next_ip();
        return Ok(Flow::Renew);
    }
    Ok(Flow::Next)
}

fn lower64(instruction: &Instruction) -> Option<Handler> {
    let memory = instruction.op0_kind() == OpKind::Memory;
    let general = is_general(instruction, 0);
    let wide = moved(instruction) == 8;
    Some(match (instruction.mnemonic(), wide) {
        (Mnemonic::Push, true) if general => push_reg::<u64>,
        (Mnemonic::Push, false) if general => push_reg::<u16>,
        (Mnemonic::Push, true) if memory => push_mem::<u64>,
        (Mnemonic::Push, false) if memory => push_mem::<u16>,
        (Mnemonic::Push, _) if instruction.op0_kind() == OpKind::Register => return None,
        (Mnemonic::Push, true) => push_imm::<u64>,
        (Mnemonic::Push, false) => push_imm::<u16>,
        (Mnemonic::Pop, true) if general => pop_reg::<u64>,
        (Mnemonic::Pop, false) if general => pop_reg::<u16>,
        (Mnemonic::Pop, true) if memory => pop_mem::<u64>,
        (Mnemonic::Pop, false) if memory => pop_mem::<u16>,
        (Mnemonic::Leave, _) if instruction.code() == iced_x86::Code::Leaveq => leave64,
        _ => return None,
    })
}

/// The handler of an instruction of this family that needs no look at the instruction.
pub(super) fn lower(instruction: &Instruction, bits: u32) -> Option<Handler> {
    if bits == 64 { lower64(instruction) } else { None }
}

/// The handler of any other instruction of this family.
pub(super) fn lower_rare(instruction: &Instruction) -> Option<Handler> {
    let segment =
        instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register();
    Some(match instruction.mnemonic() {
        Mnemonic::Push => push_any,
        Mnemonic::Pop if !segment => pop_any,
        Mnemonic::Leave => leave_any,
        Mnemonic::Enter => enter,
        Mnemonic::Pusha | Mnemonic::Pushad => push_all,
        Mnemonic::Popa | Mnemonic::Popad => pop_all,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => push_flags,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => pop_flags,
        _ => return None,
    })
}
