//! The shared area as the engine sees it. Everything read from it is the guest's word: copied once, then checked.
#![expect(unsafe_code, reason = "memory shared with another process is accessed through raw pointers")]
use crate::pv::layout::{AREAS, SHARED_SIZE};
use crate::sys::memfd;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The engine's mapping of the shared area.
#[derive(Clone, Debug)]
pub(in crate::pv) struct Shared {
    file: Arc<File>,
    map: Arc<MmapRaw>,
    area: usize,
}

impl Shared {
    /// The first area of a new memory object, all zero.
    pub(in crate::pv) fn new() -> io::Result<Self> {
        Self::map(Arc::new(memfd::create(c"trivisor-pv-shared", SHARED_SIZE * AREAS as u64)?), 0)
    }

    /// Another area of the same object.
    pub(in crate::pv) fn another(&self, area: usize) -> io::Result<Self> {
        assert!(area < AREAS, "there is no area {area}");
        Self::map(Arc::clone(&self.file), area)
    }

    fn map(file: Arc<File>, area: usize) -> io::Result<Self> {
        let offset = SHARED_SIZE * area as u64;
        let map = Arc::new(MmapOptions::new().offset(offset).len(SHARED_SIZE as usize).map_raw(&*file)?);
        Ok(Self { file, map, area })
    }

    /// The memory object, to be handed to the child.
    pub(in crate::pv) fn file(&self) -> &File {
        &self.file
    }

    /// Its number in the object.
    pub(in crate::pv) fn area(&self) -> usize {
        self.area
    }

    fn pointer(&self, offset: u64, length: u64) -> *mut u8 {
        assert!(
            offset <= SHARED_SIZE && length <= SHARED_SIZE - offset,
            "offset {offset:#x} is not in the shared area"
        );
        // SAFETY: checked to be inside the mapping.
        unsafe { self.map.as_mut_ptr().add(offset as usize) }
    }

    /// A 32-bit word. Offsets are our own constants: one that is out of range or unaligned is a bug and panics.
    #[inline]
    pub(in crate::pv) fn word(&self, offset: u64) -> &AtomicU32 {
        let pointer = self.pointer(offset, 4).cast::<u32>();
        assert!(pointer.is_aligned());
        // SAFETY: in bounds and aligned; all accesses of this process to the area are atomic or raw copies.
        unsafe { AtomicU32::from_ptr(pointer) }
    }

    #[inline]
    fn long(&self, offset: u64) -> &AtomicU64 {
        let pointer = self.pointer(offset, 8).cast::<u64>();
        assert!(pointer.is_aligned());
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Reads a 64-bit word.
    #[inline]
    pub(in crate::pv) fn get(&self, offset: u64) -> u64 {
        self.long(offset).load(Ordering::Relaxed)
    }

    /// Writes a 64-bit word.
    #[inline]
    pub(in crate::pv) fn set(&self, offset: u64, value: u64) {
        self.long(offset).store(value, Ordering::Relaxed);
    }

    /// Writes a 64-bit word before whatever is read next.
    pub(in crate::pv) fn swap(&self, offset: u64, value: u64) {
        self.long(offset).swap(value, Ordering::SeqCst);
    }

    /// Writes a 64-bit word unless it holds that value already: what is not written stays in both CPUs' caches.
    #[inline]
    pub(in crate::pv) fn put(&self, offset: u64, value: u64) {
        if self.get(offset) != value {
            self.set(offset, value);
        }
    }

    /// As [`Self::put`], for a 32-bit word.
    #[inline]
    pub(in crate::pv) fn put_word(&self, offset: u64, value: u32) {
        let word = self.word(offset);
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Copies bytes out.
    pub(in crate::pv) fn read(&self, offset: u64, into: &mut [u8]) {
        let from = self.pointer(offset, into.len() as u64);
        // SAFETY: in bounds; the destination is ordinary memory. The child may write meanwhile: the bytes are then
        // a mixture, which is the guest's own affair.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Copies bytes in.
    pub(in crate::pv) fn write(&self, offset: u64, from: &[u8]) {
        let into = self.pointer(offset, from.len() as u64);
        // SAFETY: as above, with the sides exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
    }
}
