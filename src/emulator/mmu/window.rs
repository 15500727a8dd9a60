//! Windows: stretches of guest-virtual memory at one distance from host memory, which translated code checks accesses
//! against without looking anything up.
//!
//! A window holds what the soft TLB could hold for each of its pages: the leaf is present, allowed and accessed (for
//! writing: dirty), the memory is RAM, and for writing free of decoded code. It covers a whole leaf, and those beside it
//! that lie so in RAM, too: all of a kernel's direct map. It grows when what is found next touches it. All windows are
//! dropped when translations are forgotten, when rights change, and those for writing when another page turns out to hold
//! code.
use super::{Bank, Mmu};
use crate::arch::Gva;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access};
use crate::mem::RamSlot;

/// Windows of one kind; accesses choose theirs by their base register, or by where they went first.
pub(crate) const CLASSES: usize = 34;
/// Windows over several pages that are kept for all classes, for each privilege, for reading and for writing.
pub(crate) const WIDE: usize = 8;
/// How many bytes a check may answer for: for each a window has a limit of its own, so that small accesses reach its
/// last bytes.
pub(crate) const SPANS: [u64; 3] = [8, 32, 256];
/// The largest of them.
pub(crate) const SLACK: u64 = SPANS[2];
/// Pages that are looked at for code, to either side.
const REACH: u64 = 512;
/// Further leaves that a stretch takes in, to either side.
const LEAVES: usize = 1024;

/// One window, as translated code reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Window {
    /// First guest-virtual address.
    pub start: u64,
    /// For each of [`SPANS`]: one more than the bytes of the window less the span, which the distance from `start` of a
    /// checked address must be below. Zero: no window.
    pub limits: [u64; 3],
    /// Bytes.
    pub length: u64,
    /// What to add to a guest-virtual address to get a host address, wrapping.
    pub addend: u64,
}

/// What a window holds for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Depends {
    /// For the current address space only, or while PKRU is as it is.
    pub on_space: bool,
    /// For the supervisor with RFLAGS.AC set only.
    pub on_ac: bool,
}

impl Depends {
    /// As all that the user may access.
    pub(crate) const ON_SPACE: Self = Self { on_space: true, on_ac: false };
}

impl Window {
    /// A window of `length` bytes, at least [`SLACK`].
    pub(super) fn new(start: u64, length: u64, addend: u64) -> Self {
        Self { start, limits: SPANS.map(|span| length - span + 1), length, addend }
    }

    /// Whether there is no window.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its last address: the end of the topmost page is no address.
    fn last(&self) -> u64 {
        self.start + (self.length - 1)
    }

    /// Whether this window and `other` can be one.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        !self.is_empty()
            && self.addend == other.addend
            && self.start <= other.last().saturating_add(1)
            && other.start <= self.last().saturating_add(1)
    }

    /// This window and `other` as one, if they touch and agree.
    fn joined(&self, other: &Self) -> Option<Self> {
        let (start, last) = (self.start.min(other.start), || self.last().max(other.last()));
        self.touches(other).then(|| Self::new(start, last() - start + 1, self.addend))
    }

    /// Whether the page at `page` lies in it. Windows begin and end with pages; that none may be said to hold something
    /// does no harm.
    #[inline]
    pub(crate) fn holds(&self, page: u64) -> bool {
        page.wrapping_sub(self.start) < self.limits[0] + (SPANS[0] - 1)
    }

    /// Puts `found` in the place of this window, or beside it if both touch.
    pub(crate) fn replace(&mut self, found: Self) {
        *self = self.joined(&found).unwrap_or(found);
    }
}

/// Physical memory without decoded code, found under a number of [`super::Tlb::protections`].
#[derive(Clone, Copy, Default, Debug)]
struct Clean {
    protections: u32,
    low: u64,
    high: u64,
}

/// Some stretches of physical memory that were searched for decoded code and had none.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct CleanStretches([Clean; 8]);

impl CleanStretches {
    fn slot(&mut self, gpa: u64) -> &mut Clean {
        &mut self.0[(gpa >> 21) as usize & 7]
    }
}

impl Mmu<'_> {
    /// The window around `at` for the user. `None` if it may not be accessed so, was not yet, or is not RAM.
    pub(crate) fn user_window(&mut self, at: u64, write: bool) -> Option<Window> {
        let (mode, _) = self.rights(self.bank);
        if self.bank == Bank::User
            && Gva(at).is_canonical()
            && let Some(window) = self.aliased(at, write, &mode)
        {
            return Some(window);
        }
        let (window, _) = self.stretch(at, write)?;
        if write { self.without_code(&window, at) } else { Some(window) }
    }

    /// The memory around `at` that may be accessed alike and lies so in RAM, whether it holds code or not, and what that
    /// depends on. `None` as for [`Self::user_window`].
    pub(crate) fn stretch(&mut self, at: u64, write: bool) -> Option<(Window, Depends)> {
        // Walks do not look at the bits that make an address canonical.
        if self.bank == Bank::UserAligned || !Gva(at).is_canonical() {
            return None;
        }
        let (mode, privilege) = self.rights(self.bank);
        let access = if write { Access::Write } else { Access::Read };
        let leaf = paging::known(self.ram, &mode, Gva(at), access, privilege)?;
        let gpa = leaf.gpa.page().0;
        let slot = self.ram.slots().iter().find(|s| (s.gpa.0..s.gpa.0 + s.size).contains(&gpa))?;
        let (low, high) = (slot.gpa.0, slot.gpa.0 + slot.size);
        // Rights of user pages are also PKRU's, which changes as spaces do.
        let on_space = !leaf.global || leaf.user;
        let depends = Depends { on_space, on_ac: leaf.user && self.bank == Bank::SupervisorAc };
        // What physical addresses are more than virtual ones is the same for all leaves of a stretch.
        let ahead = leaf.gpa.0.wrapping_sub(at);
        let start = (at & !(leaf.page_size - 1)).wrapping_add(ahead);
        let (mut from, mut to) = (start, start + leaf.page_size);
        self.tlb.note_large(at, leaf.page_size);
        // The size of the leaf at a guest-physical address that goes on with this stretch.
        let mut goes_on = |gpa: u64| {
            let beside = gpa.wrapping_sub(ahead);
            // The halves of the address space do not touch, and its end is not its start.
            if beside >> 47 != at >> 47 {
                return None;
            }
            let next = paging::known(self.ram, &mode, Gva(beside), access, privilege)?;
            let same = (next.gpa.0, next.global, next.user) == (gpa, leaf.global, leaf.user);
            same.then(|| self.tlb.note_large(beside, next.page_size));
            same.then_some(next.page_size)
        };
        let most = if leaf.user { 0 } else { LEAVES };
        for _ in 0..most {
            let Some(size) = (to < high).then(|| goes_on(to)).flatten() else { break };
            to = (to & !(size - 1)) + size;
        }
        for _ in 0..most {
            let Some(size) = (low < from).then(|| goes_on(from - PAGE_SIZE)).flatten() else { break };
            from = (from - PAGE_SIZE) & !(size - 1);
        }
        let (low, high) = (low.max(from), high.min(to));
        let start = low.wrapping_sub(ahead);
        let host = slot.host as u64 + (low - slot.gpa.0);
        Some((Window::new(start, high - low, host.wrapping_sub(start)), depends))
    }

    /// The part of a stretch around `at` that holds no decoded code.
    pub(crate) fn without_code(&mut self, stretch: &Window, at: u64) -> Option<Window> {
        let host = at.wrapping_add(stretch.addend);
        let slot = self.ram.slots().iter().find(|s| host.wrapping_sub(s.host as u64) < s.size)?;
        let gpa = slot.gpa.0 + (host - slot.host as u64);
        let clean = self.clean(gpa & !(PAGE_SIZE - 1), slot);
        // The page itself may hold code.
        let ahead = clean.high.checked_sub(gpa).filter(|&bytes| bytes > 0)?;
        let start = stretch.start.max(at.saturating_sub(gpa - clean.low));
        let last = stretch.last().min(at.saturating_add(ahead - 1));
        let length = last.checked_sub(start)? + 1;
        (length > SLACK).then(|| Window::new(start, length, stretch.addend))
    }

    /// The stretch of a slot of RAM around a page that holds no decoded code.
    fn clean(&mut self, gpa: u64, slot: &RamSlot) -> Clean {
        let protections = self.tlb.protections;
        let known = self.tlb.clean.slot(gpa);
        if known.protections != protections || !(known.low..known.high).contains(&gpa) {
            let low = slot.gpa.0.max(gpa.saturating_sub(REACH * PAGE_SIZE));
            let high = (slot.gpa.0 + slot.size).min(gpa + REACH * PAGE_SIZE);
            let has_code = |page: u64| self.ram.code().has_code(slot.offset + (page - slot.gpa.0));
            let pages = |from: u64, to: u64| (from / PAGE_SIZE..to / PAGE_SIZE).map(|page| page * PAGE_SIZE);
            let low = pages(low, gpa).rev().find(|&page| has_code(page)).map_or(low, |page| page + PAGE_SIZE);
            let high = pages(gpa, high).find(|&page| has_code(page)).unwrap_or(high);
            *known = Clean { protections, low, high };
        }
        *known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64, length: u64, addend: u64) -> Window {
        Window::new(start, length, addend)
    }

    #[test]
    fn windows_that_touch_grow_together() {
        let mut one = Window::default();
        one.replace(window(0x20_0000, 0x20_0000, 7));
        one.replace(window(0x40_0000, 0x20_0000, 7));
        assert_eq!(one, window(0x20_0000, 0x40_0000, 7));
        one.replace(window(0x10_0000, 0x18_0000, 7));
        assert_eq!(one, window(0x10_0000, 0x50_0000, 7));
    }

    #[test]
    fn windows_reach_the_last_page() {
        let mut one = window(0xffff_ffff_ffff_e000, 0x1000, 7);
        one.replace(window(0xffff_ffff_ffff_f000, 0x1000, 7));
        assert_eq!(one, window(0xffff_ffff_ffff_e000, 0x2000, 7));
        one.replace(window(0x1000, 0x1000, 7));
        assert_eq!(one, window(0x1000, 0x1000, 7));
    }

    #[test]
    fn windows_apart_or_of_another_distance_replace_each_other() {
        let mut one = window(0x20_0000, 0x20_0000, 7);
        one.replace(window(0x40_0000, 0x20_0000, 8));
        assert_eq!(one, window(0x40_0000, 0x20_0000, 8));
        one.replace(window(0x60_1000, 0x1000, 8));
        assert_eq!(one, window(0x60_1000, 0x1000, 8));
    }
}
