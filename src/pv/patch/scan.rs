//! Finds the instructions of the guest's code: a recursive descent from known entries, then a sweep of the gaps.
//!
//! Only text is looked at, that is, pages that guest code has begun to execute; a page becomes executable when it has
//! been scanned. Within text the descent follows all direct branches and calls; where they lead out of it, the target is
//! kept as an entry of the page there, for when that becomes text. So whatever direct branches reach from a *proven*
//! entry (an address that was executed, or that the CPU itself enters: IDT, LSTAR) is known before it is executed, however
//! large the guest's code is. Such instructions are proven.
//!
//! What only indirect branches reach lies in the gaps between known code of a page: they are decoded one block at a
//! time, and a block counts only if it decodes without an invalid opcode, meets known code at an instruction's start
//! or ends by itself, and branches to plausible places. That is no proof: constants may look like code. The patches
//! treat such instructions with care until one of them traps, which proves it.
//!
//! Of each text page two bits for each byte are kept; instructions are decoded again when they are needed.
use super::sensitive::ends_block;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::mem::GuestRam;
use crate::pv::trap;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Register};
use std::collections::{BTreeSet, HashMap};

/// Entries that are kept; a guest that has more starts anew, page by page.
const MOST_ENTRIES: usize = 1_000_000;
/// After a start that may lie inside an instruction, so many instructions are not believed.
const UNSURE: usize = 6;
/// Bytes of the longest instruction.
const LONGEST: u64 = 15;

/// An address to descend from, and whether it is proven.
pub(super) type Entry = (u64, bool);

/// Where instructions begin in a page, a bit for each byte.
#[derive(Clone, Debug)]
struct Starts {
    known: [u64; 64],
    proven: [u64; 64],
}

/// The instructions of text known so far, by guest-virtual address.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pages: HashMap<u64, Box<Starts>>,
    /// Target, page of the branch, whether the branch is proven; of branches that leave their page.
    entries: BTreeSet<(u64, u64, bool)>,
    /// The same, by the page of the branch.
    by_source: BTreeSet<(u64, u64, bool)>,
}

/// Reads code through the guest's page tables, a page at a time.
pub(super) struct Source<'a> {
    ram: &'a GuestRam,
    mode: PagingMode,
    pages: HashMap<u64, Option<Box<[u8]>>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(ram: &'a GuestRam, mode: PagingMode) -> Self {
        Self { ram, mode, pages: HashMap::new() }
    }

    /// The bytes of the page of `address`, if it is RAM.
    pub(super) fn page(&mut self, address: u64) -> Option<&[u8]> {
        let page = page_of(address);
        let (ram, mode) = (self.ram, &self.mode);
        self.pages
            .entry(page)
            .or_insert_with(|| {
                let mut bytes = vec![0; PAGE_SIZE as usize].into_boxed_slice();
                (trap::read(ram, mode, page, &mut bytes) == bytes.len()).then_some(bytes)
            })
            .as_deref()
    }

    /// The instruction at `address`, if there is a valid one.
    pub(super) fn decode(&mut self, address: u64) -> Option<Instruction> {
        let into = (address % PAGE_SIZE) as usize;
        let mut bytes = [0; LONGEST as usize];
        let first = self.page(address)?;
        let n = (first.len() - into).min(bytes.len());
        bytes[..n].copy_from_slice(&first[into..into + n]);
        let mut length = n;
        if n < bytes.len()
            && let Some(second) = self.page(address.wrapping_add(n as u64))
        {
            let rest = bytes.len() - n;
            bytes[n..].copy_from_slice(&second[..rest]);
            length = bytes.len();
        }
        let i = Decoder::with_ip(64, &bytes[..length], address, DecoderOptions::NONE).decode();
        (i.code() != Code::INVALID).then_some(i)
    }
}

/// The page of an address.
fn page_of(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

fn bit_of(address: u64) -> (usize, u64) {
    let byte = address % PAGE_SIZE;
    ((byte / 64) as usize, 1 << (byte % 64))
}

impl Listing {
    /// Begins the listing of a page that becomes text.
    pub(super) fn open_page(&mut self, page: u64) {
        self.forget_page(page);
        self.pages.insert(page, Box::new(Starts { known: [0; 64], proven: [0; 64] }));
    }

    /// Forgets a page that is no longer text.
    pub(super) fn forget_page(&mut self, page: u64) {
        self.pages.remove(&page);
        let gone: Vec<_> = self.by_source.range((page, 0, false)..(page + 1, 0, false)).copied().collect();
        for entry @ (source, target, proven) in gone {
            self.by_source.remove(&entry);
            self.entries.remove(&(target, source, proven));
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether too many entries are kept, so that everything is to be begun anew.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() > MOST_ENTRIES
    }

    /// Whether an instruction is known to begin at `address`.
    fn is_known(&self, address: u64) -> bool {
        let (word, bit) = bit_of(address);
        self.pages.get(&page_of(address)).is_some_and(|starts| starts.known[word] & bit != 0)
    }

    /// Whether it is certain that an instruction begins at `address`.
    pub(super) fn is_proven(&self, address: u64) -> bool {
        let (word, bit) = bit_of(address);
        self.pages.get(&page_of(address)).is_some_and(|starts| starts.proven[word] & bit != 0)
    }

    /// Whether the listing of the page of `address` would gain by this instruction.
    fn lacks(&self, (address, proven): Entry) -> bool {
        self.pages.contains_key(&page_of(address))
            && !if proven { self.is_proven(address) } else { self.is_known(address) }
    }

    fn mark(&mut self, (address, proven): Entry) {
        let (word, bit) = bit_of(address);
        if let Some(starts) = self.pages.get_mut(&page_of(address)) {
            starts.known[word] |= bit;
            starts.proven[word] |= if proven { bit } else { 0 };
        }
    }

    /// The last known instruction that begins before `address` and might reach it.
    fn last_before(&self, source: &mut Source<'_>, address: u64) -> Option<Instruction> {
        let start = (1..=LONGEST).map(|back| address.wrapping_sub(back)).find(|&at| self.is_known(at))?;
        source.decode(start)
    }

    /// The proven instruction that ends at `address`.
    pub(super) fn before(&self, source: &mut Source<'_>, address: u64) -> Option<Instruction> {
        self.last_before(source, address).filter(|i| i.next_ip() == address && self.is_proven(i.ip()))
    }

    fn inside_known(&self, source: &mut Source<'_>, address: u64) -> bool {
        self.last_before(source, address).is_some_and(|i| i.next_ip() > address)
    }

    /// Whether a proven instruction overlaps `run`, which is without gaps, but is none of it.
    pub(super) fn is_overlapped(&self, source: &mut Source<'_>, run: &[Instruction]) -> bool {
        let Some((first, last)) = run.first().zip(run.last()) else { return false };
        let inside =
            (first.ip()..last.next_ip()).any(|at| self.is_proven(at) && !run.iter().any(|i| i.ip() == at));
        let from_before = (1..LONGEST)
            .map(|back| first.ip().wrapping_sub(back))
            .any(|at| self.is_proven(at) && source.decode(at).is_some_and(|i| i.next_ip() > first.ip()));
        inside || from_before
    }

    /// Where known code outside of `page` leads into it.
    pub(super) fn entries_of(&self, page: u64) -> Vec<Entry> {
        let range = (page, 0, false)..(page + PAGE_SIZE, 0, false);
        self.entries.range(range).map(|&(target, _, proven)| (target, proven)).collect()
    }

    /// Keeps where an instruction leads, for when that becomes text.
    fn note(&mut self, from: u64, (target, proven): Entry) {
        let source = page_of(from);
        if page_of(target) != source {
            self.entries.insert((target, source, proven));
            self.by_source.insert((source, target, proven));
        }
    }

    /// Descends from `entries` as far as text goes; returns where instructions are that are new, or newly proven.
    pub(super) fn descend(&mut self, source: &mut Source<'_>, entries: Vec<Entry>) -> Vec<u64> {
        let mut new = Vec::new();
        let mut waiting = entries;
        while let Some((mut at, proven)) = waiting.pop() {
            while self.lacks((at, proven)) {
                let Some(i) = source.decode(at).filter(|i| !is_blank(i)) else { break };
                self.mark((at, proven));
                new.push(at);
                if let Some(target) = target(&i) {
                    self.note(at, (target, proven));
                    waiting.push((target, proven));
                }
                if ends_block(&i) {
                    break;
                }
                self.note(at, (i.next_ip(), proven));
                at = i.next_ip();
            }
        }
        new
    }

    /// Sweeps the gaps of a page; returns where instructions are that are new. None of them is proven.
    pub(super) fn sweep(&mut self, source: &mut Source<'_>, page: u64) -> Vec<u64> {
        let mut new = Vec::new();
        let end = page + PAGE_SIZE;
        let overhang = self.last_before(source, page).map(|i| i.next_ip()).filter(|&e| e >= page);
        let mut at = overhang.unwrap_or(page);
        let mut sure = overhang.is_some();
        while at < end {
            if self.is_known(at)
                && let Some(i) = source.decode(at)
            {
                at = i.next_ip();
                sure = true;
                continue;
            }
            match self.block(source, at, end) {
                Some(block) => {
                    let skipped = if sure { 0 } else { UNSURE };
                    let next = block.last().map_or(at + 1, Instruction::next_ip);
                    let mut targets = Vec::new();
                    for i in block.into_iter().skip(skipped) {
                        self.mark((i.ip(), false));
                        if let Some(target) = target(&i) {
                            self.note(i.ip(), (target, false));
                            targets.push((target, false));
                        }
                        new.push(i.ip());
                    }
                    new.extend(self.descend(source, targets));
                    at = next;
                    sure = true;
                }
                None => {
                    // Functions are aligned; data between them is not code's neighbour for long.
                    at = (at + 16) & !15;
                    let covered = self.last_before(source, at).map(|i| i.next_ip());
                    sure = covered == Some(at);
                    if let Some(end_of_known) = covered.filter(|&e| e > at) {
                        at = end_of_known;
                        sure = true;
                    }
                }
            }
        }
        new
    }

    /// The block at `at`, if it looks like code.
    fn block(&self, source: &mut Source<'_>, at: u64, end: u64) -> Option<Vec<Instruction>> {
        let mut block = Vec::new();
        let mut at = at;
        while at < end && !self.is_known(at) {
            let i = source.decode(at)?;
            if is_blank(&i) {
                // The end of the text, unless nothing came before.
                break;
            }
            if (at + 1..i.next_ip()).any(|inside| self.is_known(inside)) {
                return None;
            }
            if target(&i).is_some_and(|t| self.inside_known(source, t) || source.decode(t).is_none()) {
                return None;
            }
            block.push(i);
            if ends_block(&i) {
                break;
            }
            at = i.next_ip();
        }
        (!block.is_empty()).then_some(block)
    }
}

/// Two zero bytes: memory that holds nothing decodes as an endless run of these.
fn is_blank(i: &Instruction) -> bool {
    i.code() == Code::Add_rm8_r8
        && i.len() == 2
        && i.memory_base() == Register::RAX
        && i.op1_register() == Register::AL
}

/// Where a direct branch or call goes.
fn target(i: &Instruction) -> Option<u64> {
    let direct = matches!(
        i.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call
    );
    (direct && i.near_branch_target() != 0).then(|| i.near_branch_target())
}
