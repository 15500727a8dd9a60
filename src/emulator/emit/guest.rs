//! The bytes of a guest instruction taken apart: prefixes, opcode, fields of ModRM, immediate.

/// Opcode maps of legacy encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Map {
    One,
    Two,
    Three38,
    Three3a,
}

/// What a VEX prefix says beside the operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vex {
    pub map: u8,
    pub wide: u8,
    pub length: u8,
    pub prefix: u8,
    /// The register of VEX.vvvv.
    pub vvvv: u8,
}

/// What a byte is where an instruction of 64-bit code may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    Rex,
    /// It is kept, in this place of [`Shape::prefixes`].
    Counted(u8),
    /// A segment, or the size of addresses.
    Segment,
}

/// Looked up, because jumps on bytes are hard to foresee.
static PREFIXES: [Prefix; 256] = {
    let mut all = [Prefix::None; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = match byte {
            0x40..=0x4f => Prefix::Rex,
            0x66 => Prefix::Counted(0),
            0xf2 | 0xf3 => Prefix::Counted(1),
            0xf0 => Prefix::Counted(2),
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => Prefix::Segment,
            _ => Prefix::None,
        };
        byte += 1;
    }
    all
};

/// An instruction without its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// 66, then F2 or F3, then F0, as they are present (zero: not).
    pub(super) prefixes: [u8; 3],
    /// REX, or zero.
    pub rex: u8,
    pub map: Map,
    pub opcode: u8,
    pub vex: Option<Vex>,
    /// ModRM, if there is one.
    pub modrm: Option<u8>,
    /// The reg field with its extension.
    pub reg: u8,
    /// The r/m field with its extension; a register if `is_register`.
    pub rm: u8,
    pub(super) immediate: [u8; 8],
    pub(super) immediate_length: u8,
}

impl Shape {
    /// Takes apart one valid instruction of 64-bit code: the first `length` bytes of `code`. `has_modrm` says whether there is a
    /// ModRM byte, given the number of bytes behind the opcode. `narrow` says that it is 32-bit code, whose short INC, DEC
    /// and MOV get the fields of general ones. `None` for encodings that are not taken apart: EVEX, XOP,
    /// and addresses in the place of an operand (`mov al, [moffs]`).
    #[inline]
    pub(crate) fn parse(
        code: &[u8],
        length: usize,
        narrow: bool,
        has_modrm: impl FnOnce(usize) -> bool,
    ) -> Option<Self> {
        let bytes = code.get(..length)?;
        let mut at = 0;
        let mut prefixes = [0; 3];
        let mut rex = 0;
        loop {
            let byte = *bytes.get(at)?;
            match PREFIXES[usize::from(byte)] {
                Prefix::None => break,
                // Not a prefix in 32-bit code.
                Prefix::Rex if narrow => break,
                // One that another prefix follows has no effect.
                Prefix::Rex => {
                    rex = byte;
                    at += 1;
                    continue;
                }
                Prefix::Counted(place) => prefixes[usize::from(place % 3)] = byte,
                Prefix::Segment => {}
            }
            rex = 0;
            at += 1;
        }
        let mut vex = None;
        let mut map = Map::One;
        // In 32-bit code VEX is what would else be LDS or LES of a register.
        let is_vex = !narrow || bytes.get(at + 1).is_some_and(|&next| next >= 0xc0);
        match bytes[at] {
            0x62 | 0x8f if bytes[at] == 0x62 => return None,
            0xc5 if is_vex => {
                let p = *bytes.get(at + 1)?;
                rex = if p & 0x80 == 0 { 4 } else { 0 };
                vex = Some(Vex { map: 1, wide: 0, length: p >> 2 & 1, prefix: p & 3, vvvv: !p >> 3 & 15 });
                at += 2;
            }
            0xc4 if is_vex => {
                let (p, q) = (*bytes.get(at + 1)?, *bytes.get(at + 2)?);
                rex = !p >> 5 & 7;
                vex = Some(Vex {
                    map: p & 31,
                    wide: q >> 7,
                    length: q >> 2 & 1,
                    prefix: q & 3,
                    vvvv: !q >> 3 & 15,
                });
                at += 3;
            }
            0x0f => {
                at += 1;
                map = match *bytes.get(at)? {
                    0x38 => Map::Three38,
                    0x3a => Map::Three3a,
                    _ => Map::Two,
                };
                at += usize::from(map != Map::Two);
            }
            _ => {}
        }
        let mut opcode = *bytes.get(at)?;
        at += 1;
        if narrow && map == Map::One && vex.is_none() {
            let whole = |opcode, modrm: u8| {
                let (reg, rm) = (modrm >> 3 & 7, modrm & 7);
                let (immediate, immediate_length) = ([0; 8], 0);
                Self {
                    prefixes,
                    rex: 0,
                    map,
                    opcode,
                    vex: None,
                    modrm: Some(modrm),
                    reg,
                    rm,
                    immediate,
                    immediate_length,
                }
            };
            match opcode {
                // INC and DEC of a register are those of the general form.
                0x40..=0x4f => return Some(whole(0xff, 0xc0 | opcode & 15)),
                // MOV of the accumulator from and to a fixed address.
                0xa0 | 0xa1 => return Some(whole(opcode - 0xa0 + 0x8a, 0x05)),
                // Another name of 0x80.
                0x82 => opcode = 0x80,
                0xa2 | 0xa3 => return Some(whole(opcode - 0xa2 + 0x88, 0x05)),
                _ => {}
            }
        }
        let is_move_offset = vex.is_none() && map == Map::One && matches!(opcode, 0xa0..=0xa3);
        if is_move_offset {
            return None;
        }
        let modrm = if has_modrm(bytes.len() - at) { Some(*bytes.get(at)?) } else { None };
        let operand = match modrm {
            Some(modrm) => 1 + Self::address_bytes(modrm, bytes.get(at + 1)),
            None => 0,
        };
        // The rest, which may name a register too (the fourth operand of VEX forms).
        let at = at + operand;
        let length = length.checked_sub(at).filter(|&length| length <= 8)?;
        let mut immediate = [0; 8];
        match code.get(at..).and_then(|rest| rest.first_chunk()) {
            // What does not belong to it does not count.
            Some(rest) => immediate = *rest,
            None => immediate[..length].copy_from_slice(&bytes[at..]),
        }
        let fields = modrm.unwrap_or(opcode);
        Some(Self {
            prefixes,
            rex,
            map,
            opcode,
            vex,
            modrm,
            reg: fields >> 3 & 7 | (rex & 4) << 1,
            rm: fields & 7 | (rex & 1) << 3,
            immediate,
            immediate_length: length as u8,
        })
    }

    /// Bytes of SIB and displacement behind a ModRM byte of 64-bit code (SDM vol. 2A, 2.1.3).
    fn address_bytes(modrm: u8, next: Option<&u8>) -> usize {
        let has_sib = modrm < 0xc0 && modrm & 7 == 4;
        let low = if has_sib { next.map_or(0, |sib| sib & 7) } else { modrm & 7 };
        let displacement = match modrm >> 6 {
            0 if low == 5 => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        usize::from(has_sib) + displacement
    }

    /// Whether the r/m field names memory.
    #[inline]
    pub(crate) fn is_memory(&self) -> bool {
        self.modrm.is_some_and(|modrm| modrm < 0xc0)
    }

    /// Whether the r/m field names a register.
    pub(crate) fn is_register(&self) -> bool {
        self.modrm.is_some_and(|modrm| modrm >= 0xc0)
    }

    /// Prefixes in the order in which they are written.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = u8> {
        self.prefixes.into_iter().filter(|&p| p != 0)
    }

    /// The same with another opcode of the first map.
    pub(crate) fn with_opcode(mut self, opcode: u8) -> Self {
        self.opcode = opcode;
        self
    }
}
