//! Sleeps on a 32-bit word, and wakes the sleepers (futex(2)).
#![expect(unsafe_code, reason = "the futex system call has no safe wrapper in std")]
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` holds `expected`, for at most `timeout`. Returns early for a signal or without a reason: the
/// caller looks at the word again.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let spec_ptr = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is a live, aligned u32; the timeout is null or points to `spec`, which outlives the call. Not
    // FUTEX_PRIVATE: words may lie in memory shared with a child process.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, spec_ptr) };
}

/// Sleeps while all words hold what is expected of them, for at most `timeout`. Returns early for a signal or without a
/// reason: the caller looks at the words again. Before Linux 5.16 a change of another word than the first is noticed
/// within 1 ms.
pub fn wait_any<const N: usize>(words: [(&AtomicU32, u32); N], timeout: Duration) {
    /// struct futex_waitv.
    #[repr(C)]
    struct Waiter {
        expected: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    const FUTEX2_SIZE_U32: u32 = 2;
    let waiters = words.map(|(word, expected)| Waiter {
        expected: expected.into(),
        address: word.as_ptr() as u64,
        flags: FUTEX2_SIZE_U32,
        reserved: 0,
    });
    // SAFETY: all-zero is a valid timespec.
    let mut deadline: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `deadline` is live.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut deadline) };
    let nanos = deadline.tv_nsec + i64::from(timeout.subsec_nanos());
    deadline.tv_sec += timeout.as_secs() as i64 + nanos / 1_000_000_000;
    deadline.tv_nsec = nanos % 1_000_000_000;
    // SAFETY: live waiters with live, aligned words, and a live deadline (absolute, as the call wants it).
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            N,
            0,
            &raw const deadline,
            libc::CLOCK_MONOTONIC,
        )
    };
    // Kernels before 5.16 lack the call, and filters of older containers refuse it.
    let refused = !matches!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT)
    );
    if result < 0
        && refused
        && let Some((word, expected)) = words.first()
    {
        wait(word, *expected, Some(timeout.min(Duration::from_millis(1))));
    }
}

/// Wakes all sleepers on `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the kernel only uses the address as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 0 {
                    wait(&word, 0, None);
                }
            });
            word.store(1, Ordering::Release);
            wake(&word);
        });
    }

    #[test]
    fn a_changed_word_or_a_timeout_ends_the_sleep() {
        let word = AtomicU32::new(1);
        wait(&word, 0, None);
        wait(&word, 1, Some(Duration::from_millis(1)));
    }
}
