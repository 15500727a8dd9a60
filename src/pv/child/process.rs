//! The child as a process of the host: signals, its end, its reaping.
//!
//! All of it goes through a process descriptor (pidfd_open(2)), which names this process and no later one that is given
//! the same number. So a program that ignores SIGCHLD, whose children the kernel reaps by itself, can hold a child too;
//! only the reason of its end is lost then.
#![expect(unsafe_code, reason = "system calls on a process descriptor")]
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// By this signal.
    Signal(i32),
    /// By itself, with this status.
    Status(i32),
    /// The kernel did not keep it (SIGCHLD is ignored), or someone else reaped it.
    Unknown,
}

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    descriptor: OwnedFd,
}

impl Process {
    /// The child that `descriptor` names.
    pub(super) fn new(pid: i32, descriptor: OwnedFd) -> Self {
        Self { pid, descriptor }
    }

    /// Its number, for what knows no descriptors.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal. That it has ended is found elsewhere.
    pub(super) fn signal(&self, signal: i32) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a live descriptor; no siginfo is passed.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.descriptor.as_raw_fd(), signal, none, 0) };
    }

    /// How it ended; `None` while it lives. It is left to be reaped.
    pub(super) fn end(&self) -> Option<End> {
        self.wait(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    }

    fn wait(&self, options: libc::c_int) -> Option<End> {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = self.descriptor.as_raw_fd() as libc::id_t;
        // SAFETY: `info` is live.
        while unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) } != 0 {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return self.is_gone(options).then_some(End::Unknown);
            }
        }
        // SAFETY: waitid filled in the fields of a SIGCHLD, or left zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        match info.si_code {
            _ if pid == 0 => None,
            libc::CLD_KILLED | libc::CLD_DUMPED => Some(End::Signal(status)),
            _ => Some(End::Status(status)),
        }
    }

    /// Whether the process has ended, when there is nothing to be reaped. Waits for that unless WNOHANG is among the
    /// options.
    fn is_gone(&self, options: libc::c_int) -> bool {
        let timeout = if options & libc::WNOHANG == 0 { -1 } else { 0 };
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: one live entry.
            let result = unsafe { libc::poll(&raw mut poll, 1, timeout) };
            if result >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return result != 0;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait(libc::WEXITED);
    }
}
