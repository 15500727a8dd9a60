//! Address spaces in the soft TLB, by PCID: switching between them, and forgetting one of them.
//!
//! The manual lets a CPU forget more than it is told to, never less (SDM 4.10.4). Code is stamped: whoever remembers where
//! an address of code leads, remembers under which stamp. Stamps are never given twice.
use super::{Bank, EMPTY, ENTRIES, NOWHERE, Tlb};

/// Address spaces whose translations are kept at a time.
pub(crate) const SPACES: usize = 7;
/// The number of no space.
const NO_PCID: u16 = u16::MAX;
/// Low bits of stamps, which links between blocks compare; see `translate::session::lookup`.
const COMPARED: u64 = 0xff_ffff;

/// One address space.
#[derive(Debug)]
pub(super) struct Space {
    pcid: u16,
    /// The stamp of its code that is not global.
    pub code: u64,
    /// Indices of entries of its banks that may be in use; if there are as many as a bank has, any may be.
    pub filled: Vec<u16>,
    /// As [`Tlb::evicted`], of its code.
    pub evicted: (u64, u64),
    /// When it was switched to last.
    used: u64,
}

impl Space {
    pub(super) fn new(code: u64) -> Self {
        Self { pcid: NO_PCID, code, filled: Vec::new(), evicted: NOWHERE, used: 0 }
    }

    /// The PCID that names it, if one does.
    pub(super) fn pcid(&self) -> u16 {
        self.pcid
    }

    /// Whether a PCID names it.
    pub(super) fn is_used(&self) -> bool {
        self.pcid != NO_PCID
    }

    /// From now on no PCID names it; it was forgotten.
    pub(super) fn abandon(&mut self) {
        self.pcid = NO_PCID;
    }
}

impl Tlb {
    /// The stamp of global code.
    #[inline]
    pub(crate) fn global_code(&self) -> u64 {
        self.global_code
    }

    /// The stamp of code of the current space, global or not.
    #[inline]
    pub(crate) fn local_code(&self) -> u64 {
        self.spaces[self.current].code
    }

    /// The current space's PCID.
    pub(crate) fn pcid(&self) -> u16 {
        self.spaces[self.current].pcid
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        if self.stamps & COMPARED == COMPARED {
            // The bits that are compared are never all ones, and are about to come again: no link may hold any more.
            self.eras += 1;
            self.stamps += 1;
            self.global_code = self.stamps;
            for space in &mut self.spaces {
                self.stamps += 1;
                space.code = self.stamps;
            }
            self.stamps += 1;
        }
        self.stamps
    }

    /// The next stamps but one begin a new era.
    #[cfg(test)]
    pub(super) fn near_the_end_of_an_era(&mut self) {
        self.stamps = self.stamps & !COMPARED | (COMPARED - 2);
    }

    pub(super) fn enter_space(&mut self, number: usize, pcid: u16) {
        self.current = number;
        self.uses += 1;
        let space = &mut self.spaces[number];
        (space.pcid, space.used) = (pcid, self.uses);
        let first = (2 + 2 * number) * ENTRIES;
        self.bases[Bank::Supervisor as usize] = 0;
        self.bases[Bank::UserAligned as usize] = ENTRIES as u32;
        self.bases[Bank::User as usize] = first as u32;
        self.bases[Bank::SupervisorAc as usize] = (first + ENTRIES) as u32;
        self.local_generation += 1;
    }

    /// CR3 is written: the space of `pcid` becomes the current one. Unless it is to be kept, what is remembered of it and is
    /// not global is forgotten.
    pub(crate) fn load_space(&mut self, pcid: u16, keep: bool) {
        self.forget_supervisor();
        let known = self.spaces.iter().position(|space| space.pcid == pcid);
        let oldest = || (0..SPACES).min_by_key(|&i| (self.spaces[i].is_used(), self.spaces[i].used, i));
        let number = known.or_else(oldest).unwrap_or(0);
        if known.is_none() || !keep {
            self.forget_space(number);
        }
        self.enter_space(number, pcid);
    }

    /// Forgets what is not global of the space of `pcid`.
    pub(crate) fn flush_space(&mut self, pcid: u16) {
        if let Some(number) = self.spaces.iter().position(|space| space.pcid == pcid) {
            if number == self.current {
                self.forget_supervisor();
            }
            self.forget_space(number);
        }
    }

    /// Forgets what is not global of all spaces.
    pub(crate) fn flush_spaces(&mut self) {
        self.forget_supervisor();
        for number in 0..SPACES {
            self.forget_space(number);
        }
    }

    /// Forgets the page of `at` in the space of `pcid`.
    pub(crate) fn flush_page_of(&mut self, pcid: u16, at: u64) {
        if pcid == self.pcid() {
            self.flush_page(at);
        } else {
            // Rare, and more is allowed.
            self.flush_space(pcid);
        }
    }

    /// Forgets what is not global in the supervisor's bank, which belongs to the current space.
    fn forget_supervisor(&mut self) {
        if self.local.len() >= ENTRIES {
            self.entries[..ENTRIES]
                .iter_mut()
                .filter(|entry| entry.gpa & 1 == 0)
                .for_each(|entry| *entry = EMPTY);
            self.local.clear();
        }
        for at in self.local.drain(..) {
            let entry = &mut self.entries[usize::from(at)];
            if entry.gpa & 1 == 0 {
                *entry = EMPTY;
            }
        }
        self.local_generation += 1;
    }

    /// Forgets the code of a space.
    fn forget_code(&mut self, number: usize) {
        let stamp = self.stamp();
        let space = &mut self.spaces[number];
        (space.code, space.evicted) = (stamp, NOWHERE);
    }

    /// Forgets the banks and the code of a space.
    pub(super) fn forget_space(&mut self, number: usize) {
        self.forget_code(number);
        self.forget_banks(number);
        self.local_generation += u64::from(number == self.current);
    }

    /// Forgets the banks of a space.
    pub(super) fn forget_banks(&mut self, number: usize) {
        let space = &mut self.spaces[number];
        if space.filled.len() >= ENTRIES {
            let first = (2 + 2 * number) * ENTRIES;
            self.entries[first..first + 2 * ENTRIES].fill(EMPTY);
            space.filled.clear();
        }
        for at in space.filled.drain(..) {
            self.entries[usize::from(at)] = EMPTY;
        }
    }

    /// Forgets a page that is global in the banks of other spaces.
    pub(super) fn forget_page_elsewhere(&mut self, page: u64) {
        let slot = (page >> 12) as usize & (ENTRIES - 1);
        for number in (0..SPACES).filter(|&number| number != self.current) {
            for bank in [2 + 2 * number, 3 + 2 * number] {
                let entry = &mut self.entries[bank * ENTRIES + slot];
                if entry.read == page && entry.gpa & 1 != 0 {
                    *entry = EMPTY;
                }
            }
        }
    }

    /// Forgets code in global pages, and with it what spaces remember under stamps of their own.
    pub(super) fn forget_global_code(&mut self) {
        self.evicted = NOWHERE;
        self.global_code = self.stamp();
        for number in 0..SPACES {
            self.forget_code(number);
        }
    }

    /// Forgets code in a page, as far as any may have been fetched there.
    pub(super) fn forget_code_page(&mut self, page: u64) {
        let within = |span: (u64, u64)| (span.0..=span.1).contains(&page);
        let fetched = |bank, global| {
            let entry = &self.code[super::code_index(bank, page)];
            entry.tag == page && entry.global == global && self.holds(entry)
        };
        let either = |global| fetched(Bank::Supervisor, global) || fetched(Bank::User, global);
        if within(self.evicted) || either(true) {
            self.forget_global_code();
        } else if within(self.spaces[self.current].evicted) || either(false) {
            self.forget_code(self.current);
        }
    }
}
