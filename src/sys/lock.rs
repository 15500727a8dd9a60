//! A lock that costs next to nothing to the one thread that takes it nearly always: that of a device, which is its
//! vCPU's.
//!
//! A mutex of the standard library takes two locked instructions, which is more than most accesses to a device cost
//! otherwise. This lock has an owner: the thread that took it [`TURNS`] times in a row. The owner marks it busy by a
//! plain store and looks whether it still is the owner. Everyone else takes the word, then borrows: takes the ownership
//! away, has all threads pass a memory barrier ([`membarrier`]) and waits until the lock is not busy. By the barrier
//! the owner's mark is seen here, or the loan is seen there, and the owner waits for the word like everyone else.
//!
//! `busy` is written by one thread only, ever: a lock has had one owner or none, and one that is borrowed too often
//! becomes plain for good. There are owners only where the process has asked for such barriers
//! ([`membarrier::prepare`]). A plain lock, or one without an owner yet, takes one locked instruction: the word is freed by
//! a plain store. Such a store may come over the mark of a thread that has just begun to wait, which then is not
//! woken; so waiters sleep for [`PATIENCE`] at most. A panic under the lock leaves it, and the value as it was then.
#![expect(unsafe_code, reason = "hands out references to a value that a word guards")]
use super::{futex, membarrier};
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};
use std::time::Duration;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody may sleep.
const WANTED: u32 = 2;

/// No thread is the owner yet.
const NOBODY: u32 = 0;
/// Somebody borrows it from the owner.
const LENT: u32 = u32::MAX;
/// There is no owner any more.
const PLAIN: u32 = u32::MAX - 1;

/// Looks at a word before a thread sleeps.
const LOOKS: u32 = 100;
/// How long a waiter sleeps at most before it looks again.
const PATIENCE: Duration = Duration::from_millis(1);
const TWICE: &str = "one thread takes a lock twice";
/// How often in a row a thread takes a lock before it is its owner.
const TURNS: u32 = 256;
/// Loans after which the lock becomes plain: another thread uses it, and a loan costs a hundred times a locked
/// instruction.
const MOST_LOANS: u32 = 4096;

thread_local! {
    /// This thread's number, given when it first takes a lock; 0 before.
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

#[inline]
fn this_thread() -> u32 {
    NUMBER.with(|number| if number.get() == 0 { give_number(number) } else { number.get() })
}

/// Numbers are not given twice. A process that has used them up gives [`PLAIN`], which is nobody's.
#[cold]
fn give_number(number: &Cell<u32>) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let next = |last: u32| (last < PLAIN - 1).then_some(last + 1);
    let given = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    number.set(given.map_or(PLAIN, |last| last + 1));
    number.get()
}

/// A value that one thread at a time may use.
#[derive(Default)]
pub struct Lock<T: ?Sized> {
    /// The number of the owner's thread, [`NOBODY`], [`LENT`] or [`PLAIN`]. Changed under the word.
    owner: AtomicU32,
    /// Nonzero while the owner has it without the word. Written by the owner only.
    busy: AtomicU32,
    word: AtomicU32,
    /// Who has the lock by the word; zero if nobody.
    holder: AtomicU32,
    /// Under the word: who had that last, and how often in a row.
    last: AtomicU32,
    turns: AtomicU32,
    /// Under the word.
    loans: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: whoever has the lock is the only one to reach the value, and that may be any thread.
unsafe impl<T: ?Sized + Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock around `value`, free.
    pub const fn new(value: T) -> Self {
        Self {
            owner: AtomicU32::new(NOBODY),
            busy: AtomicU32::new(0),
            word: AtomicU32::new(FREE),
            holder: AtomicU32::new(0),
            last: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            loans: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// By its owner, who marked it busy.
    Owner,
    /// By the word.
    Word,
    /// By the word, and borrowed from this owner.
    Loan(u32),
}

impl<T: ?Sized> Lock<T> {
    /// Waits until nobody has the lock, and takes it.
    ///
    /// # Panics
    /// If this thread has it already.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        let me = this_thread();
        let hold = if self.owner.load(Ordering::Relaxed) == me && self.enter(me) {
            Hold::Owner
        } else {
            self.take(me)
        };
        Locked { lock: self, hold, not_send: PhantomData }
    }

    /// Takes it for its owner, if that is still so.
    #[inline]
    fn enter(&self, me: u32) -> bool {
        // Only this thread writes its own number, or the owner's mark: what it reads here of itself is so.
        let again = self.busy.load(Ordering::Relaxed) != 0 || self.holder.load(Ordering::Relaxed) == me;
        if me == PLAIN || again {
            return false;
        }
        self.busy.store(1, Ordering::Relaxed);
        // The other half of the pair is in `borrow`.
        compiler_fence(Ordering::SeqCst);
        if self.owner.load(Ordering::Acquire) == me {
            return true;
        }
        self.busy.store(0, Ordering::Release);
        false
    }

    /// Takes it by the word.
    #[inline(never)]
    fn take(&self, me: u32) -> Hold {
        let owns = self.owner.load(Ordering::Relaxed) == me && self.busy.load(Ordering::Relaxed) != 0;
        assert!(!owns && (me == PLAIN || self.holder.load(Ordering::Relaxed) != me), "{TWICE}");
        if self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        self.holder.store(me, Ordering::Relaxed);
        match self.owner.load(Ordering::Relaxed) {
            PLAIN => Hold::Word,
            NOBODY => {
                self.consider(me);
                Hold::Word
            }
            // It was lent when this thread looked.
            owner if owner == me => Hold::Word,
            owner => {
                self.borrow();
                Hold::Loan(owner)
            }
        }
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            if self.word.load(Ordering::Relaxed) == FREE
                && self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
        while self.word.swap(WANTED, Ordering::Acquire) != FREE {
            futex::wait(&self.word, WANTED, Some(PATIENCE));
        }
    }

    /// Makes the thread that has the word the owner if it has had it often enough.
    fn consider(&self, me: u32) {
        let turns = match self.last.load(Ordering::Relaxed) == me {
            true => self.turns.load(Ordering::Relaxed).saturating_add(1),
            false => 0,
        };
        self.last.store(me, Ordering::Relaxed);
        self.turns.store(turns, Ordering::Relaxed);
        if turns == TURNS && membarrier::is_available() {
            // Others need the word, which this thread has; it does not take the lock again before it leaves it.
            self.owner.store(me, Ordering::Release);
        }
    }

    /// Takes the ownership away from another thread and waits until that has left. The word is this thread's.
    #[cold]
    fn borrow(&self) {
        self.owner.store(LENT, Ordering::SeqCst);
        membarrier::everywhere();
        let mut looks = 0;
        while self.busy.load(Ordering::Acquire) != 0 {
            looks += 1;
            match looks {
                0..LOOKS => std::hint::spin_loop(),
                LOOKS..=1000 => std::thread::yield_now(),
                _ => std::thread::sleep(PATIENCE / 10),
            }
        }
    }

    /// Gives the ownership back, or ends it for good.
    #[cold]
    fn give_back(&self, owner: u32) {
        let loans = self.loans.load(Ordering::Relaxed).saturating_add(1);
        self.loans.store(loans, Ordering::Relaxed);
        self.owner.store(if loans < MOST_LOANS { owner } else { PLAIN }, Ordering::Release);
    }

    fn leave_word(&self) {
        self.holder.store(0, Ordering::Relaxed);
        if self.word.load(Ordering::Relaxed) == TAKEN {
            self.word.store(FREE, Ordering::Release);
        } else {
            self.word.store(FREE, Ordering::Release);
            futex::wake(&self.word);
        }
    }
}

impl<T: ?Sized> std::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("owner", &self.owner).field("word", &self.word).finish_non_exhaustive()
    }
}

/// Has a [`Lock`] until it is dropped.
pub struct Locked<'a, T: ?Sized> {
    lock: &'a Lock<T>,
    hold: Hold,
    /// The owner's mark is its own: it must be taken down by the same thread.
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the value only.
unsafe impl<T: ?Sized + Sync> Sync for Locked<'_, T> {}

impl<T: ?Sized> Deref for Locked<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard has the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for Locked<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for Locked<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match self.hold {
            Hold::Owner => self.lock.busy.store(0, Ordering::Release),
            Hold::Word => self.lock.leave_word(),
            Hold::Loan(owner) => {
                self.lock.give_back(owner);
                self.lock.leave_word();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_has_the_value() {
        const TURNS: u64 = 20_000;
        let lock = Lock::new((0_u64, 0_u64));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let lock = &lock;
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        let mut pair = lock.lock();
                        let seen = pair.0;
                        pair.0 = seen + 1;
                        if (turn + thread) % 512 == 0 {
                            std::thread::yield_now();
                        }
                        assert_eq!(pair.1, seen);
                        pair.1 = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), (4 * TURNS, 4 * TURNS));
    }

    /// Takes the lock until this thread is its owner; says whether it is.
    fn own<T>(lock: &Lock<T>) -> bool {
        membarrier::prepare();
        for _ in 0..=TURNS + 1 {
            drop(lock.lock());
        }
        lock.owner.load(Ordering::Relaxed) == this_thread()
    }

    #[test]
    fn the_owner_and_borrowers_are_one_at_a_time() {
        const LOANS: u64 = 2000;
        let lock = Lock::new((0_u64, 0_u64));
        assert_eq!(own(&lock), membarrier::is_available());
        let finished = AtomicU32::new(0);
        let mut own_turns = 0;
        let turn = |pair: &mut (u64, u64)| {
            let seen = pair.0;
            pair.0 = seen + 1;
            std::hint::spin_loop();
            assert_eq!(pair.1, seen);
            pair.1 = seen + 1;
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..LOANS {
                        turn(&mut lock.lock());
                        std::thread::yield_now();
                    }
                    finished.fetch_add(1, Ordering::SeqCst);
                });
            }
            while finished.load(Ordering::SeqCst) < 2 {
                turn(&mut lock.lock());
                own_turns += 1;
            }
        });
        let all = 2 * LOANS + own_turns;
        assert_eq!(*lock.lock(), (all, all));
        if membarrier::is_available() {
            assert_eq!(lock.owner.load(Ordering::Relaxed), this_thread(), "it was given back each time");
        }
    }

    #[test]
    fn a_lock_that_another_thread_uses_becomes_plain() {
        let lock = Lock::new(0_u32);
        own(&lock);
        let before = *lock.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..=MOST_LOANS + TURNS {
                    *lock.lock() += 1;
                }
            });
        });
        assert_eq!(*lock.lock(), before + MOST_LOANS + TURNS + 1);
        if membarrier::is_available() {
            assert_eq!(lock.owner.load(Ordering::Relaxed), PLAIN);
        }
    }

    #[test]
    fn a_borrower_waits_for_the_owner_to_leave() {
        let lock = Lock::new(0);
        own(&lock);
        let mut held = lock.lock();
        std::thread::scope(|scope| {
            let borrower = scope.spawn(|| *lock.lock());
            while lock.word.load(Ordering::Relaxed) == FREE && held.hold == Hold::Owner {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(2));
            *held = 7;
            drop(held);
            assert_eq!(borrower.join().unwrap(), 7);
        });
        *lock.lock() = 8;
        assert_eq!(*lock.lock(), 8);
    }

    #[test]
    fn a_sleeper_gets_the_lock_when_it_is_left() {
        let lock = Lock::new(0);
        let mut held = lock.lock();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| *lock.lock());
            while lock.word.load(Ordering::Relaxed) != WANTED {
                std::thread::yield_now();
            }
            *held = 7;
            drop(held);
            assert_eq!(waiter.join().unwrap(), 7);
        });
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn an_owner_cannot_take_it_twice() {
        let lock = Lock::new(0);
        own(&lock);
        let _one = lock.lock();
        let _two = lock.lock();
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn who_has_the_word_cannot_take_it_twice() {
        let lock = Lock::new(0);
        let _one = lock.lock();
        let _two = lock.lock();
    }

    #[test]
    fn a_panic_leaves_the_lock() {
        let lock = Lock::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut value = lock.lock();
            *value = 2;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 2);
        own(&lock);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            *lock.lock() = 3;
            let _held = lock.lock();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(std::thread::scope(|scope| scope.spawn(|| *lock.lock()).join().unwrap()), 3);
    }
}
