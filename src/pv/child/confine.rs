//! A user's process that is known to wait in the stub, whatever its program is up to. How that is known: `keys.rs`.
//!
//! Where a program has not been let go since, its process does what it is told: requests can be kept until it is let go next.
//! Otherwise nobody may go on who relies on what the program lost, so they are executed, and the proof waited for, at once.
use super::{Child, crash};
use crate::engine::EngineError;
use crate::pv::layout::{MONITOR, POPF_SLOWLY, SHARED_SIZE, at, command, event};
use crate::pv::{child::stub, layout};
use std::sync::atomic::Ordering;

/// Never mapped in a child: to unmap it is a request that changes nothing.
const NOTHING: u64 = MONITOR + (1 << 40);
const _: () = assert!(NOTHING > layout::SHARED + SHARED_SIZE * layout::AREAS as u64);
/// A base that no segment has.
const NO_BASE: u64 = 1 << 63;

impl Child {
    /// Whether requests go through the pipe.
    pub(super) fn is_keyed(&self) -> bool {
        self.keys.as_ref().is_some_and(super::Keys::are_in_use)
    }

    /// Whether it was let go since it was last known to be in the stub.
    pub(in crate::pv) fn is_at_large(&self) -> bool {
        self.at_large
    }

    /// The kernel's process may let it go without the engine.
    pub(in crate::pv) fn may_be_let_go(&mut self) {
        self.at_large = true;
    }

    /// Has the stub execute the list, which may be empty, and wait. Nobody else has the vCPU, and registers are elsewhere.
    pub(super) fn confine(&mut self) -> Result<(), EngineError> {
        let proof = self.announce()?;
        self.release(command::REPORT)?;
        self.await_report()?;
        self.check(proof)
    }

    /// Sends the list. It is executed with the next hand-over; what is returned is the proof.
    pub(super) fn announce(&mut self) -> Result<u64, EngineError> {
        self.park();
        self.shared.put_word(at::KEYED, 1);
        if self.requests.is_empty() {
            self.requests.push([libc::SYS_munmap as u64, NOTHING, 4096, 0, 0, 0, 0]);
        }
        let requests = std::mem::take(&mut self.requests);
        self.sent = requests.len();
        let keys = self.keys.as_mut().ok_or_else(|| crash("its process has no keys"))?;
        keys.send(&requests)
            .map_err(|source| EngineError::Host { what: "cannot write to the guest's process", source })
    }

    /// Whether what was announced is done.
    pub(super) fn check(&mut self, proof: u64) -> Result<(), EngineError> {
        self.sent = 0;
        let done = self.shared.word(at::EVENT).load(Ordering::Acquire) == event::DONE;
        if !done || self.shared.get(at::CONFINED) != proof {
            return Err(crash(
                "a program took the place of the monitor in its process: it does not do what it is told",
            ));
        }
        self.at_large = false;
        // What the process really has is not what its area says.
        self.shared.set(at::FS_BASE, NO_BASE);
        Ok(())
    }

    /// What steers the stub and the thunks is as it was at the start, for another program: this one may have changed it. The
    /// process is confined.
    pub(in crate::pv) fn renew(&mut self) {
        let slow = stub::entries().hypercall;
        for way in [at::HYPERCALL_ENTRY, at::SYSCALL_WAY, at::SYSRET_WAY, at::IRET_WAY] {
            self.shared.put(way, slow);
        }
        for (word, value) in [
            (at::STOP, 1),
            (at::VMCALL_SLOW, 1),
            (at::CLI_SLOW, 1),
            (at::STI_SLOW, 1),
            (at::POPF_SLOW, POPF_SLOWLY),
            (at::USER_AREA, 0),
        ] {
            self.shared.put(word, value);
        }
        let looks = [(at::SPINS, self.place.child_looks()), (at::PAIR_SPINS, self.place.pair_looks())];
        let idle = [at::PARK, at::REQUEST_COUNT, at::COMMAND, at::KICK].map(|word| (word, 0));
        for (word, value) in looks.into_iter().chain(idle).chain([(at::KEYED, 1)]) {
            self.shared.put_word(word, value);
        }
    }
}
