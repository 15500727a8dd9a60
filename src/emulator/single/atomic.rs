//! Locked read-modify-write on guest memory, XCHG, XADD and the compare-and-exchange family.
//!
//! On RAM they are locked instructions of the host, so that other vCPUs and devices see them whole; see [`locked`] for
//! where that cannot be.
#![expect(unsafe_code, reason = "atomic operations on guest RAM by host address")]
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{self, ZF};
use super::int::Int;
use super::lower::{operand_size, sized};
use super::op::Op;
use crate::arch::Exception;
use crate::arch::state::gpr;
use crate::emulator::mmu::{Fault, locked};
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::arch::asm;

/// `lock cmpxchg` at a host address; the value that was there, if it was not `old`.
///
/// # Safety
/// `host` is valid for reads and writes of `T`; it need not be aligned.
unsafe fn exchange_if<T: Int>(host: usize, old: T, new: T) -> Result<(), T> {
    let (mut seen, new) = (old.zx(), new.zx());
    // SAFETY: the caller's promise; guest RAM is accessed atomically or by raw copies only.
    unsafe {
        match T::BYTES {
            1 => asm!("lock cmpxchg byte ptr [{p}], {n}", p = in(reg) host, n = in(reg_byte) new as u8,
                inout("rax") seen, options(nostack)),
            2 => asm!("lock cmpxchg word ptr [{p}], {n:x}", p = in(reg) host, n = in(reg) new,
                inout("rax") seen, options(nostack)),
            4 => asm!("lock cmpxchg dword ptr [{p}], {n:e}", p = in(reg) host, n = in(reg) new,
                inout("rax") seen, options(nostack)),
            _ => asm!("lock cmpxchg qword ptr [{p}], {n}", p = in(reg) host, n = in(reg) new,
                inout("rax") seen, options(nostack)),
        }
    }
    let seen = T::of(seen);
    if seen == old { Ok(()) } else { Err(seen) }
}

/// Changes the memory operand atomically; `change` may be called several times. Returns the old value.
pub(super) fn update_locked<T: Int>(cx: &mut Cx, op: &Op, change: impl FnMut(T) -> T) -> Result<T, Fault> {
    let at = cx.address(op, T::BYTES, true)?;
    update_locked_at(cx, at, op.has(Op::STACK_SEGMENT), change)
}

/// As [`update_locked`], at a linear address.
pub(super) fn update_locked_at<T: Int>(
    cx: &mut Cx,
    at: u64,
    stack: bool,
    mut change: impl FnMut(T) -> T,
) -> Result<T, Fault> {
    if let Some(place) = cx.mmu.locked_place(at, T::BYTES, stack)? {
        // SAFETY: the operand lies in mapped RAM.
        let mut old = unsafe { (place.host as *const T).read_unaligned() };
        loop {
            // SAFETY: as above.
            match unsafe { exchange_if(place.host, old, change(old)) } {
                Ok(()) => break,
                Err(seen) => old = seen,
            }
        }
        cx.mmu.end_locked(place, at, T::BYTES);
        return Ok(old);
    }
    let _alone = locked::split_lock();
    let mut before = T::default();
    cx.mmu.update::<T>(at, stack, |old| {
        before = old;
        change(old)
    })?;
    Ok(before)
}

fn xchg_reg<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let (a, b) = (cx.reg::<T>(op.dst), cx.reg::<T>(op.src));
    cx.set_reg(op.dst, b);
    cx.set_reg(op.src, a);
    Ok(Flow::Next)
}

fn xchg_mem<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    // One of the two is the register, whichever way round the decoder names them.
    let register = if op.src == super::cx::ZERO { op.dst } else { op.src };
    let new = cx.reg::<T>(register);
    let old = update_locked::<T>(cx, op, |_| new)?;
    cx.set_reg(register, old);
    cx.stored()
}

fn xadd_reg<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let (a, b) = (cx.reg::<T>(op.dst), cx.reg::<T>(op.src));
    let (sum, flags) = T::add(a, b, cx.flags);
    cx.set_reg(op.src, a);
    cx.set_reg(op.dst, sum);
    cx.flags = flags;
    Ok(Flow::Next)
}

fn xadd_mem<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let b = cx.reg::<T>(op.src);
    let old = update_locked::<T>(cx, op, |a| T::add(a, b, 0).0)?;
    cx.flags = T::add(old, b, 0).1;
    cx.set_reg(op.src, old);
    cx.stored()
}

fn cmpxchg_reg<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let (accumulator, old) = (cx.reg::<T>(0), cx.reg::<T>(op.dst));
    cx.flags = T::sub(accumulator, old, 0).1;
    if accumulator == old {
        let new = cx.reg::<T>(op.src);
        cx.set_reg(op.dst, new);
    } else {
        cx.set_reg(0, old);
    }
    Ok(Flow::Next)
}

fn cmpxchg_mem<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let (accumulator, new) = (cx.reg::<T>(0), cx.reg::<T>(op.src));
    // The destination is written in any case, with its old value if they differ.
    let old = update_locked::<T>(cx, op, |old| if old == accumulator { new } else { old })?;
    cx.flags = T::sub(accumulator, old, 0).1;
    if accumulator != old {
        cx.set_reg(0, old);
    }
    cx.stored()
}

fn cmpxchg8b(cx: &mut Cx, op: &Op) -> Step {
    let pair = |cx: &Cx, high, low| cx.regs[high] << 32 | cx.regs[low] & 0xffff_ffff;
    let expected = pair(cx, gpr::RDX, gpr::RAX);
    let new = pair(cx, gpr::RCX, gpr::RBX);
    let old = update_locked::<u64>(cx, op, |old| if old == expected { new } else { old })?;
    cx.flags = flags::with(cx.flags, ZF, old == expected);
    if old != expected {
        cx.set_reg::<u32>(gpr::RAX as u8, old as u32);
        cx.set_reg::<u32>(gpr::RDX as u8, (old >> 32) as u32);
    }
    cx.stored()
}

/// `lock cmpxchg16b` at a host address; returns the old value.
///
/// # Safety
/// `host` is valid for 16 bytes and aligned to 16; the host has the instruction (it is offered to guests only then).
unsafe fn exchange16(host: usize, expected: (u64, u64), new: (u64, u64)) -> (u64, u64) {
    let (low, high): (u64, u64);
    // SAFETY: the caller's promise. RBX is reserved by the compiler and put back.
    unsafe {
        std::arch::asm!(
            "xchg {b}, rbx", "lock cmpxchg16b [{p}]", "mov rbx, {b}",
            p = in(reg) host, b = inout(reg) new.0 => _, in("rcx") new.1,
            inout("rax") expected.0 => low, inout("rdx") expected.1 => high, options(nostack));
    }
    (low, high)
}

fn cmpxchg16b(cx: &mut Cx, op: &Op) -> Step {
    let at = cx.address(op, 16, true)?;
    let stack = op.has(Op::STACK_SEGMENT);
    if at % 16 != 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let expected = (cx.regs[gpr::RAX], cx.regs[gpr::RDX]);
    let new = (cx.regs[gpr::RBX], cx.regs[gpr::RCX]);
    let old = if let Some(place) = cx.mmu.locked_place(at, 16, stack)? {
        // SAFETY: the 16 aligned bytes are mapped RAM.
        let old = unsafe { exchange16(place.host, expected, new) };
        cx.mmu.end_locked(place, at, 16);
        old
    } else {
        let _alone = locked::split_lock();
        let old = (cx.mmu.read::<u64>(at, stack)?, cx.mmu.read::<u64>(at.wrapping_add(8), stack)?);
        let value = if old == expected { new } else { old };
        cx.mmu.write(at, value.0, stack)?;
        cx.mmu.write(at.wrapping_add(8), value.1, stack)?;
        old
    };
    cx.flags = flags::with(cx.flags, ZF, old == expected);
    if old != expected {
        (cx.regs[gpr::RAX], cx.regs[gpr::RDX]) = old;
    }
    cx.stored()
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let size = operand_size(instruction, 0);
    let registers = instruction.op_kind(0) == OpKind::Register
        && (instruction.op_count() < 2 || instruction.op_kind(1) == OpKind::Register);
    Some(match instruction.mnemonic() {
        Mnemonic::Xchg if registers => sized!(size, xchg_reg),
        Mnemonic::Xchg => sized!(size, xchg_mem),
        Mnemonic::Xadd if registers => sized!(size, xadd_reg),
        Mnemonic::Xadd => sized!(size, xadd_mem),
        Mnemonic::Cmpxchg if registers => sized!(size, cmpxchg_reg),
        Mnemonic::Cmpxchg => sized!(size, cmpxchg_mem),
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        _ => return None,
    })
}
