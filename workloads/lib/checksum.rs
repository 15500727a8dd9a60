//! FNV-1a, 64 bits, over 64-bit words: tells one fixed unit of work from another.

/// A checksum in the making.
#[derive(Clone, Copy)]
pub struct Checksum(u64);

impl Checksum {
    /// Nothing folded in yet.
    #[expect(clippy::new_without_default, reason = "nobody asks for a default")]
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Folds a word in, byte by byte from the low end.
    #[must_use]
    pub fn word(mut self, value: u64) -> Self {
        for byte in value.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    /// Folds bytes in.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    /// The checksum.
    pub const fn value(self) -> u64 {
        self.0
    }
}
