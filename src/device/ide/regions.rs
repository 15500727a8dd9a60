//! The table of physical regions that a bus master scatters to and gathers from (PRD table).
//!
//! Entries are read when the transfer comes to them; what lies behind the last one, or cannot be accessed, ends it. A
//! table has at most [`REGIONS`] entries, whatever the guest has put there.
use super::spec::{LAST_REGION, REGIONS};
use crate::arch::Gpa;
use crate::mem::GuestRam;

/// Memory cannot be accessed, or there are no more regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoRegion;

/// A way through a table.
pub(super) struct Regions<'a> {
    ram: &'a GuestRam,
    table: u32,
    entries: usize,
    /// What is left of the current region.
    at: u64,
    left: usize,
    last: bool,
}

impl<'a> Regions<'a> {
    /// From the beginning of the table at `table` on.
    pub(super) fn new(ram: &'a GuestRam, table: u32) -> Self {
        Self { ram, table: table & !3, entries: 0, at: 0, left: 0, last: false }
    }

    /// Whether the table ends where the transfer stands.
    pub(super) fn is_used_up(&self) -> bool {
        self.last && self.left == 0
    }

    fn piece(&mut self, most: usize) -> Result<(Gpa, usize), NoRegion> {
        if self.left == 0 {
            self.next()?;
        }
        let (at, length) = (Gpa(self.at), self.left.min(most));
        self.at += length as u64;
        self.left -= length;
        Ok((at, length))
    }

    fn next(&mut self) -> Result<(), NoRegion> {
        if self.last || self.entries == REGIONS {
            return Err(NoRegion);
        }
        // The table lies within 64 KiB.
        let offset = self.table.wrapping_add(8 * self.entries as u32) & 0xffff;
        let mut entry = [0; 8];
        self.ram.read(Gpa((self.table & !0xffff | offset).into()), &mut entry).map_err(|_| NoRegion)?;
        let [a, b, c, d, rest @ ..] = entry;
        let (base, rest) = (u32::from_le_bytes([a, b, c, d]) & !1, u32::from_le_bytes(rest));
        let length = match rest & 0xfffe {
            0 => 0x1_0000,
            length => length as usize,
        };
        // It has 32 bits of address.
        if u64::from(base) + length as u64 > 1 << 32 {
            return Err(NoRegion);
        }
        self.entries += 1;
        (self.at, self.left, self.last) = (base.into(), length, rest & LAST_REGION != 0);
        Ok(())
    }

    /// Writes all of `bytes` to what comes next.
    pub(super) fn scatter(&mut self, mut bytes: &[u8]) -> Result<(), NoRegion> {
        while !bytes.is_empty() {
            let (at, length) = self.piece(bytes.len())?;
            let (now, later) = bytes.split_at(length);
            self.ram.write(at, now).map_err(|_| NoRegion)?;
            bytes = later;
        }
        Ok(())
    }

    /// Fills `bytes` from what comes next.
    pub(super) fn gather(&mut self, mut bytes: &mut [u8]) -> Result<(), NoRegion> {
        while !bytes.is_empty() {
            let (at, length) = self.piece(bytes.len())?;
            let (now, later) = bytes.split_at_mut(length);
            self.ram.read(at, now).map_err(|_| NoRegion)?;
            bytes = later;
        }
        Ok(())
    }
}
