//! Where locked accesses are made: those of LOCK-prefixed instructions, and of XCHG with memory.
//!
//! In RAM they are locked instructions of the host, aligned or not, whatever their pages hold. One that crosses into a page
//! that does not follow in RAM, or reaches a device, is made in two steps under one lock: whole to each other, though not
//! to locked accesses within one of its pages.
use super::{Fault, Mmu};
use crate::arch::Gpa;
use crate::arch::paging::Access;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by accesses that no instruction of the host can make.
static SPLIT: Mutex<()> = Mutex::new(());

/// Where the host makes a locked access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locked {
    /// Host address of all its bytes.
    pub host: usize,
    /// Where they are, if somebody may want to know that they were written.
    gpa: Option<Gpa>,
}

impl Mmu<'_> {
    /// Where the host can make a locked access of `length` bytes at `at`, once [`Mmu::end_locked`] is told of it; `None` if
    /// it has to be made in steps, under [`split_lock`]. All that it can raise is raised.
    #[inline]
    pub(crate) fn locked_place(
        &mut self,
        at: u64,
        length: usize,
        stack: bool,
    ) -> Result<Option<Locked>, Fault> {
        match self.tlb.write(self.bank, at, length) {
            Some(host) => Ok(Some(Locked { host, gpa: None })),
            None => self.find_locked_place(at, length, stack),
        }
    }

    #[cold]
    fn find_locked_place(&mut self, at: u64, length: usize, stack: bool) -> Result<Option<Locked>, Fault> {
        let (in_first, first, second) = self.places(self.bank, at, length, Access::Write, stack)?;
        let follows = |host: *mut u8| {
            second.is_none_or(|second| {
                second.host.is_some_and(|next| host as usize + in_first == next as usize)
            })
        };
        let host = first.host.filter(|host| follows(*host));
        Ok(host.map(|host| Locked { host: host as usize, gpa: Some(first.gpa) }))
    }

    /// Tells whom it concerns that a locked access was made.
    #[inline]
    pub(crate) fn end_locked(&mut self, place: Locked, at: u64, length: usize) {
        if let Some(gpa) = place.gpa {
            self.note_locked(gpa, at, length);
        }
    }

    #[cold]
    fn note_locked(&mut self, gpa: Gpa, at: u64, length: usize) {
        self.stop |= self.watches.note(at, length, true);
        if let Some(offset) = self.ram.offset(gpa, 1) {
            let code = self.ram.code();
            self.stop |= code.has_code(offset) || code.has_code(offset + (length as u64 - 1));
            code.note_write(offset, length as u64);
        }
    }
}

/// Keeps other accesses in steps away.
pub(crate) fn split_lock() -> MutexGuard<'static, ()> {
    SPLIT.lock().unwrap_or_else(PoisonError::into_inner)
}
