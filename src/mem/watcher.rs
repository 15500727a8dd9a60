//! How vCPUs that run at once hear of each other's decoded code: so that each one's stores to it are noticed.
//!
//! A vCPU's own stores go around [`super::CodeMap`] where its soft TLB or a window lets them: it keeps them out of pages
//! with code. When a vCPU decodes the first code of a page, the others may store there in that way already. So the mark
//! is logged with a digest of the marked bytes, and those that execute are asked for attention. Each one, when it comes
//! out ([`Watcher::end`]), closes the pages to its stores and compares: bytes that are others than those that were
//! marked count as written, by whomever, and all forget what they made of them. Chunks that are marked while somebody
//! has not come so far yet are logged, too.
//!
//! Until then a vCPU may execute old code that another has overwritten, as the manual lets it do before it executes a
//! serializing instruction (SDM vol. 3A, 9.1.3). Whoever changes code that others execute tells them by an interrupt; a
//! vCPU that comes out, as it does for one, waits until all that execute have come to what it marked last, for a while. A
//! vCPU that does not execute writes nothing and is not disturbed: it looks at the log before it goes on
//! ([`Watcher::begin`]).
use super::GuestRam;
use crate::arch::address::PAGE_SIZE;
use crate::arch::{Gpa, paging::PageMemory};
use crate::sys::signal::KickCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Marks that are kept; who is further behind closes all pages.
const KEPT: usize = 1024;

/// Code that was decoded: chunks of 64 bytes of a page, and what they held.
#[derive(Clone, Copy, Debug)]
struct Mark {
    page: u64,
    chunks: u64,
    digest: u64,
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the first mark in `marks`.
    first: u64,
    marks: VecDeque<Mark>,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.marks.len() as u64
    }
}

/// All that watch the code of one RAM, and what they are to hear of.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Mutex<Vec<Weak<Watcher>>>,
    /// How many are in the list.
    count: AtomicUsize,
    log: Mutex<Log>,
    /// Marks that were logged so far.
    logged: AtomicU64,
}

/// One engine's part in the watch.
#[derive(Debug)]
pub struct Watcher {
    cell: Arc<KickCell>,
    /// It executes, so it may store.
    active: AtomicBool,
    /// Marks up to this number are known to it.
    settled: AtomicU64,
    /// It has made something of code that others that were behind this number may have been writing.
    made: AtomicU64,
}

/// What an engine is to do with its stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Those to this page take the slow path, which tells [`super::CodeMap`].
    Page(Gpa),
    /// All pages are looked at anew.
    All,
}

impl Watchers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<Watcher>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, cell: &Arc<KickCell>) -> Arc<Watcher> {
        // What was marked before cannot be open to its stores: it has none yet.
        let settled = AtomicU64::new(self.log().end());
        let watcher = Arc::new(Watcher {
            cell: Arc::clone(cell),
            active: AtomicBool::new(false),
            settled,
            made: AtomicU64::new(0),
        });
        let mut list = self.list();
        list.retain(|watcher| watcher.strong_count() > 0);
        list.push(Arc::downgrade(&watcher));
        self.count.store(list.len(), Ordering::SeqCst);
        watcher
    }

    /// Asks all that execute for attention, but for the one of the calling thread.
    pub(super) fn poke(&self) {
        for watcher in self.list().iter().filter_map(Weak::upgrade) {
            if watcher.active.load(Ordering::SeqCst) {
                watcher.cell.poke_from_elsewhere();
            }
        }
    }

    /// Whether some other than `own` executes and has not come to the mark with this number.
    fn lag(&self, own: &Watcher, mark: u64) -> bool {
        let lags = |watcher: Arc<Watcher>| {
            !std::ptr::eq(&*watcher, own)
                && watcher.active.load(Ordering::SeqCst)
                && watcher.settled.load(Ordering::SeqCst) < mark
        };
        self.list().iter().filter_map(Weak::upgrade).any(lags)
    }
}

impl GuestRam {
    /// From now on the code of this RAM is watched for the vCPU of `cell`: each write to code asks `cell` for attention
    /// while it is active ([`Watcher::begin`]), because its vCPU goes from block to block without a look at the log.
    pub fn watch_code(&self, cell: &Arc<KickCell>) -> Arc<Watcher> {
        self.code.watchers().add(cell)
    }

    /// Marks code, as [`super::CodeMap::mark`], for the vCPU that `own` is of. To be called before the bytes are read, which lie in
    /// one page. Whether that vCPU is to close the page to its own stores.
    #[must_use]
    pub fn mark_code(&self, offset: u64, length: u64, own: &Watcher) -> bool {
        let watchers = self.code.watchers();
        if watchers.count.load(Ordering::SeqCst) < 2 {
            return self.code.mark(offset, length);
        }
        let before = self.code.chunks_of(offset);
        let wanted = super::code_map::mask(offset, length);
        if before & wanted == wanted {
            // Whoever marked it has logged it, or it was settled.
            let logged = watchers.logged.load(Ordering::SeqCst);
            own.made.store(logged, Ordering::Relaxed);
            return own.settled.load(Ordering::Relaxed) < logged;
        }
        let mut log = watchers.log();
        let first = self.code.mark(offset, length);
        if !first && !watchers.lag(own, log.end()) {
            return own.settled.load(Ordering::Relaxed) < log.end();
        }
        let page = offset / PAGE_SIZE;
        if log.marks.len() >= KEPT {
            log.marks.pop_front();
            log.first += 1;
        }
        log.marks.push_back(Mark { page, chunks: wanted, digest: self.digest(page, wanted) });
        watchers.logged.store(log.end(), Ordering::SeqCst);
        own.made.store(log.end(), Ordering::Relaxed);
        drop(log);
        watchers.poke();
        true
    }

    /// A number that tells other contents of these chunks of a page apart.
    pub(super) fn digest(&self, page: u64, chunks: u64) -> u64 {
        let Some(start) = self.gpa_of(page * PAGE_SIZE) else { return 0 };
        let mut digest = 0_u64;
        let mut left = chunks;
        while left != 0 {
            let chunk = start.offset(64 * u64::from(left.trailing_zeros()));
            left &= left - 1;
            for word in 0..8 {
                let value = self.read_u64(chunk.offset(8 * word)).unwrap_or(0);
                digest = (digest.rotate_left(25) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                digest ^= digest >> 32;
            }
        }
        digest
    }
}

impl Watcher {
    /// From now on the vCPU executes. `close` is called for what is to be closed to its stores first.
    #[inline]
    pub fn begin(&self, ram: &GuestRam, close: impl FnMut(Close)) {
        if self.made.load(Ordering::Relaxed) != 0 {
            self.let_others_come(ram);
        }
        // Before the log is looked at: who logs a mark looks at this after it.
        self.active.swap(true, Ordering::SeqCst);
        if self.settled.load(Ordering::Relaxed) != ram.code.watchers().logged.load(Ordering::SeqCst) {
            self.settle(ram, false, close);
        }
    }

    /// The vCPU does not execute any more, for now. `close` as in [`Self::begin`].
    #[inline]
    pub fn end(&self, ram: &GuestRam, close: impl FnMut(Close)) {
        if self.settled.load(Ordering::Relaxed) != ram.code.watchers().logged.load(Ordering::SeqCst) {
            self.settle(ram, true, close);
        }
        self.active.store(false, Ordering::Release);
    }

    /// Waits until all that execute have come to what was marked when this vCPU last made something of code. It does not
    /// execute itself meanwhile, so that none waits for it; one that takes too long is waited for no longer.
    #[cold]
    fn let_others_come(&self, ram: &GuestRam) {
        const PATIENCE: Duration = Duration::from_millis(1);
        const LOOKS: u32 = 64;
        let made = self.made.swap(0, Ordering::Relaxed);
        let (mut looks, mut start) = (0, None);
        while ram.code.watchers().lag(self, made) {
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else if start.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                std::thread::yield_now();
            } else {
                break;
            }
        }
    }

    /// Takes in what was marked since. If it `stored` meanwhile, what it may have overwritten counts as written.
    #[cold]
    fn settle(&self, ram: &GuestRam, stored: bool, mut close: impl FnMut(Close)) {
        let watchers = ram.code.watchers();
        let log = watchers.log();
        let seen = self.settled.load(Ordering::SeqCst).checked_sub(log.first);
        let end = log.end();
        let marks: Option<Vec<Mark>> =
            seen.map(|seen| log.marks.iter().skip(seen as usize).copied().collect());
        drop(log);
        match marks {
            None => {
                close(Close::All);
                if stored {
                    ram.code.forget_all();
                }
            }
            Some(marks) => {
                for mark in marks {
                    if let Some(page) = ram.gpa_of(mark.page * PAGE_SIZE) {
                        close(Close::Page(page));
                    }
                    if stored && ram.digest(mark.page, mark.chunks) != mark.digest {
                        ram.code.note_write(mark.page * PAGE_SIZE, PAGE_SIZE);
                    }
                }
            }
        }
        self.settled.store(end, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::CodeChanges;

    const CODE: u64 = PAGE_SIZE + 0x80;

    fn closed(watcher: &Watcher, ram: &GuestRam, ends: bool) -> Vec<Close> {
        let mut list = vec![];
        match ends {
            true => watcher.end(ram, |close| list.push(close)),
            false => watcher.begin(ram, |close| list.push(close)),
        }
        list
    }

    #[test]
    fn stores_of_another_vcpu_to_fresh_code_are_noticed_when_it_comes_out() {
        let ram = GuestRam::new(4 * PAGE_SIZE).unwrap();
        let cells = [KickCell::new(), KickCell::new()];
        let [one, other] = [&cells[0], &cells[1]].map(|cell| ram.watch_code(cell));
        let mut cursor = ram.code().cursor();
        assert!(closed(&one, &ram, false).is_empty() && closed(&other, &ram, false).is_empty());
        assert!(ram.mark_code(CODE, 16, &one));
        assert!(cells[1].is_raised(), "it executes, and is asked");
        // As a store by a TLB entry goes: nobody is told.
        let host = ram.host(Gpa(CODE + 64), 8).unwrap();
        assert!(!host.is_null());
        assert_eq!(closed(&other, &ram, true), [Close::Page(Gpa(PAGE_SIZE))]);
        assert_eq!(ram.written_code(&mut cursor), None, "the bytes are those that were marked");
        closed(&other, &ram, false);
        // Settled: a further chunk of the page is closed already.
        assert!(closed(&one, &ram, true).contains(&Close::Page(Gpa(PAGE_SIZE))));
        closed(&one, &ram, false);
        assert!(!ram.mark_code(CODE + 256, 16, &one));
        assert!(closed(&other, &ram, true).is_empty());
    }

    #[test]
    fn bytes_that_changed_before_the_page_was_closed_count_as_written() {
        let ram = GuestRam::new(4 * PAGE_SIZE).unwrap();
        let cells = [KickCell::new(), KickCell::new()];
        let [one, other] = [&cells[0], &cells[1]].map(|cell| ram.watch_code(cell));
        let mut cursor = ram.code().cursor();
        closed(&one, &ram, false);
        closed(&other, &ram, false);
        assert!(ram.mark_code(CODE, 16, &one));
        ram.store_unnoticed(Gpa(CODE + 8), 0x1234);
        closed(&other, &ram, true);
        let page = CodeChanges::Pages(vec![Gpa(PAGE_SIZE)]);
        assert_eq!(ram.written_code(&mut cursor), Some(page));
    }

    #[test]
    fn who_does_not_execute_is_left_alone_and_told_before_it_does() {
        let ram = GuestRam::new(4096 * PAGE_SIZE).unwrap();
        let cells = [KickCell::new(), KickCell::new()];
        let [one, other] = [&cells[0], &cells[1]].map(|cell| ram.watch_code(cell));
        closed(&one, &ram, false);
        assert!(ram.mark_code(CODE, 16, &one));
        assert!(!cells[1].is_raised());
        assert_eq!(closed(&other, &ram, false), [Close::Page(Gpa(PAGE_SIZE))]);
        closed(&other, &ram, true);
        for page in 2..KEPT as u64 + 4 {
            assert!(ram.mark_code(page * PAGE_SIZE, 16, &one));
        }
        assert_eq!(closed(&other, &ram, false), [Close::All]);
        assert!(closed(&other, &ram, true).is_empty());
    }
}
