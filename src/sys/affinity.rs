//! Pins threads to CPUs, so that a timed region is not moved.
#![expect(unsafe_code, reason = "sched_setaffinity has no safe wrapper in std")]
use std::io;

/// CPUs that the calling thread may run on, ascending.
///
/// # Errors
/// What `sched_getaffinity` reports.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is plain bits; all zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` outlives the call and its true size is passed.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `cpu` stays below CPU_SETSIZE, the number of bits in the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// The CPU that the calling thread is on, as far as it can be known: it may be moved at any time.
#[inline]
#[must_use]
pub fn current() -> Option<usize> {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Restricts the calling thread to `cpus`.
///
/// # Errors
/// What `sched_setaffinity` reports, for instance EINVAL when none of `cpus` exists.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    pin_thread(0, cpus)
}

/// Restricts the thread with this id, which may be another process's, to `cpus`.
///
/// # Errors
/// As [`pin`]; ESRCH when there is none.
pub fn pin_thread(thread: i32, cpus: &[usize]) -> io::Result<()> {
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` outlives the call and its true size is passed.
    if unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pinned_thread_may_run_on_that_cpu_only() {
        std::thread::spawn(|| {
            let first = super::allowed().unwrap()[0];
            super::pin(&[first]).unwrap();
            assert_eq!(super::allowed().unwrap(), [first]);
            assert_eq!(super::current(), Some(first));
            assert!(super::pin(&[]).is_err());
        })
        .join()
        .unwrap();
    }
}
