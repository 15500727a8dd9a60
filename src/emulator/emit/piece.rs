//! One instruction of the host, byte by byte, in room that is known to suffice: nothing is checked for each byte, and what
//! may be absent is written all the same and then not counted.
use super::guest::Shape;
use super::operand::{Mem, Rm};

/// Bytes that are free when an instruction begins: the longest has 15, and absent parts may be written behind it.
pub(super) const ROOM: usize = 32;

/// One instruction, or less.
pub(super) struct Piece<'r> {
    pub room: &'r mut [u8; ROOM],
    /// Bytes that count.
    pub length: usize,
}

impl Piece<'_> {
    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.room[self.length % ROOM] = byte;
        self.length += 1;
    }

    /// A byte that counts if it is `present`.
    #[inline]
    pub(super) fn optional(&mut self, byte: u8, present: bool) {
        self.room[self.length % ROOM] = byte;
        self.length += usize::from(present);
    }

    /// The first `count` bytes of a number of 32 bits.
    #[inline]
    fn part(&mut self, value: u32, count: usize) {
        let at = self.length % (ROOM / 2);
        self.room[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.length += count;
    }

    #[inline]
    pub(super) fn dword(&mut self, value: u32) {
        self.part(value, 4);
    }

    /// The first `count` of eight bytes.
    #[inline]
    pub(super) fn qword(&mut self, bytes: [u8; 8], count: usize) {
        let at = self.length % (ROOM / 2);
        self.room[at..at + 8].copy_from_slice(&bytes);
        self.length += count;
    }

    #[inline]
    pub(super) fn rex(&mut self, wide: bool, reg: u8, rm: Rm, force: bool) {
        let rex = u8::from(wide) << 3 | (reg >> 3 & 1) << 2 | rm.extension();
        self.optional(0x40 | rex, rex != 0 || force);
    }

    /// ModRM, SIB and displacement.
    #[inline]
    pub(super) fn operand(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        let mem = match rm {
            Rm::Reg(rm) => return self.byte(0xc0 | reg | rm & 7),
            Rm::Mem(mem) => mem,
            Rm::Gs(disp) => Mem { disp, ..Mem::default() },
        };
        let sib_index = mem.index.map_or(0x20, |(index, scale)| scale << 6 | (index.0 & 7) << 3);
        let Some(base) = mem.base else {
            // No base: a SIB byte with base 101 and a 32-bit displacement.
            self.byte(reg | 4);
            self.byte(sib_index | 5);
            return self.dword(mem.disp as u32);
        };
        let low = base.0 & 7;
        let (mode, count) = match i8::try_from(mem.disp) {
            Ok(0) if low != 5 => (0, 0),
            Ok(_) => (0x40, 1),
            Err(_) => (0x80, 4),
        };
        let has_sib = mem.index.is_some() || low == 4;
        self.byte(mode | reg | if has_sib { 4 } else { low });
        self.optional(sib_index | low, has_sib);
        self.part(mem.disp as u32, count);
    }

    /// The prefixes of a guest instruction.
    #[inline]
    pub(super) fn prefixes(&mut self, shape: &Shape) {
        for prefix in shape.prefixes {
            self.optional(prefix, prefix != 0);
        }
    }

    /// The immediate of a guest instruction.
    #[inline]
    pub(super) fn immediate(&mut self, shape: &Shape) {
        self.qword(shape.immediate, usize::from(shape.immediate_length));
    }
}
