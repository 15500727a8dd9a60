//! An I/O APIC with 24 inputs (Intel 82093AA).
//!
//! A state machine without glue, owned by the interrupt complex. What is to be sent is handed out message by message
//! through [`IoApic::next_message`], until there is none. Edges on a masked input are lost, as on the chip.
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::SavedIoApic;

use crate::device::lapic::{DeliveryMode, Message};
use spec::{Entry, PINS};

/// The chip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoApic {
    id: u8,
    select: u8,
    /// Levels of the pins.
    inputs: u32,
    /// Edge-triggered interrupts that wait to be sent.
    edges: u32,
    entries: [Entry; PINS],
}

impl Default for IoApic {
    fn default() -> Self {
        Self { id: 0, select: 0, inputs: 0, edges: 0, entries: [Entry::MASKED; PINS] }
    }
}

impl IoApic {
    /// Drives an input; pins above 23 do not exist.
    pub fn set_pin(&mut self, pin: u8, level: bool) {
        let Some(entry) = self.entries.get(usize::from(pin)) else {
            return;
        };
        let bit = 1 << pin;
        if level {
            if self.inputs & bit == 0 && !entry.intersects(Entry::LEVEL | Entry::MASKED) {
                self.edges |= bit;
            }
            self.inputs |= bit;
        } else {
            self.inputs &= !bit;
        }
    }

    /// The next message to be sent to the local APICs. To be called until there is none, after each change.
    pub fn next_message(&mut self) -> Option<Message> {
        let mut waiting = self.inputs | self.edges;
        while waiting != 0 {
            let pin = waiting.trailing_zeros() as usize;
            let bit = 1 << pin;
            waiting &= !bit;
            let Some(entry) = self.entries.get_mut(pin) else { break };
            let due = if entry.contains(Entry::LEVEL) {
                self.inputs & bit != 0 && !entry.intersects(Entry::MASKED | Entry::REMOTE_IRR)
            } else {
                self.edges & bit != 0
            };
            if due {
                self.edges &= !bit;
                if entry.contains(Entry::LEVEL) {
                    *entry |= Entry::REMOTE_IRR;
                }
                let logical = entry.contains(Entry::LOGICAL);
                return Some(Message {
                    destination: Message::narrow_destination((entry.bits() >> 56) as u8, logical),
                    logical,
                    mode: DeliveryMode::from_bits((entry.bits() >> 8) as u32),
                    vector: entry.bits() as u8,
                    level: entry.contains(Entry::LEVEL),
                });
            }
        }
        None
    }

    /// A local APIC ended a level-triggered interrupt with this vector.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if entry.contains(Entry::LEVEL) && entry.bits() as u8 == vector {
                *entry -= Entry::REMOTE_IRR;
            }
        }
    }

    /// Reads 32 bits at `at` in the register page.
    #[must_use]
    pub fn read(&self, at: u64) -> u32 {
        match at {
            spec::IOREGSEL => self.select.into(),
            spec::IOWIN => match self.select {
                spec::ID | spec::ARBITRATION => u32::from(self.id) << 24,
                spec::VERSION => spec::VERSION_VALUE,
                select => {
                    self.entry_of(select).map_or(0, |(pin, shift)| (self.entries[pin].bits() >> shift) as u32)
                }
            },
            _ => 0,
        }
    }

    /// Writes 32 bits at `at` in the register page.
    pub fn write(&mut self, at: u64, value: u32) {
        match at {
            spec::IOREGSEL => self.select = value as u8,
            spec::IOWIN if self.select == spec::ID => self.id = (value >> 24) as u8 & 0xf,
            spec::IOWIN => {
                if let Some((pin, shift)) = self.entry_of(self.select) {
                    self.write_entry(pin, shift, value);
                }
            }
            _ => {}
        }
    }

    /// Which entry, and how far its half is shifted, an index selects.
    fn entry_of(&self, select: u8) -> Option<(usize, u32)> {
        let half = select.checked_sub(spec::REDIRECTION)?;
        let pin = usize::from(half / 2);
        (pin < PINS).then_some((pin, u32::from(half & 1) * 32))
    }

    fn write_entry(&mut self, pin: usize, shift: u32, value: u32) {
        let written = (u64::from(u32::MAX) << shift) & spec::ENTRY_WRITABLE;
        let old = self.entries[pin].bits();
        let mut entry = Entry::from_bits_retain(old & !written | (u64::from(value) << shift) & written);
        if !entry.contains(Entry::LEVEL) {
            entry -= Entry::REMOTE_IRR;
        }
        self.entries[pin] = entry;
    }
}
