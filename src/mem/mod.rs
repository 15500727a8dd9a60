//! Guest RAM: one memfd, mapped once in the engine and as often as a backend wants elsewhere.
//!
//! Guest-physical RAM lies in at most two slots: below the device hole and above 4 GiB. All accesses are bounds-checked;
//! what is not RAM gives `None` or an error and is the bus's business. Several threads and processes may touch the same
//! bytes at once, as the guest's CPUs do: accesses are raw copies and atomics, never references into RAM.
#![expect(unsafe_code, reason = "guest RAM is raw shared memory")]
mod code_map;
mod seal;
mod watcher;

pub use crate::sys::written::Written;
pub use code_map::{CodeChanges, CodeMap};
pub use seal::CodeSeal;
pub use watcher::{Close, Watcher};

use crate::arch::paging::PageMemory;
use crate::arch::{Gpa, address::PAGE_SIZE, layout};
use crate::sys::memfd;
use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Why RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is zero, not a multiple of the page size, or above [`GuestRam::MOST`].
    #[error("guest memory of {} is not possible: choose a multiple of 4 KiB between 4 KiB and 64 GiB, as 128M", amount(*.0))]
    Size(u64),
    /// The host refused.
    #[error("the host cannot provide {} of guest memory: {source}", amount(*size))]
    Host {
        /// What was asked for.
        size: u64,
        /// What the host said.
        source: io::Error,
    },
}

/// A number of bytes as people read it, exact: in the largest binary unit that divides it.
pub(crate) fn amount(bytes: u64) -> String {
    match bytes.trailing_zeros() {
        _ if bytes == 0 => "0 bytes".to_owned(),
        40.. => format!("{} TiB", bytes >> 40),
        30.. => format!("{} GiB", bytes >> 30),
        20.. => format!("{} MiB", bytes >> 20),
        10.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

/// An access touched something that is not RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{length} bytes at {at} are not all RAM")]
pub struct NotRam {
    /// First byte of the access.
    pub at: Gpa,
    /// Its length.
    pub length: u64,
}

/// One contiguous piece of guest-physical RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamSlot {
    /// First guest-physical address.
    pub gpa: Gpa,
    /// Bytes.
    pub size: u64,
    /// Where it begins in the memfd.
    pub offset: u64,
    /// Where it begins in this process, as a number: KVM and the engines' own mappings need it.
    pub host: usize,
}

/// The guest's RAM.
#[derive(Debug)]
pub struct GuestRam {
    file: File,
    map: MmapRaw,
    slots: Vec<RamSlot>,
    size: u64,
    code: CodeMap,
    /// Pages that were released so far.
    released: AtomicU64,
}

impl GuestRam {
    /// The largest RAM that we offer, in bytes.
    pub const MOST: u64 = 64 << 30;

    /// RAM of `size` bytes, all zero; pages cost host memory when first touched.
    ///
    /// # Errors
    /// [`MemoryError`], for a size that makes no sense or that the host refuses.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > Self::MOST {
            return Err(MemoryError::Size(size));
        }
        let host = |source| MemoryError::Host { size, source };
        let file = memfd::create(c"trivisor-ram", size).map_err(host)?;
        let length = usize::try_from(size).map_err(|_| MemoryError::Size(size))?;
        let map = MmapOptions::new().len(length).map_raw(&file).map_err(host)?;
        let base = map.as_mut_ptr() as usize;
        let low = size.min(layout::LOW_RAM_END.0);
        let mut slots = vec![RamSlot { gpa: Gpa(0), size: low, offset: 0, host: base }];
        if size > low {
            slots.push(RamSlot {
                gpa: layout::HIGH_RAM,
                size: size - low,
                offset: low,
                host: base + low as usize,
            });
        }
        Ok(Self { file, map, slots, size, code: CodeMap::new(size), released: AtomicU64::new(0) })
    }

    /// The memory object, for mapping it elsewhere. Slot offsets refer to it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The pieces of RAM, ascending.
    #[must_use]
    pub fn slots(&self) -> &[RamSlot] {
        &self.slots
    }

    /// Bytes of RAM in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where decoded code lies. [`Self::write`] tells it; who writes through [`Self::host`] tells it himself.
    #[inline]
    #[must_use]
    pub fn code(&self) -> &CodeMap {
        &self.code
    }

    /// Offset in the memory object of `length` bytes at `at`, if all of them are RAM.
    #[inline]
    #[must_use]
    pub fn offset(&self, at: Gpa, length: u64) -> Option<u64> {
        let low = &self.slots[0];
        if at.0 < low.size && length <= low.size - at.0 {
            return Some(at.0);
        }
        let high = self.slots.get(1)?;
        let into = at.0.checked_sub(high.gpa.0)?;
        (into < high.size && length <= high.size - into).then(|| high.offset + into)
    }

    /// The guest-physical address of an offset in the memory object.
    #[must_use]
    pub fn gpa_of(&self, offset: u64) -> Option<Gpa> {
        let slot = self.slots.iter().find(|s| (s.offset..s.offset + s.size).contains(&offset))?;
        Some(slot.gpa.offset(offset - slot.offset))
    }

    /// What an engine that has read the log of [`Self::code`] up to `cursor` must forget of the code that it made
    /// something of; `None` if nothing was logged since. The cursor goes on. Cheap without changes: one load.
    #[inline]
    #[must_use]
    pub fn written_code(&self, cursor: &mut u64) -> Option<CodeChanges> {
        (*cursor != self.code.cursor()).then(|| self.read_code_log(cursor))
    }

    #[cold]
    fn read_code_log(&self, cursor: &mut u64) -> CodeChanges {
        self.code.read_log(cursor).map_or(CodeChanges::Everything, |pages| {
            CodeChanges::Pages(pages.into_iter().filter_map(|page| self.gpa_of(page * PAGE_SIZE)).collect())
        })
    }

    /// The stretches of the memory object that something was ever written to, or that were read through a mapping.
    ///
    /// # Errors
    /// What the host says.
    pub fn touched(&self) -> io::Result<Vec<std::ops::Range<u64>>> {
        memfd::touched(&self.file, self.size)
    }

    /// Watches which pages are written through this mapping, which must outlive the watch. It loses what a page that is
    /// released was: see [`Self::released`].
    ///
    /// # Errors
    /// When the host cannot.
    pub fn watch_writes(&self) -> io::Result<Written> {
        Written::watch(self.map.as_mut_ptr() as usize, self.map.len())
    }

    /// How often [`Self::release_page`] has released a page.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Makes all of RAM zero and gives its memory back to the host. Whoever decoded code of it is to forget it.
    ///
    /// # Errors
    /// What the host says.
    pub fn clear(&self) -> io::Result<()> {
        memfd::clear(&self.file, self.size)
    }

    /// All of RAM is other RAM now: whoever decoded code of it is to forget it.
    pub fn forget_code(&self) {
        self.code.forget_all();
    }

    /// Host address of `length` bytes at `at`, if all of them are RAM. Valid as long as `self`.
    #[inline]
    #[must_use]
    pub fn host(&self, at: Gpa, length: u64) -> Option<*mut u8> {
        // SAFETY: `offset` returned so that offset + length is within the mapping.
        self.offset(at, length).map(|offset| unsafe { self.map.as_mut_ptr().add(offset as usize) })
    }

    fn checked(&self, at: Gpa, length: usize) -> Result<*mut u8, NotRam> {
        self.host(at, length as u64).ok_or(NotRam { at, length: length as u64 })
    }

    /// Takes the page at `at` out of this process's page tables, if it is RAM; what is in it stays. The next access finds
    /// it again, by a fault of the host's; KVM, which maps what this process maps, forgets it too.
    pub fn release_page(&self, at: Gpa) {
        let Some(offset) = self.offset(at.page(), PAGE_SIZE) else { return };
        // SAFETY: the mapping is a shared one of a file, in which the bytes stay.
        let released = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset as usize, PAGE_SIZE as usize)
        };
        debug_assert!(released.is_ok(), "a page of our own mapping");
        self.released.fetch_add(1, Ordering::Relaxed);
    }

    /// Copies guest memory out.
    ///
    /// # Errors
    /// [`NotRam`] if not all of it is RAM; nothing is copied then.
    pub fn read(&self, at: Gpa, into: &mut [u8]) -> Result<(), NotRam> {
        let from = self.checked(at, into.len())?;
        // SAFETY: `checked` bounds the source; the destination is a Rust slice outside guest RAM.
        unsafe { copy(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`NotRam`] if not all of it is RAM; nothing is copied then.
    pub fn write(&self, at: Gpa, from: &[u8]) -> Result<(), NotRam> {
        let into = self.checked(at, from.len())?;
        // SAFETY: as in `read`, with the sides exchanged.
        unsafe { copy(from.as_ptr(), into, from.len()) };
        if let Some(offset) = self.offset(at, from.len() as u64) {
            self.code.note_write(offset, from.len() as u64);
        }
        Ok(())
    }
}

/// Copies; 2, 4 and 8 bytes in one access, as a CPU does: others access guest RAM meanwhile.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
#[inline]
unsafe fn copy(from: *const u8, into: *mut u8, length: usize) {
    // SAFETY: the caller's promise. The compiler makes one instruction of each fixed size.
    unsafe {
        match length {
            2 => into.cast::<u16>().write_unaligned(from.cast::<u16>().read_unaligned()),
            4 => into.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned()),
            8 => into.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()),
            _ => std::ptr::copy_nonoverlapping(from, into, length),
        }
    }
}

impl GuestRam {
    /// Stores eight bytes as translated code does, past the watch over code.
    #[cfg(test)]
    pub(crate) fn store_unnoticed(&self, at: Gpa, value: u64) {
        if let Some(place) = self.host(at, 8) {
            // SAFETY: in bounds.
            unsafe { place.cast::<u64>().write_unaligned(value) };
        }
    }

    /// Reads two bytes, as one access where they are aligned; `None` where there is no RAM.
    #[inline]
    #[must_use]
    pub fn read_u16(&self, at: Gpa) -> Option<u16> {
        self.host(at, 2).map(|p| match p as usize % 2 {
            // SAFETY: in bounds and aligned. Volatile: other CPUs of the guest write here.
            0 => unsafe { p.cast::<u16>().read_volatile() },
            // SAFETY: in bounds.
            _ => unsafe { p.cast::<u16>().read_unaligned() },
        })
    }

    /// Writes two bytes, as one access where they are aligned. Whether they are RAM.
    #[inline]
    pub fn write_u16(&self, at: Gpa, value: u16) -> bool {
        let Some(offset) = self.offset(at, 2) else { return false };
        // SAFETY: `offset` is that of two bytes in the mapping, which is page-aligned.
        let place = unsafe { self.map.as_mut_ptr().add(offset as usize).cast::<u16>() };
        if offset.is_multiple_of(2) {
            // SAFETY: in bounds and aligned.
            unsafe { place.write_volatile(value) };
        } else {
            // SAFETY: in bounds.
            unsafe { place.write_unaligned(value) };
        }
        self.code.note_write(offset, 2);
        true
    }

    /// Writes eight bytes, as one access where they are aligned. Whether they are RAM.
    #[inline]
    pub fn write_u64(&self, at: Gpa, value: u64) -> bool {
        let Some(offset) = self.offset(at, 8) else { return false };
        // SAFETY: `offset` is that of eight bytes in the mapping, which is page-aligned.
        unsafe { self.map.as_mut_ptr().add(offset as usize).cast::<u64>().write_unaligned(value) };
        self.code.note_write(offset, 8);
        true
    }
}

impl PageMemory for GuestRam {
    fn read_u32(&self, at: Gpa) -> Option<u32> {
        // SAFETY: in bounds; unaligned entries cannot occur but are harmless.
        self.host(at, 4).map(|p| unsafe { p.cast::<u32>().read_unaligned() })
    }

    fn read_u64(&self, at: Gpa) -> Option<u64> {
        // SAFETY: as above.
        self.host(at, 8).map(|p| unsafe { p.cast::<u64>().read_unaligned() })
    }

    fn set_bits(&self, at: Gpa, expected: u32, bits: u32) -> bool {
        self.host(Gpa(at.0 & !3), 4).is_none_or(|p| {
            // SAFETY: in bounds and 4-byte aligned: the mapping is page-aligned.
            let entry = unsafe { AtomicU32::from_ptr(p.cast()) };
            entry.compare_exchange(expected, expected | bits, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for size in [0, 1, 4097, GuestRam::MOST + PAGE_SIZE] {
            assert!(matches!(GuestRam::new(size), Err(MemoryError::Size(s)) if s == size));
        }
    }

    #[test]
    fn accesses_stop_at_the_end_of_ram() {
        let ram = GuestRam::new(2 * PAGE_SIZE).unwrap();
        ram.write(Gpa(PAGE_SIZE - 2), &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        ram.read(Gpa(PAGE_SIZE - 2), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(ram.read_u32(Gpa(PAGE_SIZE - 2)), Some(0x0403_0201));
        assert!(ram.read(Gpa(2 * PAGE_SIZE - 3), &mut back).is_err());
        assert!(ram.write(Gpa(u64::MAX - 1), &back).is_err());
        assert_eq!(ram.read_u64(Gpa(2 * PAGE_SIZE - 4)), None);
        assert!(ram.set_bits(Gpa(u64::MAX), 0, 1), "there is nothing to lose");
        assert!(!ram.set_bits(Gpa(PAGE_SIZE), 1, 2) && ram.set_bits(Gpa(PAGE_SIZE), 0x403, 0x20));
        assert_eq!(ram.read_u32(Gpa(PAGE_SIZE)), Some(0x423));
        assert!(ram.write_u64(Gpa(2 * PAGE_SIZE - 8), 5) && !ram.write_u64(Gpa(2 * PAGE_SIZE - 7), 6));
        assert_eq!(ram.read_u64(Gpa(2 * PAGE_SIZE - 8)), Some(5));
        for at in [Gpa(100), Gpa(101), Gpa(2 * PAGE_SIZE - 2)] {
            assert!(ram.write_u16(at, 0x1234));
            assert_eq!(ram.read_u16(at), Some(0x1234));
        }
        assert!(!ram.write_u16(Gpa(2 * PAGE_SIZE - 1), 1));
        assert_eq!(ram.read_u16(Gpa(u64::MAX)), None);
    }

    #[test]
    fn ram_beyond_the_hole_continues_above_4_gib() {
        let ram = GuestRam::new(layout::LOW_RAM_END.0 + PAGE_SIZE).unwrap();
        assert_eq!(ram.slots().len(), 2);
        assert_eq!(ram.offset(layout::HIGH_RAM, 4096), Some(layout::LOW_RAM_END.0));
        assert_eq!(ram.offset(layout::HIGH_RAM, 4097), None);
        assert_eq!(ram.offset(layout::LOW_RAM_END, 1), None);
        ram.write(layout::HIGH_RAM, &[7]).unwrap();
    }

    #[test]
    fn written_code_is_told_once_and_by_guest_physical_page() {
        let ram = GuestRam::new(layout::LOW_RAM_END.0 + 2 * PAGE_SIZE).unwrap();
        let code = layout::HIGH_RAM.offset(PAGE_SIZE + 0x200);
        let mut cursor = ram.code().cursor();
        ram.code().mark(ram.offset(code, 16).unwrap(), 16);
        assert_eq!(ram.written_code(&mut cursor), None, "nobody has written");
        ram.write(code, &[7]).unwrap();
        let page = layout::HIGH_RAM.offset(PAGE_SIZE);
        assert_eq!(ram.written_code(&mut cursor), Some(CodeChanges::Pages(vec![page])));
        assert_eq!(ram.written_code(&mut cursor), None);
    }
}
