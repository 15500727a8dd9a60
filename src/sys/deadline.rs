//! A host timer that kicks the thread that made it (timer_create(2) with SIGEV_THREAD_ID). Any thread may arm it.
#![expect(unsafe_code, reason = "POSIX timers have no safe wrapper in std")]
use super::signal::{current_tid, kick_signal};
use std::io;
use std::time::Duration;

/// Sends the kick signal to its thread when a deadline has come.
#[derive(Debug)]
pub struct DeadlineTimer {
    id: libc::timer_t,
}

// SAFETY: a timer id is a number that belongs to the process; the system calls on it may come from any thread.
unsafe impl Send for DeadlineTimer {}
// SAFETY: as above; the kernel serialises concurrent calls.
unsafe impl Sync for DeadlineTimer {}

impl DeadlineTimer {
    /// A timer for the calling thread, not armed.
    ///
    /// # Errors
    /// What `timer_create` reports.
    pub fn for_current_thread() -> io::Result<Self> {
        // SAFETY: an all-zero sigevent is valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick_signal();
        event.sigev_notify_thread_id = current_tid();
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live, initialised values.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { id })
    }

    /// Arms the timer to fire once after `delay`, or disarms it.
    pub fn arm(&self, delay: Option<Duration>) {
        let value = delay.map_or(libc::timespec { tv_sec: 0, tv_nsec: 0 }, |d| libc::timespec {
            tv_sec: d.as_secs().try_into().unwrap_or(i64::MAX),
            // Zero would disarm.
            tv_nsec: i64::from(d.subsec_nanos()).max(i64::from(d.as_secs() == 0)),
        });
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the timer is ours and `spec` is a live, valid value; so the call cannot fail.
        unsafe { libc::timer_settime(self.id, 0, &raw const spec, std::ptr::null_mut()) };
    }
}

impl Drop for DeadlineTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used again.
        unsafe { libc::timer_delete(self.id) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::signal::KickCell;
    use super::*;

    #[test]
    fn an_armed_timer_raises_the_bound_cell() {
        let cell = KickCell::new();
        let _bound = cell.bind().unwrap();
        let timer = DeadlineTimer::for_current_thread().unwrap();
        timer.arm(Some(Duration::from_millis(1)));
        while !cell.is_raised() {
            cell.wait(Some(Duration::from_secs(1)));
        }
        assert!(cell.take_attention());
        assert!(!cell.take_leave());
    }
}
