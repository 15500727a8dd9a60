//! The memory object behind patched code: a shadow of RAM, page for page, and the thunk zone behind it.
//!
//! Guest RAM itself stays as the guest wrote it. The object is sparse: only pages that were executed cost memory.
#![expect(unsafe_code, reason = "memory shared with another process is accessed through raw pointers")]
use super::layout::{COUNTERS, COUNTERS_SIZE, ZONE, ZONE_SIZE};
use crate::arch::address::PAGE_SIZE;
use crate::engine::EngineError;
use crate::sys::memfd;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shadow text of one vCPU.
#[derive(Debug)]
pub(super) struct Text {
    file: File,
    map: MmapRaw,
    ram_size: u64,
}

impl Text {
    /// A shadow of `ram_size` bytes of RAM.
    pub(super) fn new(ram_size: u64) -> Result<Self, EngineError> {
        let host = |source| EngineError::Host { what: "cannot make the memory for patched code", source };
        let size = ram_size + ZONE_SIZE;
        let file = memfd::create(c"trivisor-pv-text", size).map_err(host)?;
        let map = MmapOptions::new().len(size as usize).map_raw(&file).map_err(host)?;
        Ok(Self { file, map, ram_size })
    }

    /// The memory object.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where the thunk zone begins in the object.
    pub(super) fn zone_offset(&self) -> u64 {
        self.ram_size
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let end = self.ram_size + ZONE_SIZE;
        assert!(offset <= end && bytes.len() as u64 <= end - offset, "outside the shadow text");
        // SAFETY: inside the mapping. The child executes these bytes, but waits while the engine writes.
        unsafe {
            let into = self.map.as_mut_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), into, bytes.len());
        }
    }

    /// Writes into the shadow of the RAM page at `offset`; the bytes lie in that page.
    pub(super) fn write_shadow(&self, offset: u64, bytes: &[u8]) {
        debug_assert!(offset % PAGE_SIZE + bytes.len() as u64 <= PAGE_SIZE);
        assert!(offset + bytes.len() as u64 <= self.ram_size);
        self.write(offset, bytes);
    }

    /// Reads from the shadow.
    pub(super) fn read_shadow(&self, offset: u64, into: &mut [u8]) {
        assert!(offset <= self.ram_size && into.len() as u64 <= self.ram_size - offset);
        self.read(offset, into);
    }

    /// Reads from the thunk zone, `distance` bytes from its start.
    pub(super) fn read_zone(&self, distance: u64, into: &mut [u8]) {
        assert!(distance <= ZONE_SIZE && into.len() as u64 <= ZONE_SIZE - distance);
        self.read(self.ram_size + distance, into);
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        let end = self.ram_size + ZONE_SIZE;
        assert!(offset <= end && into.len() as u64 <= end - offset, "outside the shadow text");
        // SAFETY: inside the mapping; the destination is ordinary memory.
        unsafe {
            let from = self.map.as_mut_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    /// Writes into the thunk zone, `distance` bytes from its start.
    pub(super) fn write_zone(&self, distance: u64, bytes: &[u8]) {
        assert!(distance < ZONE_SIZE);
        self.write(self.ram_size + distance, bytes);
    }

    /// Counter `number` of the thunks. The guest can write it: what it says is the guest's word.
    pub(super) fn counter(&self, number: u64) -> &AtomicU64 {
        assert!(number < COUNTERS_SIZE / 8, "there is no counter {number}");
        let offset = self.ram_size + (COUNTERS - ZONE) + 8 * number;
        // SAFETY: inside the mapping, whose length is RAM and zone, and aligned, because RAM's size is a multiple of a
        // page; all accesses of this process to counters are atomic.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset as usize).cast()) }
    }

    /// Takes what a counter holds, and leaves 0.
    pub(super) fn take_counter(&self, number: u64) -> u64 {
        self.counter(number).swap(0, Ordering::Relaxed)
    }
}
