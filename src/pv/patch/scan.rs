//! Finds the instructions of the guest's code: a recursive descent from known entries, then a sweep of the gaps.
//!
//! The descent follows direct branches and calls wherever they lead. It starts at addresses that were executed and at the
//! handlers that the CPU knows (IDT, LSTAR). What only indirect branches reach lies in the gaps between known code of a
//! page that is executed: they are decoded one block at a time, and a block counts only if it decodes without an
//! invalid opcode, meets known code at an instruction's start or ends by itself, and branches to plausible places.
use super::sensitive::ends_block;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::mem::GuestRam;
use crate::pv::trap;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Register};
use std::collections::{BTreeMap, HashMap};

/// Instructions that are kept; a guest that has more is scanned page by page as it executes.
const MOST: usize = 500_000;
/// After a start that may lie inside an instruction, so many instructions are not believed.
const UNSURE: usize = 6;

/// The instructions known so far, by guest-virtual address.
#[derive(Debug, Default)]
pub(super) struct Listing {
    known: BTreeMap<u64, Instruction>,
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

    fn page(&mut self, address: u64) -> Option<&[u8]> {
        let page = address & !(PAGE_SIZE - 1);
        let (ram, mode) = (self.ram, &self.mode);
        self.pages
            .entry(page)
            .or_insert_with(|| {
                let mut bytes = vec![0; PAGE_SIZE as usize].into_boxed_slice();
                (trap::read(ram, mode, page, &mut bytes) == bytes.len()).then_some(bytes)
            })
            .as_deref()
    }

    fn decode(&mut self, address: u64) -> Option<Instruction> {
        let into = (address % PAGE_SIZE) as usize;
        let mut bytes = [0; 15];
        let first = self.page(address)?;
        let n = (first.len() - into).min(15);
        bytes[..n].copy_from_slice(&first[into..into + n]);
        let mut length = n;
        if n < 15
            && let Some(second) = self.page(address.wrapping_add(n as u64))
        {
            bytes[n..].copy_from_slice(&second[..15 - n]);
            length = 15;
        }
        let i = Decoder::with_ip(64, &bytes[..length], address, DecoderOptions::NONE).decode();
        (i.code() != Code::INVALID).then_some(i)
    }
}

impl Listing {
    /// The instruction at `address`, if one is known to start there.
    pub(super) fn at(&self, address: u64) -> Option<&Instruction> {
        self.known.get(&address)
    }

    /// The known instruction that ends at `address`.
    pub(super) fn before(&self, address: u64) -> Option<&Instruction> {
        self.known.range(..address).next_back().map(|(_, i)| i).filter(|i| i.next_ip() == address)
    }

    /// Known instructions that start in the page.
    pub(super) fn in_page(&self, page: u64) -> impl Iterator<Item = &Instruction> {
        self.known.range(page..page + PAGE_SIZE).map(|(_, i)| i)
    }

    /// Forgets what touches the page.
    pub(super) fn forget_page(&mut self, page: u64) {
        let from = page.saturating_sub(15);
        let gone: Vec<u64> = self
            .known
            .range(from..page + PAGE_SIZE)
            .filter(|(_, i)| i.next_ip() > page)
            .map(|(&at, _)| at)
            .collect();
        for at in gone {
            self.known.remove(&at);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    fn inside_known(&self, address: u64) -> bool {
        self.known.range(..address).next_back().is_some_and(|(_, i)| i.next_ip() > address)
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= MOST
    }

    /// Descends from `roots`, the last one first; returns the instructions that are new.
    pub(super) fn descend(&mut self, source: &mut Source<'_>, roots: Vec<u64>) -> Vec<Instruction> {
        let mut new = Vec::new();
        let mut waiting = roots;
        while let Some(mut at) = waiting.pop() {
            while !self.is_full() && !self.known.contains_key(&at) {
                let Some(i) = source.decode(at).filter(|i| !is_blank(i)) else { break };
                self.known.insert(at, i);
                new.push(i);
                if let Some(target) = target(&i) {
                    waiting.push(target);
                }
                if ends_block(&i) {
                    break;
                }
                at = i.next_ip();
            }
        }
        new
    }

    /// Sweeps the gaps of a page; returns the instructions that are new.
    pub(super) fn sweep(&mut self, source: &mut Source<'_>, page: u64) -> Vec<Instruction> {
        let mut new = Vec::new();
        let end = page + PAGE_SIZE;
        let overhang = self.known.range(..page).next_back().map(|(_, i)| i.next_ip()).filter(|&e| e >= page);
        let mut at = overhang.unwrap_or(page);
        let mut sure = overhang.is_some();
        while at < end {
            if let Some(i) = self.known.get(&at) {
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
                        self.known.insert(i.ip(), i);
                        targets.extend(target(&i));
                        new.push(i);
                    }
                    new.extend(self.descend(source, targets));
                    at = next;
                    sure = true;
                }
                None => {
                    // Functions are aligned; data between them is not code's neighbour for long.
                    at = (at + 16) & !15;
                    let covered = self.known.range(..at).next_back().map(|(_, i)| i.next_ip());
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
        while at < end && !self.known.contains_key(&at) {
            let i = source.decode(at)?;
            if is_blank(&i) {
                // The end of the text, unless nothing came before.
                break;
            }
            if self.known.range(at..i.next_ip()).next().is_some() {
                return None;
            }
            if target(&i).is_some_and(|t| self.inside_known(t) || source.decode(t).is_none()) {
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
