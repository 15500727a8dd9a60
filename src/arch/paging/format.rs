//! The three formats of page tables: which entry, how many levels, what is a leaf, what is reserved (SDM 4.3 to 4.5).
use super::{PageMemory, PagingMode};
use crate::arch::address::PAGE_SIZE;
use crate::arch::{Cr4, Efer, Gpa};

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// For ring 3 too.
pub(super) const US: u64 = 1 << 2;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty.
pub(super) const D: u64 = 1 << 6;
/// Maps a page, above the last level.
pub(super) const PS: u64 = 1 << 7;
/// Global.
pub(super) const G: u64 = 1 << 8;
/// Not to be executed.
pub(super) const NX: u64 = 1 << 63;
/// Physical address bits 51:12 of an 8-byte entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// How tables are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Legacy,
    Pae,
    Long,
}

impl Format {
    pub(super) fn of(mode: &PagingMode) -> Self {
        if mode.efer.contains(Efer::LMA) {
            Self::Long
        } else if mode.cr4.contains(Cr4::PAE) {
            Self::Pae
        } else {
            Self::Legacy
        }
    }

    pub(super) const fn top(self) -> u8 {
        match self {
            Self::Legacy => 2,
            Self::Pae => 3,
            Self::Long => 4,
        }
    }

    /// Address of the entry for `gva` in the table at `table`, at `level`.
    pub(super) const fn entry_at(self, table: u64, gva: u64, level: u8) -> Gpa {
        match self {
            Self::Legacy => Gpa(table + (gva >> (12 + 10 * (level as u32 - 1)) & 0x3ff) * 4),
            Self::Pae if level == 3 => Gpa(table + (gva >> 30 & 3) * 8),
            _ => Gpa(table + (gva >> (12 + 9 * (level as u32 - 1)) & 0x1ff) * 8),
        }
    }

    pub(super) fn root(self, cr3: u64) -> u64 {
        match self {
            Self::Legacy => cr3 & 0xffff_f000,
            Self::Pae => cr3 & 0xffff_ffe0,
            Self::Long => cr3 & FRAME,
        }
    }

    pub(super) fn read(self, memory: &impl PageMemory, at: Gpa) -> u64 {
        match self {
            Self::Legacy => memory.read_u32(at).map_or(0, u64::from),
            _ => memory.read_u64(at).unwrap_or(0),
        }
    }

    pub(super) const fn page_size(self, level: u8) -> u64 {
        match self {
            Self::Legacy => PAGE_SIZE << (10 * (level as u32 - 1)),
            _ => PAGE_SIZE << (9 * (level as u32 - 1)),
        }
    }

    pub(super) fn is_leaf(self, mode: &PagingMode, level: u8, entry: u64) -> bool {
        level == 1
            || entry & PS != 0
                && match self {
                    Self::Legacy => level == 2 && mode.cr4.contains(Cr4::PSE),
                    Self::Pae => level == 2,
                    Self::Long => level <= 3,
                }
    }

    /// Whether entries of `level` have R/W, U/S and accessed bits: all but those of PAE's root.
    pub(super) fn has_rights(self, level: u8) -> bool {
        !(self == Self::Pae && level == 3)
    }

    /// Bits that must be zero in a present entry (SDM 4.3 to 4.5).
    #[inline(always)]
    pub(super) fn reserved(self, mode: &PagingMode, level: u8, leaf: bool) -> u64 {
        let width = u32::from(mode.physical_bits);
        if self == Self::Legacy {
            // Bits 20:13 of a large page are address bits 39:32, as far as there are any.
            let width = width.clamp(32, 40);
            return if leaf && level == 2 { (1 << 22) - (1 << (width - 19)) } else { 0 };
        }
        let mut bits = FRAME & u64::MAX.checked_shl(width).unwrap_or(0);
        if self == Self::Pae {
            // Bits 62:52 are reserved with PAE outside long mode; the root's entries hold no rights.
            bits |= 0x7ff << 52;
            if !self.has_rights(level) {
                bits |= NX | 0x1e6;
            }
        }
        if !mode.efer.contains(Efer::NXE) {
            bits |= NX;
        }
        if leaf && level > 1 {
            bits |= (self.page_size(level) - 1) & !0x1fff;
        }
        if level == 4 {
            bits |= PS;
        }
        bits
    }

    /// The table that an entry which is no leaf leads to.
    pub(super) const fn next_table(self, entry: u64) -> u64 {
        match self {
            Self::Legacy => entry & 0xffff_f000,
            _ => entry & FRAME,
        }
    }

    /// Where the page of a leaf begins.
    pub(super) fn leaf_base(self, entry: u64, level: u8) -> u64 {
        if self == Self::Legacy {
            // PSE-36: bits 39:32 of the frame lie in bits 20:13 of the entry.
            return if level == 2 {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & 0xffff_f000
            };
        }
        entry & FRAME & !(self.page_size(level) - 1)
    }
}
