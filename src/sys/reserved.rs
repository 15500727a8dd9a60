//! Address space of this process that is kept free, for pages of memory objects to be mapped into (mmap(2)).
#![expect(unsafe_code, reason = "maps memory at chosen addresses")]
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

const PAGE: usize = 4096;

/// A reserved stretch. What nothing was mapped to cannot be accessed.
#[derive(Debug)]
pub struct Reserved {
    base: *mut libc::c_void,
    size: usize,
    /// A mapping failed, and with it perhaps a part of the reservation.
    is_torn: bool,
}

// SAFETY: the reservation belongs to this value alone and means the same in every thread; changes need `&mut self`.
unsafe impl Send for Reserved {}

fn checked(mapped: *mut libc::c_void) -> io::Result<*mut libc::c_void> {
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped) }
}

/// Inaccessible, and without memory behind it.
const NOTHING: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Reserved {
    /// Reserves `size` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// What the kernel reports: no address space, or a limit on it.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.max(1).next_multiple_of(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, NOTHING, -1, 0) };
        Ok(Self { base: checked(base)?, size, is_torn: false })
    }

    /// Its first address.
    #[must_use]
    pub fn base(&self) -> usize {
        self.base as usize
    }

    /// Maps the page of `file` at `offset` to the page at `at` bytes into the reservation, for reading and writing. What
    /// was mapped there is so no more; who has its address must not use it.
    ///
    /// # Errors
    /// What the kernel reports, for instance that there are too many mappings; nothing can be mapped after that.
    ///
    /// # Panics
    /// If `at` is no page of the reservation.
    pub fn map_page(&mut self, at: usize, file: &File, offset: u64) -> io::Result<()> {
        self.map(at, PAGE, file, offset, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// As [`Self::map_page`], for `length` bytes with these rights (`libc::PROT_*`).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If these are no pages of the reservation.
    pub fn map(
        &mut self,
        at: usize,
        length: usize,
        file: &File,
        offset: u64,
        rights: libc::c_int,
    ) -> io::Result<()> {
        let pages = at.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length > 0;
        let within = at < self.size && length <= self.size - at;
        assert!(pages && within, "{length:#x} bytes at {at:#x} are no pages of {:#x} bytes", self.size);
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        if self.is_torn {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let how = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the pages lie in the reservation, so that nothing but what was mapped here before is replaced.
        let mapped =
            unsafe { libc::mmap(self.base.byte_add(at), length, rights, how, file.as_raw_fd(), offset) };
        self.is_torn = mapped == libc::MAP_FAILED;
        checked(mapped).map(|_| ())
    }

    /// Unmaps everything, and keeps the reservation.
    ///
    /// # Errors
    /// What the kernel reports; nothing can be mapped after that.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.is_torn {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: as in `map_page`.
        let mapped =
            unsafe { libc::mmap(self.base, self.size, libc::PROT_NONE, NOTHING | libc::MAP_FIXED, -1, 0) };
        self.is_torn = mapped == libc::MAP_FAILED;
        checked(mapped).map(|_| ())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // What is torn may have holes in which others map: it stays as it is.
        if !self.is_torn {
            // SAFETY: the stretch was reserved by `new`, and belongs to this value.
            unsafe { libc::munmap(self.base, self.size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd;

    #[test]
    fn pages_lie_side_by_side_in_the_order_of_their_mappings() {
        let file = memfd::create(c"test", 4 * PAGE as u64).unwrap();
        let view = memmap2::MmapOptions::new().len(4 * PAGE).map_raw(&file).unwrap();
        let mut reserved = Reserved::new(3 * PAGE).unwrap();
        for (at, page) in [3_usize, 0, 2].into_iter().enumerate() {
            reserved.map_page(at * PAGE, &file, (page * PAGE) as u64).unwrap();
            // SAFETY: both lie in live mappings of the object.
            let seen = unsafe {
                view.as_mut_ptr().add(page * PAGE + 5).write_volatile(at as u8 + 1);
                ((reserved.base() + at * PAGE + 5) as *const u8).read_volatile()
            };
            assert_eq!(seen, at as u8 + 1);
        }
        reserved.clear().unwrap();
        reserved.map_page(0, &file, 0).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { ((reserved.base() + 5) as *const u8).read_volatile() }, 2);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = memfd::create(c"test", PAGE as u64).unwrap();
        let mut reserved = Reserved::new(PAGE).unwrap();
        assert!(reserved.map_page(0, &file, 7).is_err(), "no page of the object");
        assert!(reserved.map_page(0, &file, 0).is_err(), "the reservation may have a hole");
        assert!(reserved.clear().is_err());
    }
}
