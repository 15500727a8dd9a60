//! The child's start: empties its address space, installs signal handlers, and locks the door behind itself.
use super::{Child, Start, crash, filter, stub};
use crate::engine::{EngineError, Mode};
use crate::pv::layout::{
    self, AREAS, MONITOR, SHARED, SHARED_FD, SHARED_SIZE, TEXT_FD, ZONE, ZONE_CONTROL, ZONE_SIZE, at,
};

/// End of a 64-bit process's addresses.
const TOP: u64 = 0x7fff_ffff_f000;
/// Signals that guest code can raise, and the kick.
const SIGNALS: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    layout::KICK_SIGNAL,
];
const SA_RESTORER: u64 = 0x0400_0000;
const ARCH_CPUID_SET: u64 = 0x1012;

/// The error of a host that keeps something of its own in every address space.
fn not_empty(error: std::io::Error) -> EngineError {
    let reason = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "the host seals its own mappings (vdso) into every process (CONFIG_MSEAL_SYSTEM_MAPPINGS); its kernel \
             parameter vdso=0 leaves them out"
                .to_owned()
        }
        _ => format!("the host refuses to empty a process: {error}"),
    };
    EngineError::Unavailable { mode: Mode::Pv, reason }
}

/// Takes a child whose stub waits for its first requests to where guest code may run.
pub(super) fn boot(child: &mut Child, start: Start) -> Result<(), EngineError> {
    let entries = stub::entries();
    let fixed = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let (read, write, execute) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);

    child.shared.set(at::HYPERCALL_ENTRY, entries.hypercall);
    // Whatever exec put there: stack, vdso.
    let behind = SHARED + SHARED_SIZE * if child.shared.area() == 0 { AREAS as u64 } else { 1 };
    child.request(libc::SYS_munmap, [layout::LOWEST, MONITOR - layout::LOWEST, 0, 0, 0, 0])?;
    child.request(libc::SYS_munmap, [behind, TOP - behind, 0, 0, 0, 0])?;
    if child.shared.area() == 0 {
        // Of its users' areas it needs what a hand-over needs.
        for area in (1..AREAS as u64).map(|i| SHARED + SHARED_SIZE * i) {
            let rest = [area + at::HAND_OVER, SHARED_SIZE - at::HAND_OVER, 0, 0, 0, 0];
            child.request(libc::SYS_munmap, rest)?;
        }
    }
    child.try_flush()?.map_err(not_empty)?;
    let zone = [ZONE, ZONE_SIZE, read | execute, fixed, TEXT_FD.into(), start.zone_offset];
    child.request(libc::SYS_mmap, zone)?;
    let area = SHARED_SIZE * child.shared.area() as u64;
    let control = [ZONE_CONTROL, 0x1000, read | write, fixed, SHARED_FD.into(), area];
    child.request(libc::SYS_mmap, control)?;

    // stack_t, then one kernel sigaction (handler, flags, restorer, mask) for all signals.
    let stack = at::BOOT;
    child.shared.set(stack, SHARED + at::SIGNAL_STACK);
    child.shared.set(stack + 8, 0);
    child.shared.set(stack + 16, at::SIGNAL_STACK_SIZE);
    child.request(libc::SYS_sigaltstack, [SHARED + stack, 0, 0, 0, 0, 0])?;
    let action = at::BOOT + 0x20;
    child.shared.set(action, entries.signal);
    child.shared.set(action + 8, (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER);
    child.shared.set(action + 16, entries.restorer);
    child.shared.set(action + 24, u64::MAX);
    for signal in SIGNALS {
        child.request(libc::SYS_rt_sigaction, [signal as u64, SHARED + action, 0, 8, 0, 0])?;
    }
    child.request(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0])?;
    child.request(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0])?;
    if start.traps_time {
        let signal = libc::PR_TSC_SIGSEGV as u64;
        child.request(libc::SYS_prctl, [libc::PR_SET_TSC as u64, signal, 0, 0, 0, 0])?;
    }
    child.flush()?;

    // Where the CPU can do it, a CPUID that no patch caught traps instead of telling of the host. Its failure is fine.
    child.request(libc::SYS_arch_prctl, [ARCH_CPUID_SET, 0, 0, 0, 0, 0])?;
    child.trip_unchecked()?;

    // sock_fprog (length, address), then the program.
    let program = filter::program(&entries, child.keys.as_ref().map(super::keys::Keys::secret));
    let header = at::BOOT + 0x40;
    let body = header + 16;
    child.shared.set(header, program.len() as u64);
    child.shared.set(header + 8, SHARED + body);
    for (i, instruction) in program.iter().enumerate() {
        child.shared.write(body + 8 * i as u64, &instruction.bytes());
    }
    let set_mode_filter = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    child.request(libc::SYS_seccomp, [set_mode_filter, 0, SHARED + header, 0, 0, 0])?;
    child.flush().map_err(|error| match error {
        EngineError::GuestCrash(reason) => EngineError::Unavailable {
            mode: Mode::Pv,
            reason: format!("the host has no seccomp filters ({reason})"),
        },
        other => other,
    })?;

    // The key was in it. No code of the guest's has run here yet.
    child.shared.write(header, &vec![0; 16 + 8 * program.len()]);

    // The proof that the door is locked: a call that the filter must refuse raises SIGSYS in the stub.
    child.request(libc::SYS_getpid, [0; 6])?;
    child.release(0)?;
    child.await_report()?;
    match child.report()? {
        super::Report::Trap(trap) if trap.signal == libc::SIGSYS => {}
        _ => return Err(crash("its system-call filter does not hold")),
    }
    if let Some(keys) = &mut child.keys {
        keys.put_in_use();
        child.shared.put_word(at::KEYED, 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_seals_the_vdso_is_named_as_the_reason() {
        let error = not_empty(std::io::Error::from_raw_os_error(libc::EPERM));
        assert!(
            matches!(&error, EngineError::Unavailable { mode: Mode::Pv, reason } if reason.contains("vdso"))
        );
    }
}
