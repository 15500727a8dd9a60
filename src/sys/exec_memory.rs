//! Memory for generated code: one memory object, mapped twice, writable here and executable there.
//!
//! No mapping is ever both, so a stray write through a code address faults, and a jump through the writable view too.
//! The views lie at unrelated addresses. Writes go through [`ExecMemory::write`], which checks bounds; x86 keeps
//! instruction fetch coherent with stores by physical address, so code written by a thread can be called by that thread
//! after the return of `write` (SDM 9.1.3: the call is the jump that is demanded).
#![expect(unsafe_code, reason = "maps executable memory")]
use super::memfd;
use super::reserved::Reserved;
use std::fs::File;
use std::io;

/// Bytes of pages that are asked for at once.
const STEP: usize = 128 << 10;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// One mapping of a memory object, at a multiple of [`HUGE`].
#[derive(Debug)]
struct View {
    at: *mut u8,
    size: usize,
    /// Holds the mapping.
    _room: Reserved,
}

impl View {
    fn new(file: &File, size: usize, rights: libc::c_int) -> io::Result<Self> {
        let mut room = Reserved::new(size + HUGE)?;
        let at = room.base().next_multiple_of(HUGE);
        room.map(at - room.base(), size, file, 0, rights)?;
        Ok(Self { at: at as *mut u8, size, _room: room })
    }

    /// Gives an advice on a part; says whether the kernel knows it, and could follow it.
    fn advise(&self, from: usize, length: usize, advice: libc::c_int) -> bool {
        debug_assert!(from + length <= self.size);
        // SAFETY: the part lies in this mapping, and none of the advices given here changes contents.
        unsafe { libc::madvise(self.at.add(from).cast(), length, advice) == 0 }
    }
}

/// A block of code memory.
#[derive(Debug)]
pub struct ExecMemory {
    writable: View,
    executable: View,
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
        let writable = View::new(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = View::new(&file, size, libc::PROT_READ | libc::PROT_EXEC)?;
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
        self.executable.at as usize + offset
    }

    /// Whether `address` lies in the executable view.
    #[must_use]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.executable.at as usize) < self.size
    }

    /// Asks for the pages before `end`, and some behind, in both views at once: a fault for each costs more.
    ///
    /// Code that has outgrown a huge page lies in huge pages from there on, for large guests spread their code over more
    /// pages than the host's TLB for instructions holds. (`MADV_COLLAPSE`, Linux 6.1: it asks no setting of the system's.)
    #[cold]
    fn populate(&mut self, end: usize) {
        let from = self.populated;
        let whole = self.size / HUGE * HUGE;
        if end > HUGE && end <= whole {
            let to = end.next_multiple_of(HUGE);
            // The first piece is in small pages so far.
            let from = if from <= HUGE { 0 } else { from };
            // What has no page yet is not collapsed.
            self.writable.advise(to - HUGE, 1, libc::MADV_POPULATE_WRITE);
            let views = [&self.writable, &self.executable];
            if views.into_iter().all(|view| view.advise(from, to - from, libc::MADV_COLLAPSE)) {
                self.populated = to;
                return;
            }
        }
        self.populated = end.next_multiple_of(STEP).min(self.size);
        self.writable.advise(from, self.populated - from, libc::MADV_POPULATE_WRITE);
        self.executable.advise(from, self.populated - from, libc::MADV_POPULATE_READ);
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
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.at.add(offset), code.len());
        }
        true
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
