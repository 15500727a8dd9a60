//! A lock that is cheap to take and to leave where nobody else wants it: that of a device.
//!
//! A mutex of the standard library takes two locked instructions, which is more than most accesses to a device cost
//! otherwise. This one takes one: it is left by a plain store. Such a store may come over the mark of a thread that has
//! just begun to wait, which then is not woken; so waiters sleep for [`PATIENCE`] at most. A panic under the lock leaves
//! it, and the value as it was then.
#![expect(unsafe_code, reason = "hands out references to a value that a word guards")]
use super::futex;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody may sleep.
const WANTED: u32 = 2;

/// Looks at the word before a thread sleeps.
const LOOKS: u32 = 100;
/// How long a waiter sleeps at most before it looks again.
const PATIENCE: Duration = Duration::from_millis(1);

/// A value that one thread at a time may use. Taking it twice in a thread waits for ever.
#[derive(Default)]
pub struct Lock<T: ?Sized> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: whoever has the lock is the only one to reach the value, and that may be any thread.
unsafe impl<T: ?Sized + Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock around `value`, free.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits until nobody has the lock, and takes it.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        if self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        Locked { lock: self, not_send: std::marker::PhantomData }
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

    #[cold]
    fn leave_wanted(&self) {
        self.word.store(FREE, Ordering::Release);
        futex::wake(&self.word);
    }
}

impl<T: ?Sized> std::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("word", &self.word).finish_non_exhaustive()
    }
}

/// Has a [`Lock`] until it is dropped.
pub struct Locked<'a, T: ?Sized> {
    lock: &'a Lock<T>,
    not_send: std::marker::PhantomData<*const ()>,
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
        if self.lock.word.load(Ordering::Relaxed) == TAKEN {
            self.lock.word.store(FREE, Ordering::Release);
        } else {
            self.lock.leave_wanted();
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
    fn a_panic_leaves_the_lock() {
        let lock = Lock::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut value = lock.lock();
            *value = 2;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 2);
    }
}
