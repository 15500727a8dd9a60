//! Addresses and access sizes as types that do not convert into each other silently.
use std::fmt;

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;

/// Guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// Guest-virtual (linear) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(pub u64);

/// I/O port number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

macro_rules! address {
    ($name:ident) => {
        impl $name {
            /// The address `bytes` further on, wrapping at 2⁶⁴.
            #[inline]
            #[must_use]
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The address of the 4 KiB page that holds this one.
            #[inline]
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Distance from the start of the 4 KiB page.
            #[inline]
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}
address!(Gpa);
address!(Gva);

impl Gva {
    /// Whether bits 63:47 are all equal, as 4-level paging demands (SDM vol. 1, 3.3.7.1).
    #[inline]
    #[must_use]
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({:#x})", self.0)
    }
}

/// Size of a device access.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Width {
    /// 1 byte.
    B1 = 1,
    /// 2 bytes.
    B2 = 2,
    /// 4 bytes.
    B4 = 4,
    /// 8 bytes.
    B8 = 8,
}

impl Width {
    /// The number of bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// A mask of the value bits of this width.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }

    /// The width of `bytes` bytes, if one access can have that size.
    #[inline]
    #[must_use]
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::B1),
            2 => Some(Self::B2),
            4 => Some(Self::B4),
            8 => Some(Self::B8),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses_are_sign_extended_from_bit_47() {
        assert!(Gva(0x7fff_ffff_ffff).is_canonical());
        assert!(!Gva(0x8000_0000_0000).is_canonical());
        assert!(Gva(0xffff_8000_0000_0000).is_canonical());
        assert!(!Gva(0xffff_7fff_ffff_ffff).is_canonical());
    }

    #[test]
    fn widths_mask_their_bits() {
        assert_eq!(Width::B1.mask(), 0xff);
        assert_eq!(Width::B8.mask(), u64::MAX);
        assert_eq!(Width::from_bytes(3), None);
    }
}
