//! One disk on a channel: where its bytes are, and what its host has set.
use super::spec::{HEADS, SECTOR, TRACK};
use crate::device::disk::DiskStore;
use std::io;

/// A disk.
pub(super) struct Drive {
    // Configuration.
    pub(super) serial: String,
    // Runtime glue.
    store: Box<dyn DiskStore>,
    // Volatile state.
    /// Sectors of a block of READ MULTIPLE; 0: not set.
    pub(super) multiple: u8,
    /// Heads, and sectors of a track; neither is 0.
    heads: u8,
    track: u8,
    /// The mode of transfer that was set last.
    pub(super) mode: u8,
    /// Writes may wait for a flush.
    pub(super) caches: bool,
}

impl Drive {
    pub(super) fn new(store: Box<dyn DiskStore>, serial: &str) -> Self {
        // Ultra DMA mode 5.
        let mode = 0x45;
        let serial = serial.to_owned();
        Self { serial, store, multiple: 0, heads: HEADS, track: TRACK, mode, caches: true }
    }

    pub(super) fn sectors(&self) -> u64 {
        // What 48 bits can name.
        (self.store.size() / SECTOR as u64).min(1 << 48)
    }

    /// Heads, and sectors of a track.
    pub(super) fn translation(&self) -> (u8, u8) {
        (self.heads, self.track)
    }

    /// Whether such a disk can be.
    pub(super) fn set_translation(&mut self, heads: u8, track: u8) -> bool {
        let possible = (1..=16).contains(&heads) && track > 0;
        if possible {
            (self.heads, self.track) = (heads, track);
        }
        possible
    }

    /// Reads whole sectors from `first` on, all of which are the disk's.
    pub(super) fn read(&mut self, first: u64, into: &mut [u8]) -> io::Result<()> {
        self.check(first, into.len())?;
        self.store.read(first * SECTOR as u64, into)
    }

    pub(super) fn write(&mut self, first: u64, from: &[u8]) -> io::Result<()> {
        self.check(first, from.len())?;
        if self.store.is_read_only() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.store.write(first * SECTOR as u64, from)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.store.flush()
    }

    /// A write has ended: where the host has switched the cache off, it is to last.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.caches { Ok(()) } else { self.store.flush() }
    }

    fn check(&self, first: u64, length: usize) -> io::Result<()> {
        let end = first.checked_add((length / SECTOR) as u64).filter(|&end| end <= self.sectors());
        end.map(drop).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}
