//! Frames of 16- and 32-bit gates, on the current stack or on that of an inner ring, and delivery in real mode.
use super::{EXT, Gate, frame_bank};
use crate::arch::state::gpr::RSP;
use crate::arch::{Exception, Rflags, Segment, SegmentRegister, Vector};
use crate::emulator::mmu::{Bank, Fault};
use crate::emulator::single::cx::Cx;
use crate::emulator::single::{segment, stack};

/// The data segments, in the order in which the frame of virtual-8086 mode has them.
const DATA: [SegmentRegister; 4] =
    [SegmentRegister::Gs, SegmentRegister::Fs, SegmentRegister::Ds, SegmentRegister::Es];

/// The stack that the TSS has for ring `cpl`: SS and the stack pointer.
fn inner_stack(cx: &mut Cx, cpl: u8, ext: u32) -> Result<(Segment, u64), Fault> {
    let tr = cx.state.tr;
    let wide = tr.kind() & 8 != 0;
    let (offset, last) = if wide { (4 + 8 * u64::from(cpl), 5) } else { (2 + 4 * u64::from(cpl), 3) };
    if offset + last > u64::from(tr.limit) {
        let code = u32::from(tr.selector & !3) | ext;
        return Err(cx.raise(Exception::with_code(Vector::InvalidTss, code)));
    }
    let at = tr.base.wrapping_add(offset);
    let (sp, selector) = if wide {
        let sp = cx.mmu.read_as::<u32>(Bank::Supervisor, at)?;
        (u64::from(sp), cx.mmu.read_as::<u16>(Bank::Supervisor, at.wrapping_add(4))?)
    } else {
        let sp = cx.mmu.read_as::<u16>(Bank::Supervisor, at)?;
        (u64::from(sp), cx.mmu.read_as::<u16>(Bank::Supervisor, at.wrapping_add(2))?)
    };
    Ok((segment::stack_segment(cx, selector, cpl, ext)?, sp))
}

/// Pushes words of `size` bytes; if that fails, the stack pointer is as before, and #SS has the selector that it has
/// during a transfer.
fn push_all(cx: &mut Cx, size: usize, words: &[u64], code: u32) -> Result<(), Fault> {
    let before = cx.regs[RSP];
    for &word in words {
        if let Err(fault) = stack::push(cx, size, word) {
            cx.regs[RSP] = before;
            if cx.mmu.exception == Exception::SS0 {
                return Err(cx.raise(Exception::with_code(Vector::StackFault, code)));
            }
            return Err(fault);
        }
    }
    Ok(())
}

/// Switches to the stack of ring `cpl` and pushes `words` of `size` bytes there; nothing is changed if that fails.
pub(crate) fn push_inner(cx: &mut Cx, cpl: u8, ext: u32, size: usize, words: &[u64]) -> Result<(), Fault> {
    let (ss, sp) = inner_stack(cx, cpl, ext)?;
    let bank = frame_bank(cx);
    let (old_ss, old_sp) = (*cx.state.segment(SegmentRegister::Ss), cx.regs[RSP]);
    *cx.state.segment_mut(SegmentRegister::Ss) = ss;
    cx.regs[RSP] = sp;
    cx.refresh();
    cx.mmu.bank = bank;
    let result = push_all(cx, size, words, u32::from(ss.selector & !3) | ext);
    if result.is_err() {
        *cx.state.segment_mut(SegmentRegister::Ss) = old_ss;
        cx.regs[RSP] = old_sp;
        cx.refresh();
    }
    result
}

/// The frame of a 16- or 32-bit gate.
pub(super) fn frame(
    cx: &mut Cx,
    gate: &Gate,
    code: Option<u32>,
    external: bool,
    new_cpl: u8,
    image: Rflags,
) -> Result<(), Fault> {
    let size = if gate.kind & 8 != 0 { 4 } else { 2 };
    let ext = if external { EXT } else { 0 };
    let selector = |cx: &Cx, register| u64::from(cx.state.segment(register).selector);
    let virtual_8086 = cx.is_virtual_8086();
    let inner = new_cpl < cx.state.cpl();
    let mut words = Vec::with_capacity(10);
    if virtual_8086 {
        words.extend(DATA.map(|register| selector(cx, register)));
    }
    if inner {
        words.extend([selector(cx, SegmentRegister::Ss), cx.regs[RSP]]);
    }
    words.extend([image.bits(), selector(cx, SegmentRegister::Cs), cx.state.rip]);
    words.extend(code.map(u64::from));
    if !inner {
        return push_all(cx, size, &words, ext);
    }
    push_inner(cx, new_cpl, ext, size, &words)?;
    if virtual_8086 {
        for register in DATA {
            *cx.state.segment_mut(register) = Segment::default();
        }
    }
    Ok(())
}

/// Real-mode delivery: a table of far pointers.
pub(super) fn real_mode(cx: &mut Cx, vector: u8) -> Result<(), Fault> {
    let offset = u64::from(vector) * 4;
    if offset + 3 > u64::from(cx.state.idtr.limit) {
        return Err(cx.raise(Exception::GP0));
    }
    let at = cx.state.idtr.base.wrapping_add(offset);
    let pointer = cx.mmu.read_as::<u32>(Bank::Supervisor, at)?;
    let cs = cx.state.segment(SegmentRegister::Cs).selector;
    let words = [cx.rflags().bits(), cs.into(), cx.state.rip];
    push_all(cx, 2, &words, 0)?;
    let selector = (pointer >> 16) as u16;
    let segment = cx.state.segment_mut(SegmentRegister::Cs);
    segment.selector = selector;
    segment.base = u64::from(selector) << 4;
    cx.state.rip = u64::from(pointer & 0xffff);
    cx.state.rflags.remove(Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF);
    cx.refresh();
    Ok(())
}
