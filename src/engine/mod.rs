//! The contract between the machine and whoever executes its instructions.
//!
//! A [`Backend`] makes vCPUs; a [`Vcpu`] runs the guest until an [`Exit`], at an instruction boundary, with the whole
//! architectural state in place. Everything that leaves the CPU — ports, device memory, platform MSRs, interrupts,
//! CPUID — goes through the [`Platform`], by callback, in every mode.
//!
//! How a backend's `run` looks, whatever the mode:
//! 1. If the kick cell is raised, call [`Platform::attend`]; leave if it says so.
//! 2. If [`Platform::interrupt_pending`] and the state allows it, take the vector and enter the guest's handler.
//! 3. Execute until the cell is raised or an access needs the platform; go to 1.
//!
//! [`Platform::at_boundary`] is 1 and 2 for a backend that has the state at hand.
mod boundary;
mod catch;
mod counters;
mod exit;
#[cfg(test)]
pub(crate) mod fake;
mod fate;
mod hypercall;
mod kvm_clock;
mod ledger;
mod pair;
mod platform;
mod progress;
mod saved;
mod site;
mod trace;
mod translation;
mod watch;

pub use crate::bus::VcpuId;
pub use crate::sys::signal::KickCell;
pub use boundary::Boundary;
pub use catch::Catch;
pub use counters::{Cause, Counters};
pub use exit::{DebugEvent, Exit};
pub use fate::{HostPiece, Interpretation, KvmFate, KvmWay, Native, Part, Patched, Translated, Translation};
pub use hypercall::{Hypercalls, PageRange, SavedHypercalls, Stale, TextSink};
pub use kvm_clock::{KvmClock, SavedCpuClock, SavedKvmClock};
pub use ledger::{Account, Charge, Ledger, Ticks, UNATTRIBUTED, time_of};
pub use pair::{Engine, Interface, Pair};
pub use platform::{Attention, Platform, PlatformParts};
pub use progress::Progress;
pub use saved::{BadOffers, SavedOffers};
pub use site::{Cost, Occasion, Patch, Site, Sites};
pub use trace::{Event, EventCost, EventKind, Trace};
pub use translation::{Held, HeldSpace, Store, Translations, Whose};
pub use watch::{Watch, WatchHit, WatchKind};

use crate::arch::{CpuState, Gva};
use crate::mem::RamSlot;
use std::fmt;
use std::io;

/// The three presets that users meet: names of pairs of engine and interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Mode {
    /// Full emulation.
    Emu,
    /// Paravirtualization by patching, run natively at ring 3.
    Pv,
    /// Hardware-assisted, through /dev/kvm.
    Kvm,
}

impl Mode {
    /// All modes, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Emu, Self::Pv, Self::Kvm];

    /// The word for it on the command line and in CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emu => "emu",
            Self::Pv => "pv",
            Self::Kvm => "kvm",
        }
    }

    /// The pair that it names.
    #[must_use]
    pub const fn pair(self) -> Pair {
        match self {
            Self::Emu => Pair { engine: Engine::Emu, interface: Interface::None },
            Self::Pv => Pair { engine: Engine::Direct, interface: Interface::Patched },
            Self::Kvm => Pair { engine: Engine::Kvm, interface: Interface::None },
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a backend truly is on this host, for labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Who executes instructions: `translator`, `single`, `direct`, `kvm`.
    pub engine: &'static str,
    /// One line that says what this is on this host, as "emulated supervisor (kvm_pvm)".
    pub label: String,
}

/// A fault of the host, of ours, or a gap of ours; never a guest's mistake.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done, as "cannot create a virtual machine".
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// An instruction or feature that no engine of ours has.
    #[error("the instruction at {rip:#x} is not supported (bytes {bytes:02x?})")]
    Unsupported {
        /// Where.
        rip: u64,
        /// Its first bytes.
        bytes: Vec<u8>,
    },
    /// The mode is not available on this host.
    #[error("{mode} is not available here: {reason}")]
    Unavailable {
        /// Which one.
        mode: Mode,
        /// Why, and what to do.
        reason: String,
    },
    /// There is no such pair of engine and interface.
    #[error("{pair} cannot be: {reason}")]
    Impossible {
        /// Which one.
        pair: Pair,
        /// Why not.
        reason: &'static str,
    },
    /// The guest (or its sandbox) did something that ended its containment; the engine is unharmed.
    #[error("the guest was stopped: {0}")]
    GuestCrash(String),
    /// The guest cannot run in this mode.
    #[error("this guest cannot run in {mode}: {reason}")]
    Unfit {
        /// Which one.
        mode: Mode,
        /// Why.
        reason: String,
    },
}

impl EngineError {
    /// The error of a host call that has just failed, from `errno`.
    #[must_use]
    pub fn last_os(what: &'static str) -> Self {
        Self::Host { what, source: io::Error::last_os_error() }
    }
}

/// Makes vCPUs of one engine over one machine's RAM.
pub trait Backend: Send + Sync {
    /// What it truly is here.
    fn caps(&self) -> &Caps;
    /// Learns of a piece of RAM (called for each slot before the first vCPU is made).
    ///
    /// # Errors
    /// When the host cannot map it.
    fn map_ram(&self, slot: &RamSlot) -> Result<(), EngineError>;
    /// Makes a vCPU in the state `reset`. It is used by one thread at a time.
    ///
    /// # Errors
    /// When the host refuses.
    fn create_vcpu(&self, id: VcpuId, reset: &CpuState) -> Result<Box<dyn Vcpu>, EngineError>;
    /// RAM was written without its vCPUs, which stand: what was made of page tables is void. Before they run again each is
    /// told its state ([`Vcpu::load`]), and those that decode code that it may be other code ([`GuestRam::forget_code`]).
    ///
    /// [`GuestRam::forget_code`]: crate::mem::GuestRam::forget_code
    ///
    /// # Errors
    /// When the host refuses.
    fn ram_changed(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Whether a guest that has come to `state` elsewhere can go on here.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] with the reason.
    fn accepts(&self, _state: &CpuState) -> Result<(), EngineError> {
        Ok(())
    }
}

/// One virtual CPU.
pub trait Vcpu: Send {
    /// Executes until something ends it, at an instruction boundary. The caller has bound the platform's kick cell of
    /// this vCPU to the calling thread.
    ///
    /// # Errors
    /// [`EngineError`]: the vCPU cannot go on.
    fn run(&mut self, platform: &Platform) -> Result<Exit, EngineError>;
    /// The architectural state.
    ///
    /// # Errors
    /// When the host does not hand it out.
    fn save(&mut self) -> Result<CpuState, EngineError>;
    /// Replaces the architectural state.
    ///
    /// # Errors
    /// When the host refuses the state.
    fn load(&mut self, state: &CpuState) -> Result<(), EngineError>;
    /// The guest goes on elsewhere: nothing of it may run here until the vCPU is told its state ([`Self::load`]).
    ///
    /// # Errors
    /// When what ran here does not do what it is told: the vCPU is to be dropped.
    fn leave(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    /// What was patched in the guest's code, if the mode patches and was told to keep account of it. The guest stands.
    fn sites(&self) -> Option<Sites> {
        None
    }
    /// What is remembered of the guest's page tables, if that can be seen. The guest stands; looking changes nothing.
    fn translations(&self) -> Option<Translations> {
        None
    }
    /// The instructions that the host could not execute ([`Cause::Rescue`]) by name, and how often each was met.
    fn rescues(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    /// The debugging ability, if the mode has one.
    fn as_debug(&mut self) -> Option<&mut dyn DebugVcpu> {
        None
    }
}

/// A vCPU that can be stepped and stopped.
pub trait DebugVcpu {
    /// Does exactly one thing: enters the handler of one interrupt, delivers the exception that is pending in the
    /// state, or executes one instruction. Timers that are due fire first, and an interrupt that they raise is that one
    /// thing. What an instruction itself raises, its fault or its single-step trap, belongs to it: RIP is at the handler
    /// then. Ends with [`DebugEvent::Step`], or [`DebugEvent::Watched`], unless the guest halts or has ended, or the vCPU is
    /// to leave ([`Boundary`]).
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn step(&mut self, platform: &Platform) -> Result<Exit, EngineError>;
    /// Replaces the set of breakpoints, linear addresses. `run` stops before an instruction at one of them with
    /// [`DebugEvent::Breakpoint`]; the first instruction of a `run` or `step` is executed even if it is at one.
    ///
    /// # Errors
    /// When the mode cannot set one.
    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError>;

    /// Whether the interpreter carries out `run` while breakpoints are set or memory is watched, because it looks for
    /// that. An engine that finds them at its own speed says no.
    fn interprets_with_breakpoints(&self) -> bool {
        true
    }

    /// Replaces what is watched. `run` and `step` end behind an instruction that accessed some of it, with
    /// [`DebugEvent::Watched`].
    ///
    /// # Errors
    /// When the host refuses.
    fn set_watches(&mut self, watches: &[Watch]) -> Result<(), EngineError>;

    /// The next `run` only goes on with one that was cut off: it stops at a breakpoint at its first instruction, too. A mode
    /// whose runs are not cut at exact positions need not know of it.
    fn go_on(&mut self) {}
}
