//! Decoded blocks, found by guest-physical address, guest-virtual address and mode.
//!
//! The virtual address is part of the key because branch targets and RIP-relative addresses are resolved in a block;
//! the same physical page at two addresses has two sets of blocks, and a write to it drops both. Links between blocks
//! and the jump table skip the translation of RIP and hold for one generation, which ends when translations are
//! forgotten or blocks dropped.
use super::block::{Block, CodeMode, CodeSpace, Link};
use crate::arch::address::PAGE_SIZE;
use crate::arch::{CpuState, SegmentRegister};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// Blocks that are kept at most; then all are dropped.
const MOST: usize = 1 << 16;
const JUMPS: usize = 4096;

/// Multiplies and folds: keys are addresses, which an attacker can only use to slow himself down.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }
}

pub(crate) type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// All blocks of one vCPU.
pub(crate) struct CodeCache {
    blocks: Vec<Option<Block>>,
    free: Vec<u32>,
    /// (guest-physical address, [`super::block::CodeMode::key`]) → block.
    starts: AddressMap<(u64, u64), u32>,
    /// Guest-physical page → blocks with code in it. A block is in the lists of its pages, once, while it is kept.
    pages: AddressMap<u64, Vec<u32>>,
    jumps: Box<[Link; JUMPS]>,
    /// The spaces that [`CodeMode::space`] numbers, and the way back.
    spaces: Vec<CodeSpace>,
    space_numbers: AddressMap<u64, u16>,
    /// Half of the generation; the other one is the TLB's.
    drops: u32,
    /// How much of the code map's log was read.
    pub cursor: u64,
}

impl CodeCache {
    /// An empty cache that has seen the code map's log up to `cursor`.
    pub(crate) fn new(cursor: u64) -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
            starts: AddressMap::default(),
            pages: AddressMap::default(),
            jumps: Box::new([Link::default(); JUMPS]),
            spaces: vec![CodeSpace::FLAT],
            space_numbers: std::iter::once((CodeSpace::FLAT.number(), 0)).collect(),
            drops: 1,
            cursor,
        }
    }
}

/// The guest-physical pages of a block that begins at `gpa`, each once.
fn pages_of(gpa: u64, second: Option<u64>) -> impl Iterator<Item = u64> {
    let first = gpa & !(PAGE_SIZE - 1);
    std::iter::once(first).chain(second.filter(|&page| page != first))
}

fn jump_slot(key: u64) -> usize {
    (key ^ key >> 12) as usize & (JUMPS - 1)
}

impl CodeCache {
    /// The generation in which links made now hold, given the TLB's.
    #[inline(always)]
    pub(crate) fn generation(&self, tlb: u64) -> u64 {
        u64::from(self.drops) << 32 | tlb & 0xffff_ffff
    }

    /// How the code that `state` executes is decoded.
    pub(crate) fn mode(&mut self, state: &CpuState) -> CodeMode {
        let mode = CodeMode::new(state.code_bits(), state.cpl() == 3);
        let space = CodeSpace::of(state.segment(SegmentRegister::Cs));
        if state.is_64bit_code() || space == CodeSpace::FLAT { mode } else { mode.within(self.number(space)) }
    }

    fn number(&mut self, space: CodeSpace) -> u16 {
        if let Some(&number) = self.space_numbers.get(&space.number()) {
            return number;
        }
        if self.spaces.len() > usize::from(u16::MAX) {
            // No block may be left of a space whose number means another one.
            self.clear();
            self.spaces.truncate(1);
            self.space_numbers.retain(|_, number| *number == 0);
        }
        let number = self.spaces.len() as u16;
        self.spaces.push(space);
        self.space_numbers.insert(space.number(), number);
        number
    }

    /// The space of a mode that [`Self::mode`] gave.
    pub(crate) fn space(&self, mode: CodeMode) -> CodeSpace {
        self.spaces.get(usize::from(mode.space())).copied().unwrap_or(CodeSpace::FLAT)
    }

    /// A block by its number.
    #[inline(always)]
    pub(crate) fn get(&self, block: u32) -> Option<&Block> {
        self.blocks.get(block as usize)?.as_ref()
    }

    /// The block that `key` led to in this generation.
    #[inline(always)]
    pub(crate) fn jump(&self, key: u64, generation: u64) -> Option<u32> {
        let link = &self.jumps[jump_slot(key)];
        (link.key == key && link.generation == generation).then_some(link.block)
    }

    /// Remembers where `key` leads.
    pub(crate) fn note_jump(&mut self, link: Link) {
        self.jumps[jump_slot(link.key)] = link;
    }

    /// The block at a guest-physical address.
    pub(crate) fn find(&self, gpa: u64, key: u64) -> Option<u32> {
        self.starts.get(&(gpa, key)).copied()
    }

    /// Keeps a block.
    pub(crate) fn insert(&mut self, block: Block) -> u32 {
        if self.starts.len() >= MOST {
            self.clear();
        }
        let key = block.mode.key(block.rip);
        let (gpa, second) = (block.gpa, block.second_page);
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.blocks.push(None);
                (self.blocks.len() - 1) as u32
            }
        };
        self.blocks[number as usize] = Some(block);
        if let Some(old) = self.starts.insert((gpa, key), number) {
            self.release(old);
        }
        for page in pages_of(gpa, second) {
            self.pages.entry(page).or_default().push(number);
        }
        number
    }

    /// Frees a block's place once nothing finds it, and takes it out of the lists of its pages.
    fn release(&mut self, number: u32) {
        let Some(block) = self.blocks.get_mut(number as usize).and_then(Option::take) else { return };
        for page in pages_of(block.gpa, block.second_page) {
            if let Entry::Occupied(mut list) = self.pages.entry(page) {
                list.get_mut().retain(|&other| other != number);
                if list.get().is_empty() {
                    list.remove();
                }
            }
        }
        self.free.push(number);
        self.drops = self.drops.wrapping_add(1);
    }

    /// Drops all blocks with code in a guest-physical page.
    pub(crate) fn drop_page(&mut self, page: u64) {
        for number in self.pages.remove(&page).unwrap_or_default() {
            if let Some(block) = self.get(number) {
                let key = (block.gpa, block.mode.key(block.rip));
                self.starts.remove(&key);
                self.release(number);
            }
        }
    }

    /// Drops all blocks.
    pub(crate) fn clear(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        self.blocks.clear();
        self.free.clear();
        self.starts.clear();
        self.pages.clear();
        self.drops = self.drops.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn block(rip: u64, gpa: u64, second_page: Option<u64>) -> Block {
        Block {
            rip,
            gpa,
            second_page,
            mode: CodeMode::new(64, false),
            ops: Box::new([]),
            count: 1,
            links: [const { Cell::new(Link { key: 0, generation: 0, block: 0 }) }; 2],
        }
    }

    /// Each kept block is in the lists of its pages, and nothing else is in any.
    fn check(cache: &CodeCache) {
        let mut wanted: Vec<(u64, u32)> = Vec::new();
        for (i, block) in cache.blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            wanted.extend(pages_of(block.gpa, block.second_page).map(|page| (page, i as u32)));
            assert_eq!(cache.find(block.gpa, block.mode.key(block.rip)), Some(i as u32));
        }
        let mut listed: Vec<_> =
            cache.pages.iter().flat_map(|(&page, list)| list.iter().map(move |&n| (page, n))).collect();
        wanted.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, wanted);
        assert!(cache.pages.values().all(|list| !list.is_empty()));
        assert_eq!(cache.starts.len() + cache.free.len(), cache.blocks.len());
    }

    #[test]
    fn a_block_leaves_the_lists_of_both_its_pages() {
        let mut cache = CodeCache::new(0);
        for dropped in [0x1000, 0x2000] {
            let crossing = cache.insert(block(0x1ffe, 0x1ffe, Some(0x2000)));
            let inside = cache.insert(block(0x3000, 0x3000, None));
            check(&cache);
            cache.drop_page(dropped);
            check(&cache);
            assert!(cache.get(crossing).is_none() && cache.get(inside).is_some());
        }
    }

    #[test]
    fn spaces_have_numbers_and_too_many_begin_anew() {
        let mut cache = CodeCache::new(0);
        let mut state = CpuState::reset();
        let mut mode_at = |cache: &mut CodeCache, base: u64| {
            state.segment_mut(SegmentRegister::Cs).base = base;
            cache.mode(&state)
        };
        let (a, b) = (mode_at(&mut cache, 0x10), mode_at(&mut cache, 0x20));
        assert_ne!(a.key(0), b.key(0));
        assert_eq!(mode_at(&mut cache, 0x10), a);
        assert_eq!(cache.space(b).linear(5), 0x25);
        assert_eq!((cache.space(b).bytes_from(0xfffe), cache.space(b).bytes_from(0x1_0000)), (2, 0));
        let kept = cache.insert(Block { mode: a, ..block(0, 0x10, None) });
        for base in 0x100..0x1_0100 {
            let mode = mode_at(&mut cache, base);
            assert_eq!(cache.space(mode).linear(0), base);
        }
        assert!(cache.get(kept).is_none());
        let again = mode_at(&mut cache, 0x10);
        assert_eq!(cache.space(again).linear(0), 0x10);
    }

    #[test]
    fn lists_do_not_grow_with_what_was_dropped() {
        let mut cache = CodeCache::new(0);
        for i in 0..1000_u64 {
            // One start, whose second page is mapped elsewhere each time; and pages that are written again and again.
            cache.insert(block(0x1ffe, 0x1ffe, Some(0x10_0000 + i % 7 * PAGE_SIZE)));
            cache.insert(block(0x5ffe, 0x5ffe, Some(0x6000)));
            cache.insert(block(0x9000 + i, 0x1000 + i, Some(0x1000)));
            if i % 3 == 0 {
                cache.drop_page(0x5000);
            }
            if i % 50 == 0 {
                cache.drop_page(0x1000);
            }
            check(&cache);
        }
        assert!(cache.blocks.len() < 100, "{}", cache.blocks.len());
    }
}
