//! Puts a whole machine together — RAM, buses, chips, clock, one backend — and runs it.
//!
//! The only room that names both devices and backends. [`spec`] is what is wanted, as plain data; `pc` says which chip
//! sits where; `backends` makes the engine of a pair; `run` is the loop around a vCPU.
mod backends;
mod bios_leavings;
mod console_input;
mod debugging;
mod fates;
#[cfg(test)]
mod fates_tests;
mod firmware;
#[cfg(test)]
mod fuzz_tests;
mod fw_cfg;
mod given;
mod ide;
mod journey;
pub mod lockstep;
mod moving;
mod mp_table;
mod parts;
mod pc;
mod run;
mod saved;
#[cfg(test)]
mod saved_tests;
mod screen;
#[cfg(test)]
mod smp_tests;
mod spec;
#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod test_device_tests;
mod timed;
mod virtio;

pub use crate::device::i8042::KeyStroke;
pub use crate::device::interrupts::{Offer, Way};
pub use crate::device::registers::{Block, Register};
pub use crate::device::uart16550::ConsoleSink;
pub use crate::emulator::{EmuEngine, Mistake, Technique, UnknownTechnique, Without};
pub use crate::host::console::{Capture, Outlet, Stream};
use crate::host::disk::DiskError;
pub use crate::host::disk::DiskSpec;
use crate::host::net::NetError;
pub use backends::availability;
pub use console_input::ConsoleInput;
pub use fates::Fates;
use firmware::Shape;
pub use given::{Bell, Given};
pub use journey::{Itinerary, Journey, Refusal};
use moving::Executor;
pub use moving::{Direction, MoveError, Moves};
pub use parts::SavedPart;
pub use run::{Limits, Stop};
pub use saved::{RestoreError, SavedMachine, SavedShape};
pub use screen::Screen;
pub use spec::{FirmwareSpec, MachineSpec, VirtioPlace};
pub use timed::{Counts, Tally, TimedCounts};

use crate::arch::{Activity, CpuState};
use crate::bus::ClaimConflict;
use crate::clock::ClockSource;
use crate::engine::{Caps, Engine, EngineError, Pair, Platform, Sites, Translations, VcpuId};
use crate::loader::{Image, LoadError};
use crate::mem::{GuestRam, MemoryError};
pub use pc::{DEVICES, Pc};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Why a machine could not be built or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Guest RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Two devices in one place: our fault.
    #[error(transparent)]
    Claim(#[from] ClaimConflict),
    /// A disk cannot be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The machine cannot have so many CPUs.
    #[error("{pair} cannot run {cpus} CPUs: {reason}")]
    Cpus {
        /// Who was to execute.
        pair: Pair,
        /// How many were asked for.
        cpus: u8,
        /// Why not.
        reason: &'static str,
    },
    /// A network cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// More devices than the bus has slots.
    #[error("the PCI bus has no slot left: a machine has at most 30 disks and other devices")]
    NoSlot,
    /// More virtio devices than have places in memory.
    #[error(
        "memory has places for eight virtio devices; leave some out, or put them on the PCI bus (--virtio pci)"
    )]
    NoVirtioPlace,
    /// More IDE disks and CD-ROM drives than there are places for.
    #[error(
        "a machine has places for four IDE disks and CD-ROM drives; attach other disks by virtio (without 'ide')"
    )]
    NoIdePlace,
    /// The host refused a timer or a signal handler.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// Nobody takes what the guest prints any more: see [`Machine::watch_output`].
    #[error("the guest's console output can no longer be written")]
    Unheard,
    /// A state cannot be taken on.
    #[error("the snapshot cannot be restored: {0}")]
    Refused(Box<RestoreError>),
    /// A state has no form: our fault.
    #[error("the state of the machine cannot be put into bytes: {0}")]
    Unsaved(String),
    /// A breakpoint or step was asked of a mode without that ability.
    #[error("{0} cannot step or stop at breakpoints on this host")]
    NoDebug(Pair),
}

/// The boot CPU, which begins; the others wait for its start-up message.
pub const BOOT_CPU: VcpuId = VcpuId(0);

/// A machine that is ready to run.
pub struct Machine {
    // Fields are dropped in this order: the vCPUs before what they run on.
    executor: Executor,
    /// Engines that the guest was moved away from, and may be moved back to.
    left: Vec<Executor>,
    moves: Moves,
    /// What it was built as; its pair may be another by now.
    spec: MachineSpec,
    shape: SavedShape,
    platform: Arc<Platform>,
    pc: Pc,
    host_timers: run::HostTimers,
    pause: run::Pause,
    outlet: Option<Outlet>,
    stops: debugging::Stops,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("pair", &self.pair()).finish_non_exhaustive()
    }
}

impl Machine {
    /// Builds a machine, loads `image` and stands before its first instruction.
    ///
    /// # Errors
    /// [`MachineError`]; nothing stays behind.
    pub fn build(
        spec: &MachineSpec,
        image: &Image,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Self, MachineError> {
        let (pc, state) = Self::load(spec, image, console)?;
        Self::of(spec, image.rom(), pc, &state)
    }

    /// The chips, with `image` in RAM, and the boot CPU's state before its first instruction.
    fn load(
        spec: &MachineSpec,
        image: &Image,
        console: Box<dyn ConsoleSink>,
    ) -> Result<(Pc, CpuState), MachineError> {
        let pc = Pc::assemble(spec, image.rom(), console, None)?;
        // An image that lies where the tables are goes without them; firmware makes its own.
        if image.rom().is_none() {
            firmware::write(pc.platform().ram(), Shape::of(spec, spec.screen));
            mp_table::write(pc.platform().ram(), spec.cpus);
        }
        let state = image.load(pc.platform().ram(), &spec.command_line, spec.screen)?;
        if image.is_multiboot() {
            bios_leavings::leave(pc.platform().ram(), pc.interrupts());
        }
        Ok((pc, state))
    }

    /// Builds a machine for a state that one like it was in, and takes it on; `fill` brings RAM. `rom` is its firmware, if it
    /// has one.
    ///
    /// # Errors
    /// [`MachineError`]; nothing stays behind. [`MachineError::Refused`] if the state cannot be had here.
    pub fn restore(
        spec: &MachineSpec,
        rom: Option<&[u8]>,
        (shape, saved): (&SavedShape, &SavedMachine),
        fill: &mut dyn FnMut(&GuestRam) -> Result<(), String>,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Self, MachineError> {
        if let Some(difference) = shape.difference(&spec.shape(rom)) {
            return Err(MachineError::refused_shape(difference));
        }
        let pc = Pc::assemble(spec, rom, console, Some(saved))?;
        let mut machine = Self::of(spec, rom, pc, &CpuState::reset())?;
        machine.take_on(saved, fill)?;
        Ok(machine)
    }

    /// A machine of these chips, whose boot CPU begins in `state`.
    fn of(spec: &MachineSpec, rom: Option<&[u8]>, pc: Pc, state: &CpuState) -> Result<Self, MachineError> {
        let platform = Arc::clone(pc.platform());
        let waiting = CpuState { activity: Activity::WaitsForStartUp, ..CpuState::reset() };
        let others = vec![waiting; platform.vcpus().count() - 1];
        let executor = Executor::create(spec, &platform, (state, &others))?;
        let host_timers = run::HostTimers::observe(&platform);
        let pause = run::Pause::new(&platform);
        let stops = debugging::Stops::new(platform.vcpus().len());
        let shape = spec.shape(rom);
        Ok(Self {
            executor,
            left: Vec::new(),
            moves: Moves::default(),
            spec: spec.clone(),
            shape,
            platform,
            pc,
            host_timers,
            pause,
            outlet: None,
            stops,
        })
    }

    /// What the engine truly is on this host.
    #[must_use]
    pub fn caps(&self) -> &Caps {
        self.executor.caps()
    }

    /// Who executes the guest's instructions, and what it sees.
    #[must_use]
    pub fn pair(&self) -> Pair {
        self.executor.pair
    }

    /// The machine without its CPU: RAM, counters, trace.
    #[must_use]
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// The chips.
    #[must_use]
    pub fn pc(&self) -> &Pc {
        &self.pc
    }

    /// Lets a run end with [`MachineError::Unheard`] when the console's output fails, and keeps a run that is to end
    /// from waiting for a reader.
    pub fn watch_output(&mut self, outlet: Outlet) {
        self.outlet = Some(outlet);
    }

    /// What was patched in the guest's code, if the mode patches and [`MachineSpec::counts_sites`] asked for account.
    #[must_use]
    pub fn sites(&self) -> Option<Sites> {
        self.executor.vcpu.sites()
    }

    /// What the engine remembers of the guest's page tables for this CPU, if that can be seen.
    #[must_use]
    pub fn translations(&self, vcpu: VcpuId) -> Option<Translations> {
        let executor = &self.executor;
        let found = match usize::from(vcpu.0).checked_sub(1) {
            None => Some(&executor.vcpu),
            Some(other) => executor.others.get(other),
        };
        found.and_then(|vcpu| vcpu.translations())
    }

    /// The instructions that the host could not execute and how often they were met, on all CPUs; the most frequent first.
    #[must_use]
    pub fn rescues(&self) -> Vec<(String, u64)> {
        let mut sums = BTreeMap::<String, u64>::new();
        let engines = std::iter::once(&self.executor).chain(&self.left);
        let vcpus = engines.flat_map(|engine| std::iter::once(&engine.vcpu).chain(&engine.others));
        for (name, count) in vcpus.flat_map(|vcpu| vcpu.rescues()) {
            *sums.entry(name).or_default() += count;
        }
        let mut rescues: Vec<_> = sums.into_iter().collect();
        rescues.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        rescues
    }

    /// Whether a run that catches events is carried out by the interpreter, though one without is not.
    #[must_use]
    pub fn catches_are_interpreted(&self) -> bool {
        let trace = self.platform.trace();
        let looks = match self.pair().engine {
            Engine::Emu => trace.catches(),
            Engine::Direct => false,
            Engine::Kvm => trace.catches_hidden(),
        };
        looks && self.has_own_way()
    }

    /// Whether the machine does the same again from the same state: its time is counted in instructions.
    #[must_use]
    pub fn counts_turns(&self) -> bool {
        self.platform.clock().source() != ClockSource::Real
    }

    /// What executes the guest here: its word, and a line that says what it is. Where time is counted in instructions that is
    /// the interpreter, in the place of the mode's own way.
    #[must_use]
    pub fn executor(&self) -> (&'static str, String) {
        let caps = self.caps();
        if self.counts_turns() {
            let single = EmuEngine::Single;
            return (single.name(), format!("{}, which counts time in instructions", single.label()));
        }
        (caps.engine, caps.label.clone())
    }

    /// Whether steps, and runs with breakpoints, leave this machine's own way of executing to the interpreter. Steps
    /// always do; for breakpoints see [`Machine::breakpoints_are_interpreted`].
    #[must_use]
    pub fn has_own_way(&self) -> bool {
        // Time is counted in instructions by the interpreter alone.
        let interpreter = self.pair().engine == Engine::Emu && self.caps().engine == EmuEngine::Single.name();
        !self.counts_turns() && !interpreter
    }

    /// Whether a run with breakpoints, or memory that is watched, is carried out by the interpreter, though one without is
    /// not.
    pub fn breakpoints_are_interpreted(&mut self) -> bool {
        self.has_own_way()
            && self.executor.vcpu.as_debug().is_some_and(|debug| debug.interprets_with_breakpoints())
    }
}
