//! Far JMP and CALL to system descriptors: call gates, task gates and TSSs (SDM vol. 2A, CALL; vol. 3A, 5.8.3–5.8.5, 7.3).
use super::cx::{Cx, Flow, Step};
use super::{segment, stack, task};
use crate::arch::state::gpr::RSP;
use crate::arch::{Exception, Gva, Segment, SegmentRegister, Vector};
use crate::emulator::interrupt;
use crate::emulator::mmu::{Bank, Fault};

/// Descriptor types of gates and TSSs.
mod kind {
    pub(super) const TSS16: u8 = 1;
    pub(super) const CALL_GATE16: u8 = 4;
    pub(super) const TASK_GATE: u8 = 5;
    pub(super) const TSS32: u8 = 9;
    pub(super) const CALL_GATE: u8 = 12;
}

/// Goes where the system descriptor `raw` of `selector` leads; `next` is the address of the next instruction.
pub(super) fn transfer(cx: &mut Cx, selector: u16, raw: u64, call: bool, next: u64) -> Step {
    let descriptor = Segment::from_descriptor(selector, raw);
    let (kind, long) = (descriptor.kind(), cx.state.is_long_mode());
    let known = match kind {
        kind::CALL_GATE => true,
        kind::TSS16 | kind::TSS32 | kind::CALL_GATE16 | kind::TASK_GATE => !long,
        _ => false,
    };
    let level = cx.state.cpl().max((selector & 3) as u8);
    if !known || descriptor.dpl() < level {
        return Err(segment::fault(cx, Vector::GeneralProtection, selector));
    }
    let reason = if call { task::Reason::Call } else { task::Reason::Jump };
    match kind {
        kind::TSS16 | kind::TSS32 => {
            task::switch(cx, selector, reason, next)?;
        }
        _ if !descriptor.is_present() => {
            return Err(segment::fault(cx, Vector::SegmentNotPresent, selector));
        }
        kind::TASK_GATE => {
            task::switch(cx, (raw >> 16) as u16, reason, next)?;
        }
        _ => through_call_gate(cx, selector, raw, call, next)?,
    }
    cx.refresh();
    Ok(Flow::Renew)
}

/// Where a call gate leads.
struct Target {
    rip: u64,
    code: Segment,
    descriptor: u64,
    /// Bytes of what a call pushes.
    size: usize,
    /// Words that are copied to the new stack.
    parameters: u64,
}

/// Reads and checks a call gate.
fn target(cx: &mut Cx, gate: u16, raw: u64, call: bool) -> Result<Target, Fault> {
    let long = cx.state.is_long_mode();
    let mut rip = raw & 0xffff | (raw >> 32 & 0xffff_0000);
    if long {
        let Some(high) = segment::descriptor(cx, (gate & !7).wrapping_add(8))? else {
            return Err(segment::fault(cx, Vector::GeneralProtection, gate));
        };
        // The type of the upper half must be zero.
        if high >> 40 & 0x1f != 0 {
            return Err(segment::fault(cx, Vector::GeneralProtection, gate));
        }
        rip |= high << 32;
    }
    let wide = raw >> 40 & 8 != 0;
    if !wide {
        rip &= 0xffff;
    }
    let selector = (raw >> 16) as u16;
    if selector & !3 == 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let Some(descriptor) = segment::descriptor(cx, selector)? else {
        return Err(segment::fault(cx, Vector::GeneralProtection, selector));
    };
    let code = Segment::from_descriptor(selector, descriptor);
    let cpl = cx.state.cpl();
    let conforming = code.kind() & 4 != 0;
    let allowed = if call || conforming { code.dpl() <= cpl } else { code.dpl() == cpl };
    let wrong_size = long && (!code.is_long() || code.is_big());
    if !code.is_code() || !allowed || wrong_size {
        return Err(segment::fault(cx, Vector::GeneralProtection, selector));
    }
    if !code.is_present() {
        return Err(segment::fault(cx, Vector::SegmentNotPresent, selector));
    }
    let (size, parameters) = match (long, wide) {
        (true, _) => (8, 0),
        (false, true) => (4, raw >> 32 & 31),
        (false, false) => (2, raw >> 32 & 31),
    };
    Ok(Target { rip, code, descriptor, size, parameters })
}

fn through_call_gate(cx: &mut Cx, gate: u16, raw: u64, call: bool, next: u64) -> Result<(), Fault> {
    let mut to = target(cx, gate, raw, call)?;
    let cpl = cx.state.cpl();
    let inner = call && to.code.kind() & 4 == 0 && to.code.dpl() < cpl;
    let new_cpl = if inner { to.code.dpl() } else { cpl };
    let long = cx.state.is_long_mode();
    let fits = if long { Gva(to.rip).is_canonical() } else { to.rip <= u64::from(to.code.limit) };
    if !fits {
        return Err(cx.raise(Exception::GP0));
    }
    segment::mark_accessed(cx, to.code.selector, to.descriptor)?;
    let (cs, size) = (cx.state.segment(SegmentRegister::Cs).selector, to.size);
    if inner {
        let (old_ss, old_sp) = (*cx.state.segment(SegmentRegister::Ss), cx.regs[RSP]);
        let mut words = vec![u64::from(old_ss.selector), old_sp];
        for i in (0..to.parameters).rev() {
            words.push(stack::peek(cx, i * size as u64, size)?);
        }
        words.extend([cs.into(), next]);
        if long {
            let sp = interrupt::stack_from_tss(cx, 4 + 8 * u64::from(new_cpl), 0)?;
            let sp = sp.wrapping_sub(8 * words.len() as u64);
            words.reverse();
            cx.mmu.push_words(Bank::Supervisor, sp, &words)?;
            cx.regs[RSP] = sp;
            *cx.state.segment_mut(SegmentRegister::Ss) = interrupt::null_stack(new_cpl);
        } else {
            interrupt::push_inner(cx, new_cpl, 0, size, &words)?;
        }
    } else if call {
        let bytes = size as u64;
        stack::poke(cx, bytes.wrapping_neg(), size, cs.into())?;
        stack::poke(cx, (2 * bytes).wrapping_neg(), size, next)?;
        stack::advance(cx, (2 * bytes).wrapping_neg());
    }
    to.code.selector = to.code.selector & !3 | u16::from(new_cpl);
    to.code.attributes |= 1;
    *cx.state.segment_mut(SegmentRegister::Cs) = to.code;
    cx.state.rip = to.rip;
    Ok(())
}
