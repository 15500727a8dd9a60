//! Where translated code goes on: from the block at RIP to the address of its code.
//!
//! The jump cache is asked first, which knows blocks by guest-virtual address under the marks of [`Session::marks`]; then
//! the store, which knows them by place in RAM; then the block is made.
#![expect(unsafe_code, reason = "writes the context that translated code works on")]
use super::{End, Go, Session, needs_care};
use crate::arch::{Cr4, Rflags};
use crate::emulator::code::{Link, Marks};
use crate::emulator::mmu::Bank;
use crate::emulator::mmu::Fault;
use crate::emulator::mmu::slow::Place;
use crate::emulator::single::Ended;
use crate::emulator::translate::decode::next_page;
use crate::emulator::translate::levels::mark_of_levels;
use crate::emulator::translate::{Limits, translate};
use crate::engine::{Account, Cause};
use crate::mem::CodeChanges;
use crate::sys::tsc;

/// Exceptions in a row that the fetch of code may raise before the surroundings are looked at.
const MOST_FAULTS: usize = 16;

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

    /// The marks of jumps that hold now. Code in global pages of ring 0 has one that outlives writes of CR3; jumps that are
    /// remembered under it lead to such code.
    #[inline]
    fn marks(&mut self, limits: Limits) -> Marks {
        let tlb = &self.cx.mmu.tlb;
        if *self.era != tlb.eras {
            *self.era = tlb.eras;
            self.store.forget_marks();
        }
        let (number, tlb) = (limits.number(), &self.cx.mmu.tlb);
        let local = tlb.local_code() << 8 | number;
        let global = match limits.ring0 && self.cx.state.cr4.contains(Cr4::PGE) {
            true => tlb.global_code() << 8 | number,
            false => local,
        };
        Marks { global, local }
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
        let marks = self.marks(Limits::of(self.cx.state, self.windows));
        let Some((target, tag)) = self.store.jump(self.cx.state.rip, marks) else {
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
            let marks = self.marks(Limits { windows: self.windows, ..limits });
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
            let remembers = windows == self.windows && self.budget.is_none();
            if remembers {
                let tag = if place.global { marks.global } else { marks.local };
                if let Some(target) = self.store.jump_again(rip, place.gpa.0, tag) {
                    self.take_over(tag);
                    return Ok(target);
                }
            }
            let known = self.store.find(place.gpa.0, limits.key(rip));
            let known = known.and_then(|block| Some((block, self.reach(block, rip, place)?)));
            let found = known.or_else(|| {
                let block = self.make(limits, rip, place)?;
                Some((block, self.reach(block, rip, place)?))
            });
            let (block, is_global) = found.ok_or(End::Careful)?;
            let tag = if is_global { marks.global } else { marks.local };
            let entries = self.store.entries(block).ok_or(End::Careful)?;
            if remembers {
                self.store.note_jump(rip, tag, block);
            }
            self.take_over(tag);
            return Ok(entries.saved);
        }
        Err(End::Ended(Ended::Attention))
    }

    /// Whether a block at `rip`, which lies at `place`, is that of all address spaces. `None` if it reaches into a page that
    /// does not follow here.
    #[inline]
    fn reach(&mut self, block: u32, rip: u64, place: Place) -> Option<bool> {
        let Some(page) = self.store.second_page(block) else { return Some(place.global) };
        let second = self.cx.mmu.fetch_place(next_page(rip)).ok()?;
        (second.gpa.0 == page).then_some(place.global && second.global)
    }

    /// Makes the block at `rip`.
    fn make(&mut self, limits: Limits, rip: u64, place: Place) -> Option<u32> {
        let (begun, flushes) = (tsc::read(), self.store.flushes);
        let _translates = self.counters.ledger().charge(Account::Translate);
        let (mmu, regs) = (&mut self.cx.mmu, &*self.cx.regs);
        let made = translate(mmu, regs, self.store, self.features, self.workshop, limits, (rip, place));
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
        let banks =
            [Bank::Supervisor, Bank::User, Bank::SupervisorAc].map(|bank| self.cx.mmu.tlb.bank_address(bank));
        let unswitched = Limits::vectors_unless_switched(self.cx.state);
        let mut levels = mark_of_levels();
        if self.cx.state.cr4.contains(Cr4::PGE) {
            levels ^= (self.cx.mmu.tlb.global_code() ^ self.cx.mmu.tlb.local_code()) << 8;
        }
        // SAFETY: as in `write_context`.
        let before = unsafe {
            (*self.context).tlb = tlb;
            (*self.context).unswitched = unswitched;
            (*self.context).levels = levels;
            (*self.context).tlbs = banks;
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
        // SAFETY: as in `write_context`.
        let running = unsafe { (*self.context).tag };
        match self.next(windows) {
            Ok(target) => {
                // Making the block may have emptied the store: the number would be another link's.
                if self.store.flushes == flushes {
                    self.follow(link, target, windows, running);
                }
                Go::To(target)
            }
            Err(end) => Go::Leave(end),
        }
    }

    /// Lets a link go straight to the block whose entry with saved flags is `target`. It is that of a block that ran under
    /// the mark `running`.
    fn follow(&mut self, link: u32, target: usize, windows: bool, running: u64) {
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
            let marks = self.marks(Limits { windows: self.windows, ..limits });
            // A mark that outlives the address space must not lead to code that does not.
            let holds = running == marks.local
                || running == marks.global && self.reach(block, rip, place) == Some(true);
            if !holds && self.store.is_far(link) {
                return;
            }
            let connected = self.store.connect(link, block, running);
            self.counters.add(Cause::Link, connected.into());
        }
    }
}
