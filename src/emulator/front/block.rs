//! Blocks: runs of prepared instructions without a way out in their middle.
use crate::arch::Segment;
use crate::emulator::single::op::Op;
use std::cell::Cell;

/// Where 16- and 32-bit code lies: what CS adds to an instruction pointer, and its highest value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodeSpace {
    base: u32,
    limit: u32,
}

impl CodeSpace {
    /// All addresses, as they are.
    pub(crate) const FLAT: Self = Self { base: 0, limit: u32::MAX };

    /// The space of CS.
    pub(crate) fn of(cs: &Segment) -> Self {
        Self { base: cs.base as u32, limit: cs.limit }
    }

    /// A number that is unique for each.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.base) << 32 | u64::from(self.limit)
    }

    /// The linear address of an instruction pointer.
    #[inline]
    pub(crate) fn linear(self, rip: u64) -> u64 {
        u64::from(self.base.wrapping_add(rip as u32))
    }

    /// How many bytes there are from an instruction pointer to the limit; 0 if it is beyond.
    #[inline]
    pub(crate) fn bytes_from(self, rip: u64) -> u64 {
        (u64::from(self.limit) + 1).saturating_sub(rip)
    }
}

/// What code bytes mean depends on this as well as on the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct CodeMode {
    bits: u8,
    /// Which [`CodeSpace`], as the code cache numbers them; 0 is the flat one, and that of 64-bit code.
    space: u16,
}

impl CodeMode {
    const USER: u8 = 1 << 2;
    const SINGLE: u8 = 1 << 3;

    /// `bits` (16, 32, 64)-bit code at ring 3 or not.
    pub(crate) fn new(bits: u32, user: bool) -> Self {
        Self { bits: (bits / 32) as u8 & 3 | if user { Self::USER } else { 0 }, space: 0 }
    }

    /// The same for code in the space of this number.
    pub(crate) fn within(self, space: u16) -> Self {
        Self { space, ..self }
    }

    /// The number of its space.
    pub(crate) fn space(self) -> u16 {
        self.space
    }

    /// The same for a block of one instruction.
    pub(crate) fn single(self) -> Self {
        Self { bits: self.bits | Self::SINGLE, ..self }
    }

    /// Whether blocks have one instruction.
    pub(crate) fn is_single(self) -> bool {
        self.bits & Self::SINGLE != 0
    }

    /// Code size: 16, 32 or 64.
    pub(crate) fn bits(self) -> u32 {
        match self.bits & 3 {
            0 => 16,
            1 => 32,
            _ => 64,
        }
    }

    /// Whether it is ring 3.
    pub(crate) fn is_user(self) -> bool {
        self.bits & Self::USER != 0
    }

    /// A number below 16 that is different for each, spaces aside.
    pub(crate) fn number(self) -> u8 {
        self.bits
    }

    /// A number that is unique for each pair of a canonical address and a mode: bits 55:48 of such an address only
    /// repeat bit 47, and instruction pointers in spaces other than 0 have 32 bits.
    #[inline(always)]
    pub(crate) fn key(self, rip: u64) -> u64 {
        rip ^ u64::from(self.bits) << 48 ^ u64::from(self.space) << 32
    }
}

/// A block that followed this one before.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Link {
    /// [`CodeMode::key`] of its start.
    pub key: u64,
    /// The generation in which the link was made.
    pub generation: u64,
    /// Its number.
    pub block: u32,
}

/// Instructions that run one after the other.
pub(crate) struct Block {
    /// Where it starts.
    pub rip: u64,
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Guest-physical page of the second part, if its only instruction crosses a page.
    pub second_page: Option<u64>,
    /// How it was decoded.
    pub mode: CodeMode,
    /// At least one; the last one sets RIP, unless it ends otherwise.
    pub ops: Box<[Op]>,
    /// Instructions in it (the operation that only sets RIP at the end is none).
    pub count: u32,
    /// The last two successors.
    pub links: [Cell<Link>; 2],
}

impl Block {
    /// The successor with this key, if it is known in this generation.
    #[inline(always)]
    pub(crate) fn successor(&self, key: u64, generation: u64) -> Option<u32> {
        let [a, b] = [self.links[0].get(), self.links[1].get()];
        if a.key == key && a.generation == generation {
            Some(a.block)
        } else if b.key == key && b.generation == generation {
            Some(b.block)
        } else {
            None
        }
    }

    /// Remembers a successor in the place of the older one.
    pub(crate) fn link(&self, link: Link) {
        self.links[1].set(self.links[0].replace(link));
    }
}
