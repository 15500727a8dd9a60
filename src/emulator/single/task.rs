//! Hardware task switches: the state of one task goes to its TSS, that of another comes from its own (SDM 7.2, 7.3).
//!
//! Until the new state is taken over every failure is an exception of the old task, and nothing has changed but memory
//! that a repetition writes again. From there on the new task runs: what its registers then raise becomes the pending
//! exception of the state, which is delivered before the first instruction.
use super::cx::Cx;
use super::{segment, stack};
use crate::arch::{Cr0, Exception, Rflags, Segment, SegmentRegister, Vector};
use crate::emulator::mmu::{Bank, Fault};

/// Why the task is switched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// Far JMP.
    Jump,
    /// Far CALL.
    Call,
    /// IRET with RFLAGS.NT set.
    Return,
    /// A task gate of the IDT: the error code to be pushed, and the EXT bit of error codes.
    Gate { code: Option<u32>, ext: u32 },
}

impl Reason {
    fn ext(self) -> u32 {
        if let Self::Gate { ext, .. } = self { ext } else { 0 }
    }

    /// The old task is left for good: its descriptor becomes available.
    fn leaves(self) -> bool {
        matches!(self, Self::Jump | Self::Return)
    }

    /// The new task remembers the old one.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Gate { .. })
    }
}

/// Bit of a TSS descriptor's type byte: the task is busy.
const BUSY: u8 = 2;
/// DR6: the TSS of the new task has its debug flag set.
const DR6_BT: u64 = 1 << 15;
/// DR7: breakpoints that are enabled for one task only, and exact ones.
const DR7_LOCAL: u64 = 0x155;
/// The segment registers in the order of both TSSs; the 16-bit one has the first four.
const SEGMENTS: [SegmentRegister; 6] = [
    SegmentRegister::Es,
    SegmentRegister::Cs,
    SegmentRegister::Ss,
    SegmentRegister::Ds,
    SegmentRegister::Fs,
    SegmentRegister::Gs,
];

/// Where the fields of a 16- or 32-bit TSS lie, in bytes.
struct Layout {
    wide: bool,
    /// Of EIP; EFLAGS and the general registers follow it.
    eip: usize,
    /// Of ES; each segment register takes a word of the TSS's size.
    segments: usize,
    ldt: usize,
    /// Bytes that a TSS has at least.
    size: usize,
}

impl Layout {
    fn of(tss: &Segment) -> &'static Self {
        const WIDE: Layout = Layout { wide: true, eip: 0x20, segments: 0x48, ldt: 0x60, size: 0x68 };
        const NARROW: Layout = Layout { wide: false, eip: 0x0e, segments: 0x22, ldt: 0x2a, size: 0x2c };
        if tss.kind() & 8 != 0 { &WIDE } else { &NARROW }
    }

    fn word(&self) -> usize {
        if self.wide { 4 } else { 2 }
    }

    fn segment_count(&self) -> usize {
        if self.wide { 6 } else { 4 }
    }

    /// The field of `bytes` bytes at `at`.
    fn get(image: &[u8], at: usize, bytes: usize) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&image[at..at + bytes]);
        u64::from_le_bytes(value)
    }
}

fn fault(cx: &mut Cx, vector: Vector, selector: u16, reason: Reason) -> Fault {
    cx.raise(Exception::with_code(vector, u32::from(selector & !3) | reason.ext()))
}

/// The task that the current one returns to.
pub(crate) fn link(cx: &mut Cx) -> Result<u16, Fault> {
    let at = cx.state.tr.base;
    cx.mmu.read_as::<u16>(Bank::Supervisor, at)
}

/// Checks the TSS that `selector` names; gives it and the address of its descriptor.
fn descriptor(cx: &mut Cx, selector: u16, reason: Reason) -> Result<(Segment, u64), Fault> {
    let wrong = match reason {
        Reason::Return => Vector::InvalidTss,
        _ => Vector::GeneralProtection,
    };
    let at =
        if selector & 4 == 0 && selector & !3 != 0 { segment::descriptor_at(cx, selector, 8) } else { None };
    let Some(at) = at else {
        return Err(fault(cx, wrong, selector, reason));
    };
    let raw = cx.mmu.read_as::<u64>(Bank::Supervisor, at)?;
    let tss = Segment::from_descriptor(selector, raw);
    let right = if reason == Reason::Return { [3, 11] } else { [1, 9] };
    if tss.attributes & Segment::CODE_OR_DATA != 0 || !right.contains(&tss.kind()) {
        return Err(fault(cx, wrong, selector, reason));
    }
    if !tss.is_present() {
        return Err(fault(cx, Vector::SegmentNotPresent, selector, reason));
    }
    if (tss.limit as usize) < Layout::of(&tss).size - 1 {
        return Err(fault(cx, Vector::InvalidTss, selector, reason));
    }
    Ok((tss, at))
}

/// Sets or clears the busy bit of the TSS descriptor at `at`.
fn set_busy(cx: &mut Cx, at: u64, busy: bool) -> Result<(), Fault> {
    let at = at.wrapping_add(5);
    let rights = cx.mmu.read_as::<u8>(Bank::Supervisor, at)?;
    let rights = if busy { rights | BUSY } else { rights & !BUSY };
    cx.mmu.write_as(Bank::Supervisor, at, rights, false)
}

/// Switches to the task of `selector`. `rip` is where the old task goes on.
pub(crate) fn switch(cx: &mut Cx, selector: u16, reason: Reason, rip: u64) -> Result<(), Fault> {
    let (tss, at) = descriptor(cx, selector, reason)?;
    let (old, layout) = (cx.state.tr, Layout::of(&tss));
    let mut image = vec![0; layout.size];
    cx.mmu.read_bytes(Bank::Supervisor, tss.base, &mut image, false)?;
    let old_at = segment::descriptor_at(cx, old.selector, 8);
    if reason.leaves()
        && let Some(old_at) = old_at
    {
        set_busy(cx, old_at, false)?;
    }
    save(cx, &old, reason, rip)?;
    if reason.nests() {
        cx.mmu.write_as(Bank::Supervisor, tss.base, old.selector, false)?;
    }
    if reason != Reason::Return {
        set_busy(cx, at, true)?;
    }
    take_over(cx, tss, layout, &image, reason);
    if let Err(Fault) = load_segments(cx, layout, &image, reason).and_then(|()| begin(cx, layout, reason)) {
        cx.state.pending_exception = Some(cx.mmu.exception);
    } else if layout.wide && image[0x64] & 1 != 0 {
        cx.state.dr[6] |= DR6_BT;
        cx.state.pending_exception = Some(Exception::plain(Vector::Debug));
    }
    cx.refresh();
    Ok(())
}

/// Saves the running task.
fn save(cx: &mut Cx, old: &Segment, reason: Reason, rip: u64) -> Result<(), Fault> {
    let layout = Layout::of(old);
    let word = layout.word();
    let mut flags = cx.rflags();
    if reason == Reason::Return {
        flags -= Rflags::NT;
    }
    let mut bytes = Vec::with_capacity(layout.size);
    let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes()[..word]);
    put(rip);
    put(flags.bits());
    cx.regs[..8].iter().for_each(|&value| put(value));
    SEGMENTS[..layout.segment_count()].iter().for_each(|&s| put(cx.state.segment(s).selector.into()));
    let at = old.base.wrapping_add(layout.eip as u64);
    cx.mmu.write_bytes(Bank::Supervisor, at, &bytes, false)
}

/// The new task's registers become those of the CPU; segments are only named yet.
fn take_over(cx: &mut Cx, tss: Segment, layout: &Layout, image: &[u8], reason: Reason) {
    let word = layout.word();
    let field = |i: usize| Layout::get(image, layout.eip + i * word, word);
    cx.state.tr = Segment { attributes: tss.attributes | u16::from(BUSY), ..tss };
    cx.state.cr0 |= Cr0::TS;
    cx.state.dr[7] &= !DR7_LOCAL;
    let mut flags = Rflags::from_bits_truncate(field(1)) | Rflags::FIXED;
    if !layout.wide {
        flags &= Rflags::from_bits_retain(0xffff);
    }
    if reason.nests() {
        flags |= Rflags::NT;
    }
    cx.set_rflags(flags);
    cx.state.rip = field(0);
    for i in 0..8 {
        cx.regs[i] = field(2 + i);
    }
    let virtual_8086 = flags.contains(Rflags::VM);
    for (i, register) in SEGMENTS.into_iter().enumerate() {
        let selector = if i < layout.segment_count() {
            Layout::get(image, layout.segments + i * word, 2) as u16
        } else {
            0
        };
        *cx.state.segment_mut(register) = if virtual_8086 {
            Segment::virtual_8086(selector)
        } else {
            // Not present, but with the privilege that the task is to have.
            let level = (Layout::get(image, layout.segments + word, 2) & 3) as u16;
            Segment { selector, attributes: level << 5, ..Segment::default() }
        };
    }
    let ldt = Layout::get(image, layout.ldt, 2) as u16;
    cx.state.ldtr = Segment { selector: ldt, ..Segment::default() };
    if layout.wide && cx.state.cr0.contains(Cr0::PG) {
        cx.state.cr3 = Layout::get(image, 0x1c, 4);
        cx.mmu.tlb.load_space(0, false);
    }
    cx.refresh();
}

/// Loads LDTR and the segment registers with their checks, all of which raise #TS but for absent segments.
fn load_segments(cx: &mut Cx, layout: &Layout, image: &[u8], reason: Reason) -> Result<(), Fault> {
    let ldt = Layout::get(image, layout.ldt, 2) as u16;
    if ldt & !3 != 0 {
        let at = if ldt & 4 == 0 { segment::descriptor_at(cx, ldt, 8) } else { None };
        let raw = match at {
            Some(at) => cx.mmu.read_as::<u64>(Bank::Supervisor, at)?,
            None => return Err(fault(cx, Vector::InvalidTss, ldt, reason)),
        };
        let loaded = Segment::from_descriptor(ldt, raw);
        let is_ldt = loaded.attributes & Segment::CODE_OR_DATA == 0 && loaded.kind() == 2;
        if !is_ldt || !loaded.is_present() {
            return Err(fault(cx, Vector::InvalidTss, ldt, reason));
        }
        cx.state.ldtr = loaded;
    }
    if cx.state.rflags.contains(Rflags::VM) {
        return Ok(());
    }
    // The privilege level is that of CS from here on.
    let selectors: [u16; 6] = std::array::from_fn(|i| cx.state.segment(SEGMENTS[i]).selector);
    let cpl = (selectors[1] & 3) as u8;
    // A segment by its selector, with the rights that `is_right` asks for.
    let load = |cx: &mut Cx, i: usize, is_right: &dyn Fn(&Segment) -> bool| -> Result<(), Fault> {
        let selector = selectors[i];
        let raw = segment::descriptor(cx, selector)?;
        let loaded = raw.map(|raw| Segment::from_descriptor(selector, raw));
        let loaded = loaded.filter(|s| s.attributes & Segment::CODE_OR_DATA != 0 && is_right(s));
        let (Some(raw), Some(loaded)) = (raw, loaded) else {
            return Err(fault(cx, Vector::InvalidTss, selector, reason));
        };
        if !loaded.is_present() {
            let vector = if i == 2 { Vector::StackFault } else { Vector::SegmentNotPresent };
            return Err(fault(cx, vector, selector, reason));
        }
        segment::mark_accessed(cx, selector, raw)?;
        *cx.state.segment_mut(SEGMENTS[i]) = Segment { attributes: loaded.attributes | 1, ..loaded };
        Ok(())
    };
    for i in [2, 1] {
        if selectors[i] & !3 == 0 {
            return Err(fault(cx, Vector::InvalidTss, selectors[i], reason));
        }
    }
    load(cx, 1, &|s| {
        let conforming = s.kind() & 4 != 0;
        s.is_code() && if conforming { s.dpl() <= cpl } else { s.dpl() == cpl }
    })?;
    let rpl = (selectors[2] & 3) as u8;
    load(cx, 2, &|s| !s.is_code() && s.kind() & 2 != 0 && s.dpl() == cpl && rpl == cpl)?;
    for i in [0, 3, 4, 5] {
        if selectors[i] & !3 == 0 {
            continue;
        }
        let rpl = (selectors[i] & 3) as u8;
        load(cx, i, &|s| {
            let conforming = s.is_code() && s.kind() & 4 != 0;
            let readable = !s.is_code() || s.kind() & 2 != 0;
            readable && (conforming || s.dpl() >= cpl.max(rpl))
        })?;
    }
    cx.refresh();
    Ok(())
}

/// What remains before the first instruction: the error code goes onto the stack, and EIP must be in its segment.
fn begin(cx: &mut Cx, layout: &Layout, reason: Reason) -> Result<(), Fault> {
    if let Reason::Gate { code: Some(code), .. } = reason {
        stack::push(cx, layout.word(), code.into())?;
    }
    if cx.state.rip > u64::from(cx.state.segment(SegmentRegister::Cs).limit) {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(())
}
