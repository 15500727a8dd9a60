//! How one workload is run once in one column: the seam between a plan and whoever executes guests.
//!
//! A [`Runner`] gives back what the guest printed and what was counted; it judges nothing. The host's own kernels
//! ([`NativeRunner`]) and QEMU ([`QemuRunner`]) are runners too and print the same console records, so that every figure
//! takes the same way; [`LinuxRunner`] boots a stock kernel in any of these columns. [`Dispatch`] joins them with [`MachineRunner`], or with a mock.

mod disk;
mod linux;
mod lookout;
mod machine;
mod native;
mod qemu;

pub use disk::ScratchDisk;
pub use linux::LinuxRunner;
pub use machine::MachineRunner;
pub use native::NativeRunner;
pub use qemu::{QEMU, QemuRunner};

use super::NATIVE;
use super::linux as linux_guest;
use super::workload::Workload;
use crate::engine::{Engine, Interface, Mode, Pair};
use crate::machine::{EmuEngine, Without};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One column of the comparison: a mode or a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name of the mode, one of [`super::MODE_ORDER`] or a further one; with an engine after a slash where engines of one
    /// mode stand side by side.
    pub mode: String,
    /// Who executes instructions.
    pub engine: String,
    /// What the guest sees: `none`, `patched` or `pv` ([`Interface`]); `host` for native.
    pub interface: String,
    /// The other monitor with its version, if it is one.
    pub peer: String,
    /// Options that change figures, in words.
    pub options: String,
    /// What the translator goes without.
    pub without: Without,
    /// Why this column cannot run on this host, if that is known beforehand.
    pub absent: Option<String>,
}

impl Column {
    /// A column with its two technical names and nothing else.
    pub fn new(mode: &str, engine: &str, interface: &str) -> Column {
        Column {
            mode: mode.to_owned(),
            engine: engine.to_owned(),
            interface: interface.to_owned(),
            peer: String::new(),
            options: String::new(),
            without: Without::NOTHING,
            absent: None,
        }
    }

    /// The column of a pair, by the name of its mode if it has one; emu with its default engine.
    pub fn pair(pair: Pair) -> Column {
        let engine = match pair.engine {
            Engine::Emu => EmuEngine::default().name(),
            other => other.name(),
        };
        Column::new(&pair.to_string(), engine, pair.interface.name())
    }

    /// The column of one engine of mode emu, where the user names engines.
    pub fn emu(engine: EmuEngine) -> Column {
        let name = format!("{}/{}", Mode::Emu.name(), engine.name());
        Column::new(&name, engine.name(), Interface::None.name())
    }

    /// The column of the translator without some techniques: `emu/without-chaining+windows`.
    pub fn ablated(without: Without) -> Column {
        let engine = EmuEngine::Translator.name();
        let names = if without == Without::EVERYTHING {
            Without::ALL.to_owned()
        } else {
            without.to_string().replace(',', "+")
        };
        Column {
            options: format!("without {without}"),
            without,
            ..Column::new(&format!("{}/without-{names}", Mode::Emu.name()), engine, Interface::None.name())
        }
    }

    /// Who executes instructions, with what it goes without.
    pub fn engine_and_options(&self) -> String {
        if self.without.is_nothing() {
            return self.engine.clone();
        }
        format!("{} without {}", self.engine, self.without)
    }

    /// The native column.
    pub fn native() -> Column {
        Column::new(NATIVE, "host", "host")
    }

    /// The columns of the peers, marked absent where they are not installed or not permitted; and where KVM's label says
    /// that it emulates ring 0, since QEMU's firmware then takes the time that all other columns need (unless `insisted`).
    pub fn peers(kvm_label: &str, insisted: bool) -> Vec<Column> {
        qemu::columns(kvm_label, insisted)
    }
}

/// How a run is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// How long a calibrated measurement should take, in microseconds.
    pub budget_us: u64,
    /// When a run is given up.
    pub timeout: Duration,
    /// Keep where time goes ([`Observation::times`]): figures of this run do not count.
    pub keeps_times: bool,
    /// CPU on which timed code should run.
    pub cpu: Option<usize>,
    /// Raised when the user wants to stop: the run should end soon, with [`RunError::Interrupted`].
    pub stop: &'a AtomicBool,
}

impl Request<'_> {
    /// Whether the user wants to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The guest's command line for a TSC of `tsc_khz` kHz.
    pub fn command_line(&self, tsc_khz: u64) -> String {
        use crate::abi::{ARG_BUDGET_US, ARG_TSC_KHZ};
        format!("{ARG_BUDGET_US}={} {ARG_TSC_KHZ}={tsc_khz}", self.budget_us)
    }
}

/// What one run gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// All that the guest printed (or as much as was kept).
    pub console: Vec<u8>,
    /// How the machine ended, if not as a guest that went well ends it: `triple fault`, `exit status 3` …
    pub misfortune: Option<String>,
    /// Counters of the whole run, by the ledger's names of causes.
    pub counters: Vec<(String, u64)>,
    /// The same of the timed regions alone; empty if the guest marked none, or nobody counted.
    pub timed: Vec<(String, u64)>,
    /// Where the time of the timed regions went, in nanoseconds, by the ledger's names of accounts; empty if nobody kept that.
    pub times: Vec<(String, f64)>,
    /// Time of the whole run on the host.
    pub wall: Duration,
    /// Frequency of the TSC that the guest read, in kHz.
    pub tsc_khz: u64,
}

/// How the words for [`RunError::Timeout`] begin.
pub const TIMED_OUT: &str = "no end after ";

/// Why a run gave no observation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The column cannot run here at all.
    #[error("{0}")]
    Unavailable(String),
    /// The column cannot run this workload; trying again is of no use.
    #[error("{0}")]
    Unsupported(String),
    /// The run did not end in time.
    #[error("{TIMED_OUT}{0:?}")]
    Timeout(Duration),
    /// Something else went wrong.
    #[error("{0}")]
    Failed(String),
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Runs one workload once.
pub trait Runner {
    /// Whether the workload makes sense in this column; where it does not, the cell stays empty without a reason.
    fn suits(&self, workload: &Workload, column: &Column) -> bool {
        let _ = (workload, column);
        true
    }

    /// Runs it.
    ///
    /// # Errors
    /// See [`RunError`]; a guest that fails is no error but an observation.
    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError>;
}

/// Sends each column to its runner: native and peers are ours, all others are the machine's.
pub struct Dispatch<'a> {
    native: NativeRunner,
    qemu: QemuRunner,
    machine: Box<dyn Runner + 'a>,
    linux: Option<LinuxRunner>,
}

impl<'a> Dispatch<'a> {
    /// Joins our own runners with the one of the machine.
    pub fn new(machine: Box<dyn Runner + 'a>) -> Dispatch<'a> {
        Dispatch { native: NativeRunner, qemu: QemuRunner::default(), machine, linux: None }
    }

    /// With a runner of the Linux guest, which takes that workload in every column.
    pub fn with_linux(self, linux: Option<LinuxRunner>) -> Dispatch<'a> {
        Dispatch { linux, ..self }
    }

    /// The runner of the Linux guest, if the workload is that.
    fn linux(&mut self, workload: &Workload) -> Option<&mut LinuxRunner> {
        self.linux.as_mut().filter(|_| workload.name == linux_guest::NAME)
    }
}

impl Runner for Dispatch<'_> {
    fn suits(&self, workload: &Workload, column: &Column) -> bool {
        if workload.name == linux_guest::NAME {
            return self.linux.is_some();
        }
        match column.mode.as_str() {
            NATIVE => self.native.suits(workload, column),
            _ if !column.peer.is_empty() => self.qemu.suits(workload, column),
            _ => self.machine.suits(workload, column),
        }
    }

    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError> {
        if let Some(linux) = self.linux(workload) {
            return linux.run(column, request);
        }
        match column.mode.as_str() {
            NATIVE => self.native.run(workload, column, request),
            _ if !column.peer.is_empty() => self.qemu.run(workload, column, request),
            _ => self.machine.run(workload, column, request),
        }
    }
}
