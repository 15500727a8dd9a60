//! Aliases: pages of one address space that lie apart in RAM, mapped side by side in host memory once more, so that one
//! window holds them all.
//!
//! A program's pages come from all over RAM, and a window of one page is missed by whatever goes through two of them in
//! turns. To map a page costs microseconds, as much as some hundred misses: it is paid from a credit that misses earn.
//! A region of host memory stands for [`REGION`] bytes of a guest-virtual address space. What it holds is no more than a
//! memory of what was mapped: a window is made of pages whose translations were looked up there and then, and ends
//! where another page is mapped than is wanted and the credit does not suffice.
use super::Mmu;
use super::window::Window;
use crate::arch::Gva;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access, PagingMode, Privilege};
use crate::sys::reserved::Reserved;
use std::fs::File;

/// Bytes of guest-virtual addresses that one region stands for.
const REGION: u64 = 32 << 20;
/// Regions that are kept.
const REGIONS: usize = 32;
/// Pages that each of up to eight vCPUs maps at most. Linux has a limit of 65,530 mappings for a process, and a page may take
/// two: its own, and what is left of the reservation beside it.
const MOST_MAPPED: usize = 3 << 10;
/// What it costs to map a page, in calls of [`Aliases::earn`].
const PRICE: u32 = 12;
/// The most that is saved up.
const MOST_CREDIT: u32 = 64 * PRICE;
/// Pages that a window is made to reach to either side at once.
const REACH: u64 = 32;

/// What a page of a region is mapped to: nothing, or one more than the number of a page of RAM.
type Mapped = u32;

/// A stretch of an address space.
#[derive(Debug)]
struct Region {
    /// The address of its uppermost page table.
    root: u64,
    /// Its first guest-virtual address.
    start: u64,
    pages: Box<[Mapped]>,
    last_use: u64,
}

/// The aliases of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    memory: Option<Reserved>,
    /// The host refused something: there will be no more.
    is_refused: bool,
    /// A page was mapped in the place of another one, or was to be and may have left a hole.
    is_changed: bool,
    /// All regions belong to the current address space, and more are wanted.
    is_short: bool,
    regions: Vec<Region>,
    credit: u32,
    mapped: usize,
    uses: u64,
}

impl Aliases {
    /// Accesses missed their windows for as long as it is worth a part of a mapping.
    pub(crate) fn earn(&mut self) {
        self.credit = (self.credit + 1).min(MOST_CREDIT);
    }

    /// The number of the region for `at`, and its first host address. `None`: none can be had yet.
    fn region(&mut self, root: u64, at: u64) -> Option<(usize, u64)> {
        if self.is_refused {
            return None;
        }
        let start = at & !(REGION - 1);
        self.uses += 1;
        let is_it = |region: &Region| (region.root, region.start) == (root, start);
        let number = match self.regions.iter().position(is_it) {
            Some(number) => number,
            None if self.credit < PRICE => return None,
            None => self.take_region(root, start)?,
        };
        if self.memory.is_none() {
            self.memory = Reserved::new(REGIONS * REGION as usize).ok();
            self.is_refused = self.memory.is_none();
        }
        self.regions[number].last_use = self.uses;
        Some((number, self.memory.as_ref()?.base() as u64 + number as u64 * REGION))
    }

    /// A region for something new: one that was not used yet, or not for longest by another address space. No window is open
    /// over those, so that other pages may be mapped there: each write of CR3 drops the windows of the user.
    fn take_region(&mut self, root: u64, start: u64) -> Option<usize> {
        let number = if self.regions.len() < REGIONS {
            let pages = vec![0; (REGION / PAGE_SIZE) as usize].into();
            self.regions.push(Region { root, start, pages, last_use: 0 });
            self.regions.len() - 1
        } else {
            let others = self.regions.iter().enumerate().filter(|(_, region)| region.root != root);
            let oldest = others.min_by_key(|(_, region)| region.last_use).map(|(number, _)| number);
            self.is_short |= oldest.is_none();
            oldest?
        };
        // Its pages stay mapped, and are what somebody may want again.
        (self.regions[number].root, self.regions[number].start) = (root, start);
        Some(number)
    }

    /// Makes the page of a region that stands for `at` the page of RAM at `offset` in `file`, if it is not and that can be
    /// paid for. Says whether it is.
    fn map(&mut self, number: usize, at: u64, file: &File, offset: u64) -> bool {
        let Some(wanted) = Mapped::try_from(offset / PAGE_SIZE).ok().and_then(|page| page.checked_add(1))
        else {
            return false;
        };
        let page = (at & (REGION - 1)) / PAGE_SIZE;
        let Some(region) = self.regions.get_mut(number) else { return false };
        let mapped = &mut region.pages[page as usize];
        if *mapped == wanted {
            return true;
        }
        let (Some(memory), true) = (&mut self.memory, self.credit >= PRICE && self.mapped < MOST_MAPPED)
        else {
            return false;
        };
        let place = number as u64 * REGION + page * PAGE_SIZE;
        self.is_changed |= *mapped != 0;
        if memory.map_page(place as usize, file, offset).is_err() {
            self.is_changed = true;
            self.refuse();
            return false;
        }
        self.credit -= PRICE;
        self.mapped += usize::from(*mapped == 0);
        *mapped = wanted;
        true
    }

    /// There are no aliases any more.
    fn refuse(&mut self) {
        self.is_refused = true;
        self.regions.clear();
    }

    /// Whether windows over aliases that are open now must be dropped before guest code runs on. They were made for what a page
    /// was mapped to before, with its rights: the guest need not have flushed it yet. Or there may be nothing in the place of a
    /// page, or soon something of the host's.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Forgets all aliases, if there is no room for more. No window may be open that was made of them.
    pub(crate) fn forget_if_full(&mut self) {
        if self.mapped < MOST_MAPPED && !self.is_short {
            return;
        }
        self.regions.clear();
        (self.mapped, self.is_short) = (0, false);
        if self.memory.as_mut().is_none_or(|memory| memory.clear().is_err()) {
            self.refuse();
        }
    }
}

impl Mmu<'_> {
    /// A window for the user around `at`, over pages that lie apart in RAM. `None` if there are no aliases for it yet, it is
    /// no page of 4 KiB, or as for [`Mmu::user_window`].
    pub(super) fn aliased(&mut self, at: u64, write: bool, mode: &PagingMode) -> Option<Window> {
        let access = if write { Access::Write } else { Access::Read };
        let (ram, page) = (self.ram, at & !(PAGE_SIZE - 1));
        let offset_of = |page: u64| {
            let leaf = paging::known(ram, mode, Gva(page), access, Privilege::User)?;
            let offset = ram.offset(leaf.gpa, PAGE_SIZE)?;
            let fits = leaf.page_size == PAGE_SIZE && !(write && ram.code().has_code(offset));
            fits.then_some(offset)
        };
        let aliases = &mut self.tlb.aliases;
        let (number, host) = aliases.region(mode.cr3 & !(PAGE_SIZE - 1), at)?;
        let mut holds =
            |page: u64| offset_of(page).is_some_and(|offset| aliases.map(number, page, ram.file(), offset));
        if !holds(page) {
            return None;
        }
        let start = at & !(REGION - 1);
        let (lowest, highest) = (start / PAGE_SIZE, (start + (REGION - PAGE_SIZE)) / PAGE_SIZE);
        let number_of_page = page / PAGE_SIZE;
        let below = (lowest.max(number_of_page.saturating_sub(REACH))..number_of_page).rev();
        let low = below.take_while(|page| holds(page * PAGE_SIZE)).last().unwrap_or(number_of_page);
        let above = number_of_page + 1..=highest.min(number_of_page + REACH);
        let high = above.take_while(|page| holds(page * PAGE_SIZE)).last().unwrap_or(number_of_page);
        Some(Window::new(low * PAGE_SIZE, (high - low + 1) * PAGE_SIZE, host.wrapping_sub(start)))
    }
}
