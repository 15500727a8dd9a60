//! Translated code: its memory, the blocks in it, how they are found and how they are linked.
//!
//! Code memory is filled from its start; when it is full everything is forgotten at once. It is written through one
//! mapping and run through another ([`ExecMemory`]). A block is found by guest-physical address, guest-virtual address
//! and mode. It is entered at one of two places: with the guest's flags in the host's, or saved in the context.
//!
//! - **Links**: a jump to a fixed address first asks for help and is then patched to go there. Within a guest page it
//!   holds as long as the target exists: who was translated at this address went through the same page. To another page,
//!   or to where an instruction may reach into another one, it holds under the mark ([`Context::tag`]) that it was patched
//!   under, which stands for one mode and one generation of translations; after some changes of the mark it is left to the jump cache.
//! - **Jump cache**: jumps look their target up by address. An entry holds for one mark.
pub(crate) mod context;
pub(crate) mod registers;
pub(crate) mod stubs;

use super::emit::Assembler;
use super::translate::address::Address;
use crate::arch::address::PAGE_SIZE;
use crate::emulator::front::cache::AddressMap;
use crate::sys::exec_memory::ExecMemory;
use iced_x86::Instruction;
use std::io;
use std::sync::LazyLock;
use stubs::{Callees, Stubs};

/// Bytes of code memory that a translator has.
pub(crate) const CAPACITY: usize = 64 << 20;
/// Entries of the jump cache; a power of two.
pub(crate) const JUMPS: usize = 16384;
/// Sites and links that a small guest has at most. Untouched room costs nothing; to grow costs a copy of all.
const ROOM: usize = 1 << 14;
/// Bytes of one entry, as a shift.
pub(crate) const JUMP_SHIFT: u8 = 5;

/// The marks of jumps that hold now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marks {
    /// For code in global pages of the supervisor; as `local` where there is no such code.
    pub global: u64,
    /// For all code of the current address space.
    pub local: u64,
}

/// The bits of a mark that stand for the mode of code, [`Limits::number`](super::translate::Limits::number).
const MODE: u64 = 0xff;
/// The low half of no mark of jumps.
pub(crate) const NO_MARK: u32 = u32::MAX;
/// How often a link to another page is patched. Who changes translations all the time is better served by the jump cache.
const MOST_PATCHES: u8 = 8;

/// Where an address leads. Read by translated code: layout as declared.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jump {
    /// Guest RIP.
    pub rip: u64,
    /// [`context::Context::tag`] at which it holds.
    pub tag: u64,
    /// Host address for entering with saved flags.
    pub target: usize,
    /// Guest-physical address of the block, if no other page belongs to it. Under another mark it still leads there, if
    /// RIP does. Not read by translated code.
    place: u64,
}

impl Jump {
    /// Offset of the tag.
    pub(crate) const TAG: i32 = 8;
    /// Offset of the target.
    pub(crate) const TARGET: i32 = 16;
}

/// No place of a block.
const NO_PLACE: u64 = u64::MAX;
const NO_JUMP: Jump = Jump { rip: u64::MAX, tag: u64::MAX, target: 0, place: NO_PLACE };

/// Address of a jump cache that is always empty.
pub(crate) fn no_jumps() -> u64 {
    static EMPTY: LazyLock<Box<[Jump]>> = LazyLock::new(|| vec![NO_JUMP; JUMPS].into());
    EMPTY.as_ptr() as u64
}

/// Place in the jump cache.
pub(crate) fn jump_index(rip: u64) -> usize {
    rip as usize & (JUMPS - 1)
}

/// The two ways into a block, as host addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entries {
    /// The guest's flags are in the host's.
    pub live: usize,
    /// The guest's flags are in the context.
    pub saved: usize,
}

/// One translated block.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub entries: Entries,
    gpa: u64,
    key: u64,
    /// The guest-physical page that its only instruction reaches into from another one.
    second_page: Option<u64>,
    /// Links that lead here.
    incoming: Vec<u32>,
}

/// An instruction that `single` may have to execute.
pub(crate) struct Site {
    pub instruction: Instruction,
    /// What became of it in `single`, once needed.
    pub op: std::cell::OnceCell<Box<super::single::op::Op>>,
    /// Translated code goes on after it by itself.
    pub resumes: bool,
}

/// A jump to another block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where it goes.
    pub rip: u64,
    /// Offset of the 32-bit displacement in code memory, if it can be patched.
    displacement: Option<usize>,
    /// Offset of the low half of the mark under which it holds, if it leads to another page.
    mark: Option<usize>,
    /// How often the mark was patched.
    patches: u8,
    /// The block that it leads to.
    block: Option<u32>,
    /// Offset of the code that asks for help.
    stub: usize,
    /// Host address that it was patched to lead to.
    pub target: Option<usize>,
    /// The flags are saved when it is taken.
    pub saved: bool,
    /// It is taken because an access missed its window.
    pub miss: Option<Miss>,
}

/// An access that missed its window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Miss {
    pub address: Address,
    pub class: usize,
    pub write: bool,
}

/// A jump in a block that is about to be kept; positions are offsets into the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewLink {
    pub rip: u64,
    pub displacement: Option<usize>,
    pub mark: Option<usize>,
    pub stub: usize,
    pub saved: bool,
    pub miss: Option<Miss>,
}

/// All translated code of one vCPU.
pub(crate) struct CodeStore {
    memory: ExecMemory,
    next: usize,
    first: usize,
    stubs: Stubs,
    blocks: Vec<Option<Compiled>>,
    starts: AddressMap<(u64, u64), u32>,
    pages: AddressMap<u64, Vec<u32>>,
    pub sites: Vec<Site>,
    pub links: Vec<Link>,
    jumps: Box<[Jump; JUMPS]>,
    /// Counts times at which host addresses of code became invalid.
    pub drops: u64,
    /// How often everything was forgotten.
    pub flushes: u64,
}

impl CodeStore {
    /// Empty code memory of `capacity` bytes with its stubs.
    ///
    /// # Errors
    /// When the host refuses executable memory.
    pub(crate) fn new(asm: &mut Assembler, capacity: usize, avx: bool, callees: Callees) -> io::Result<Self> {
        let mut memory = ExecMemory::new(capacity)?;
        let base = memory.address(0);
        asm.restart(base);
        let stubs = Stubs::emit(asm, base, avx, callees);
        let first = asm.position().next_multiple_of(64);
        if !memory.write(0, asm.bytes()) {
            return Err(io::Error::other("the stubs do not fit"));
        }
        Ok(Self {
            memory,
            next: first,
            first,
            stubs,
            blocks: Vec::new(),
            starts: AddressMap::default(),
            pages: AddressMap::default(),
            sites: Vec::with_capacity(ROOM),
            links: Vec::with_capacity(ROOM),
            jumps: Box::new([NO_JUMP; JUMPS]),
            drops: 0,
            flushes: 0,
        })
    }

    /// Bytes of code memory, and the numbers of blocks, sites and links that are kept beside it.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.memory.size(), self.blocks.len(), self.sites.len(), self.links.len())
    }

    /// The stubs' addresses.
    pub(crate) fn stubs(&self) -> Stubs {
        self.stubs
    }

    /// Address of the jump cache.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps.as_ptr() as u64
    }

    /// The address at which the next block will run.
    pub(crate) fn here(&self) -> usize {
        self.memory.address(self.next)
    }

    /// Whether a block of `bytes` fits.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.next + bytes <= self.memory.size()
    }

    /// A block by its place.
    pub(crate) fn find(&self, gpa: u64, key: u64) -> Option<u32> {
        self.starts.get(&(gpa, key)).copied()
    }

    /// The entries of a block.
    pub(crate) fn entries(&self, block: u32) -> Option<Entries> {
        self.blocks.get(block as usize)?.as_ref().map(|block| block.entries)
    }

    /// The page that a block reaches into from the one where it begins. It may be entered only if that page follows.
    #[inline]
    pub(crate) fn second_page(&self, block: u32) -> Option<u64> {
        self.blocks.get(block as usize)?.as_ref()?.second_page
    }

    /// Keeps a block whose code was assembled for [`Self::here`]. The entries are offsets into it.
    pub(crate) fn keep(
        &mut self,
        code: &[u8],
        (gpa, key): (u64, u64),
        second_page: Option<u64>,
        entries: Entries,
        links: &[NewLink],
    ) -> Option<u32> {
        let at = self.next;
        if !self.memory.write(at, code) {
            return None;
        }
        self.next = (at + code.len()).next_multiple_of(16);
        self.links.extend(links.iter().map(|link| Link {
            rip: link.rip,
            displacement: link.displacement.map(|displacement| at + displacement),
            mark: link.mark.map(|mark| at + mark),
            patches: 0,
            block: None,
            stub: at + link.stub,
            target: None,
            saved: link.saved,
            miss: link.miss,
        }));
        let number = self.blocks.len() as u32;
        let base = self.memory.address(at);
        self.blocks.push(Some(Compiled {
            entries: Entries { live: base + entries.live, saved: base + entries.saved },
            gpa,
            key,
            second_page,
            incoming: Vec::new(),
        }));
        if let Some(old) = self.starts.insert((gpa, key), number) {
            self.release(old);
        }
        for page in std::iter::once(gpa & !(PAGE_SIZE - 1)).chain(second_page) {
            self.pages.entry(page).or_default().push(number);
        }
        Some(number)
    }

    fn patch(&mut self, displacement: usize, target: usize) {
        let end = self.memory.address(displacement + 4);
        let relative = target.wrapping_sub(end) as u32;
        self.write_word(displacement, relative);
    }

    fn write_word(&mut self, place: usize, word: u32) {
        // In bounds: the place lies in a block that was written.
        let written = self.memory.write(place, &word.to_le_bytes());
        debug_assert!(written);
    }

    /// Lets a link go straight to a block, if it is to another page under this mark alone; says whether it can, and did
    /// not already.
    pub(crate) fn connect(&mut self, link: u32, block: u32, mark: u64) -> bool {
        let Some(from) = self.links.get_mut(link as usize) else { return false };
        let Some(displacement) = from.displacement else { return false };
        if from.target.is_some() && from.mark.is_none() || from.patches == MOST_PATCHES {
            return false;
        }
        let Some(Some(target)) = self.blocks.get_mut(block as usize) else { return false };
        let before = from.block.replace(block);
        let entry = if from.saved { target.entries.saved } else { target.entries.live };
        from.target = Some(entry);
        let place = from.mark;
        from.patches += u8::from(place.is_some());
        if before != Some(block) {
            target.incoming.push(link);
            if let Some(Some(before)) = before.and_then(|before| self.blocks.get_mut(before as usize)) {
                before.incoming.retain(|&other| other != link);
            }
            self.patch(displacement, entry);
        }
        if let Some(place) = place {
            self.write_word(place, mark as u32);
        }
        true
    }

    /// Makes no link hold by its mark: marks are about to come again, in their low halves.
    pub(crate) fn forget_marks(&mut self) {
        for link in 0..self.links.len() {
            if let Some(mark) = self.links[link].mark {
                self.write_word(mark, NO_MARK);
            }
        }
    }

    /// Where an address leads, and under which mark, if that is remembered under one of these.
    #[inline]
    pub(crate) fn jump(&self, rip: u64, marks: Marks) -> Option<(usize, u64)> {
        let jump = &self.jumps[jump_index(rip)];
        let holds = jump.rip == rip && (jump.tag == marks.global || jump.tag == marks.local);
        holds.then_some((jump.target, jump.tag))
    }

    /// Whether a link leads to another page: it holds under a mark.
    pub(crate) fn is_far(&self, link: u32) -> bool {
        self.links.get(link as usize).is_some_and(|link| link.mark.is_some())
    }

    /// Where an address leads that is at `gpa` now, if it was when it was last remembered, under a mark of the same mode as
    /// `tag`. It is remembered under `tag` from now on.
    #[inline]
    pub(crate) fn jump_again(&mut self, rip: u64, gpa: u64, tag: u64) -> Option<usize> {
        let jump = &mut self.jumps[jump_index(rip)];
        let holds = jump.rip == rip && jump.place == gpa && (jump.tag ^ tag) & MODE == 0;
        holds.then(|| {
            jump.tag = tag;
            jump.target
        })
    }

    /// Remembers where an address leads: to `block`.
    pub(crate) fn note_jump(&mut self, rip: u64, tag: u64, block: u32) {
        let Some(Some(block)) = self.blocks.get(block as usize) else { return };
        let place = if block.second_page.is_none() { block.gpa } else { NO_PLACE };
        self.jumps[jump_index(rip)] = Jump { rip, tag, target: block.entries.saved, place };
    }

    fn release(&mut self, number: u32) {
        let Some(block) = self.blocks.get_mut(number as usize).and_then(Option::take) else { return };
        self.drops += 1;
        for link in block.incoming {
            let from = &mut self.links[link as usize];
            (from.target, from.block) = (None, None);
            let Link { displacement, stub, mark, .. } = *from;
            // No mark of jumps: the jump cache is asked from now on, if the link is not patched again.
            if let Some(mark) = mark {
                self.write_word(mark, NO_MARK);
            }
            if let Some(displacement) = displacement {
                self.patch(displacement, self.memory.address(stub));
            }
        }
        // The low bits of the key are those of the address.
        let jump = &mut self.jumps[jump_index(block.key)];
        if jump.target == block.entries.saved {
            *jump = NO_JUMP;
        }
    }

    /// Drops all blocks with code in a guest-physical page; says whether there were any.
    pub(crate) fn drop_page(&mut self, page: u64) -> bool {
        let Some(blocks) = self.pages.remove(&page) else { return false };
        for number in blocks {
            if let Some(Some(block)) = self.blocks.get(number as usize) {
                let place = (block.gpa, block.key);
                self.starts.remove(&place);
                self.release(number);
            }
        }
        true
    }

    /// Forgets all blocks. No translated code may be running or be returned to.
    pub(crate) fn clear(&mut self) {
        if self.next == self.first {
            return;
        }
        self.next = self.first;
        self.blocks.clear();
        self.starts.clear();
        self.pages.clear();
        self.sites.clear();
        self.links.clear();
        self.jumps.fill(NO_JUMP);
        self.flushes += 1;
        self.drops += 1;
    }
}
