//! A split virtqueue (virtio 1.2, 2.7), from the device's side, over guest memory that the guest may fill as it likes.
//!
//! Addresses and size are checked when the driver enables the queue; every access is checked again, because that costs
//! nothing beside it. An index, descriptor or table that no correct driver can have written is [`Broken`]: the device
//! asks for a reset and stops. The work for one notification is bounded: [`Queue::pop`] gives at most as many chains as
//! the queue has entries until [`Queue::begin`] is called again, and a chain has at most as many descriptors of the
//! queue's own table, and [`MOST_INDIRECT`] of an indirect one.
//!
//! Notifications are never suppressed, and event indices are not offered: work is done within the notification, so that
//! there is nothing to save, and a chain that the bound leaves over has a notification of its own.
//!
//! The guest's CPUs write the rings while we read them: an index is read before what it announces and written after it,
//! with a fence between.
use super::chain::{Buffer, Chain, Segment};
use super::spec::{
    AVAILABLE_ENTRY, DESCRIPTOR, DescriptorFlags, Features, NO_INTERRUPT, RING_HEADER, USED_ENTRY,
};
use crate::arch::Gpa;
use crate::mem::GuestRam;
use std::sync::atomic::{Ordering, fence};

/// Descriptors of an indirect table that one chain may have. Linux's drivers use 128 at most, QEMU allows as many.
pub(super) const MOST_INDIRECT: u32 = 1024;

/// What no correct driver does; the device has to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// The size is not a power of two up to the queue's maximum.
    #[error("the queue's size is not possible")]
    Size,
    /// A table or ring is not aligned, or not in RAM.
    #[error("the queue's memory is not possible")]
    Place,
    /// The available index went further than the queue has entries.
    #[error("the available index jumped")]
    Index,
    /// A descriptor is outside its table.
    #[error("a descriptor does not exist")]
    NoDescriptor,
    /// A chain does not end.
    #[error("a descriptor chain is too long")]
    TooLong,
    /// A buffer that the device reads follows one that it writes.
    #[error("a descriptor chain is out of order")]
    Order,
    /// An indirect table where none may be, or of an impossible length.
    #[error("an indirect table is not possible")]
    Indirect,
}

/// The places of a queue, as the driver writes them before it enables the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Places {
    pub(super) descriptors: Gpa,
    /// Of the available ring.
    pub(super) driver: Gpa,
    /// Of the used ring.
    pub(super) device: Gpa,
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    // Configuration.
    pub(super) most: u16,
    // Volatile state.
    pub(super) size: u16,
    pub(super) places: Places,
    pub(super) enabled: bool,
    pub(super) indirect: bool,
    /// Entries of the available ring that were taken, modulo 2¹⁶.
    pub(super) taken: u16,
    /// Entries of the used ring that were written, modulo 2¹⁶.
    pub(super) used: u16,
    /// Something was given back that the driver was not told of.
    untold: bool,
    /// Chains that may still be taken for this notification.
    budget: u16,
}

struct Descriptor {
    at: Gpa,
    length: u32,
    flags: DescriptorFlags,
    next: u16,
}

impl Queue {
    /// A queue of at most `most` entries, a power of two, after reset.
    #[must_use]
    pub(super) fn new(most: u16) -> Self {
        Self {
            most,
            size: most,
            places: Places::default(),
            enabled: false,
            indirect: false,
            taken: 0,
            used: 0,
            untold: false,
            budget: 0,
        }
    }

    /// As after reset.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.most);
    }

    /// The driver has set size and places and hands the queue over.
    ///
    /// # Errors
    /// [`Broken`], if they are not possible; the queue stays off.
    pub(super) fn enable(&mut self, ram: &GuestRam, features: Features) -> Result<(), Broken> {
        if self.size > self.most || !self.size.is_power_of_two() {
            return Err(Broken::Size);
        }
        let size = u64::from(self.size);
        let Places { descriptors, driver, device } = self.places;
        for (at, alignment, length) in [
            (descriptors, 16, size * DESCRIPTOR),
            (driver, 2, RING_HEADER + size * AVAILABLE_ENTRY),
            (device, 4, RING_HEADER + size * USED_ENTRY),
        ] {
            if !at.0.is_multiple_of(alignment) || ram.offset(at, length).is_none() {
                return Err(Broken::Place);
            }
        }
        *self = Self {
            size: self.size,
            places: self.places,
            enabled: true,
            indirect: features.contains(Features::INDIRECT_DESC),
            ..Self::new(self.most)
        };
        Ok(())
    }

    /// Chains may be taken again, as many as the queue has entries.
    pub(super) fn begin(&mut self) {
        self.budget = self.size;
    }

    /// Index of the available ring: entries that the driver has written.
    fn available(&self, ram: &GuestRam) -> Result<u16, Broken> {
        let index = ram.read_u16(self.places.driver.offset(2)).ok_or(Broken::Place)?;
        // What the index announces is read after it.
        fence(Ordering::SeqCst);
        Ok(index)
    }

    /// Whether a chain waits, within what may be taken for this notification.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn has_next(&self, ram: &GuestRam) -> Result<bool, Broken> {
        if !self.enabled || self.budget == 0 {
            return Ok(false);
        }
        let waiting = self.available(ram)?.wrapping_sub(self.taken);
        if waiting > self.size {
            return Err(Broken::Index);
        }
        Ok(waiting > 0)
    }

    /// Takes the next chain.
    ///
    /// # Errors
    /// [`Broken`]; nothing may be taken from the queue any more.
    pub fn pop(&mut self, ram: &GuestRam) -> Result<Option<Chain>, Broken> {
        if !self.has_next(ram)? {
            return Ok(None);
        }
        let entry = u64::from(self.taken % self.size) * AVAILABLE_ENTRY;
        let head = ram.read_u16(self.places.driver.offset(RING_HEADER + entry)).ok_or(Broken::Place)?;
        let chain = self.walk(ram, head)?;
        self.taken = self.taken.wrapping_add(1);
        self.budget -= 1;
        Ok(Some(chain))
    }

    fn walk(&self, ram: &GuestRam, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain { head, readable: Buffer::default(), writable: Buffer::default() };
        let (mut table, mut entries) = (self.places.descriptors, u32::from(self.size));
        let (mut index, mut left) = (head, entries);
        let mut nested = false;
        let mut wrote = false;
        loop {
            left = left.checked_sub(1).ok_or(Broken::TooLong)?;
            let Descriptor { at, length, flags, next } = read_descriptor(ram, table, entries, index)?;
            if flags.contains(DescriptorFlags::INDIRECT) {
                // Not in a table, not before another descriptor, and not empty (2.7.5.3.1).
                let odd = u64::from(length) % DESCRIPTOR != 0 || length == 0;
                if nested || !self.indirect || odd || flags.contains(DescriptorFlags::NEXT) {
                    return Err(Broken::Indirect);
                }
                nested = true;
                (table, entries) = (at, length / DESCRIPTOR as u32);
                (index, left) = (0, MOST_INDIRECT);
                continue;
            }
            if flags.contains(DescriptorFlags::WRITE) {
                wrote = true;
                chain.writable.push(Segment { at, length });
            } else if wrote {
                return Err(Broken::Order);
            } else {
                chain.readable.push(Segment { at, length });
            }
            if !flags.contains(DescriptorFlags::NEXT) {
                return Ok(chain);
            }
            index = next;
        }
    }

    /// Gives a chain back to the driver, in whose buffer the device has written the first `written` bytes.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn push(&mut self, ram: &GuestRam, chain: &Chain, written: u32) -> Result<(), Broken> {
        let entry = u64::from(self.used % self.size) * USED_ENTRY;
        let at = self.places.device.offset(RING_HEADER + entry);
        let [a, b] = chain.head.to_le_bytes();
        let [c, d, e, f] = written.to_le_bytes();
        ram.write(at, &[a, b, 0, 0, c, d, e, f]).map_err(|_| Broken::Place)?;
        self.used = self.used.wrapping_add(1);
        self.untold = true;
        // The driver sees the entry before the index that announces it.
        fence(Ordering::SeqCst);
        ram.write_u16(self.places.device.offset(2), self.used).then_some(()).ok_or(Broken::Place)
    }

    /// Whether the driver wants to be told of what was given back since this was last asked.
    ///
    /// # Errors
    /// [`Broken`].
    pub(super) fn wants_interrupt(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        if !std::mem::take(&mut self.untold) {
            return Ok(false);
        }
        // The driver allows interrupts and then looks at the index; here it is the other way round.
        fence(Ordering::SeqCst);
        let flags = ram.read_u16(self.places.driver).ok_or(Broken::Place)?;
        Ok(flags & NO_INTERRUPT == 0)
    }
}

fn read_descriptor(ram: &GuestRam, table: Gpa, entries: u32, index: u16) -> Result<Descriptor, Broken> {
    if u32::from(index) >= entries {
        return Err(Broken::NoDescriptor);
    }
    let mut bytes = [0; DESCRIPTOR as usize];
    // An address that wraps at 2⁶⁴ is no RAM, or some that the guest could have named directly.
    let at = table.offset(u64::from(index) * DESCRIPTOR);
    ram.read(at, &mut bytes).map_err(|_| Broken::NoDescriptor)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    Ok(Descriptor {
        at: Gpa(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        length: u32::from_le_bytes([i, j, k, l]),
        flags: DescriptorFlags::from_bits_retain(u16::from_le_bytes([m, n])),
        next: u16::from_le_bytes([o, p]),
    })
}
