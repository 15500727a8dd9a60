//! Where translated code goes on: from the block at RIP to the address of its code.
//!
//! The jump cache is asked first, which knows blocks by guest-virtual address under the mark of [`Session::tag`]; then
//! the store, which knows them by place in RAM; then the block is made.
#![expect(unsafe_code, reason = "writes the context that translated code works on")]
use super::{End, Go, Session, needs_care};
use crate::arch::Rflags;
use crate::emulator::code::Link;
use crate::emulator::mmu::Fault;
use crate::emulator::mmu::slow::Place;
use crate::emulator::single::Ended;
use crate::emulator::translate::{Limits, translate};
use crate::engine::Cause;
use crate::mem::CodeChanges;
use crate::sys::tsc;

/// Exceptions in a row that the fetch of code may raise before the surroundings are looked at.
const MOST_FAULTS: usize = 16;

/// Counts generations of translations without end.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Epoch {
    number: u64,
    generation: u32,
}

impl Epoch {
    /// Low bits of the number, which links compare with their own.
    const COMPARED: u64 = 0xff_ffff;

    /// Takes over a generation; says whether the low bits of the number begin anew. They are never all ones.
    fn advance(&mut self, generation: u32) -> bool {
        if self.generation == generation {
            return false;
        }
        *self = Self { number: self.number + 1, generation };
        let anew = self.number & Self::COMPARED == Self::COMPARED;
        self.number += u64::from(anew);
        anew
    }
}

impl Session<'_, '_> {
    /// Whether translated code was written, and that was not seen to yet.
    #[inline]
    pub(super) fn code_was_written(&self) -> bool {
        *self.cursor != self.cx.mmu.ram.code().cursor()
    }

    /// Drops what was made of code that has been written since.
    fn drop_written(&mut self) {
        match self.cx.mmu.ram.written_code(self.cursor) {
            None => {}
            Some(CodeChanges::Everything) => {
                self.store.clear();
                self.counters.count(Cause::Flush);
            }
            Some(CodeChanges::Pages(pages)) => {
                for page in pages {
                    let dropped = self.store.drop_page(page.0);
                    self.counters.add(Cause::CodeWrite, dropped.into());
                }
            }
        }
    }

    /// The mark of jumps that hold now.
    #[inline]
    fn tag(&mut self, limits: Limits) -> u64 {
        let generation = self.cx.mmu.tlb.code_generation;
        if self.epoch.advance(generation) {
            self.store.forget_marks();
        }
        self.epoch.number << 8 | limits.number()
    }

    /// Where the block at RIP can be entered with saved flags. Makes it if need be, and takes over what translated code
    /// must know of the CPU's mode.
    #[inline]
    pub(super) fn next(&mut self, windows: bool) -> Result<usize, End> {
        if windows == self.windows
            && !self.kick.is_raised()
            && let Some(target) = self.remembered()
        {
            return Ok(target);
        }
        self.find_next(windows, windows == self.windows)
    }

    /// As [`Self::next`] for code of the usual kind, if the jump cache knows; kicks are not looked at.
    #[inline]
    pub(super) fn remembered(&mut self) -> Option<usize> {
        if self.code_was_written() || needs_care(self.cx.state) {
            return None;
        }
        self.cx.mmu.stop = false;
        // RF only holds off instruction breakpoints, of which there are none in translated code.
        self.cx.state.rflags.remove(Rflags::RF);
        let tag = self.tag(Limits::of(self.cx.state, self.windows));
        let Some(target) = self.store.jump(self.cx.state.rip, tag) else {
            self.counters.count(Cause::JumpMiss);
            return None;
        };
        self.take_over(tag);
        Some(target)
    }

    /// As [`Self::next`], where the jump cache does not know. After an access that missed its window kicks wait: its
    /// instruction may be in the shadow of STI, and is executed first.
    #[inline(never)]
    pub(super) fn find_next(&mut self, windows: bool, heed_kicks: bool) -> Result<usize, End> {
        for _ in 0..MOST_FAULTS {
            if heed_kicks && self.kick.is_raised() {
                return Err(End::Ended(Ended::Attention));
            }
            #[cfg(test)]
            if heed_kicks && let Some(left) = &mut self.budget {
                if *left == 0 {
                    return Err(End::Ended(Ended::Attention));
                }
                *left -= 1;
            }
            self.cx.mmu.stop = false;
            self.drop_written();
            if needs_care(self.cx.state) {
                return Err(End::Careful);
            }
            self.cx.state.rflags.remove(Rflags::RF);
            let limits = Limits::of(self.cx.state, windows);
            let rip = self.cx.state.rip;
            // Jumps are looked up by code of the usual kind, and lead to such code.
            let tag = self.tag(Limits { windows: self.windows, ..limits });
            let place = match self.cx.mmu.fetch_place(rip) {
                Ok(place) => place,
                Err(Fault) => {
                    self.deliver(self.cx.mmu.exception)?;
                    continue;
                }
            };
            if place.host.is_none() {
                return Err(End::Careful);
            }
            let known = self.store.find(place.gpa.0, limits.key(rip));
            let block = known.or_else(|| self.make(limits, rip, place));
            let entries = block.and_then(|block| self.store.entries(block)).ok_or(End::Careful)?;
            #[cfg(test)]
            let limited = self.budget.is_some();
            #[cfg(not(test))]
            let limited = false;
            if windows == self.windows && !limited {
                self.store.note_jump(rip, tag, entries.saved);
            }
            self.take_over(tag);
            return Ok(entries.saved);
        }
        Err(End::Ended(Ended::Attention))
    }

    /// Makes the block at `rip`.
    fn make(&mut self, limits: Limits, rip: u64, place: Place) -> Option<u32> {
        let (begun, flushes) = (tsc::read(), self.store.flushes);
        let made = translate(&mut self.cx.mmu, self.store, self.features, self.workshop, limits, rip, place);
        self.counters.add(Cause::TranslateCycles, tsc::read().wrapping_sub(begun));
        self.counters.add(Cause::Flush, self.store.flushes - flushes);
        self.counters.add(Cause::Block, made.is_some().into());
        made
    }

    /// Takes over what translated code must know of the CPU's mode.
    #[inline]
    fn take_over(&mut self, tag: u64) {
        self.drop_windows();
        let tlb = self.cx.mmu.tlb.bank_address(self.cx.mmu.bank);
        let unswitched = Limits::vectors_unless_switched(self.cx.state);
        // SAFETY: as in `write_context`.
        let before = unsafe {
            (*self.context).tlb = tlb;
            (*self.context).unswitched = unswitched;
            std::mem::replace(&mut (*self.context).tag, tag)
        };
        // Translated code that changes the mark empties the stack itself.
        if before != tag || *self.returns != self.store.drops {
            *self.returns = self.store.drops;
            self.forget_returns();
        }
    }

    /// Follows a link to the block at RIP.
    pub(super) fn through(&mut self, link: u32, windows: bool) -> Go {
        let flushes = self.store.flushes;
        match self.next(windows) {
            Ok(target) => {
                // Making the block may have emptied the store: the number would be another link's.
                if self.store.flushes == flushes {
                    self.follow(link, target, windows);
                }
                Go::To(target)
            }
            Err(end) => Go::Leave(end),
        }
    }

    /// Lets a link go straight to the block whose entry with saved flags is `target`.
    fn follow(&mut self, link: u32, target: usize, windows: bool) {
        // An exception may have led elsewhere.
        let rip = self.cx.state.rip;
        // The way to the twin is part of an access, not of chaining.
        let wanted = |link: &Link| link.rip == rip && (self.chains || link.miss.is_some());
        if !self.store.links.get(link as usize).is_some_and(wanted) {
            return;
        }
        let limits = Limits::of(self.cx.state, windows);
        let Ok(place) = self.cx.mmu.fetch_place(rip) else { return };
        if let Some(block) = self.store.find(place.gpa.0, limits.key(rip))
            && self.store.entries(block).is_some_and(|entries| entries.saved == target)
        {
            let mark = self.tag(Limits { windows: self.windows, ..limits });
            let connected = self.store.connect(link, block, mark);
            self.counters.add(Cause::Link, connected.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_whose_low_half_comes_again_are_announced() {
        let mut epoch = Epoch { number: Epoch::COMPARED - 2, generation: 1 };
        assert!(!epoch.advance(1) && !epoch.advance(2));
        assert_eq!(epoch.number, Epoch::COMPARED - 1);
        assert!(epoch.advance(1));
        assert_eq!(epoch.number, Epoch::COMPARED + 1);
        assert!(!epoch.advance(2));
    }
}
