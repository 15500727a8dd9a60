//! The soft TLB: where a guest-virtual page lies in this process, by what it may be used for.
//!
//! Direct-mapped, one bank for each kind of access right ([`Bank`]). An entry has a tag for reads and one for writes;
//! a tag that matches the page of an access's last byte proves that the access is allowed and does not leave the page.
//! Only RAM is entered. A write tag with [`CODE`] set never matches: stores to pages that hold decoded code take the
//! slow path. Instruction pages have a small table of their own that gives guest-physical addresses.
use super::window::CleanStretches;
use crate::arch::address::PAGE_SIZE;

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
const CODE_ENTRIES: usize = 256;
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
    /// The generation in which it was entered; it holds in no other.
    generation: u32,
}

const NO_CODE: CodeEntry = CodeEntry { tag: NONE, gpa: NONE, generation: 0 };

/// A page of device memory: where it lies, and what it may be used for.
#[derive(Clone, Copy)]
struct DeviceEntry {
    tag: u64,
    gpa: u64,
    write: bool,
    /// The generation in which it was entered; it holds in no other.
    generation: u32,
}

const NO_DEVICE: DeviceEntry = DeviceEntry { tag: NONE, gpa: NONE, write: false, generation: 0 };

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
    entries: Box<[Entry; 4 * ENTRIES]>,
    code: Box<[CodeEntry; 4 * CODE_ENTRIES]>,
    /// The page of device memory that was used last, for each bank.
    device: [DeviceEntry; 4],
    /// Indices of entries that may be in use and are not global; every index once at most since the last flush.
    local: Vec<u16>,
    /// As `local`, for global ones.
    global: Vec<u16>,
    /// The span of addresses for which an entry of a large page was made: INVLPG there flushes everything.
    large: (u64, u64),
    /// Changes whenever translations are forgotten, but for single pages: those are listed in `forgotten`.
    pub generation: u32,
    /// Pages that were forgotten one by one since their reader last emptied the list.
    pub forgotten: Vec<u64>,
    /// Stretches without decoded code, for windows.
    pub clean: CleanStretches,
    /// Changes whenever translations of instruction pages are forgotten: links between blocks hold only for one such
    /// generation.
    pub code_generation: u32,
    /// An instruction page of this generation was forgotten in favour of another.
    code_evicted: bool,
    /// Changes whenever a page turns out to hold code.
    pub protections: u32,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: Box::new([EMPTY; 4 * ENTRIES]),
            code: Box::new([NO_CODE; 4 * CODE_ENTRIES]),
            device: [NO_DEVICE; 4],
            local: Vec::new(),
            global: Vec::new(),
            large: (u64::MAX, 0),
            generation: 1,
            forgotten: Vec::with_capacity(MOST_FORGOTTEN),
            clean: CleanStretches::default(),
            code_generation: 1,
            code_evicted: false,
            protections: 0,
        }
    }
}

#[inline(always)]
fn index(bank: Bank, at: u64) -> usize {
    (bank as usize * ENTRIES + ((at >> 12) as usize & (ENTRIES - 1))) & (4 * ENTRIES - 1)
}

fn code_index(bank: Bank, at: u64) -> usize {
    (bank as usize * CODE_ENTRIES + ((at >> 12) as usize & (CODE_ENTRIES - 1))) & (4 * CODE_ENTRIES - 1)
}

impl Tlb {
    /// Bytes from one bank's entries to the next one's, for translated code.
    pub(crate) const BANK_SIZE: i32 = (ENTRIES << ENTRY_SHIFT) as i32;

    /// Address of a bank's entries, for translated code.
    pub(crate) fn bank_address(&self, bank: Bank) -> u64 {
        self.entries.as_ptr() as u64 + ((bank as u64 * ENTRIES as u64) << ENTRY_SHIFT)
    }

    /// Host address for reading `length` bytes at `at`, if it is known and they lie in one page.
    #[inline(always)]
    pub(crate) fn read(&self, bank: Bank, at: u64, length: usize) -> Option<usize> {
        let entry = &self.entries[index(bank, at)];
        // If the access leaves the page, its last byte lies in the next page, whose tag cannot be in this slot.
        let last = at.wrapping_add(length as u64 - 1);
        (last & PAGE_MASK == entry.read).then(|| entry.addend.wrapping_add(at as usize))
    }

    /// As [`Self::read`], for writing (which includes reading).
    #[inline(always)]
    pub(crate) fn write(&self, bank: Bank, at: u64, length: usize) -> Option<usize> {
        let entry = &self.entries[index(bank, at)];
        let last = at.wrapping_add(length as u64 - 1);
        (last & PAGE_MASK == entry.write).then(|| entry.addend.wrapping_add(at as usize))
    }

    /// Host and guest-physical address of a page that is writable but holds code, if that is known.
    pub(crate) fn code_write(&self, bank: Bank, at: u64) -> Option<(usize, u64)> {
        let entry = &self.entries[index(bank, at)];
        (at & PAGE_MASK | CODE == entry.write)
            .then(|| (entry.addend.wrapping_add(at as usize), (entry.gpa & PAGE_MASK) | at & !PAGE_MASK))
    }

    /// Enters a page.
    pub(crate) fn fill(&mut self, bank: Bank, fill: &Fill) {
        if bank == Bank::UserAligned {
            return;
        }
        let at = index(bank, fill.page);
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
        let list = if fill.global { &mut self.global } else { &mut self.local };
        if list.len() < 4 * ENTRIES {
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

    /// Guest-physical address of code at `at`, if that page was entered.
    #[inline]
    pub(crate) fn fetch(&self, bank: Bank, at: u64) -> Option<u64> {
        let entry = &self.code[code_index(bank, at)];
        (entry.tag == at & PAGE_MASK && entry.generation == self.code_generation)
            .then_some(entry.gpa | at & !PAGE_MASK)
    }

    /// Enters an instruction page.
    pub(crate) fn fill_code(&mut self, bank: Bank, page: u64, gpa: u64, size: u64) {
        let generation = self.code_generation;
        let entry = &mut self.code[code_index(bank, page)];
        self.code_evicted |= entry.generation == generation && entry.tag != page;
        *entry = CodeEntry { tag: page, gpa, generation };
        self.note_large(page, size);
    }

    /// Guest-physical address of device memory at `at`, if that page was entered for this use.
    pub(crate) fn device(&self, bank: Bank, at: u64, write: bool) -> Option<u64> {
        let entry = &self.device[bank as usize];
        let holds = entry.tag == at & PAGE_MASK && entry.generation == self.generation;
        (holds && (entry.write || !write)).then_some(entry.gpa | at & !PAGE_MASK)
    }

    /// Enters a page of device memory.
    pub(crate) fn fill_device(&mut self, bank: Bank, page: u64, gpa: u64, write: bool) {
        self.device[bank as usize] = DeviceEntry { tag: page, gpa, write, generation: self.generation };
    }

    /// From now on stores to the guest-physical page `gpa` take the slow path.
    pub(crate) fn protect(&mut self, gpa: u64) {
        self.protections = self.protections.wrapping_add(1);
        if self.protections == 0 {
            // As in `forget_code`.
            self.clean = CleanStretches::default();
        }
        for entry in self.entries.iter_mut() {
            if entry.gpa & PAGE_MASK == gpa && entry.write != NONE {
                entry.write |= CODE;
            }
        }
    }

    /// Stores through `at` need no slow path any more.
    pub(crate) fn unprotect(&mut self, bank: Bank, at: u64) {
        let entry = &mut self.entries[index(bank, at)];
        if entry.write == at & PAGE_MASK | CODE {
            entry.write = at & PAGE_MASK;
        }
    }

    fn begin_generation(&mut self) {
        self.forgotten.clear();
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // As in `forget_code`.
            self.device = [NO_DEVICE; 4];
            self.generation = 1;
        }
    }

    fn forget_code(&mut self) {
        self.code_evicted = false;
        self.code_generation = self.code_generation.wrapping_add(1);
        if self.code_generation == 0 {
            // Entries of 2³² generations ago must not come back to life.
            self.code.fill(NO_CODE);
            self.code_generation = 1;
        }
    }

    /// Whether code of the page of `at` may have been fetched in this generation.
    fn may_have_fetched(&self, at: u64) -> bool {
        let fetched = |bank| {
            let entry = &self.code[code_index(bank, at)];
            entry.tag == at & PAGE_MASK && entry.generation == self.code_generation
        };
        self.code_evicted || fetched(Bank::Supervisor) || fetched(Bank::User)
    }

    /// Forgets everything but global translations.
    pub(crate) fn flush_local(&mut self) {
        let all = self.local.len() == 4 * ENTRIES;
        for at in self.local.drain(..) {
            let entry = &mut self.entries[usize::from(at)];
            if entry.gpa & 1 == 0 {
                *entry = EMPTY;
            }
        }
        if all {
            for entry in self.entries.iter_mut().filter(|e| e.gpa & 1 == 0) {
                *entry = EMPTY;
            }
        }
        self.begin_generation();
        self.forget_code();
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        if self.local.len() + self.global.len() > 2 * ENTRIES {
            self.entries.fill(EMPTY);
            self.local.clear();
            self.global.clear();
        }
        for at in self.local.drain(..).chain(self.global.drain(..)) {
            self.entries[usize::from(at)] = EMPTY;
        }
        self.large = (u64::MAX, 0);
        self.begin_generation();
        self.forget_code();
    }

    /// Forgets the page of `at`, as INVLPG does.
    pub(crate) fn flush_page(&mut self, at: u64) {
        if (self.large.0..=self.large.1).contains(&at) {
            self.flush_all();
            return;
        }
        for bank in [Bank::Supervisor, Bank::User, Bank::SupervisorAc, Bank::UserAligned] {
            let entry = &mut self.entries[index(bank, at)];
            if entry.read == at & PAGE_MASK {
                *entry = EMPTY;
            }
            let device = &mut self.device[bank as usize];
            if device.tag == at & PAGE_MASK {
                *device = NO_DEVICE;
            }
        }
        if self.forgotten.len() < MOST_FORGOTTEN {
            self.forgotten.push(at & PAGE_MASK);
        } else {
            self.begin_generation();
        }
        if self.may_have_fetched(at) {
            self.forget_code();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: u64, gpa: u64) -> Fill {
        Fill {
            page,
            gpa,
            host: 0x7000_0000_0000 + gpa as usize,
            write: true,
            code: false,
            global: false,
            size: PAGE_SIZE,
        }
    }

    #[test]
    fn a_hit_needs_the_bank_the_right_and_one_page() {
        let mut tlb = Tlb::default();
        tlb.fill(Bank::User, &Fill { write: false, ..page(0x5000, 0x9000) });
        assert_eq!(tlb.read(Bank::User, 0x5ff8, 8), Some(0x7000_0000_9ff8));
        assert_eq!(tlb.read(Bank::User, 0x5ff9, 8), None, "leaves the page");
        assert_eq!(tlb.read(Bank::Supervisor, 0x5000, 1), None);
        assert_eq!(tlb.write(Bank::User, 0x5000, 1), None);
        assert_eq!(tlb.read(Bank::User, 0x5000 + 1024 * PAGE_SIZE, 1), None);
        assert_eq!(tlb.read(Bank::User, u64::MAX, 8), None);
        tlb.fill(Bank::UserAligned, &page(0x5000, 0x9000));
        assert_eq!(tlb.read(Bank::UserAligned, 0x5000, 1), None);
    }

    #[test]
    fn pages_with_code_are_written_the_slow_way() {
        let mut tlb = Tlb::default();
        tlb.fill(Bank::Supervisor, &page(0x5000, 0x9000));
        tlb.fill(Bank::User, &page(0x6000, 0x9000));
        tlb.protect(0x9000);
        assert_eq!(tlb.write(Bank::Supervisor, 0x5010, 4), None);
        assert_eq!(tlb.write(Bank::User, 0x6010, 4), None, "by any alias");
        assert_eq!(tlb.code_write(Bank::User, 0x6010), Some((0x7000_0000_9010, 0x9010)));
        tlb.unprotect(Bank::User, 0x6010);
        assert!(tlb.write(Bank::User, 0x6010, 4).is_some());
    }

    #[test]
    fn device_pages_are_known_for_their_use_until_they_are_forgotten() {
        let mut tlb = Tlb::default();
        tlb.fill_device(Bank::Supervisor, 0x5000, 0xfee0_0000, false);
        assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), Some(0xfee0_0030));
        assert_eq!(tlb.device(Bank::Supervisor, 0x5030, true), None);
        assert_eq!(tlb.device(Bank::User, 0x5030, false), None);
        tlb.flush_page(0x7000);
        assert!(tlb.device(Bank::Supervisor, 0x5030, false).is_some());
        tlb.flush_page(0x5fff);
        assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), None);
        tlb.fill_device(Bank::Supervisor, 0x5000, 0xfee0_0000, false);
        tlb.flush_local();
        assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), None);
    }

    #[test]
    fn single_pages_are_listed_until_there_are_too_many() {
        let mut tlb = Tlb::default();
        let generation = tlb.generation;
        for page in 0..MOST_FORGOTTEN as u64 {
            tlb.flush_page(page * PAGE_SIZE + 5);
        }
        assert_eq!((tlb.generation, tlb.forgotten.len()), (generation, MOST_FORGOTTEN));
        assert_eq!(tlb.forgotten[1], PAGE_SIZE);
        tlb.flush_page(0x9_9000);
        assert_ne!(tlb.generation, generation);
        assert!(tlb.forgotten.is_empty());
    }

    #[test]
    fn flushing_a_page_forgets_code_only_where_code_was_fetched() {
        let mut tlb = Tlb::default();
        tlb.fill_code(Bank::User, 0x5000, 0x9000, PAGE_SIZE);
        let (data, code) = (tlb.generation, tlb.code_generation);
        tlb.flush_page(0x6000);
        assert_eq!(tlb.code_generation, code);
        assert_eq!((tlb.generation, &tlb.forgotten[..]), (data, &[0x6000][..]));
        assert_eq!(tlb.fetch(Bank::User, 0x5010), Some(0x9010));
        tlb.flush_page(0x5fff);
        assert_ne!(tlb.code_generation, code);
        assert_eq!(tlb.fetch(Bank::User, 0x5010), None);
        // A page that another one has taken the place of is not forgotten as one that was fetched.
        tlb.fill_code(Bank::User, 0x5000, 0x9000, PAGE_SIZE);
        tlb.fill_code(Bank::User, 0x5000 + CODE_ENTRIES as u64 * PAGE_SIZE, 0xa000, PAGE_SIZE);
        let code = tlb.code_generation;
        tlb.flush_page(0x5000);
        assert_ne!(tlb.code_generation, code);
    }

    #[test]
    fn flushes_keep_what_they_should() {
        let mut tlb = Tlb::default();
        tlb.fill(Bank::User, &page(0x5000, 0x9000));
        tlb.fill(Bank::User, &Fill { global: true, ..page(0x6000, 0xa000) });
        let generation = tlb.generation;
        tlb.flush_local();
        assert_ne!(tlb.generation, generation);
        assert_eq!(tlb.read(Bank::User, 0x5000, 1), None);
        assert!(tlb.read(Bank::User, 0x6000, 1).is_some());
        tlb.fill(Bank::User, &page(0x5000, 0x9000));
        tlb.flush_page(0x6fff);
        assert_eq!(tlb.read(Bank::User, 0x6000, 1), None);
        assert!(tlb.read(Bank::User, 0x5000, 1).is_some());
        tlb.fill(Bank::User, &Fill { size: 2 << 20, ..page(0x20_5000, 0x9000) });
        tlb.flush_page(0x3f_f000);
        assert_eq!(tlb.read(Bank::User, 0x20_5000, 1), None, "the same large page");
        tlb.fill(Bank::User, &page(0x5000, 0x9000));
        tlb.flush_all();
        assert_eq!(tlb.read(Bank::User, 0x5000, 1), None);
    }
}
