//! What machine is wanted: plain data.
use super::MachineError;
use crate::arch::layout;
use crate::clock::ClockSource;
use crate::emulator::{EmuEngine, Without};
use crate::engine::{Engine, Interface, Pair};
use crate::host::disk::DiskSpec;
use crate::host::net::NetSpec;
use std::path::PathBuf;

/// What machine is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineSpec {
    /// Who executes the guest's instructions, and what it sees.
    pub pair: Pair,
    /// Who emulates, where the pair's engine is the emulator.
    pub emulator: EmuEngine,
    /// What the translator goes without, where it is the engine.
    pub without: Without,
    /// The translator counts instructions, which makes it slower.
    pub counts_instructions: bool,
    /// It is kept where the time of each vCPU goes: [`crate::engine::Ledger`].
    pub keeps_times: bool,
    /// Where the engine is direct, account is kept of each patched instruction, or, where nothing is patched, of each that
    /// would be: [`super::Machine::sites`].
    pub counts_sites: bool,
    /// How many CPUs it has: 1 to [`MachineSpec::MOST_CPUS`]. More than one needs an engine that runs several at once (emu
    /// and kvm, the guest on bare hardware) and real time.
    pub cpus: u8,
    /// Bytes of RAM.
    pub memory: u64,
    /// Where time comes from. A counted clock needs an engine that counts instructions: emu.
    pub clock: ClockSource,
    /// The guest's command line.
    pub command_line: String,
    /// Its virtio disks, in order.
    pub disks: Vec<DiskSpec>,
    /// Its IDE disks, in order. With the CD-ROM drives there are at most four.
    pub ide_disks: Vec<DiskSpec>,
    /// The media of its CD-ROM drives, in order: on the second IDE channel first, where disks leave room.
    pub cdroms: Vec<DiskSpec>,
    /// It has a virtio device that gives random bytes of the host.
    pub entropy: bool,
    /// The console is a virtio device, and the serial port leads nowhere.
    pub virtio_console: bool,
    /// It has a virtio network card, on this network.
    pub network: Option<NetSpec>,
    /// The guest is offered KVM's clock.
    pub kvm_clock: bool,
    /// The guest is told only of what every mode has of a CPU, so that a snapshot of it goes on in each.
    pub common_cpu: bool,
    /// The guest is offered protection keys, where it is emulated: no other engine has them to give.
    pub protection_keys: bool,
    /// Where its virtio devices are.
    pub virtio: VirtioPlace,
    /// Somebody sees its text screen and types at its keyboard: the guest is told of both.
    pub screen: bool,
    /// It has the device that public test suites of CPUs and interrupt chips use.
    pub test_device: bool,
    /// What goes with the image, where that is firmware.
    pub firmware: FirmwareSpec,
}

/// Where a guest finds virtio devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VirtioPlace {
    /// On the PCI bus, with message-signalled interrupts.
    #[default]
    Pci,
    /// At fixed places in memory, which ACPI tells of; at most eight.
    Memory,
}

/// What firmware is told of what to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FirmwareSpec {
    /// The VGA's own firmware. Without it the firmware's words go to the serial port, and its keys come from there.
    pub vga_bios: Option<Vec<u8>>,
    /// It offers a menu of what to boot.
    pub boot_menu: bool,
    /// Where its log goes: a file that is made anew.
    pub log: Option<PathBuf>,
}

impl MachineSpec {
    /// The most CPUs that a machine has.
    pub const MOST_CPUS: u8 = 8;
    /// Bytes of RAM where nobody says otherwise.
    pub const DEFAULT_MEMORY: u64 = 128 << 20;

    /// A machine like this one in mode emu, whose time is counted in instructions, a nanosecond each.
    #[must_use]
    pub fn counted(&self) -> Self {
        let interface = match self.pair.interface {
            Interface::Pv => Interface::Pv,
            _ => Interface::None,
        };
        Self {
            pair: Pair { engine: Engine::Emu, interface },
            clock: ClockSource::Counted { nanos_per_instruction: 1 },
            counts_sites: false,
            ..self.clone()
        }
    }

    /// A machine of the default shape for a pair, or for the one that a [`crate::engine::Mode`] names.
    #[must_use]
    pub fn new(pair: impl Into<Pair>) -> Self {
        Self {
            pair: pair.into(),
            emulator: EmuEngine::default(),
            without: Without::NOTHING,
            counts_instructions: false,
            keeps_times: false,
            counts_sites: false,
            cpus: 1,
            memory: Self::DEFAULT_MEMORY,
            clock: ClockSource::Real,
            command_line: String::new(),
            disks: vec![],
            ide_disks: vec![],
            cdroms: vec![],
            entropy: false,
            virtio_console: false,
            network: None,
            kvm_clock: false,
            common_cpu: false,
            protection_keys: false,
            virtio: VirtioPlace::Pci,
            screen: false,
            test_device: false,
            firmware: FirmwareSpec::default(),
        }
    }

    /// How many virtio devices it has in memory.
    pub(super) fn virtio_in_memory(&self) -> u8 {
        let others = [self.entropy, self.virtio_console, self.network.is_some()];
        let all = self.disks.len() + others.into_iter().filter(|wanted| *wanted).count();
        match self.virtio {
            VirtioPlace::Pci => 0,
            // A machine with more than there are places for is not built.
            VirtioPlace::Memory => all.min(layout::VIRTIO_PINS.len()) as u8,
        }
    }

    /// Whether this machine can have as many CPUs as it wants.
    pub(super) fn check_cpus(&self) -> Result<(), MachineError> {
        let reason = match () {
            () if !(1..=Self::MOST_CPUS).contains(&self.cpus) => "a machine has 1 to 8",
            () if self.cpus == 1 => return Ok(()),
            () if self.pair.engine == Engine::Direct => "its guest's process has one thread",
            () if self.pair.interface != Interface::None => "hypercalls change translations of one CPU only",
            () if self.clock != ClockSource::Real => {
                "time that is counted in instructions is that of one CPU"
            }
            () => return Ok(()),
        };
        Err(MachineError::Cpus { pair: self.pair, cpus: self.cpus, reason })
    }
}
