//! Mutable statics for a machine with one CPU.

use core::cell::UnsafeCell;

/// A static value that one CPU mutates. The holder of a reference must not let an interrupt handler take another.
#[repr(transparent)]
pub struct Single<T>(UnsafeCell<T>);

// SAFETY: there is one CPU; handlers that share a value with the code they interrupt use volatile access.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    /// Wraps the initial value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where the value lies.
    pub const fn pointer(&self) -> *mut T {
        self.0.get()
    }

    /// The value, to be changed.
    ///
    /// # Safety
    /// No other reference to it may be alive.
    #[expect(clippy::mut_from_ref, reason = "that is what the type is for")]
    pub unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.get() }
    }
}

/// A counter that an interrupt or exception handler advances while other code reads it.
pub type Counter = Single<u64>;

impl Single<u64> {
    /// The current value, read anew each time.
    #[inline(always)]
    pub fn read(&self) -> u64 {
        // SAFETY: an aligned 64-bit load is one access.
        unsafe { self.0.get().read_volatile() }
    }

    /// Sets the value.
    #[inline(always)]
    pub fn write(&self, value: u64) {
        // SAFETY: an aligned 64-bit store is one access.
        unsafe { self.0.get().write_volatile(value) }
    }
}
