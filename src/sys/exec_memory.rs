//! Memory for generated code: one memory object, mapped twice, writable here and executable there.
//!
//! No mapping is ever both, so a stray write through a code address faults, and a jump through the writable view too.
//! The views lie at unrelated addresses. Writes go through [`ExecMemory::write`], which checks bounds; x86 keeps
//! instruction fetch coherent with stores by physical address, so code written by a thread can be called by that thread
//! after the return of `write` (SDM 9.1.3: the call is the jump that is demanded).
#![expect(unsafe_code, reason = "maps executable memory")]
use super::memfd;
use memmap2::{MmapOptions, MmapRaw};
use std::io;

/// Bytes of pages that are asked for at once.
const STEP: usize = 128 << 10;

/// A block of code memory.
#[derive(Debug)]
pub struct ExecMemory {
    writable: MmapRaw,
    executable: *mut libc::c_void,
    size: usize,
    /// The pages before this offset were asked for.
    populated: usize,
}

// SAFETY: the mappings belong to this value alone and are valid in every thread; changes need `&mut self`.
unsafe impl Send for ExecMemory {}

impl ExecMemory {
    /// Code memory of at least `size` bytes (rounded up to whole pages), all zero. Pages cost memory once written.
    ///
    /// # Errors
    /// What the kernel reports: no memory, or a policy against executable mappings.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.max(1).next_multiple_of(4096);
        let file = memfd::create(c"trivisor-code", size as u64)?;
        let writable = MmapOptions::new().len(size).map_raw(&file)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let executable = unsafe {
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, fd, 0)
        };
        if executable == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { writable, executable, size, populated: 0 })
    }

    /// Bytes in all.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Address at which the byte at `offset` can be executed. `offset` is at most [`Self::size`].
    #[must_use]
    pub fn address(&self, offset: usize) -> usize {
        debug_assert!(offset <= self.size);
        self.executable as usize + offset
    }

    /// Whether `address` lies in the executable view.
    #[must_use]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.executable as usize) < self.size
    }

    /// Asks for the pages before `end`, and some behind, in both views at once: a fault for each costs more.
    #[cold]
    fn populate(&mut self, end: usize) {
        let from = self.populated;
        self.populated = end.next_multiple_of(STEP).min(self.size);
        let length = self.populated - from;
        // SAFETY: both ranges lie in mappings of ours, whose contents this does not change. A kernel that does not know
        // the advice refuses; the pages come one by one then.
        unsafe {
            let writable = self.writable.as_mut_ptr().add(from);
            libc::madvise(writable.cast(), length, libc::MADV_POPULATE_WRITE);
            libc::madvise(self.executable.byte_add(from), length, libc::MADV_POPULATE_READ);
        }
    }

    /// Writes code at `offset`. Says `false`, and writes nothing, if it does not fit.
    #[must_use]
    pub fn write(&mut self, offset: usize, code: &[u8]) -> bool {
        if offset > self.size || code.len() > self.size - offset {
            return false;
        }
        if offset + code.len() > self.populated {
            self.populate(offset + code.len());
        }
        // SAFETY: the range was checked against the mapping, which no Rust reference covers.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_mut_ptr().add(offset), code.len());
        }
        true
    }
}

impl Drop for ExecMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever calls code in it holds a borrow of `self`.
        unsafe { libc::munmap(self.executable, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_code_runs_and_can_be_replaced() {
        let mut memory = ExecMemory::new(1).unwrap();
        for value in [1_u32, 77] {
            let mut code = vec![0xb8];
            code.extend_from_slice(&value.to_le_bytes());
            code.push(0xc3);
            assert!(memory.write(16, &code));
            // SAFETY: `mov eax, value; ret` is a function of this type.
            let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(memory.address(16)) };
            assert_eq!(function(), value);
        }
        assert!(memory.contains(memory.address(4095)) && !memory.contains(memory.address(4096)));
    }

    #[test]
    fn code_beyond_the_end_is_refused() {
        let mut memory = ExecMemory::new(4096).unwrap();
        assert!(!memory.write(4095, &[0, 0]));
        assert!(!memory.write(usize::MAX, &[0]));
        assert!(memory.write(4096, &[]));
    }

    #[test]
    fn no_mapping_is_both_writable_and_executable() {
        let _memory = ExecMemory::new(4096).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours: Vec<_> = maps.lines().filter(|l| l.contains("trivisor-code")).collect();
        assert!(ours.len() >= 2);
        assert!(ours.iter().all(|l| !l.contains("rwx")), "{ours:?}");
    }
}
