//! Patches the guest's code: sensitive instructions become jumps to thunks, or traps.
//!
//! Guest RAM stays as it is; the child executes patched copies of its code pages ([`Text`]). A page is scanned and
//! patched when it is executed for the first time, before anything of it is executed natively. A *site* is a run of instructions of five bytes or more, among them at
//! least one sensitive one, that is replaced by a jump to its *thunk*; instructions of the run keep their meaning there,
//! and the map from guest addresses to thunk addresses and back is total for the run: whoever lands in the middle of a
//! site traps (`zone`), and goes on in the thunk. A sensitive instruction for which no run can be formed becomes INT3 if
//! it must not run natively, and is left to fault by itself otherwise.
mod ledger;
pub(super) mod lens;
mod scan;
mod sensitive;
mod thunk;
mod zone;

pub(super) use sensitive::is_sensitive;

use super::layout::ZONE;
use super::text::Text;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::arch::{CpuState, Efer};
use crate::engine::{Occasion, Patch, Sites};
use crate::mem::GuestRam;
use crate::pv::trap;
use iced_x86::Instruction;
use ledger::Ledger;
use scan::{Entry, Listing, Source};
use sensitive::{ends_block, remedy};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use zone::Zone;

/// Bytes of a near jump.
const JUMP: u64 = 5;
const INT3: u8 = 0xcc;

/// Where a thunk address stands in the guest's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    /// The state is the guest's at this instruction.
    Clean(u64),
    /// Inside a sequence; the next clean point is at this thunk address.
    Inside(u64),
    /// Inside a sequence that ends in a hypercall.
    Tail,
}

/// How a site was patched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SiteKind {
    /// A jump to a thunk.
    Jump,
    /// INT3 in place.
    Breakpoint,
    /// Left alone: it faults by itself.
    Fault,
}

/// One patched place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Guest-virtual address of the first replaced byte.
    pub address: u64,
    /// What was there.
    pub original: Vec<u8>,
    /// How it was patched.
    pub kind: SiteKind,
}

/// The patches of one child.
pub(super) struct Patches {
    ram: Arc<GuestRam>,
    text: Text,
    /// Whether code is changed at all, or executed as the guest wrote it.
    rewrites: bool,
    listing: Listing,
    zone: Zone,
    /// Pages that are text now, and their RAM offsets.
    pages: BTreeMap<u64, u64>,
    /// The same the other way round: a RAM page is text at one address only.
    places: HashMap<u64, u64>,
    sites: BTreeMap<u64, Site>,
    /// Guest address of each instruction of a jump site → its thunk address.
    native: HashMap<u64, u64>,
    /// Clean thunk addresses → guest addresses, and the first byte of the instruction there.
    clean: BTreeMap<u64, (u64, u8)>,
    /// First byte of each thunk → the byte behind it.
    thunks: BTreeMap<u64, u64>,
    /// Jump sites → first bytes of their thunks.
    thunk_of: BTreeMap<u64, u64>,
    after_sti: HashSet<u64>,
    /// How often a thunk was made or given back.
    generation: u64,
    /// The account of patched instructions, if one is kept.
    ledger: Option<Ledger>,
}

impl Patches {
    /// Nothing patched yet, and nothing ever if not `rewrites`. `counts` says whether account is kept of what is, or would
    /// be; the child then has the counters mapped.
    pub(super) fn new(ram: Arc<GuestRam>, text: Text, rewrites: bool, counts: bool) -> Self {
        Self {
            ram,
            text,
            rewrites,
            listing: Listing::default(),
            zone: Zone::default(),
            pages: BTreeMap::new(),
            places: HashMap::new(),
            sites: BTreeMap::new(),
            native: HashMap::new(),
            clean: BTreeMap::new(),
            thunks: BTreeMap::new(),
            thunk_of: BTreeMap::new(),
            after_sti: HashSet::new(),
            generation: 0,
            ledger: counts.then(Ledger::default),
        }
    }

    /// What was patched, by address.
    #[cfg(test)]
    pub(super) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// What is known of patched instructions, if account is kept.
    pub(super) fn report(&self) -> Option<Sites> {
        self.ledger.as_ref().map(|ledger| ledger.report(&self.text))
    }

    /// Whether account is kept of patched instructions.
    #[inline]
    pub(super) fn is_counting(&self) -> bool {
        self.ledger.is_some()
    }

    /// The engine has executed the instruction at `address`, or a part of it if RIP has not `moved`: whether that counts
    /// as an execution of a patched one.
    pub(super) fn count(&mut self, address: u64, moved: bool) -> bool {
        self.ledger.as_mut().is_some_and(|ledger| ledger.count(address, moved))
    }

    /// An execution of the patched instruction at `address` by the engine took so many ticks of the TSC.
    pub(super) fn time(&mut self, address: u64, ticks: u64) {
        if let Some(ledger) = &mut self.ledger {
            ledger.time(address, ticks);
        }
    }

    /// Where the child goes on so that the guest goes on at `rip`. `text` is the RAM offset of the page of `rip` if that
    /// is mapped as text: the thunk of a page that has been unmapped since, or is another page now, is not used.
    pub(super) fn native_rip(&self, rip: u64, text: Option<u64>) -> u64 {
        let is_current = text.is_some() && self.pages.get(&(rip & !(PAGE_SIZE - 1))).copied() == text;
        self.native.get(&rip).copied().filter(|_| is_current).unwrap_or(rip)
    }

    /// Whether a breakpoint trap at `rip` may be ours.
    pub(super) fn is_patched(&self, rip: u64) -> bool {
        self.native.contains_key(&rip) || self.sites.contains_key(&rip)
    }

    /// Whether the instruction before `rip` is an STI that a thunk executes.
    pub(super) fn follows_sti(&self, rip: u64) -> bool {
        self.after_sti.contains(&rip)
    }

    /// What a RIP in the thunk zone stands for; `None` if there is no thunk.
    pub(super) fn point(&self, rip: u64) -> Option<Point> {
        if let Some(&(guest, _)) = self.clean.get(&rip) {
            return Some(Point::Clean(guest));
        }
        let (_, &end) = self.thunks.range(..=rip).next_back().filter(|&(_, &end)| rip < end)?;
        Some(self.clean.range(rip..end).next().map_or(Point::Tail, |(&next, _)| Point::Inside(next)))
    }

    /// Puts INT3 at a clean point, or takes it away. The child must wait.
    pub(super) fn set_breakpoint(&mut self, at: u64, set: bool) {
        if let Some(&(_, byte)) = self.clean.get(&at) {
            self.text.write_zone(at - ZONE, &[if set { INT3 } else { byte }]);
        }
    }

    /// The RAM page that is text at `page`.
    pub(super) fn offset_at(&self, page: u64) -> Option<u64> {
        self.pages.get(&page).copied()
    }

    /// Changes whenever a thunk is made or given back: addresses in thunks that someone has kept are then to be forgotten.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the RAM page at `offset` is text, and where.
    pub(super) fn text_at(&self, offset: u64) -> Option<u64> {
        self.places.get(&offset).copied()
    }

    /// Whether so much is known that no more can be kept: [`Self::clear`] is due, and all text to be unmapped.
    pub(super) fn is_full(&self) -> bool {
        self.listing.is_full()
    }

    /// Whether it matters where code is: to patch it, or to tell of it.
    fn looks_for_code(&self) -> bool {
        self.rewrites || self.ledger.is_some()
    }

    /// Scans `page`, whose RAM offset is `offset` and which is about to be executed at `entry`, and makes its shadow.
    /// `false` if it cannot be text.
    pub(super) fn prepare_page(&mut self, state: &CpuState, page: u64, offset: u64, entry: u64) -> bool {
        let ram = Arc::clone(&self.ram);
        let mode = PagingMode::of(state);
        let mut source = Source::new(&ram, mode);
        let Some(bytes) = source.page(page) else { return false };
        self.text.write_shadow(offset, bytes);
        if let Some(&other) = self.places.get(&offset) {
            self.drop_page(other);
        }
        self.drop_page(page);
        self.pages.insert(page, offset);
        self.places.insert(offset, page);
        if !self.looks_for_code() {
            return true;
        }
        self.listing.open_page(page);
        let mut entries = self.listing.entries_of(page);
        entries.extend(handlers(state, &ram, &mode).into_iter().map(|at| (at, true)));
        entries.push((entry, true));
        let mut new = self.listing.descend(&mut source, entries);
        new.extend(self.listing.sweep(&mut source, page));
        self.patch_all(&mut source, new, Occasion::Scan);
        true
    }

    /// An instruction of text at `rip` has trapped or is to be executed next: if it was not proven to be one, it is now.
    /// `text` is the RAM offset of its page. Whether there was anything to learn.
    pub(super) fn learn(&mut self, state: &CpuState, rip: u64, text: u64, occasion: Occasion) -> bool {
        let page = rip & !(PAGE_SIZE - 1);
        if !self.looks_for_code()
            || self.native.contains_key(&rip)
            || self.listing.is_proven(rip)
            || self.pages.get(&page) != Some(&text)
        {
            return false;
        }
        let ram = Arc::clone(&self.ram);
        let mut source = Source::new(&ram, PagingMode::of(state));
        let entry: Entry = (rip, true);
        let new = self.listing.descend(&mut source, vec![entry]);
        self.patch_all(&mut source, new, occasion);
        true
    }

    /// Patches the sensitive ones of these instructions. What was patched inside a proven one, when it was thought to be
    /// something else, is taken back.
    fn patch_all(&mut self, source: &mut Source<'_>, mut new: Vec<u64>, occasion: Occasion) {
        new.sort_unstable();
        new.dedup();
        let found: Vec<Instruction> = new.into_iter().filter_map(|at| source.decode(at)).collect();
        for i in &found {
            if self.listing.is_proven(i.ip()) {
                let inside: Vec<u64> = self.sites.range(i.ip() + 1..i.next_ip()).map(|(&at, _)| at).collect();
                inside.into_iter().for_each(|at| self.take_back(at));
                if let Some(ledger) = self.ledger.as_mut().filter(|_| !self.rewrites) {
                    ledger.take_back_range(&self.text, i.ip() + 1..i.next_ip());
                }
            }
        }
        for i in found.iter().filter(|i| is_sensitive(i)) {
            if self.rewrites {
                self.patch(source, i, occasion);
            } else {
                self.tell_of(source, i, occasion);
            }
        }
    }

    /// Keeps account of the sensitive instruction `i`, which is left as it is.
    fn tell_of(&mut self, source: &mut Source<'_>, i: &Instruction, occasion: Occasion) {
        let Some((_, must)) = remedy(i) else { return };
        if !must && !self.listing.is_proven(i.ip()) {
            return;
        }
        let bytes = original(source, i.ip(), i.len());
        if let Some(ledger) = &mut self.ledger {
            let patch = if must { Patch::Native } else { Patch::Fault };
            ledger.note(&self.text, i, bytes.clone(), (i.ip(), &bytes), patch, occasion);
        }
    }

    /// Takes the INT3 at `at` back.
    fn take_back(&mut self, at: u64) {
        if let Some(site) = self.sites.get(&at).filter(|site| site.kind == SiteKind::Breakpoint) {
            self.put(at, &site.original[..1]);
            self.sites.remove(&at);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.take_back(&self.text, at);
        }
    }

    /// Patches the sensitive instruction `i`, unless a site holds it already. Its page is text.
    fn patch(&mut self, source: &mut Source<'_>, i: &Instruction, occasion: Occasion) {
        let address = i.ip();
        let must = remedy(i).is_some_and(|(_, must)| must);
        let is_proven = self.listing.is_proven(address);
        if self.native.contains_key(&address) || !is_proven && (!must || self.sites.contains_key(&address)) {
            return;
        }
        if is_proven
            && let Some(run) = self.run(source, i)
            && self.patch_with_thunk(source, &run, occasion)
        {
            return;
        }
        if is_proven && self.listing.is_overlapped(source, &[*i]) {
            // Either reading of these bytes may be executed: none can be changed.
            return self.take_back(address);
        }
        let kind = if must { SiteKind::Breakpoint } else { SiteKind::Fault };
        if must {
            self.put(address, &[INT3]);
        }
        let original = original(source, address, i.len());
        if let Some(ledger) = &mut self.ledger {
            let patch = if must { Patch::Breakpoint } else { Patch::Fault };
            ledger.note(&self.text, i, original.clone(), (address, &original), patch, occasion);
        }
        self.sites.insert(address, Site { address, original, kind });
    }

    /// The instructions to be replaced together with `i`: at least five bytes in one page, no two sites overlapping, and
    /// no other reading of the bytes.
    fn run(&self, source: &mut Source<'_>, i: &Instruction) -> Option<Vec<Instruction>> {
        let page = i.ip() & !(PAGE_SIZE - 1);
        let mut run = vec![*i];
        let length = |run: &[Instruction]| run.iter().map(|i| i.len() as u64).sum::<u64>();
        while length(&run) < JUMP {
            let Some(last) = run.last() else { break };
            if ends_block(last) {
                break;
            }
            let next = last.next_ip();
            if next >= page + PAGE_SIZE || self.native.contains_key(&next) || !self.listing.is_proven(next) {
                break;
            }
            match source.decode(next).filter(thunk::can_carry) {
                Some(n) => run.push(n),
                None => break,
            }
        }
        while length(&run) < JUMP {
            let first = run.first()?.ip();
            let before = self.listing.before(source, first).filter(|b| {
                b.ip() >= page
                    && thunk::can_carry(b)
                    && !ends_block(b)
                    && !self.is_patched(b.ip())
                    && !self.in_site(b.ip())
            })?;
            run.insert(0, before);
        }
        let end = run.last()?.next_ip();
        let fits = run[0].ip() + JUMP <= page + PAGE_SIZE && end <= page + PAGE_SIZE;
        (fits && !self.listing.is_overlapped(source, &run)).then_some(run)
    }

    /// Whether a jump site covers `address`.
    fn in_site(&self, address: u64) -> bool {
        self.sites
            .range(..=address)
            .next_back()
            .is_some_and(|(_, s)| s.kind == SiteKind::Jump && address - s.address < s.original.len() as u64)
    }

    fn patch_with_thunk(&mut self, source: &mut Source<'_>, run: &[Instruction], occasion: Occasion) -> bool {
        let Some((first, last)) = run.first().zip(run.last()) else { return false };
        let (start, end) = (first.ip(), last.next_ip());
        let next = start + JUMP;
        let mut starts = 0;
        for i in &run[1..] {
            let into = i.ip() - start;
            if into < JUMP {
                starts |= 1 << (into - 1);
            }
        }
        let counters: HashMap<u64, u64> = match &mut self.ledger {
            Some(ledger) => run.iter().filter_map(|i| Some((i.ip(), ledger.counter_for(i)?))).collect(),
            None => HashMap::new(),
        };
        let Ok(draft) = thunk::write(run, super::layout::ZONE_CODE, &counters) else { return false };
        // Copies may encode longer at another distance: leave room.
        let room = draft.code.len() as u64 + 16;
        let Some(place) = self.zone.allocate(next, room, starts) else { return false };
        let displacement = i32::try_from(place.wrapping_sub(next) as i64);
        let thunk = thunk::write(run, place, &counters).ok().filter(|thunk| thunk.code.len() as u64 <= room);
        let (Ok(displacement), Some(thunk)) = (displacement, thunk) else {
            self.zone.release(place);
            return false;
        };
        let original = original(source, start, (end - start) as usize);
        self.generation += 1;
        self.text.write_zone(place - ZONE, &thunk.code);
        self.thunks.insert(place, place + thunk.code.len() as u64);
        self.thunk_of.insert(start, place);
        for (offset, guest) in &thunk.clean {
            self.clean.insert(place + offset, (*guest, thunk.code[*offset as usize]));
        }
        for i in run {
            // The first clean point of an instruction is its start.
            if let Some((offset, _)) = thunk.clean.iter().find(|(_, guest)| *guest == i.ip()) {
                self.native.insert(i.ip(), place + offset);
            }
        }
        // Breakpoints of these instructions, and of what was thought to be some, lie under the jump now.
        let under: Vec<u64> = self.sites.range(start..end).map(|(&at, _)| at).collect();
        for at in under {
            self.sites.remove(&at);
        }
        self.note_run(source, run, &original, occasion);
        self.after_sti.extend(&thunk.after_sti);
        let mut bytes = vec![0xe9];
        bytes.extend_from_slice(&displacement.to_le_bytes());
        bytes.resize((end - start) as usize, INT3);
        self.put(start, &bytes);
        self.sites.insert(start, Site { address: start, original, kind: SiteKind::Jump });
        true
    }

    /// Keeps account of a run that has been replaced by a jump; what was patched in it and is no instruction of it was
    /// none.
    fn note_run(
        &mut self,
        source: &mut Source<'_>,
        run: &[Instruction],
        replaced: &[u8],
        occasion: Occasion,
    ) {
        let Self { ledger: Some(ledger), text, .. } = self else { return };
        for i in run {
            ledger.take_back_range(text, i.ip() + 1..i.next_ip());
            if let Some((remedy, _)) = remedy(i) {
                let patch = if remedy.is_in_process() { Patch::InProcess } else { Patch::Hypercall };
                let bytes = original(source, i.ip(), i.len());
                ledger.note(text, i, bytes, (run[0].ip(), replaced), patch, occasion);
            }
        }
    }

    /// Writes into the shadow of a text page.
    fn put(&self, address: u64, bytes: &[u8]) {
        if let Some(offset) = self.pages.get(&(address & !(PAGE_SIZE - 1))) {
            self.text.write_shadow(offset + address % PAGE_SIZE, bytes);
        }
    }

    /// Forgets the sites of a page, and gives the places of their thunks back. No thunk of it is being executed: the
    /// child waits, and not inside one.
    fn forget_sites(&mut self, page: u64) {
        let range = page..page + PAGE_SIZE;
        if let Some(ledger) = &mut self.ledger {
            ledger.take_back_range(&self.text, range.clone());
        }
        let sites: Vec<u64> = self.sites.range(range.clone()).map(|(&at, _)| at).collect();
        for at in sites {
            let Some(site) = self.sites.remove(&at) else { continue };
            let Some(place) = self.thunk_of.remove(&at) else { continue };
            for address in at..at + site.original.len() as u64 {
                self.native.remove(&address);
                self.after_sti.remove(&(address + 1));
            }
            if let Some(end) = self.thunks.remove(&place) {
                let clean: Vec<u64> = self.clean.range(place..end).map(|(&at, _)| at).collect();
                for at in clean {
                    self.clean.remove(&at);
                }
                self.text.write_zone(place - ZONE, &vec![INT3; (end - place) as usize]);
            }
            self.zone.release(place);
            self.generation += 1;
        }
    }

    /// The page is no longer text: its bytes may change.
    pub(super) fn drop_page(&mut self, page: u64) {
        if let Some(offset) = self.pages.remove(&page) {
            self.places.remove(&offset);
            self.forget_sites(page);
            self.listing.forget_page(page);
        }
    }

    /// No page is text any more.
    pub(super) fn clear(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.take_back_range(&self.text, 0..u64::MAX);
        }
        self.pages.clear();
        self.places.clear();
        self.sites.clear();
        self.native.clear();
        self.clean.clear();
        self.thunks.clear();
        self.thunk_of.clear();
        self.after_sti.clear();
        self.zone = Zone::default();
        self.generation += 1;
        self.listing.clear();
    }
}

/// The guest's bytes at `address`, which may go on in the next page.
fn original(source: &mut Source<'_>, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = address.wrapping_add(bytes.len() as u64);
        let Some(page) = source.page(at) else { break };
        let from = (at % PAGE_SIZE) as usize;
        bytes.extend_from_slice(&page[from..page.len().min(from + length - bytes.len())]);
    }
    bytes
}

/// Code that the CPU itself enters: handlers named by the IDT, and the target of SYSCALL.
fn handlers(state: &CpuState, ram: &GuestRam, mode: &PagingMode) -> Vec<u64> {
    let mut table = vec![0; usize::from(state.idtr.limit) + 1];
    let n = trap::read(ram, mode, state.idtr.base, &mut table);
    let mut found: Vec<u64> = table[..n]
        .chunks_exact(16)
        .filter(|gate| gate[5] & 0x80 != 0)
        .map(|gate| {
            let part = |range: std::ops::Range<usize>| {
                gate[range].iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))
            };
            part(0..2) | part(6..8) << 16 | part(8..12) << 32
        })
        .collect();
    if state.efer.contains(Efer::SCE) && state.msrs.lstar != 0 {
        found.push(state.msrs.lstar);
    }
    found
}

#[cfg(test)]
mod tests;
