//! Instructions without effect on the CPU's state — hints, fences, cache lines — and the invalid ones that have names.
use super::cx::{Cx, Flow, Handler, Step};
use super::int::Int;
use super::lower::{operand_size, wide};
use super::op::Op;
use crate::arch::Exception;
use iced_x86::{Instruction, Mnemonic};

fn nothing(_: &mut Cx, _: &Op) -> Step {
    Ok(Flow::Next)
}

/// Other CPUs see what was stored before it before anything is loaded after it: the host's store buffer is the guest's.
/// SERIALIZE, which also ends its block, is no more than that: the next fetch sees what was stored.
fn fence(_: &mut Cx, _: &Op) -> Step {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(Flow::Next)
}

/// CLFLUSH, CLFLUSHOPT, CLWB: caches are coherent; the address is checked as for a read.
fn cache_line(cx: &mut Cx, op: &Op) -> Step {
    let _value = cx.load::<u8>(op)?;
    Ok(Flow::Next)
}

/// A store past the caches is a store.
fn movnti<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.reg::<T>(op.src);
    cx.store(op, value)?;
    cx.stored()
}

/// UD0, UD1, UD2.
fn undefined(cx: &mut Cx, _: &Op) -> Step {
    Err(cx.raise(Exception::UD))
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Pause
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchwt1
        | Mnemonic::Cldemote => nothing,
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Serialize => fence,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => cache_line,
        Mnemonic::Movnti => wide!(operand_size(instruction, 1), movnti),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => undefined,
        _ => return None,
    })
}
