//! Segment registers with their hidden parts, and descriptors in memory (SDM 3.4).

/// Names of the six segment registers, in the machine's encoding order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum SegmentRegister {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// FS, whose base is an MSR in 64-bit mode.
    Fs = 4,
    /// GS, whose base is an MSR in 64-bit mode.
    Gs = 5,
}

/// A segment register, visible and hidden parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base.
    pub base: u64,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Access rights as in bits 55:40 of the descriptor: type, S, DPL, P at 7:0; AVL, L, D/B, G at 15:12.
    pub attributes: u16,
}

impl Segment {
    /// Attribute bit: present.
    pub const PRESENT: u16 = 1 << 7;
    /// Attribute bit: code or data segment (not a system descriptor).
    pub const CODE_OR_DATA: u16 = 1 << 4;
    /// Attribute bit: 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// Attribute bit: 32-bit default size (D/B).
    pub const DEFAULT_BIG: u16 = 1 << 14;
    /// Attribute bit: the limit counts 4 KiB units.
    pub const GRANULARITY: u16 = 1 << 15;

    /// Whether the segment can be used for accesses (loaded with a present descriptor).
    #[inline]
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.attributes & Self::PRESENT != 0
    }

    /// Descriptor privilege level.
    #[inline]
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }

    /// The four type bits.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        (self.attributes & 15) as u8
    }

    /// Whether this is present, writable data that grows upwards and ends where addresses do, so that an access needs no
    /// check against it (SDM 5.3, 5.5).
    #[must_use]
    pub const fn is_endless_data(&self) -> bool {
        // Type bits: code 8, expand-down 4, writable 2.
        self.limit == u32::MAX && self.is_present() && self.kind() & 0xe == 2
    }

    /// Whether this is code in 64-bit mode.
    #[inline]
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.attributes & Self::LONG != 0
    }

    /// Whether the default operand or stack size is 32 bits.
    #[inline]
    #[must_use]
    pub const fn is_big(&self) -> bool {
        self.attributes & Self::DEFAULT_BIG != 0
    }

    /// Whether the descriptor is code (of a code-or-data descriptor).
    #[inline]
    #[must_use]
    pub const fn is_code(&self) -> bool {
        self.attributes & (Self::CODE_OR_DATA | 8) == Self::CODE_OR_DATA | 8
    }

    /// The hidden part that loading `selector` with the 8-byte `descriptor` gives.
    #[must_use]
    pub const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56 & 0xff) << 24;
        let raw_limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        let attributes = (descriptor >> 40 & 0xf0ff) as u16;
        let limit = if attributes & Self::GRANULARITY != 0 { raw_limit << 12 | 0xfff } else { raw_limit };
        Self { selector, base, limit, attributes }
    }

    /// What a segment register holds in virtual-8086 mode (SDM 21.2.1).
    #[must_use]
    pub const fn virtual_8086(selector: u16) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, attributes: 0xf3 }
    }

    /// Flat 32-bit segment over 4 GiB: `kind` holds the type bits (0xb code, 0x3 data).
    #[must_use]
    pub const fn flat32(selector: u16, kind: u8) -> Self {
        let rights = Self::PRESENT | Self::CODE_OR_DATA | Self::DEFAULT_BIG | Self::GRANULARITY;
        Self { selector, base: 0, limit: u32::MAX, attributes: rights | kind as u16 }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// Linear base.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_fields_are_gathered_from_their_pieces() {
        let flat = Segment::from_descriptor(8, 0x00cf_9b00_0000_ffff);
        assert_eq!(flat, Segment::flat32(8, 0xb));
        let odd = Segment::from_descriptor(0x10, 0x1240_9334_5678_9abc);
        assert_eq!(odd.base, 0x1234_5678);
        assert_eq!(odd.limit, 0x9abc);
        assert!(odd.is_big() && !odd.is_code() && odd.dpl() == 0);
    }
}
