//! Far transfers: far JMP, CALL and RET, IRET, INT n, SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 5.8; vol. 2).
//!
//! What goes through gates and TSSs is in [`super::gate`] and [`super::task`].
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::OF;
use super::lower::operand_size;
use super::op::Op;
use super::{branch, debug, gate, operand, segment, stack, task};
use crate::arch::state::gpr::{R11, RCX, RDX, RSP};
use crate::arch::{CpuState, Efer, Exception, Gva, Rflags, Segment, SegmentRegister, Vector};
use crate::emulator::front::encoding::Encoding;
use crate::emulator::interrupt;
use crate::emulator::mmu::Fault;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// A flat code segment as SYSCALL and its kin load it, without looking at a descriptor.
pub(crate) fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let size = if long { Segment::LONG } else { Segment::DEFAULT_BIG };
    let attributes = Segment::PRESENT | Segment::CODE_OR_DATA | Segment::GRANULARITY | size | 0xb;
    Segment { selector, base: 0, limit: u32::MAX, attributes: attributes | u16::from(cpl) << 5 }
}

pub(crate) fn flat_data(selector: u16, cpl: u8) -> Segment {
    let mut segment = Segment::flat32(selector, 3);
    segment.attributes |= u16::from(cpl) << 5;
    segment
}

/// Bits of R11 that SYSRET loads: all but RF, VM and the reserved ones.
pub(crate) const SYSRET_FLAGS: u64 = 0x3c_7fd7;

/// Sets CS and SS to flat segments of a new privilege level.
fn switch(state: &mut CpuState, code: u16, data: u16, cpl: u8, long: bool) {
    *state.segment_mut(SegmentRegister::Cs) = flat_code(code & !3 | u16::from(cpl), cpl, long);
    *state.segment_mut(SegmentRegister::Ss) = flat_data(data & !3 | u16::from(cpl), cpl);
}

/// CS and SS as SYSCALL loads them in long mode.
pub(crate) fn enter_by_syscall(state: &mut CpuState) {
    enter_by_star(state, true);
}

fn enter_by_star(state: &mut CpuState, long: bool) {
    let selector = (state.msrs.star >> 32) as u16;
    switch(state, selector, selector.wrapping_add(8), 0, long);
}

/// CS and SS as SYSRET loads them.
pub(crate) fn leave_by_sysret(state: &mut CpuState, long: bool) {
    let selector = (state.msrs.star >> 48) as u16;
    switch(state, selector.wrapping_add(if long { 16 } else { 0 }), selector.wrapping_add(8), 3, long);
}

/// The selectors of CS and SS that a 64-bit SYSRET loads for this IA32_STAR.
pub(crate) fn sysret_selectors(star: u64) -> (u16, u16) {
    let selector = (star >> 48) as u16;
    (selector.wrapping_add(16) | 3, selector.wrapping_add(8) | 3)
}

fn done(cx: &mut Cx) -> Step {
    cx.refresh();
    cx.no_trap = true;
    Ok(Flow::Renew)
}

/// After SYSCALL and SYSRET, whose trap is that of the TF which they leave: it comes before the next instruction.
fn done_by_syscall(cx: &mut Cx) -> Step {
    if cx.state.rflags.contains(Rflags::TF) {
        cx.state.pending_exception = Some(debug::single_step(cx.state));
    }
    done(cx)
}

/// Whether SYSCALL and SYSRET exist here.
fn has_syscall(cx: &Cx) -> bool {
    cx.state.efer.contains(Efer::SCE) && (cx.state.is_64bit_code() || cx.platform.cpuid_table().is_amd())
}

fn syscall(cx: &mut Cx, op: &Op) -> Step {
    if !has_syscall(cx) {
        return Err(cx.raise(Exception::UD));
    }
    let next = operand::instruction(op).next_ip();
    if !cx.state.is_long_mode() {
        cx.set_reg(RCX as u8, next as u32);
        cx.state.rflags.remove(Rflags::IF | Rflags::VM | Rflags::RF);
        enter_by_star(cx.state, false);
        cx.state.rip = cx.state.msrs.star & 0xffff_ffff;
        return done_by_syscall(cx);
    }
    cx.regs[RCX] = next;
    let flags = cx.rflags();
    cx.regs[R11] = (flags - Rflags::RF).bits();
    let msrs = &cx.state.msrs;
    let target = if cx.state.is_64bit_code() { msrs.lstar } else { msrs.cstar };
    let kept = Rflags::from_bits_retain(flags.bits() & !msrs.sfmask) - Rflags::RF;
    cx.set_rflags(kept | Rflags::FIXED);
    enter_by_syscall(cx.state);
    cx.state.rip = target;
    done_by_syscall(cx)
}

fn sysret(cx: &mut Cx, op: &Op) -> Step {
    if !has_syscall(cx) {
        return Err(cx.raise(Exception::UD));
    }
    if !cx.is_protected() {
        return Err(cx.raise(Exception::GP0));
    }
    cx.need_ring0()?;
    if !cx.state.is_64bit_code() {
        cx.state.rflags |= Rflags::IF;
        leave_by_sysret(cx.state, false);
        cx.state.rip = cx.regs[RCX] & 0xffff_ffff;
        return done_by_syscall(cx);
    }
    let long = operand::instruction(op).code() == Code::Sysretq;
    let target = if long { cx.regs[RCX] } else { cx.regs[RCX] & 0xffff_ffff };
    if !Gva(target).is_canonical() {
        return Err(cx.raise(Exception::GP0));
    }
    let loaded = Rflags::from_bits_retain(cx.regs[R11] & SYSRET_FLAGS) | Rflags::FIXED;
    cx.set_rflags(loaded);
    leave_by_sysret(cx.state, long);
    cx.state.rip = target;
    done_by_syscall(cx)
}

/// Whether SYSENTER and SYSEXIT exist here: on AMD's CPUs not in long mode.
fn has_sysenter(cx: &Cx) -> bool {
    !cx.state.is_long_mode() || !cx.platform.cpuid_table().is_amd()
}

fn sysenter(cx: &mut Cx, _: &Op) -> Step {
    if !has_sysenter(cx) {
        return Err(cx.raise(Exception::UD));
    }
    let msrs = cx.state.msrs;
    if !cx.is_protected() || msrs.sysenter_cs & 0xfffc == 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let long = cx.state.is_long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cx.state.rflags.remove(Rflags::IF | Rflags::VM | Rflags::RF);
    let selector = msrs.sysenter_cs as u16;
    switch(cx.state, selector, selector.wrapping_add(8), 0, long);
    cx.regs[RSP] = msrs.sysenter_esp & mask;
    cx.state.rip = msrs.sysenter_eip & mask;
    done(cx)
}

fn sysexit(cx: &mut Cx, op: &Op) -> Step {
    if !has_sysenter(cx) {
        return Err(cx.raise(Exception::UD));
    }
    let selector = cx.state.msrs.sysenter_cs as u16;
    if !cx.is_protected() || selector & !3 == 0 {
        return Err(cx.raise(Exception::GP0));
    }
    cx.need_ring0()?;
    let long = operand::instruction(op).code() == Code::Sysexitq;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (cx.regs[RDX] & mask, cx.regs[RCX] & mask);
    if !Gva(rip).is_canonical() || !Gva(rsp).is_canonical() {
        return Err(cx.raise(Exception::GP0));
    }
    let code = selector.wrapping_add(if long { 32 } else { 16 });
    switch(cx.state, code, code.wrapping_add(8), 3, long);
    cx.regs[RSP] = rsp;
    cx.state.rip = rip;
    done(cx)
}

fn int(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let vector = match instruction.mnemonic() {
        Mnemonic::Int3 => Vector::Breakpoint as u8,
        Mnemonic::Into if cx.flags & OF == 0 => {
            cx.state.rip = instruction.next_ip();
            return Ok(Flow::Jump);
        }
        Mnemonic::Into => Vector::Overflow as u8,
        _ => instruction.immediate8(),
    };
    let is_int_n = instruction.mnemonic() == Mnemonic::Int;
    if is_int_n && cx.is_protected() && cx.is_virtual_8086() && cx.state.rflags.iopl() < 3 {
        return Err(cx.raise(Exception::GP0));
    }
    cx.state.rip = instruction.next_ip();
    interrupt::software(cx, vector)?;
    done(cx)
}

/// INT1: a #DB that ignores the gate's privilege. One that a load of SS held off comes with it.
fn int1(cx: &mut Cx, op: &Op) -> Step {
    cx.state.rip = operand::instruction(op).next_ip();
    let held = std::mem::take(&mut cx.mmu.watches.hit);
    interrupt::trap(cx, Vector::Debug)?;
    debug::note_hits(cx.state, held);
    done(cx)
}

/// Checks a code segment for a transfer; `returning_to` is the RPL of a return, which may lie outwards.
fn code_segment(cx: &mut Cx, selector: u16, returning_to: Option<u8>) -> Result<Segment, Fault> {
    if selector & !3 == 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let Some(raw) = segment::descriptor(cx, selector)? else {
        return Err(segment::fault(cx, Vector::GeneralProtection, selector));
    };
    let mut loaded = Segment::from_descriptor(selector, raw);
    let cpl = cx.state.cpl();
    let rpl = (selector & 3) as u8;
    let conforming = loaded.kind() & 4 != 0;
    let level = returning_to.unwrap_or(cpl);
    let allowed = match (returning_to, conforming) {
        (Some(rpl), true) => loaded.dpl() <= rpl,
        (Some(rpl), false) => loaded.dpl() == rpl,
        (None, true) => loaded.dpl() <= cpl,
        (None, false) => loaded.dpl() == cpl && rpl <= cpl,
    };
    let sizes_clash = cx.state.is_long_mode() && loaded.is_long() && loaded.is_big();
    if !loaded.is_code() || !allowed || sizes_clash || level < cpl {
        return Err(segment::fault(cx, Vector::GeneralProtection, selector));
    }
    if !loaded.is_present() {
        return Err(segment::fault(cx, Vector::SegmentNotPresent, selector));
    }
    segment::mark_accessed(cx, selector, raw)?;
    loaded.attributes |= 1;
    loaded.selector = selector & !3 | u16::from(level);
    Ok(loaded)
}

/// #GP(0) if `rip` cannot be executed in `code`.
fn check_target(cx: &mut Cx, code: &Segment, rip: u64) -> Result<(), Fault> {
    let long = cx.state.is_long_mode() && code.is_long();
    let fine = if long { Gva(rip).is_canonical() } else { rip <= u64::from(code.limit) };
    if fine { Ok(()) } else { Err(cx.raise(Exception::GP0)) }
}

/// CS as a transfer in real or virtual-8086 mode loads it.
fn real_code(cx: &Cx, selector: u16) -> Segment {
    if cx.is_protected() {
        return Segment::virtual_8086(selector);
    }
    Segment { selector, base: u64::from(selector) << 4, ..*cx.state.segment(SegmentRegister::Cs) }
}

/// Far JMP and CALL.
fn far(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let (rip, selector, size) = match instruction.op0_kind() {
        OpKind::FarBranch16 => (u64::from(instruction.far_branch16()), instruction.far_branch_selector(), 2),
        OpKind::FarBranch32 => (u64::from(instruction.far_branch32()), instruction.far_branch_selector(), 4),
        _ => {
            let size = operand_size(&instruction, 0) - 2;
            let (rip, selector) = segment::far_pointer(cx, op, size)?;
            (rip, selector, size)
        }
    };
    let call = instruction.mnemonic() == Mnemonic::Call;
    let code = if cx.has_descriptors() {
        if selector & !3 != 0
            && let Some(raw) = segment::descriptor(cx, selector)?
            && raw >> 40 & u64::from(Segment::CODE_OR_DATA) == 0
        {
            return gate::transfer(cx, selector, raw, call, instruction.next_ip());
        }
        code_segment(cx, selector, None)?
    } else {
        real_code(cx, selector)
    };
    check_target(cx, &code, rip)?;
    if call {
        let old = cx.state.segment(SegmentRegister::Cs).selector;
        let bytes = size as u64;
        stack::poke(cx, bytes.wrapping_neg(), size, old.into())?;
        stack::poke(cx, (2 * bytes).wrapping_neg(), size, instruction.next_ip())?;
        stack::advance(cx, (2 * bytes).wrapping_neg());
    }
    *cx.state.segment_mut(SegmentRegister::Cs) = code;
    cx.state.rip = rip;
    cx.refresh();
    Ok(Flow::Renew)
}

/// Data segments that the outer ring may not see become null.
fn drop_inner_segments(cx: &mut Cx, cpl: u8) {
    for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
        let segment = cx.state.segment_mut(register);
        let conforming = segment.is_code() && segment.kind() & 4 != 0;
        if segment.is_present() && segment.dpl() < cpl && !conforming {
            // In 64-bit mode the bases of FS and GS stay.
            *segment = Segment { base: segment.base, ..Segment::default() };
        }
    }
}

/// What RET far and IRET do after CS, and SS with an outer ring, were read from the stack.
struct Return {
    rip: u64,
    code: Segment,
    /// New stack pointer and SS, if they were popped too.
    stack: Option<(u64, Segment)>,
}

fn commit(cx: &mut Cx, to: Return, popped: u64) {
    let cpl = (to.code.selector & 3) as u8;
    let outer = cpl > cx.state.cpl();
    match to.stack {
        Some((sp, ss)) => {
            *cx.state.segment_mut(SegmentRegister::Ss) = ss;
            *cx.state.segment_mut(SegmentRegister::Cs) = to.code;
            // The size of the new stack decides how much of the stack pointer is loaded.
            stack::set_pointer(cx, sp);
        }
        None => {
            stack::advance(cx, popped);
            *cx.state.segment_mut(SegmentRegister::Cs) = to.code;
        }
    }
    if outer {
        drop_inner_segments(cx, cpl);
    }
    cx.state.rip = to.rip;
}

fn far_return(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = Encoding::of(instruction.code()).operand_size().clamp(2, 8);
    let bytes = size as u64;
    let release = if instruction.op_count() > 0 { u64::from(instruction.immediate16()) } else { 0 };
    let rip = stack::peek(cx, 0, size)?;
    let selector = stack::peek(cx, bytes, size)? as u16;
    if !cx.has_descriptors() {
        let code = real_code(cx, selector);
        check_target(cx, &code, rip)?;
        commit(cx, Return { rip, code, stack: None }, 2 * bytes + release);
        cx.refresh();
        return Ok(Flow::Renew);
    }
    let cpl = (selector & 3) as u8;
    let code = code_segment(cx, selector, Some(cpl))?;
    check_target(cx, &code, rip)?;
    let stack = if cpl > cx.state.cpl() {
        let sp = stack::peek(cx, 2 * bytes + release, size)?;
        let ss = stack::peek(cx, 3 * bytes + release, size)? as u16;
        let to_64bit = cx.state.is_long_mode() && code.is_long();
        let ss = segment::checked_stack(cx, ss, cpl, to_64bit)?;
        Some((sp.wrapping_add(release), ss))
    } else {
        None
    };
    commit(cx, Return { rip, code, stack }, 2 * bytes + release);
    cx.refresh();
    Ok(Flow::Renew)
}

/// IRET ends the blocking of NMIs; one that came meanwhile is looked for.
fn let_nmis_in(cx: &mut Cx) {
    if std::mem::take(&mut cx.state.nmi_blocked) {
        cx.platform.kick(cx.mmu.vcpu).poke();
    }
}

/// IRET of ring 0 to virtual-8086 mode: stack pointer and data segments are in the frame too (SDM 21.2.2).
fn to_virtual_8086(cx: &mut Cx, rip: u64, code: u16, image: u64) -> Step {
    let mut words = [0; 6];
    for (i, word) in (3..).zip(&mut words) {
        *word = stack::peek(cx, 4 * i, 4)?;
    }
    if rip > 0xffff {
        return Err(cx.raise(Exception::GP0));
    }
    let names = [
        SegmentRegister::Ss,
        SegmentRegister::Es,
        SegmentRegister::Ds,
        SegmentRegister::Fs,
        SegmentRegister::Gs,
    ];
    for (name, &selector) in names.into_iter().zip(&words[1..]) {
        *cx.state.segment_mut(name) = Segment::virtual_8086(selector as u16);
    }
    *cx.state.segment_mut(SegmentRegister::Cs) = Segment::virtual_8086(code);
    cx.regs[RSP] = words[0];
    cx.state.rip = rip;
    cx.set_rflags(Rflags::from_bits_truncate(image) | Rflags::FIXED);
    let_nmis_in(cx);
    cx.refresh();
    Ok(Flow::Renew)
}

fn iret(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let size = match instruction.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    let bytes = size as u64;
    if cx.is_protected() && cx.is_virtual_8086() {
        if cx.state.rflags.iopl() < 3 {
            return Err(cx.raise(Exception::GP0));
        }
    } else if cx.state.rflags.contains(Rflags::NT) && cx.is_protected() {
        if cx.state.is_long_mode() {
            return Err(cx.raise(Exception::GP0));
        }
        let link = task::link(cx)?;
        task::switch(cx, link, task::Reason::Return, instruction.next_ip())?;
        let_nmis_in(cx);
        return Ok(Flow::Renew);
    }
    let long = cx.state.is_64bit_code();
    // The whole frame at once, if it can be read without a fault.
    let frame = if long && size == 8 { cx.mmu.known_words::<5>(cx.regs[RSP]) } else { None };
    let word = |cx: &mut Cx, i: u8| match frame {
        Some(frame) => Ok(frame[usize::from(i)]),
        None => stack::peek(cx, u64::from(i) * bytes, size),
    };
    let rip = word(cx, 0)?;
    let selector = word(cx, 1)? as u16;
    let image = word(cx, 2)?;
    let mut writable = stack::writable_flags(cx, size);
    if size > 2 {
        writable |= Rflags::RF;
    }
    if cx.has_descriptors() {
        let to_virtual = size == 4 && !cx.state.is_long_mode() && cx.state.cpl() == 0;
        if to_virtual && image & Rflags::VM.bits() != 0 {
            return to_virtual_8086(cx, rip, selector, image);
        }
        let cpl = (selector & 3) as u8;
        let code = code_segment(cx, selector, Some(cpl))?;
        check_target(cx, &code, rip)?;
        let stack = if long || cpl > cx.state.cpl() {
            let sp = word(cx, 3)?;
            let ss = word(cx, 4)? as u16;
            let to_64bit = cx.state.is_long_mode() && code.is_long();
            Some((sp, segment::checked_stack(cx, ss, cpl, to_64bit)?))
        } else {
            None
        };
        commit(cx, Return { rip, code, stack }, 3 * bytes);
    } else {
        let code = real_code(cx, selector);
        check_target(cx, &code, rip)?;
        commit(cx, Return { rip, code, stack: None }, 3 * bytes);
    }
    let kept = cx.rflags() - writable;
    cx.set_rflags(kept | Rflags::from_bits_retain(image) & writable | Rflags::FIXED);
    let_nmis_in(cx);
    cx.refresh();
    Ok(Flow::Renew)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let is_far = || {
        matches!(instruction.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
            || branch::is_far_pointer(instruction)
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Syscall => syscall,
        Mnemonic::Sysret | Mnemonic::Sysretq => sysret,
        Mnemonic::Sysenter => sysenter,
        Mnemonic::Sysexit | Mnemonic::Sysexitq => sysexit,
        Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into => int,
        Mnemonic::Int1 => int1,
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => iret,
        Mnemonic::Retf => far_return,
        Mnemonic::Jmp | Mnemonic::Call if is_far() => far,
        _ => return None,
    })
}
