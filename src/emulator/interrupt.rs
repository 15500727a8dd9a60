//! Delivery of exceptions and interrupts through the IDT (SDM 6.12, 6.14), and what happens when it fails.
//!
//! A delivery checks the gate, the code segment and the stack, pushes the frame and only then changes registers; if it
//! raises an exception itself, [`combine`] decides between that one, #DF and shutdown.
mod legacy;

use super::mmu::{Bank, Fault};
use super::single::Outcome;
use super::single::cx::Cx;
use super::single::{segment, task};
use crate::arch::exception::{Combined, combine};
use crate::arch::state::gpr::RSP;
use crate::arch::{Activity, Exception, Gva, Rflags, Segment, SegmentRegister, Vector};
use crate::engine::{Cause, EventKind};
pub(crate) use legacy::push_inner;

/// What is to be delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An interrupt from the interrupt complex.
    External(u8),
    /// An exception of an instruction; RIP is what the frame shall hold.
    Exception(Exception),
}

/// Exceptions in a row after which the processor shuts down.
const MOST_SERIAL: usize = 16;
/// Selector error codes: the event did not come from the program itself.
const EXT: u32 = 1;
/// The selector error code names the IDT.
const IDT: u32 = 2;

/// Delivers `event`, or what its delivery turns into.
pub(crate) fn deliver(cx: &mut Cx, event: Event) -> Outcome {
    cx.state.activity = Activity::Running;
    cx.state.interrupt_shadow = false;
    let mut now = event;
    // Faults that only follow one another (#AC on the frame's push, say) could go on for ever.
    for _ in 0..MOST_SERIAL {
        let (vector, code) = match now {
            Event::External(vector) => (vector, None),
            Event::Exception(e) => (e.vector as u8, e.error_code),
        };
        if let Event::Exception(e) = now {
            if let Some(at) = e.cr2 {
                cx.state.cr2 = at.0;
            }
            cx.platform.counters(cx.mmu.vcpu).count(Cause::GuestException);
            cx.platform.trace().record(EventKind::Exception, vector.into(), code.unwrap_or(0).into(), 0);
        }
        match enter(cx, vector, code, true, is_fault(now)) {
            Ok(()) => {
                // A task switch may have led to a task that cannot begin.
                if let Some(exception) = cx.state.pending_exception.take() {
                    now = Event::Exception(exception);
                    continue;
                }
                return match now {
                    Event::Exception(e) => Outcome::Exception(e.vector),
                    Event::External(_) => Outcome::Retired,
                };
            }
            Err(Fault) => {
                let second = cx.mmu.exception;
                let combined = match now {
                    Event::Exception(first) => combine(first.vector, second.vector),
                    Event::External(_) => Combined::Serial,
                };
                now = match combined {
                    Combined::Serial => Event::Exception(second),
                    Combined::Double => {
                        if let Some(at) = second.cr2 {
                            cx.state.cr2 = at.0;
                        }
                        Event::Exception(Exception::with_code(Vector::DoubleFault, 0))
                    }
                    Combined::Triple => {
                        cx.state.activity = Activity::Shutdown;
                        return Outcome::TripleFault;
                    }
                };
            }
        }
    }
    cx.state.activity = Activity::Shutdown;
    Outcome::TripleFault
}

/// INT n, INT3, INTO, with RIP at the next instruction already: the gate's privilege is checked, and a failure is the
/// instruction's own fault.
pub(crate) fn software(cx: &mut Cx, vector: u8) -> Result<(), Fault> {
    enter(cx, vector, None, false, false)
}

/// INT1: as INT n, but like an exception it ignores the privilege of the gate.
pub(crate) fn trap(cx: &mut Cx, vector: Vector) -> Result<(), Fault> {
    enter(cx, vector as u8, None, true, false)
}

/// Whether the frame gets RF set: the instruction is to be restarted (SDM 17.3.1.1).
fn is_fault(event: Event) -> bool {
    match event {
        Event::Exception(e) => !matches!(e.vector, Vector::Debug | Vector::Breakpoint | Vector::Overflow),
        Event::External(_) => false,
    }
}

/// The type of a task gate.
const TASK_GATE: u8 = 5;

/// A gate of the IDT.
struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    kind: u8,
}

fn gate(cx: &mut Cx, vector: u8, external: bool) -> Result<Gate, Fault> {
    let ext = if external { EXT } else { 0 };
    let code = u32::from(vector) << 3 | IDT | ext;
    let general = Exception::with_code(Vector::GeneralProtection, code);
    let long = cx.state.is_long_mode();
    let size = if long { 16 } else { 8 };
    let offset = u64::from(vector) * size;
    if offset + size - 1 > u64::from(cx.state.idtr.limit) {
        return Err(cx.raise(general));
    }
    let at = cx.state.idtr.base.wrapping_add(offset);
    let low = cx.mmu.read_as::<u64>(Bank::Supervisor, at)?;
    let high = if long { cx.mmu.read_as::<u64>(Bank::Supervisor, at.wrapping_add(8))? } else { 0 };
    let kind = (low >> 40 & 0x1f) as u8;
    let valid =
        if long { matches!(kind, 0xe | 0xf) } else { matches!(kind, TASK_GATE | 0x6 | 0x7 | 0xe | 0xf) };
    let dpl = (low >> 45 & 3) as u8;
    if !valid || !external && dpl < cx.state.cpl() {
        return Err(cx.raise(general));
    }
    if low >> 47 & 1 == 0 {
        return Err(cx.raise(Exception::with_code(Vector::SegmentNotPresent, code)));
    }
    let mut target = low & 0xffff | (low >> 32 & 0xffff_0000) | high << 32;
    if kind & 8 == 0 {
        target &= 0xffff;
    }
    Ok(Gate {
        selector: (low >> 16) as u16,
        offset: target,
        ist: if long { (low >> 32 & 7) as u8 } else { 0 },
        kind,
    })
}

fn enter(cx: &mut Cx, vector: u8, code: Option<u32>, external: bool, restart: bool) -> Result<(), Fault> {
    if !cx.is_protected() {
        return legacy::real_mode(cx, vector);
    }
    let gate = gate(cx, vector, external)?;
    let ext = if external { EXT } else { 0 };
    if gate.kind == TASK_GATE {
        let rip = cx.state.rip;
        if restart {
            cx.state.rflags |= Rflags::RF;
        }
        return task::switch(cx, gate.selector, task::Reason::Gate { code, ext }, rip);
    }
    if gate.selector & !3 == 0 {
        return Err(cx.raise(Exception::with_code(Vector::GeneralProtection, ext)));
    }
    let selector_code = u32::from(gate.selector & !3) | ext;
    let general = Exception::with_code(Vector::GeneralProtection, selector_code);
    let descriptor = match segment::descriptor(cx, gate.selector) {
        Ok(Some(descriptor)) => descriptor,
        Ok(None) => return Err(cx.raise(general)),
        Err(fault) => return Err(fault),
    };
    let mut code_segment = Segment::from_descriptor(gate.selector, descriptor);
    let cpl = cx.state.cpl();
    let long = cx.state.is_long_mode();
    let wrong_size = long && (!code_segment.is_long() || code_segment.is_big());
    // Virtual-8086 mode is left to ring 0 only.
    let conforming = code_segment.kind() & 4 != 0;
    let stays_virtual = cx.is_virtual_8086() && (conforming || code_segment.dpl() != 0);
    if !code_segment.is_code() || code_segment.dpl() > cpl || wrong_size || stays_virtual {
        return Err(cx.raise(general));
    }
    if !code_segment.is_present() {
        return Err(cx.raise(Exception::with_code(Vector::SegmentNotPresent, selector_code)));
    }
    let new_cpl = if conforming { cpl } else { code_segment.dpl() };
    code_segment.selector = code_segment.selector & !3 | u16::from(new_cpl);
    segment::mark_accessed(cx, gate.selector, descriptor)?;
    code_segment.attributes |= 1;
    if !long && gate.offset > u64::from(code_segment.limit) {
        return Err(cx.raise(Exception::with_code(Vector::GeneralProtection, ext)));
    }
    let mut image = cx.rflags();
    if restart {
        image |= Rflags::RF;
    }
    if long {
        long_frame(cx, &gate, code, external, new_cpl, image)?;
    } else {
        legacy::frame(cx, &gate, code, external, new_cpl, image)?;
    }
    *cx.state.segment_mut(SegmentRegister::Cs) = code_segment;
    cx.state.rip = gate.offset;
    let mut cleared = Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM;
    if gate.kind & 1 == 0 {
        cleared |= Rflags::IF;
    }
    cx.state.rflags.remove(cleared);
    cx.refresh();
    Ok(())
}

/// Picks the stack of a 64-bit delivery, pushes the frame and switches to the stack.
fn long_frame(
    cx: &mut Cx,
    gate: &Gate,
    code: Option<u32>,
    external: bool,
    new_cpl: u8,
    image: Rflags,
) -> Result<(), Fault> {
    let ext = if external { EXT } else { 0 };
    let inner = new_cpl < cx.state.cpl();
    let mut sp = match (gate.ist, inner) {
        (0, false) => cx.regs[RSP],
        (0, true) => stack_from_tss(cx, 4 + 8 * u64::from(new_cpl), ext)?,
        (ist, _) => stack_from_tss(cx, 0x24 + 8 * u64::from(ist - 1), ext)?,
    };
    if !Gva(gate.offset).is_canonical() {
        return Err(cx.raise(Exception::GP0));
    }
    sp &= !15;
    let bank = if new_cpl == 3 { Bank::User } else { frame_bank(cx) };
    let words = [
        code.unwrap_or(0).into(),
        cx.state.rip,
        cx.state.segment(SegmentRegister::Cs).selector.into(),
        image.bits(),
        cx.regs[RSP],
        cx.state.segment(SegmentRegister::Ss).selector.into(),
    ];
    let words = &words[usize::from(code.is_none())..];
    sp = sp.wrapping_sub(8 * words.len() as u64);
    cx.mmu.push_words(bank, sp, words)?;
    cx.regs[RSP] = sp;
    if inner {
        *cx.state.segment_mut(SegmentRegister::Ss) = null_stack(new_cpl);
    }
    Ok(())
}

/// The rights with which a frame is pushed on a stack of rings 0–2.
///
/// Only what is done while CPL < 3 is an explicit supervisor access, which RFLAGS.AC excuses from SMAP (SDM 4.6). CPL
/// changes after the frame is pushed (SDM vol. 2A, INT n, Operation), so a program of ring 3 cannot lift SMAP for the
/// kernel's stack by setting AC, its to set.
fn frame_bank(cx: &Cx) -> Bank {
    if cx.state.cpl() == 3 { Bank::Supervisor } else { cx.mmu.supervisor_bank() }
}

/// SS after a switch to an inner ring of 64-bit mode: a null selector that holds the privilege level.
pub(crate) fn null_stack(cpl: u8) -> Segment {
    Segment { selector: cpl.into(), base: 0, limit: u32::MAX, attributes: 0xc093 | u16::from(cpl) << 5 }
}

/// The stack pointer at `offset` of a 64-bit TSS. `ext` is the EXT bit of error codes.
pub(crate) fn stack_from_tss(cx: &mut Cx, offset: u64, ext: u32) -> Result<u64, Fault> {
    let tr = cx.state.tr;
    if offset + 7 > u64::from(tr.limit) {
        let code = u32::from(tr.selector & !3) | ext;
        return Err(cx.raise(Exception::with_code(Vector::InvalidTss, code)));
    }
    let at = tr.base.wrapping_add(offset);
    let sp = cx.mmu.read_as::<u64>(Bank::Supervisor, at)?;
    if Gva(sp).is_canonical() { Ok(sp) } else { Err(cx.raise(Exception::with_code(Vector::StackFault, ext))) }
}
