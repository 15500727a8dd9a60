//! Which guest, on what machine: the arguments that all commands with one guest share.
use super::disk::Attachment;
use super::error::CliError;
use super::pair::PairArguments;
use super::{choices, disk, image, net, units};
use crate::abi;
use crate::clock::ClockSource;
use crate::engine::{Engine, Pair};
use crate::host::net::NetSpec;
use crate::loader::Image;
use crate::machine::{
    ConsoleSink, EmuEngine, FirmwareSpec, Machine, MachineError, MachineSpec, VirtioPlace, Without,
};
use crate::snapshot::recording::{Recording, RecordingError, Tape};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::sys::tsc;
use clap::Args;
use clap::builder::TypedValueParser;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The guest itself, in whatever mode it is to run.
#[derive(Args)]
pub(super) struct ImageArguments {
    /// Name of a built-in workload, or an image: a Linux bzImage, an ELF64 with a PVH note, or a multiboot image
    /// (./NAME for a file of a workload's name)
    #[arg(required_unless_present_any = ["kernel", "bios", "restore", "replay"])]
    image: Option<OsString>,
    /// The image is this file: a Linux bzImage, a `vmlinux` with a PVH note or without, or another ELF64 with the note
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "flat"])]
    kernel: Option<OsString>,
    /// The image is this file: a PC's firmware, as SeaBIOS' bios-256k.bin, which boots a disk
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "kernel", "flat", "initrd", "append"])]
    bios: Option<OsString>,
    /// The firmware of the screen, as SeaBIOS' vgabios-isavga.bin; without it the firmware speaks on the serial port
    #[arg(long, value_name = "FILE", requires = "bios")]
    vgabios: Option<OsString>,
    /// The firmware offers a menu of what to boot
    #[arg(long, requires = "bios")]
    boot_menu: bool,
    /// Write the firmware's log to this file
    #[arg(long, value_name = "FILE", requires = "bios")]
    firmware_log: Option<PathBuf>,
    /// The kernel's initial RAM disk, or a multiboot image's module
    #[arg(long, visible_alias = "module", value_name = "FILE")]
    initrd: Option<OsString>,
    /// Guest RAM
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "128M", allow_hyphen_values = true)]
    memory: u64,
    /// How many CPUs the guest has, 1 to 8 (more than one in emu and kvm)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=i64::from(MachineSpec::MOST_CPUS)), default_value = "1", allow_hyphen_values = true)]
    cpus: u8,
    /// Go on from this snapshot, in whatever mode: the machine is as it was then, and only disks, network and firmware are
    /// to be named. An image that is named, too, is where symbols come from
    #[arg(long, value_name = "FILE", conflicts_with_all = ["initrd", "append", "flat", "memory", "cpus", "vgabios", "boot_menu"])]
    restore: Option<OsString>,
    /// Go on in this recording of 'run --record' (with 'debug'; 'trivisor replay' runs it to its end). An image that is named,
    /// too, is where symbols come from
    #[arg(long, value_name = "FILE", conflicts_with_all = ["restore", "bios", "initrd", "append", "flat", "memory", "cpus"])]
    pub(super) replay: Option<PathBuf>,
    /// The guest's command line
    #[arg(long, value_name = "STRING", default_value = "")]
    append: String,
    /// The image is raw code, loaded and entered at 2 MiB in 32-bit protected mode
    #[arg(long)]
    flat: bool,
}

impl ImageArguments {
    /// What the person called the guest.
    pub(super) fn name(&self) -> &OsStr {
        let files = [&self.kernel, &self.bios, &self.image, &self.restore];
        let name = files.into_iter().flatten().next().map(OsString::as_os_str);
        name.or(self.replay.as_deref().map(Path::as_os_str)).unwrap_or_default()
    }

    /// Where the guest begins and the machine for it with this pair, of whose TSC the guest is told that it has this
    /// frequency.
    pub(super) fn prepare(
        &self,
        pair: Pair,
        tsc_khz: impl FnOnce() -> u64,
    ) -> Result<(Start, MachineSpec), CliError> {
        if let Some(file) = &self.restore {
            return self.prepare_restore(file, pair);
        }
        let mut image = match (&self.kernel, &self.bios) {
            (Some(file), _) => image::open_file(file)?,
            (_, Some(file)) => image::open_firmware(file)?,
            _ => image::open(self.name(), self.flat)?,
        };
        if let Some(file) = &self.initrd {
            image = image::add_initrd(image, file)?;
        }
        let mut spec = MachineSpec::new(pair);
        spec.memory = self.memory;
        // Clap does not say so where an image conflicts with the option that is missing.
        if self.bios.is_none() && (self.vgabios.is_some() || self.boot_menu || self.firmware_log.is_some()) {
            return Err(CliError::Usage(
                "--vgabios, --boot-menu and --firmware-log go with firmware; name it with --bios".to_owned(),
            ));
        }
        spec.firmware = FirmwareSpec {
            vga_bios: self.vgabios.as_deref().map(image::read_file).transpose()?,
            boot_menu: self.boot_menu,
            log: self.firmware_log.clone(),
        };
        spec.cpus = self.cpus;
        spec.command_line = if image.is_linux() { self.append.clone() } else { self.command_line(tsc_khz) };
        Ok((Start::Image(image), spec))
    }

    fn prepare_restore(&self, file: &OsStr, pair: Pair) -> Result<(Start, MachineSpec), CliError> {
        let snapshot = Snapshot::open(Path::new(file))?;
        let image = match (&self.kernel, &self.bios, &self.image) {
            (Some(file), ..) => Some(image::open_file(file)?),
            (_, Some(file), _) => Some(image::open_firmware(file)?),
            (.., Some(name)) => Some(image::open(name, false)?),
            (None, None, None) => None,
        };
        let mut spec = MachineSpec::new(pair);
        spec.take_shape(snapshot.shape());
        spec.firmware.log.clone_from(&self.firmware_log);
        Ok((Start::Snapshot { snapshot: Box::new(snapshot), image }, spec))
    }

    /// Tells the guest its TSC's frequency, unless the person already did.
    fn command_line(&self, tsc_khz: impl FnOnce() -> u64) -> String {
        if self.append.contains(abi::ARG_TSC_KHZ) {
            return self.append.clone();
        }
        format!("{} {}={}", self.append, abi::ARG_TSC_KHZ, tsc_khz()).trim_start().to_owned()
    }
}

/// Where a guest begins.
pub(super) enum Start {
    /// Before an image's first instruction.
    Image(Image),
    /// Where a recording begins. The image, if one was named, has symbols.
    Recording { recording: Box<Recording>, image: Option<Image> },
    /// Where a snapshot was taken. The image, if one was named, has the firmware, and symbols.
    Snapshot { snapshot: Box<Snapshot>, image: Option<Image> },
}

impl Start {
    /// The image, if there is one.
    pub(super) fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Snapshot { image, .. } | Self::Recording { image, .. } => image.as_ref(),
        }
    }

    /// Whether the guest goes on instead of beginning.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Self::Snapshot { .. } | Self::Recording { .. })
    }

    /// What came from outside, if this was recorded.
    pub(super) fn tape(&self) -> Tape {
        match self {
            Self::Recording { recording, .. } => recording.tape(),
            _ => Tape::default(),
        }
    }

    /// A machine with the guest there.
    pub(super) fn build(
        &self,
        spec: &MachineSpec,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Machine, SnapshotError> {
        match self {
            Self::Image(image) => Ok(Machine::build(spec, image, console)?),
            Self::Recording { recording, .. } => recording.build(console).map_err(|error| match error {
                RecordingError::Snapshot(error) => error,
                RecordingError::Machine(error) => error.into(),
                // Building one makes no other.
                error => MachineError::Unsaved(error.to_string()).into(),
            }),
            Self::Snapshot { snapshot, image } => {
                snapshot.build(spec, image.as_ref().and_then(Image::rom), console)
            }
        }
    }
}

/// The host's, in kHz.
pub(super) fn host_tsc_khz() -> u64 {
    tsc::frequency() / 1000
}

#[derive(Args)]
pub(super) struct GuestArguments {
    #[command(flatten)]
    image: ImageArguments,
    #[command(flatten)]
    pair: PairArguments,
    /// Techniques that the translator is to go without, with commas between
    #[arg(long, value_name = "TECHNIQUE,...", value_parser = choices::Techniques)]
    without: Option<Without>,
    /// A disk: a raw image, which the guest cannot write with ro, and which stays as it is with an overlay that takes
    /// the writes (made if it is not there). By virtio, or with ide on an IDE channel; with cdrom the medium of a CD-ROM
    /// drive there, an ISO image. May be given several times
    #[arg(long, value_name = "FILE[,ide|,cdrom][,ro][,overlay=FILE]", value_parser = clap::builder::OsStringValueParser::new().try_map(|value| disk::parse(&value)))]
    disk: Vec<disk::Disk>,
    /// A virtio device that gives the guest random bytes of the host
    #[arg(long, conflicts_with_all = ["deterministic", "restore"])]
    rng: bool,
    /// The device that is the guest's console: its first serial port, or a virtio console (Linux: console=hvc0)
    #[arg(long, value_name = "DEVICE", default_value = "serial", conflicts_with = "restore", value_parser = ["serial", "virtio"])]
    console: String,
    /// A virtio network card, linked to another machine by a socket (which the first makes, and the second connects to),
    /// with what passes in a capture file
    #[arg(long, value_name = "unix=PATH,pcap=FILE", conflicts_with = "deterministic", value_parser = clap::builder::OsStringValueParser::new().try_map(|value| net::parse(&value)))]
    net: Option<NetSpec>,
    /// Where the guest finds its virtio devices: on the PCI bus, or in memory, as ACPI tells (at most eight)
    #[arg(long, value_name = "PLACE", default_value = "pci", conflicts_with = "restore", value_parser = choices::virtio_place())]
    virtio: VirtioPlace,
    /// Offer the guest KVM's clock, which Linux knows as kvm-clock
    #[arg(long, conflicts_with = "restore")]
    kvm_clock: bool,
    /// A device for test suites of CPUs and interrupt chips, as QEMU's pc-testdev: ports that drive the interrupt lines
    /// (0x2000-0x2017), a register (0xe0), a port that has the host give up a page (0xe4), memory at 0xff000000
    #[arg(long, conflicts_with = "restore")]
    test_device: bool,
    /// Tell the guest only of what every mode has of a CPU, so that a snapshot of it goes on in each
    #[arg(long, conflicts_with = "restore")]
    common_cpu: bool,
    /// Offer the guest protection keys: PKRU for its programs' pages, IA32_PKRS for its own (emu only)
    #[arg(long, conflicts_with_all = ["restore", "common_cpu"])]
    protection_keys: bool,
    /// Count time in instructions instead of reading the host's clock: runs repeat exactly (emu only)
    #[arg(long)]
    deterministic: bool,
}

impl GuestArguments {
    /// What the person called the guest.
    pub(super) fn name(&self) -> &OsStr {
        self.image.name()
    }

    /// Where the guest begins and the machine for it, in a run that is recorded if `records`.
    pub(super) fn prepare_run(&self, records: bool) -> Result<(Start, MachineSpec), CliError> {
        if self.image.replay.is_some() {
            return Err(CliError::Usage(
                "--replay is for 'trivisor debug'; 'trivisor replay FILE' runs a recording again".to_owned(),
            ));
        }
        let (pair, _) = self.pair.choice()?;
        if records && pair.engine != Engine::Emu {
            return Err(CliError::Usage(format!(
                "--record counts instructions, which {pair} cannot; use it with --mode emu"
            )));
        }
        self.prepare_with(self.deterministic || records)
    }

    /// The same for a debugger, with which a guest goes back where that is possible: unless time is to be the host's, it is
    /// counted in instructions.
    pub(super) fn prepare_for_debugger(&self, host_clock: bool) -> Result<(Start, MachineSpec), CliError> {
        let (pair, _) = self.pair.choice()?;
        let counts = pair.engine == Engine::Emu
            && !host_clock
            && self.without.is_none()
            && self.disk.iter().all(|disk| disk.spec.read_only || disk.attachment == Attachment::CdRom)
            && self.net.is_none()
            && !self.rng
            && self.image.cpus == 1;
        let (start, mut spec) = self.prepare_with(self.deterministic || counts)?;
        // A snapshot of several CPUs.
        if spec.cpus > 1 && !self.deterministic {
            spec.clock = ClockSource::Real;
        }
        Ok((start, spec))
    }

    fn prepare_replay(&self, file: &Path) -> Result<(Start, MachineSpec), CliError> {
        let (pair, _) = self.pair.choice()?;
        let recording = Recording::open(file)?;
        let mut spec = recording.spec();
        if pair.engine != Engine::Emu {
            return Err(CliError::Usage(format!(
                "a recording counts instructions, which {pair} cannot; leave out --mode"
            )));
        }
        if !self.disk.is_empty() || self.net.is_some() {
            return Err(CliError::Usage("a recorded machine has no disks and no network".to_owned()));
        }
        let image = match (&self.image.kernel, &self.image.image) {
            (Some(file), _) => Some(image::open_file(file)?),
            (_, Some(name)) => Some(image::open(name, false)?),
            (None, None) => None,
        };
        spec.counts_sites = false;
        Ok((Start::Recording { recording: Box::new(recording), image }, spec))
    }

    fn prepare_with(&self, deterministic: bool) -> Result<(Start, MachineSpec), CliError> {
        if let Some(file) = &self.image.replay {
            return self.prepare_replay(file);
        }
        let (pair, emulator) = self.pair.choice()?;
        let emulates = pair.engine == Engine::Emu;
        let tsc_khz = || if deterministic { 1_000_000 } else { host_tsc_khz() };
        let (start, mut spec) = self.image.prepare(pair, tsc_khz)?;
        if deterministic && !emulates {
            return Err(CliError::Usage(format!(
                "--deterministic counts instructions, which {pair} cannot; use it with --mode emu"
            )));
        }
        if self.protection_keys && !emulates {
            return Err(CliError::Usage(format!(
                "--protection-keys offers what {pair} cannot give; use it with --mode emu"
            )));
        }
        let emulator = emulator.unwrap_or_default();
        if self.without.is_some() && (!emulates || emulator != EmuEngine::Translator) {
            return Err(CliError::Usage(
                "--without leaves techniques of the translator out; use it with --mode emu --engine translator"
                    .to_owned(),
            ));
        }
        spec.emulator = emulator;
        spec.without = self.without.unwrap_or_default();
        if let Some(image) = disk::named_twice(&self.disk) {
            return Err(CliError::Usage(format!(
                "--disk: {} is named twice, and written; with ro, or an overlay for each, it can be",
                image.display()
            )));
        }
        let attached = |how: Attachment| {
            self.disk.iter().filter(|disk| disk.attachment == how).map(|disk| disk.spec.clone()).collect()
        };
        spec.disks = attached(Attachment::Virtio);
        (spec.ide_disks, spec.cdroms) = (attached(Attachment::Ide), attached(Attachment::CdRom));
        spec.network.clone_from(&self.net);
        if !start.goes_on() {
            spec.entropy = self.rng;
            spec.virtio_console = self.console == "virtio";
            spec.virtio = self.virtio;
            spec.kvm_clock = self.kvm_clock;
            spec.test_device = self.test_device;
            spec.common_cpu = self.common_cpu;
            spec.protection_keys = self.protection_keys;
        }
        if deterministic {
            spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
        }
        Ok((start, spec))
    }
}
