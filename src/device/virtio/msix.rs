//! Message-signalled interrupts by a table in the device's memory (PCI Local Bus Specification 3.0, 6.8.2).
//!
//! A message whose entry, or the whole function, is masked waits as a pending bit and is sent when neither is.
use serde::{Deserialize, Serialize};

/// Bytes of an entry: address, data, control.
pub(super) const ENTRY: u64 = 16;
/// Entry's control: masked.
const MASKED: u32 = 1;
/// Message control: messages instead of the pin.
pub(super) const ENABLE: u16 = 1 << 15;
/// Message control: all entries are masked.
pub(super) const FUNCTION_MASK: u16 = 1 << 14;

/// One entry, as four words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry([u32; 4]);

/// The table. At most 64 entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Msix {
    entries: Vec<Entry>,
    pending: u64,
    /// Of the message control register.
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// A table of `entries`, all masked, after reset.
    pub(super) fn new(entries: u16) -> Self {
        let entries = vec![Entry([0, 0, 0, MASKED]); entries.min(64).into()];
        Self { entries, pending: 0, enabled: false, masked: false }
    }

    pub(super) fn len(&self) -> u16 {
        self.entries.len() as u16
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The message control register was written.
    pub(super) fn control(&mut self, value: u16) {
        self.enabled = value & ENABLE != 0;
        self.masked = value & FUNCTION_MASK != 0;
    }

    /// Reads 32 bits of the table at `offset`.
    pub(super) fn read(&self, offset: u64) -> u32 {
        self.entries.get((offset / ENTRY) as usize).map_or(0, |entry| entry.0[(offset % ENTRY / 4) as usize])
    }

    /// Writes them.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        if let Some(entry) = self.entries.get_mut((offset / ENTRY) as usize) {
            let word = (offset % ENTRY / 4) as usize;
            entry.0[word] = if word == 3 { value & MASKED } else { value };
        }
    }

    /// The pending bits.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// An interrupt by the entry `vector`, if there is one.
    pub(super) fn raise(&mut self, vector: u16) {
        if self.enabled && vector < self.len() {
            self.pending |= 1 << vector;
        }
    }

    /// The next message that may be sent: address and data. To be called until there is none, after each change.
    pub(super) fn next_message(&mut self) -> Option<(u64, u32)> {
        if !self.enabled || self.masked {
            return None;
        }
        let ready = |i: &usize| self.pending & 1 << i != 0 && self.entries[*i].0[3] & MASKED == 0;
        let index = (0..self.entries.len()).find(ready)?;
        self.pending &= !(1 << index);
        let [low, high, data, _] = self.entries[index].0;
        Some((u64::from(low) | u64::from(high) << 32, data))
    }

    /// Whether a saved table may stand in for this one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let all = 1_u64.checked_shl(self.len().into()).map_or(u64::MAX, |bit| bit - 1);
        self.len() == other.len() && other.pending & !all == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_while_they_are_masked() {
        let mut msix = Msix::new(3);
        msix.raise(1);
        assert_eq!(msix.pending(), 0, "not enabled");
        msix.control(ENABLE);
        for (word, value) in [0xfee0_0000, 1, 0x41].into_iter().enumerate() {
            msix.write(ENTRY + 4 * word as u64, value);
        }
        msix.raise(1);
        msix.raise(3);
        msix.raise(u16::MAX);
        assert_eq!((msix.pending(), msix.next_message()), (2, None));
        msix.control(ENABLE | FUNCTION_MASK);
        msix.write(ENTRY + 12, !MASKED);
        assert_eq!((msix.read(ENTRY + 12), msix.next_message()), (0, None));
        msix.control(ENABLE);
        assert_eq!(msix.next_message(), Some((0x1_fee0_0000, 0x41)));
        assert_eq!((msix.next_message(), msix.pending()), (None, 0));
        msix.write(3 * ENTRY, 7);
        assert_eq!((msix.read(3 * ENTRY), msix.read(u64::MAX)), (0, 0));
    }
}
