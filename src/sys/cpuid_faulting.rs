//! CPUID that traps, for the calling thread (arch_prctl(2), `ARCH_SET_CPUID`).
//!
//! The processes of a guest have it on. Where it differs between two threads that take turns on a CPU, Linux writes a
//! model-specific register at each switch; in a virtual machine that is an exit to the hypervisor. So whoever hands over to such
//! a process has it on, too.
#![expect(unsafe_code, reason = "arch_prctl has no safe wrapper")]
use std::marker::PhantomData;

const ARCH_GET_CPUID: i32 = 0x1011;
const ARCH_SET_CPUID: i32 = 0x1012;

fn arch_prctl(operation: i32, argument: u64) -> i64 {
    // SAFETY: both operations touch a flag of the calling thread only; the first takes no argument.
    unsafe { libc::syscall(libc::SYS_arch_prctl, operation, argument) }
}

/// While it lives, CPUID raises SIGSEGV in the thread that made it: nothing may execute it there.
#[derive(Debug)]
pub struct CpuidFaulting {
    /// The flag is the thread's.
    _not_send: PhantomData<*const ()>,
}

impl CpuidFaulting {
    /// Switches it on; `None` where the CPU or the kernel cannot, or it is on already.
    #[must_use]
    pub fn begin() -> Option<Self> {
        // What the standard library wants to know of the CPU it learns now.
        let _learned = std::arch::is_x86_feature_detected!("sse4.2");
        let was_off = arch_prctl(ARCH_GET_CPUID, 0) == 1;
        // Not `then_some`: a guard that nobody gets would switch it off again.
        (was_off && arch_prctl(ARCH_SET_CPUID, 0) == 0).then(|| Self { _not_send: PhantomData })
    }
}

impl Drop for CpuidFaulting {
    fn drop(&mut self) {
        arch_prctl(ARCH_SET_CPUID, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_while_the_guard_lives() {
        let Some(guard) = CpuidFaulting::begin() else { return };
        assert_eq!(arch_prctl(ARCH_GET_CPUID, 0), 0);
        assert!(CpuidFaulting::begin().is_none(), "the outer one switches it off");
        assert_eq!(arch_prctl(ARCH_GET_CPUID, 0), 0);
        drop(guard);
        assert_eq!(arch_prctl(ARCH_GET_CPUID, 0), 1);
    }
}
