//! The soft TLB: where a guest-virtual page lies in this process, by what it may be used for.
//!
//! Direct-mapped, one bank for each kind of access right ([`Bank`]). An entry has a tag for reads and one for writes;
//! a tag that matches the page of an access's last byte proves that the access is allowed and does not leave the page.
//! Only RAM is entered. A write tag with [`CODE`] set never matches: stores to pages that hold decoded code take the
//! slow path. Instruction pages have a small table of their own that gives guest-physical addresses.
//!
//! Address spaces ([`Space`]) are told apart by PCID (SDM 4.10.1): each has banks of its own for user pages, and a stamp for
//! what was made of its code. The supervisor's bank is shared: what is not global in it is forgotten with every write of CR3.
mod held;
mod rights;
mod space;

use super::alias::Aliases;
use super::window::CleanStretches;
use crate::arch::address::PAGE_SIZE;
use space::{SPACES, Space};

/// Entries in a bank; a power of two.
pub(crate) const ENTRIES: usize = 1024;
/// log2 of the bytes of an entry.
pub(crate) const ENTRY_SHIFT: u8 = 5;
/// Offsets in an entry, for translated code.
pub(crate) const ENTRY_READ: i32 = std::mem::offset_of!(Entry, read) as i32;
/// As [`ENTRY_READ`].
pub(crate) const ENTRY_WRITE: i32 = std::mem::offset_of!(Entry, write) as i32;
/// As [`ENTRY_READ`].
pub(crate) const ENTRY_ADDEND: i32 = std::mem::offset_of!(Entry, addend) as i32;
const _: () = assert!(size_of::<Entry>() == 1 << ENTRY_SHIFT);
/// Entries of the instruction table in a bank.
const CODE_ENTRIES: usize = 1024;
/// Banks: of the supervisor, one that stays empty, and two for each address space.
const BANKS: usize = 2 + 2 * SPACES;
const _: () = assert!(BANKS.is_power_of_two());
const ALL: usize = BANKS * ENTRIES;
/// A tag that matches nothing: not page-aligned.
const NONE: u64 = u64::MAX;
/// In a write tag: the page is writable but holds code.
const CODE: u64 = 1;
const PAGE_MASK: u64 = !(PAGE_SIZE - 1);

/// With which rights an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Bank {
    /// Rings 0–2 with RFLAGS.AC clear, and the processor's own accesses.
    Supervisor = 0,
    /// Ring 3.
    User = 1,
    /// Rings 0–2 with RFLAGS.AC set and SMAP on.
    SupervisorAc = 2,
    /// Ring 3 with alignment checks: never filled, so that each access takes the slow path.
    UserAligned = 3,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    read: u64,
    write: u64,
    /// What to add to a guest-virtual address to get a host address, wrapping.
    addend: usize,
    /// Guest-physical page, bit 0 set if the translation is global.
    gpa: u64,
}

const EMPTY: Entry = Entry { read: NONE, write: NONE, addend: 0, gpa: NONE };

#[derive(Clone, Copy)]
struct CodeEntry {
    tag: u64,
    gpa: u64,
    /// The stamp of its space, or of global code, when it was entered; it holds under no other.
    stamp: u64,
    global: bool,
}

const NO_CODE: CodeEntry = CodeEntry { tag: NONE, gpa: NONE, stamp: 0, global: false };

/// A page of device memory: where it lies, and what it may be used for.
#[derive(Clone, Copy)]
struct DeviceEntry {
    tag: u64,
    gpa: u64,
    write: bool,
    /// The generations in which it was entered; it holds in no other.
    generation: (u32, u64),
}

const NO_DEVICE: DeviceEntry = DeviceEntry { tag: NONE, gpa: NONE, write: false, generation: (0, 0) };

/// What is entered for one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    /// Guest-virtual page.
    pub page: u64,
    /// Guest-physical page.
    pub gpa: u64,
    /// Host address of the page.
    pub host: usize,
    /// Writes are allowed, and the dirty bit is set.
    pub write: bool,
    /// The page holds decoded code.
    pub code: bool,
    /// The translation survives a write of CR3.
    pub global: bool,
    /// Bytes of the leaf.
    pub size: u64,
}

/// Pages forgotten one by one that are listed; one more counts as everything.
const MOST_FORGOTTEN: usize = 8;

/// The translations that one vCPU remembers.
pub(crate) struct Tlb {
    entries: Box<[Entry; ALL]>,
    /// Where the entries of each [`Bank`] begin now.
    bases: [u32; 4],
    code: Box<[CodeEntry; 4 * CODE_ENTRIES]>,
    /// The page of device memory that was used last, for each bank.
    device: [DeviceEntry; 4],
    spaces: [Space; SPACES],
    /// The space that CR3 names.
    current: usize,
    /// Counts uses of spaces.
    uses: u64,
    /// Indices of entries of the supervisor's bank that may be in use and are not global.
    local: Vec<u16>,
    /// As `local`, for global ones.
    global: Vec<u16>,
    /// The span of addresses for which an entry of a large page was made: INVLPG there flushes everything.
    large: (u64, u64),
    /// Changes whenever everything is forgotten.
    pub generation: u32,
    /// Changes whenever translations of the current space that are not global are forgotten, but for single pages: those
    /// are listed in `forgotten`.
    pub local_generation: u64,
    /// Pages that were forgotten one by one since their reader last emptied the list.
    pub forgotten: Vec<u64>,
    /// Stretches without decoded code, for windows.
    pub clean: CleanStretches,
    /// Pages that windows reach side by side.
    pub aliases: Aliases,
    /// The last stamp that was given.
    stamps: u64,
    /// How often stamps of code began anew in the bits that links compare.
    pub eras: u64,
    /// Of code in global pages. It changes when such are forgotten, and all spaces' with it.
    global_code: u64,
    /// Pages between which global instruction pages lie whose entries were taken by others.
    evicted: (u64, u64),
    /// Changes whenever a page turns out to hold code.
    pub protections: u32,
}

/// A span of no pages.
const NOWHERE: (u64, u64) = (u64::MAX, 0);

impl Default for Tlb {
    fn default() -> Self {
        // Made on the heap: it is too large for stacks of threads.
        let entries: Box<[Entry]> = vec![EMPTY; ALL].into();
        let Ok(entries) = entries.try_into() else { unreachable!("as many as were made") };
        let mut tlb = Self {
            entries,
            bases: [0; 4],
            code: Box::new([NO_CODE; 4 * CODE_ENTRIES]),
            device: [NO_DEVICE; 4],
            spaces: std::array::from_fn(|number| Space::new(number as u64 + 2)),
            current: 0,
            uses: 0,
            local: Vec::new(),
            global: Vec::new(),
            large: NOWHERE,
            generation: 1,
            local_generation: 1,
            forgotten: Vec::with_capacity(MOST_FORGOTTEN),
            clean: CleanStretches::default(),
            aliases: Aliases::default(),
            stamps: SPACES as u64 + 2,
            eras: 0,
            global_code: 1,
            evicted: NOWHERE,
            protections: 0,
        };
        tlb.enter_space(0, 0);
        tlb
    }
}

fn code_index(bank: Bank, at: u64) -> usize {
    (bank as usize * CODE_ENTRIES + ((at >> 12) as usize & (CODE_ENTRIES - 1))) & (4 * CODE_ENTRIES - 1)
}

impl Tlb {
    #[inline(always)]
    fn index(&self, bank: Bank, at: u64) -> usize {
        (self.bases[bank as usize] as usize + ((at >> 12) as usize & (ENTRIES - 1))) & (ALL - 1)
    }

    /// Address of a bank's entries, for translated code.
    pub(crate) fn bank_address(&self, bank: Bank) -> u64 {
        self.entries.as_ptr() as u64 + (u64::from(self.bases[bank as usize]) << ENTRY_SHIFT)
    }

    /// Host address for reading `length` bytes at `at`, if it is known and they lie in one page.
    #[inline(always)]
    pub(crate) fn read(&self, bank: Bank, at: u64, length: usize) -> Option<usize> {
        let entry = &self.entries[self.index(bank, at)];
        // If the access leaves the page, its last byte lies in the next page, whose tag cannot be in this slot.
        let last = at.wrapping_add(length as u64 - 1);
        (last & PAGE_MASK == entry.read).then(|| entry.addend.wrapping_add(at as usize))
    }

    /// As [`Self::read`], for writing (which includes reading).
    #[inline(always)]
    pub(crate) fn write(&self, bank: Bank, at: u64, length: usize) -> Option<usize> {
        let entry = &self.entries[self.index(bank, at)];
        let last = at.wrapping_add(length as u64 - 1);
        (last & PAGE_MASK == entry.write).then(|| entry.addend.wrapping_add(at as usize))
    }

    /// Host and guest-physical address of a page that is writable but holds code, if that is known.
    pub(crate) fn code_write(&self, bank: Bank, at: u64) -> Option<(usize, u64)> {
        let entry = &self.entries[self.index(bank, at)];
        (at & PAGE_MASK | CODE == entry.write)
            .then(|| (entry.addend.wrapping_add(at as usize), (entry.gpa & PAGE_MASK) | at & !PAGE_MASK))
    }

    /// Enters a page.
    pub(crate) fn fill(&mut self, bank: Bank, fill: &Fill) {
        if bank == Bank::UserAligned {
            return;
        }
        let at = self.index(bank, fill.page);
        let entry = &mut self.entries[at];
        *entry = Entry {
            read: fill.page,
            write: match (fill.write, fill.code) {
                (false, _) => NONE,
                (true, false) => fill.page,
                (true, true) => fill.page | CODE,
            },
            addend: fill.host.wrapping_sub(fill.page as usize),
            gpa: fill.gpa | u64::from(fill.global),
        };
        self.note_large(fill.page, fill.size);
        let list = match bank {
            Bank::Supervisor if fill.global => &mut self.global,
            Bank::Supervisor => &mut self.local,
            _ => &mut self.spaces[self.current].filled,
        };
        if list.len() < ENTRIES {
            list.push(at as u16);
        }
    }

    /// Notes that a translation of `page`, of a leaf of `size` bytes, is remembered here or by who lists windows.
    pub(crate) fn note_large(&mut self, page: u64, size: u64) {
        if size > PAGE_SIZE {
            let start = page & !(size - 1);
            self.large.0 = self.large.0.min(start);
            self.large.1 = self.large.1.max(start.saturating_add(size - 1));
        }
    }

    /// Guest-physical address of code at `at`, if that page was entered, and whether that translation is global.
    #[inline]
    pub(crate) fn fetch(&self, bank: Bank, at: u64) -> Option<(u64, bool)> {
        let entry = &self.code[code_index(bank, at)];
        (entry.tag == at & PAGE_MASK && self.holds(entry))
            .then_some((entry.gpa | at & !PAGE_MASK, entry.global))
    }

    #[inline]
    fn holds(&self, entry: &CodeEntry) -> bool {
        entry.stamp == if entry.global { self.global_code } else { self.local_code() }
    }

    /// Enters an instruction page, of a leaf of `size` bytes.
    pub(crate) fn fill_code(&mut self, bank: Bank, page: u64, gpa: u64, global: bool, size: u64) {
        let stamp = if global { self.global_code } else { self.local_code() };
        let place = code_index(bank, page);
        let before = std::mem::replace(&mut self.code[place], CodeEntry { tag: page, gpa, stamp, global });
        if before.tag != page {
            let evicted = match before.global {
                true if before.stamp == self.global_code => Some(&mut self.evicted),
                true => None,
                // That of another space may come back.
                false => self.spaces.iter_mut().find(|s| s.code == before.stamp).map(|s| &mut s.evicted),
            };
            if let Some(span) = evicted {
                *span = (span.0.min(before.tag), span.1.max(before.tag));
            }
        }
        self.note_large(page, size);
    }

    /// Guest-physical address of device memory at `at`, if that page was entered for this use.
    pub(crate) fn device(&self, bank: Bank, at: u64, write: bool) -> Option<u64> {
        let entry = &self.device[bank as usize];
        let holds =
            entry.tag == at & PAGE_MASK && entry.generation == (self.generation, self.local_generation);
        (holds && (entry.write || !write)).then_some(entry.gpa | at & !PAGE_MASK)
    }

    /// Enters a page of device memory.
    pub(crate) fn fill_device(&mut self, bank: Bank, page: u64, gpa: u64, write: bool) {
        let generation = (self.generation, self.local_generation);
        self.device[bank as usize] = DeviceEntry { tag: page, gpa, write, generation };
    }

    /// From now on stores to the guest-physical page `gpa` take the slow path.
    pub(crate) fn protect(&mut self, gpa: u64) {
        self.protections = self.protections.wrapping_add(1);
        if self.protections == 0 {
            // What was found 2³² changes ago must not come back to life.
            self.clean = CleanStretches::default();
        }
        // Spaces are used from the first on.
        let used = self.spaces.iter().rposition(Space::is_used).map_or(0, |last| last + 1);
        for entry in self.entries[..(2 + 2 * used) * ENTRIES].iter_mut() {
            if entry.gpa & PAGE_MASK == gpa && entry.write != NONE {
                entry.write |= CODE;
            }
        }
    }

    /// Stores through `at` need no slow path any more.
    pub(crate) fn unprotect(&mut self, bank: Bank, at: u64) {
        let place = self.index(bank, at);
        let entry = &mut self.entries[place];
        if entry.write == at & PAGE_MASK | CODE {
            entry.write = at & PAGE_MASK;
        }
    }

    fn begin_generation(&mut self) {
        self.forgotten.clear();
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // Entries of 2³² generations ago must not come back to life.
            self.device = [NO_DEVICE; 4];
            self.generation = 1;
        }
        self.local_generation += 1;
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        for number in 0..SPACES {
            if self.spaces[number].is_used() {
                self.forget_space(number);
            }
            if number != self.current {
                self.spaces[number].abandon();
            }
        }
        self.forget_supervisor_bank();
        self.large = NOWHERE;
        self.begin_generation();
        self.forget_global_code();
    }

    /// Forgets the page of `at`, as INVLPG does: in the current space, and in all where it is global.
    pub(crate) fn flush_page(&mut self, at: u64) {
        if (self.large.0..=self.large.1).contains(&at) {
            self.flush_all();
            return;
        }
        let page = at & PAGE_MASK;
        for bank in [Bank::Supervisor, Bank::User, Bank::SupervisorAc] {
            let place = self.index(bank, at);
            let entry = &mut self.entries[place];
            if entry.read == page {
                *entry = EMPTY;
            }
            let device = &mut self.device[bank as usize];
            if device.tag == page {
                *device = NO_DEVICE;
            }
        }
        self.forget_page_elsewhere(page);
        if self.forgotten.len() < MOST_FORGOTTEN {
            self.forgotten.push(page);
        } else {
            self.begin_generation();
        }
        self.forget_code_page(page);
    }
}

#[cfg(test)]
mod tests;
