//! A child's address space as a mirror of the guest's page tables: the kernel's has all pages, a user's those of ring 3.
//!
//! A page is mapped when guest code first touches it and the tables allow it: reads map read-only unless the dirty bit
//! is set already, writes map writable (the walk has set the dirty bit), fetches map the *shadow text*, a patched copy.
//! So accessed and dirty bits are exact at the granularity of the guest's own pages. The mirror behaves as a TLB:
//! entries may be stale until INVLPG or a write to a control register, which compare them with the tables again and
//! unmap only what differs.
//!
//! A physical page that is mapped as text is nowhere mapped writable: a write to it faults, and the engine then turns
//! it back into data. Its text mapping exists at one virtual address only, because patches are position-dependent.
use super::child::Child;
use super::layout::{LOWEST, MONITOR, RAM_FD, TEXT_FD, ZONE, ZONE_SIZE, most_mapped};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, PagingMode, Privilege, Translation};
use crate::arch::{Cr0, Gpa, Gva};
use crate::engine::{EngineError, Held, Store, Whose};
use crate::mem::GuestRam;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A guest-virtual range as the host's mmap takes it: the guest's 2 MiB pages at most.
const LARGE: u64 = 2 << 20;
/// The largest guest page.
const HUGE: u64 = 1 << 30;
/// Runs that the host is asked to keep; its own limit is 65,530 (vm.max_map_count). Each may need two pages of the host's
/// page tables.
const MOST_RUNS: usize = 30_000;

/// What a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Guest RAM, read-only.
    Read,
    /// Guest RAM, writable.
    Write,
    /// Shadow text: readable and executable.
    Text,
}

/// Mapped pages, contiguous in guest-virtual and in RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    length: u64,
    offset: u64,
    kind: Kind,
}

/// What is mapped in the child.
#[derive(Debug)]
pub(super) struct Space {
    ram: Arc<GuestRam>,
    runs: BTreeMap<u64, Run>,
    /// RAM offset of each text page, and the one virtual address where it is mapped.
    text: HashMap<u64, u64>,
    /// Only what ring 3 may reach is mapped.
    for_user: bool,
    /// Large guest pages of which something may be mapped: first byte and size.
    large: HashSet<(u64, u64)>,
    /// Bytes of all runs, and how many there may be.
    mapped: u64,
    most_mapped: u64,
}

/// Whether the monitor leaves this page to the guest.
pub(super) fn is_guest_page(address: u64) -> bool {
    (LOWEST..MONITOR).contains(&address) && !in_zone(address)
}

/// Whether the monitor leaves this address to the guest; the first pages are out of reach of the host's programs alone.
pub(super) fn is_guest_address(address: u64) -> bool {
    address < MONITOR && !in_zone(address)
}

/// Whether the address lies in the thunk zone.
pub(super) fn in_zone(address: u64) -> bool {
    address.wrapping_sub(ZONE) < ZONE_SIZE
}

impl Space {
    /// An empty space; `for_user` says that it is a user's, in which only pages of ring 3 are.
    pub(super) fn new(ram: Arc<GuestRam>, for_user: bool) -> Self {
        Self {
            for_user,
            most_mapped: most_mapped(ram.size()),
            ram,
            runs: BTreeMap::new(),
            text: HashMap::new(),
            large: HashSet::new(),
            mapped: 0,
        }
    }

    /// At which privilege what is mapped here is accessed.
    pub(super) fn privilege(&self) -> Privilege {
        if self.for_user { Privilege::User } else { Privilege::Supervisor }
    }

    /// How the page at `address` is mapped, and its RAM offset.
    pub(super) fn find(&self, address: u64) -> Option<(Kind, u64)> {
        let (&start, run) = self.runs.range(..=address).next_back()?;
        (address - start < run.length).then(|| (run.kind, run.offset + (address - start)))
    }

    /// Whether the RAM page at `offset` is mapped as text here, and where.
    fn text_at(&self, offset: u64) -> Option<u64> {
        self.text.get(&offset).copied()
    }

    /// What is mapped. What lies in a shadow is told by the RAM that it is a patched copy of.
    pub(super) fn held(&self, space: usize) -> impl Iterator<Item = Held> {
        let whose = if self.for_user { Whose::User } else { Whose::Supervisor };
        self.runs.iter().filter_map(move |(&start, run)| {
            let slots = self.ram.slots().iter();
            let slot = slots.into_iter().find(|slot| run.offset.wrapping_sub(slot.offset) < slot.size)?;
            Some(Held {
                linear: Gva(start),
                physical: Gpa(slot.gpa.0 + (run.offset - slot.offset)),
                length: run.length,
                store: Store::Mirror,
                whose,
                rights: [true, run.kind == Kind::Write, run.kind == Kind::Text],
                global: false,
                has_code: run.kind == Kind::Text,
                space,
            })
        })
    }

    /// Takes `start..start + length` out of the book; the host keeps it until told.
    fn forget(&mut self, start: u64, length: u64) -> bool {
        let end = start + length;
        let mut any = false;
        while let Some((&at, &run)) = self.runs.range(..end).next_back() {
            let run_end = at + run.length;
            if run_end <= start {
                break;
            }
            any = true;
            self.runs.remove(&at);
            self.mapped -= run_end.min(end) - at.max(start);
            if at < start {
                self.runs.insert(at, Run { length: start - at, ..run });
            }
            if run_end > end {
                let offset = run.offset + (end - at);
                self.runs.insert(end, Run { length: run_end - end, offset, ..run });
            }
            if run.kind == Kind::Text {
                for page in (at.max(start)..run_end.min(end)).step_by(PAGE_SIZE as usize) {
                    let offset = run.offset + (page - at);
                    if self.text.get(&offset) == Some(&page) {
                        self.text.remove(&offset);
                    }
                }
            }
            if at < start {
                break;
            }
        }
        any
    }

    /// Removes a range from the child.
    pub(super) fn unmap(&mut self, child: &mut Child, start: u64, length: u64) -> Result<(), EngineError> {
        if self.forget(start, length) {
            child.request(libc::SYS_munmap, [start, length, 0, 0, 0, 0])?;
        }
        Ok(())
    }

    fn map(&mut self, child: &mut Child, start: u64, run: Run) -> Result<(), EngineError> {
        if self.runs.len() > MOST_RUNS || self.mapped + run.length > self.most_mapped {
            self.clear(child)?;
        }
        self.forget(start, run.length);
        self.mapped += run.length;
        let (protection, fd) = match run.kind {
            Kind::Read => (libc::PROT_READ, RAM_FD),
            Kind::Write => (libc::PROT_READ | libc::PROT_WRITE, RAM_FD),
            Kind::Text => (libc::PROT_READ | libc::PROT_EXEC, TEXT_FD),
        };
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        child
            .request(libc::SYS_mmap, [start, run.length, protection as u64, flags, fd.into(), run.offset])?;
        if run.kind == Kind::Text {
            for page in (0..run.length).step_by(PAGE_SIZE as usize) {
                self.text.insert(run.offset + page, start + page);
            }
        }
        self.runs.insert(start, run);
        Ok(())
    }

    /// Maps pages of RAM that are no text: `length` bytes at `start`, from `offset` of its memory object on.
    pub(super) fn map_pages(
        &mut self,
        child: &mut Child,
        start: u64,
        length: u64,
        offset: u64,
        kind: Kind,
    ) -> Result<(), EngineError> {
        self.map(child, start, Run { length, offset, kind })
    }

    /// Whether nothing is mapped in `start..start + length`.
    pub(super) fn is_empty(&self, start: u64, length: u64) -> bool {
        let last = self.runs.range(..start.saturating_add(length)).next_back();
        last.is_none_or(|(&at, run)| at + run.length <= start)
    }

    /// Unmaps everything.
    pub(super) fn clear(&mut self, child: &mut Child) -> Result<(), EngineError> {
        // Whatever is there is the guest's, but for the zone.
        for (from, to) in [(LOWEST, ZONE), (ZONE + ZONE_SIZE, MONITOR)] {
            child.request(libc::SYS_munmap, [from, to - from, 0, 0, 0, 0])?;
        }
        self.runs.clear();
        self.mapped = 0;
        self.text.clear();
        self.large.clear();
        Ok(())
    }

    /// To be called before a page of `translation` is mapped at `address`: INVLPG of any address in a large guest page
    /// concerns all of it, also when the tables no longer know the page.
    pub(super) fn note_size(
        &mut self,
        child: &mut Child,
        address: u64,
        translation: &Translation,
    ) -> Result<(), EngineError> {
        let size = translation.page_size;
        if size >= LARGE {
            if self.large.len() > MOST_RUNS {
                self.clear(child)?;
            }
            self.large.insert((address & !(size - 1), size));
        }
        Ok(())
    }

    /// Maps what `translation` of the data access at `address` says, with as much around it as one guest page, or
    /// several small ones that are in use already, allow. `is_text` knows the RAM pages that are text anywhere.
    pub(super) fn map_data(
        &mut self,
        child: &mut Child,
        mode: &PagingMode,
        address: u64,
        translation: &Translation,
        kind: Kind,
        is_text: impl Fn(u64) -> bool,
    ) -> Result<(), EngineError> {
        let page = address & !(PAGE_SIZE - 1);
        let (start, end) = if translation.page_size >= LARGE {
            (page & !(LARGE - 1), (page & !(LARGE - 1)) + LARGE)
        } else {
            self.extent(mode, page, translation, kind)
        };
        let delta = translation.gpa.page().0.wrapping_sub(page);
        // Pages that are not the guest's to have, are no RAM, or are text, stay out.
        let mut from = None;
        let mut at = start;
        while at <= end {
            let offset = (at < end && is_guest_page(at))
                .then(|| self.ram.offset(Gpa(at.wrapping_add(delta)), PAGE_SIZE))
                .flatten()
                .filter(|&offset| !is_text(offset));
            match (from, offset) {
                (None, Some(offset)) => from = Some((at, offset)),
                // RAM slots are contiguous in the memory object only within themselves.
                (Some((first, base)), Some(offset)) if offset != base + (at - first) => {
                    self.map(child, first, Run { length: at - first, offset: base, kind })?;
                    from = Some((at, offset));
                }
                (Some((first, base)), None) => {
                    self.map(child, first, Run { length: at - first, offset: base, kind })?;
                    from = None;
                }
                _ => {}
            }
            at += PAGE_SIZE;
        }
        Ok(())
    }

    /// How far small pages around `page` continue it: contiguous, accessed, with the rights that `kind` needs.
    fn extent(&self, mode: &PagingMode, page: u64, translation: &Translation, kind: Kind) -> (u64, u64) {
        const AROUND: u64 = 64 * PAGE_SIZE;
        let base = translation.gpa.page().0;
        let fits = |at: u64| {
            paging::probe(&*self.ram, mode, Gva(at)).is_some_and(|(t, accessed)| {
                accessed
                    && t.page_size == PAGE_SIZE
                    && t.gpa.0.wrapping_sub(base) == at.wrapping_sub(page)
                    && t.user == translation.user
                    && (kind == Kind::Read && !(t.writable && t.dirty)
                        || kind == Kind::Write && t.writable && t.dirty)
            })
        };
        let (first, last) = (page & !(AROUND - 1), (page | (AROUND - 1)) + 1);
        let (mut start, mut end) = (page, page + PAGE_SIZE);
        while start > first && fits(start - PAGE_SIZE) {
            start -= PAGE_SIZE;
        }
        while end < last && fits(end) {
            end += PAGE_SIZE;
        }
        (start, end)
    }

    /// The RAM page at `offset` is to be text at `page` and nowhere else: write access to it is taken away, and a text
    /// mapping at another address.
    pub(super) fn make_text(&mut self, child: &mut Child, page: u64, offset: u64) -> Result<(), EngineError> {
        if let Some(other) = self.text_at(offset).filter(|&other| other != page) {
            self.unmap(child, other, PAGE_SIZE)?;
        }
        for at in self.places(offset, Kind::Write) {
            self.unmap(child, at, PAGE_SIZE)?;
        }
        Ok(())
    }

    /// Maps the shadow of the RAM page at `offset` at `page`; [`Self::make_text`] was called in every space.
    pub(super) fn map_text(&mut self, child: &mut Child, page: u64, offset: u64) -> Result<(), EngineError> {
        self.map(child, page, Run { length: PAGE_SIZE, offset, kind: Kind::Text })
    }

    /// Maps the RAM page at `offset`, which is text elsewhere, at `page` for reading.
    pub(super) fn map_alias(&mut self, child: &mut Child, page: u64, offset: u64) -> Result<(), EngineError> {
        self.map(child, page, Run { length: PAGE_SIZE, offset, kind: Kind::Read })
    }

    /// The virtual addresses at which the RAM page at `offset` is mapped as `kind`.
    fn places(&self, offset: u64, kind: Kind) -> Vec<u64> {
        let inside = |run: &Run| run.kind == kind && (run.offset..run.offset + run.length).contains(&offset);
        self.runs.iter().filter(|(_, run)| inside(run)).map(|(at, run)| at + (offset - run.offset)).collect()
    }

    /// After INVLPG of `address`: what the tables no longer say is unmapped. That concerns the page of `address` as it
    /// is now and as it was when it was mapped, whichever is larger (SDM vol. 3A, 4.10.4.1).
    pub(super) fn invalidate(
        &mut self,
        child: &mut Child,
        mode: &PagingMode,
        address: u64,
    ) -> Result<(), EngineError> {
        let now = paging::probe(&*self.ram, mode, Gva(address)).map_or(PAGE_SIZE, |(t, _)| t.page_size);
        let mut size = now;
        for former in [LARGE, HUGE] {
            let page = (address & !(former - 1), former);
            if self.large.contains(&page) {
                size = size.max(former);
                if now != former {
                    self.large.remove(&page);
                }
            }
        }
        let start = address & !(size - 1);
        self.validate_range(child, mode, start, start.saturating_add(size))
    }

    /// As [`Self::invalidate`] for all pages from `start` on, to `start + length`.
    pub(super) fn refresh(
        &mut self,
        child: &mut Child,
        mode: &PagingMode,
        start: u64,
        length: u64,
    ) -> Result<(), EngineError> {
        let end = start.saturating_add(length);
        // A large page that was mapped there is concerned as a whole.
        let large =
            |at: u64| [LARGE, HUGE].into_iter().any(|size| self.large.contains(&(at & !(size - 1), size)));
        let (from, to) = if large(start) || large(end.saturating_sub(1)) {
            (start & !(HUGE - 1), (end | (HUGE - 1)).saturating_add(1))
        } else {
            (start, end)
        };
        self.validate_range(child, mode, from, to)
    }

    /// After a write to a control register: as [`Self::invalidate`] for all that is mapped.
    pub(super) fn validate(&mut self, child: &mut Child, mode: &PagingMode) -> Result<(), EngineError> {
        self.validate_range(child, mode, 0, MONITOR)
    }

    fn validate_range(
        &mut self,
        child: &mut Child,
        mode: &PagingMode,
        from: u64,
        to: u64,
    ) -> Result<(), EngineError> {
        let mut stale: Vec<(u64, u64)> = Vec::new();
        let first = self.runs.range(..=from).next_back().map_or(from, |(&at, _)| at);
        for (&start, run) in self.runs.range(first..to) {
            let end = (start + run.length).min(to);
            let mut at = start.max(from);
            while at < end {
                let probed = paging::probe(&*self.ram, mode, Gva(at));
                let size = probed.map_or(PAGE_SIZE, |(t, _)| t.page_size);
                let next = ((at & !(size - 1)) + size).min(end);
                let offset = run.offset + (at - start);
                if !probed.is_some_and(|(t, accessed)| accessed && self.agrees(&t, mode, run.kind, offset)) {
                    match stale.last_mut() {
                        Some(last) if last.1 == at => last.1 = next,
                        _ => stale.push((at, next)),
                    }
                }
                at = next;
            }
        }
        for (at, end) in stale {
            self.unmap(child, at, end - at)?;
        }
        Ok(())
    }

    /// Whether a mapping is what a fault would make of the translation, or less.
    fn agrees(&self, t: &Translation, mode: &PagingMode, kind: Kind, offset: u64) -> bool {
        let page = t.gpa.page();
        self.ram.offset(page, PAGE_SIZE) == Some(offset)
            && (t.user || !self.for_user)
            && match kind {
                Kind::Read => true,
                Kind::Write => t.dirty && (t.writable || !self.for_user && !mode.cr0.contains(Cr0::WP)),
                Kind::Text => t.executable,
            }
    }

    /// Makes the RAM page at `offset` data again.
    pub(super) fn drop_text(&mut self, child: &mut Child, offset: u64) -> Result<(), EngineError> {
        match self.text_at(offset) {
            Some(at) => self.unmap(child, at, PAGE_SIZE),
            None => Ok(()),
        }
    }
}
