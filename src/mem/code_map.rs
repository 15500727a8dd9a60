//! Which bytes of RAM hold code that an engine has decoded, so that writes to them are noticed.
//!
//! For each page a mask of its 64-byte chunks; a bit is set by an engine when it decodes code from the chunk. A write
//! to a marked chunk takes the page's whole mask down and appends the page to a log, which each engine reads from its
//! own cursor, at latest before its next block ([`super::GuestRam::written_code`]). Marking and noticing are atomic per
//! page: a write is either before the decoding (which then sees the new bytes, because the mark is set first) or logged.
use super::watcher::Watchers;
use crate::arch::{Gpa, address::PAGE_SIZE};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// Log entries that are kept; a reader that is further behind is told to forget everything.
const KEPT: usize = 1024;

#[derive(Debug, Default)]
struct Log {
    /// Number of the first entry in `pages`.
    first: u64,
    pages: Vec<u64>,
}

/// What a reader of the log must forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CodeChanges {
    /// These pages, by the addresses of their first bytes, held code that is gone.
    Pages(Vec<Gpa>),
    /// Too much to list.
    Everything,
}

/// Bits of the chunks that `length` bytes at `offset` touch within the page of `offset`.
pub(super) const fn mask(offset: u64, length: u64) -> u64 {
    let first = offset % PAGE_SIZE / 64;
    let end = offset % PAGE_SIZE + length;
    let last = if end > PAGE_SIZE { 63 } else { end.saturating_sub(1) / 64 };
    if last < first {
        return 0;
    }
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

/// The marks of one RAM. Offsets are those of [`super::GuestRam::offset`].
#[derive(Debug)]
pub struct CodeMap {
    chunks: Box<[AtomicU64]>,
    written: AtomicU64,
    log: Mutex<Log>,
    watchers: Watchers,
}

impl CodeMap {
    pub(super) fn new(size: u64) -> Self {
        let pages = usize::try_from(size / PAGE_SIZE).unwrap_or(0);
        Self {
            chunks: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            written: AtomicU64::new(0),
            log: Mutex::default(),
            watchers: Watchers::default(),
        }
    }

    /// Who is told of writes, and of marks.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// The chunks of the page of `offset` that are marked.
    pub(super) fn chunks_of(&self, offset: u64) -> u64 {
        self.chunks.get((offset / PAGE_SIZE) as usize).map_or(0, |page| page.load(Ordering::SeqCst))
    }

    /// Tells all readers of the log to forget everything.
    pub(super) fn forget_all(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.first += log.pages.len() as u64 + 1;
        log.pages.clear();
        self.written.store(log.first, Ordering::SeqCst);
        drop(log);
        self.watchers.poke();
    }

    /// Marks code; returns whether it is the first of its page. The bytes lie in one page.
    pub fn mark(&self, offset: u64, length: u64) -> bool {
        self.chunks
            .get((offset / PAGE_SIZE) as usize)
            .is_some_and(|page| page.fetch_or(mask(offset, length), Ordering::SeqCst) == 0)
    }

    /// Whether the page of `offset` holds code.
    #[inline]
    #[must_use]
    pub fn has_code(&self, offset: u64) -> bool {
        self.chunks.get((offset / PAGE_SIZE) as usize).is_some_and(|page| page.load(Ordering::Relaxed) != 0)
    }

    /// Notes a write of `length` bytes at `offset`. Returns whether code was hit.
    #[inline]
    pub fn note_write(&self, offset: u64, length: u64) -> bool {
        let last = offset.saturating_add(length.saturating_sub(1)) / PAGE_SIZE;
        let mut hit = false;
        let mut at = offset;
        while at / PAGE_SIZE <= last {
            let in_page = (PAGE_SIZE - at % PAGE_SIZE).min(offset + length - at);
            if self.has_code(at) {
                hit |= self.note_in_page(at, in_page);
            }
            at = (at / PAGE_SIZE + 1) * PAGE_SIZE;
        }
        hit
    }

    #[cold]
    fn note_in_page(&self, offset: u64, length: u64) -> bool {
        let page = offset / PAGE_SIZE;
        let Some(cell) = self.chunks.get(page as usize) else {
            return false;
        };
        // The write is before the look: who marks in between reads what was written.
        fence(Ordering::SeqCst);
        if cell.load(Ordering::SeqCst) & mask(offset, length) == 0 {
            return false;
        }
        cell.store(0, Ordering::SeqCst);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.pages.len() >= KEPT {
            log.first += log.pages.len() as u64;
            log.pages.clear();
        }
        log.pages.push(page);
        self.written.store(log.first + log.pages.len() as u64, Ordering::SeqCst);
        drop(log);
        self.watchers.poke();
        true
    }

    /// The number of log entries so far: a cursor at the newest one. Cheap: one load.
    #[inline]
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Pages (offset in RAM / 4096) that were logged since `cursor`, which goes on to the newest entry; `None` if too
    /// many were to keep them all.
    pub(super) fn read_log(&self, cursor: &mut u64) -> Option<Vec<u64>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = cursor.checked_sub(log.first);
        *cursor = log.first + log.pages.len() as u64;
        seen.map(|seen| log.pages.get(seen as usize..).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_to_marked_chunks_are_logged() {
        let map = CodeMap::new(4 * PAGE_SIZE);
        assert!(map.mark(PAGE_SIZE + 100, 30));
        assert!(!map.mark(PAGE_SIZE + 4000, 96), "the page is marked already");
        assert!(!map.note_write(PAGE_SIZE + 192, 8));
        assert!(!map.note_write(0, PAGE_SIZE));
        assert_eq!(map.cursor(), 0);
        assert!(map.note_write(PAGE_SIZE - 10, 100));
        let mut cursor = 0;
        assert_eq!((map.read_log(&mut cursor), cursor), (Some(vec![1]), 1));
        assert!(!map.note_write(PAGE_SIZE + 100, 1), "the whole page was taken down");
        assert_eq!((map.read_log(&mut cursor), cursor), (Some(vec![]), 1));
    }

    #[test]
    fn a_reader_far_behind_is_told_to_forget_everything() {
        let map = CodeMap::new(PAGE_SIZE);
        for _ in 0..KEPT + 5 {
            map.mark(0, 1);
            map.note_write(0, 1);
        }
        let mut cursor = 3;
        assert_eq!(map.read_log(&mut cursor), None);
        assert_eq!(cursor, map.cursor());
        assert!(!map.has_code(0));
    }

    #[test]
    fn a_long_write_hits_every_page_it_covers() {
        let map = CodeMap::new(8 * PAGE_SIZE);
        for page in [1, 2, 5] {
            map.mark(page * PAGE_SIZE + 64, 1);
        }
        assert!(map.note_write(PAGE_SIZE + 64, 4 * PAGE_SIZE + 1));
        assert_eq!(map.read_log(&mut 0), Some(vec![1, 2, 5]));
    }
}
