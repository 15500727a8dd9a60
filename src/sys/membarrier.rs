//! A memory barrier in all running threads of the process at once (membarrier(2)): the dear half of a pair of barriers
//! whose cheap half costs nothing.
#![expect(unsafe_code, reason = "the system call has no safe wrapper in std")]
use std::sync::OnceLock;

fn call(command: libc::c_int) -> bool {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

static PREPARED: OnceLock<bool> = OnceLock::new();

/// Tells the kernel that barriers will be wanted; says whether there will be any. At once while the process has one
/// thread, later the first call takes some ten milliseconds.
pub fn prepare() -> bool {
    *PREPARED.get_or_init(|| call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
}

/// Whether [`everywhere`] may be called: [`prepare`] was, and the kernel has barriers.
#[must_use]
pub fn is_available() -> bool {
    PREPARED.get().copied().unwrap_or(false)
}

/// Returns after every thread of the process has passed a full memory barrier. Costs a microsecond or so, more with
/// many CPUs.
///
/// Without memory for it the kernel is asked again. If it refuses for another reason what it has promised to
/// [`is_available`], the process ends: without the barrier nothing would exclude anything.
pub fn everywhere() {
    while !call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOMEM) {
            eprintln!("trivisor: the kernel has taken membarrier(2) back: {error}");
            std::process::abort();
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_barrier_is_passed_where_it_is_offered() {
        assert_eq!(prepare(), is_available());
        if is_available() {
            everywhere();
        }
    }
}
