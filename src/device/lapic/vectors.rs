//! A set of interrupt vectors: the form of IRR, ISR and TMR.
use serde::{Deserialize, Serialize};

/// 256 bits, one for each vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// Adds or removes a vector.
    pub fn set(&mut self, vector: u8, on: bool) {
        let bit = 1 << (vector & 63);
        let word = &mut self.0[usize::from(vector >> 6)];
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// Whether it holds a vector.
    #[must_use]
    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0
    }

    /// The highest vector it holds.
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        let (i, word) = self.0.iter().enumerate().rev().find(|(_, w)| **w != 0)?;
        Some((i as u8) << 6 | word.ilog2() as u8)
    }

    /// 32 bits of it, as a register shows them; `index` is 0–7.
    #[must_use]
    pub fn word(&self, index: usize) -> u32 {
        (self.0[(index / 2) & 3] >> (32 * (index & 1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = Vectors::default();
        assert_eq!(set.highest(), None);
        for v in [0, 31, 32, 63, 64, 200, 255] {
            set.set(v, true);
            assert_eq!(set.highest(), Some(v));
            assert_eq!(set.word(usize::from(v) / 32) >> (v % 32) & 1, 1);
        }
        set.set(255, false);
        assert!(!set.contains(255) && set.contains(31));
        assert_eq!(set.highest(), Some(200));
    }
}
