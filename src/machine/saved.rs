//! The state of a whole machine but its RAM, as plain data; saving it, and taking it on.
use super::parts::{self, SavedPart};
use super::{Machine, MachineError, MachineSpec, VirtioPlace};
use crate::arch::cpuid::{Broken, CpuidTable, Optional};
use crate::arch::{BadCpu, Cr4, SavedCpu, Xcr0};
use crate::clock::{ClockRefusal, SavedClock};
use crate::device::BadState;
use crate::device::interrupts::SavedInterrupts;
use crate::engine::{BadOffers, EngineError, Interface, SavedOffers, Vcpu};
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};

/// The part that the interrupt chips are.
pub(super) const INTERRUPTS: &str = "interrupts";

/// What machine it is that a state is of: enough to build one like it, but for what the host brings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "plain data: what a machine has")]
pub struct SavedShape {
    /// Bytes of RAM.
    pub memory: u64,
    /// CPUs.
    pub cpus: u8,
    /// The guest may make hypercalls.
    pub hypercalls: bool,
    /// It is offered KVM's clock.
    pub kvm_clock: bool,
    /// It was told only what every mode has of a CPU.
    pub common_cpu: bool,
    /// The console is a virtio device.
    pub virtio_console: bool,
    /// It has an entropy device.
    pub entropy: bool,
    /// It has a network card.
    pub network: bool,
    /// Its virtio devices are in memory, not on the PCI bus.
    pub virtio_in_memory: bool,
    /// It was told of a screen.
    pub screen: bool,
    /// It has the device of test suites.
    pub test_device: bool,
    /// Virtio disks, IDE disks and CD-ROM drives.
    pub disks: [u8; 3],
    /// Its firmware, if it has one: bytes, and their CRC-32.
    pub firmware: Option<(u64, u32)>,
}

/// The state of a machine but for its RAM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedMachine {
    /// What the guest was told of its CPU.
    pub cpuid: CpuidTable,
    /// Guest time.
    pub clock: SavedClock,
    /// The CPUs.
    pub cpus: Vec<SavedCpu>,
    /// What the guest uses of its hypervisor.
    pub offers: SavedOffers,
    /// Chips and devices.
    pub parts: Vec<SavedPart>,
}

/// Why a machine cannot take on a state. The sentence goes on from "the snapshot cannot be restored: ".
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is the state of another machine.
    #[error("it is of another machine: {0}")]
    Shape(String),
    /// A part's state does not even have its form.
    #[error("the saved state of {0} is damaged")]
    Unreadable(String),
    /// A device cannot be in its state.
    #[error(transparent)]
    Device(#[from] BadState),
    /// A CPU cannot be in its state.
    #[error(transparent)]
    Cpu(#[from] BadCpu),
    /// The guest was promised another CPU.
    #[error(transparent)]
    Promise(#[from] Broken),
    /// The clock cannot go on from there.
    #[error(transparent)]
    Clock(#[from] ClockRefusal),
    /// What the guest uses of its hypervisor cannot be had.
    #[error(transparent)]
    Offers(#[from] BadOffers),
    /// The engine does not take a CPU's state.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its RAM cannot be had.
    #[error("{0}")]
    Ram(String),
    /// No such machine can be built.
    #[error(transparent)]
    Build(Box<MachineError>),
}

impl From<MachineError> for RestoreError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Refused(refusal) => *refusal,
            error => Self::Build(Box::new(error)),
        }
    }
}

impl From<RestoreError> for MachineError {
    fn from(error: RestoreError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl MachineError {
    /// A state is that of a machine that differs in this.
    #[must_use]
    pub fn refused_shape(difference: String) -> Self {
        RestoreError::Shape(difference).into()
    }
}

impl MachineSpec {
    /// What a machine of this kind is, with this firmware.
    #[must_use]
    pub fn shape(&self, rom: Option<&[u8]>) -> SavedShape {
        let many = |list: &[_]| list.len().min(255) as u8;
        SavedShape {
            memory: self.memory,
            cpus: self.cpus,
            hypercalls: self.pair.interface == Interface::Pv,
            kvm_clock: self.kvm_clock,
            common_cpu: self.common_cpu,
            virtio_console: self.virtio_console,
            entropy: self.entropy,
            network: self.network.is_some(),
            virtio_in_memory: self.virtio == VirtioPlace::Memory,
            screen: self.screen,
            test_device: self.test_device,
            disks: [many(&self.disks), many(&self.ide_disks), many(&self.cdroms)],
            firmware: rom.map(|rom| (rom.len() as u64, crc32fast::hash(rom))),
        }
    }

    /// Wants what a machine had, but for what only the host can bring: pair, disks, network and firmware.
    pub fn take_shape(&mut self, shape: &SavedShape) {
        self.memory = shape.memory;
        self.cpus = shape.cpus;
        self.kvm_clock = shape.kvm_clock;
        self.common_cpu = shape.common_cpu;
        self.virtio_console = shape.virtio_console;
        self.entropy = shape.entropy;
        self.virtio = if shape.virtio_in_memory { VirtioPlace::Memory } else { VirtioPlace::Pci };
        self.screen = shape.screen;
        self.test_device = shape.test_device;
    }
}

impl SavedShape {
    /// What is different about `own`, in a sentence; `None` if nothing is.
    #[must_use]
    pub fn difference(&self, own: &Self) -> Option<String> {
        let no = |has: bool| if has { "" } else { "no " };
        let has = |name: &str, then: bool, now: bool| {
            (then != now).then(|| {
                format!("it has {}{name}, and this one {}", no(then), if now { "does" } else { "does not" })
            })
        };
        let kinds = [("virtio disks", 0), ("IDE disks", 1), ("CD-ROM drives", 2)];
        let disks = kinds.into_iter().find(|(_, i)| self.disks[*i] != own.disks[*i]);
        let firmware = match (self.firmware, own.firmware) {
            (then, now) if then == now => None,
            (Some(_), None) => Some("it has firmware: name it with --bios".to_owned()),
            (None, Some(_)) => Some("it has no firmware".to_owned()),
            _ => Some("it has other firmware".to_owned()),
        };
        None.or_else(|| {
            (self.memory != own.memory).then(|| {
                format!(
                    "it has {} of RAM, and this one {}",
                    crate::mem::amount(self.memory),
                    crate::mem::amount(own.memory)
                )
            })
        })
        .or_else(|| {
            (self.cpus != own.cpus).then(|| format!("it has {} CPUs, and this one {}", self.cpus, own.cpus))
        })
        .or_else(|| has("hypercalls (--interface pv)", self.hypercalls, own.hypercalls))
        .or_else(|| has("KVM's clock", self.kvm_clock, own.kvm_clock))
        .or_else(|| has("virtio console", self.virtio_console, own.virtio_console))
        .or_else(|| has("entropy device", self.entropy, own.entropy))
        .or_else(|| has("network card (--net)", self.network, own.network))
        .or_else(|| has("virtio devices in memory", self.virtio_in_memory, own.virtio_in_memory))
        .or_else(|| has("screen", self.screen, own.screen))
        .or_else(|| has("test device", self.test_device, own.test_device))
        .or_else(|| {
            disks.map(|(name, i)| {
                format!("it has {} {name}, and this one {} (--disk)", self.disks[i], own.disks[i])
            })
        })
        .or(firmware)
    }
}

impl SavedMachine {
    /// Whether its guest uses a feature that not every mode has. What cannot be read is refused later.
    pub(super) fn uses(&self, feature: Optional) -> bool {
        const EXTD: u64 = 1 << 10;
        const TIMER: usize = 0;
        const DEADLINE: u32 = 0b10 << 17;
        const SPEC_CTRL: usize = 11;
        const PKRS: usize = 13;
        let chips = self.parts.iter().find(|part| part.name == INTERRUPTS);
        let chips = chips.and_then(|part| parts::decode::<SavedInterrupts>(INTERRUPTS, &part.state).ok());
        let lapics = chips.map(|chips| chips.lapics).unwrap_or_default();
        match feature {
            Optional::X2Apic => lapics.iter().any(|lapic| lapic.base & EXTD != 0),
            Optional::TscDeadline => lapics.iter().any(|lapic| lapic.lvt[TIMER] & 0b11 << 17 == DEADLINE),
            Optional::ProcessContexts => self.cpus.iter().any(|cpu| cpu.cr4 & Cr4::PCIDE.bits() != 0),
            Optional::SpeculationControls => self.cpus.iter().any(|cpu| cpu.msrs[SPEC_CTRL] != 0),
            Optional::ProtectionKeys => self.cpus.iter().any(|cpu| {
                cpu.cr4 & (Cr4::PKE | Cr4::PKS).bits() != 0
                    || cpu.xcr0 & Xcr0::PKRU.bits() != 0
                    || (cpu.pkru, cpu.msrs[PKRS]) != (0, 0)
            }),
        }
    }
}

impl Machine {
    /// What machine it is.
    #[must_use]
    pub fn shape(&self) -> &SavedShape {
        &self.shape
    }

    fn vcpus(&mut self) -> impl Iterator<Item = &mut Box<dyn Vcpu>> {
        self.executor.vcpus()
    }

    /// The state of all but RAM. The machine stands, and so does its clock meanwhile.
    ///
    /// # Errors
    /// When the host does not hand out a CPU's state.
    pub fn save(&mut self) -> Result<SavedMachine, MachineError> {
        if self.shape().network {
            let why = "frames that come meanwhile would be half in it; leave out --net";
            return Err(MachineError::Unsaved(why.to_owned()));
        }
        let cpus = self.vcpus().map(|vcpu| Ok(vcpu.save()?.saved())).collect::<Result<_, EngineError>>()?;
        let clock = self.platform.clock();
        let stood = clock.is_paused();
        clock.pause();
        let saved = self.parts_now().map(|parts| SavedMachine {
            cpuid: self.platform.cpuid_of_all().clone(),
            clock: clock.saved(),
            cpus,
            offers: self.platform.saved_offers(),
            parts,
        });
        if !stood {
            clock.resume();
        }
        saved
    }

    /// The states of all parts as they are at this time: taking on its own state brings a device up to date, as an access to
    /// it does. So a state that was restored is the one that was saved, byte for byte.
    fn parts_now(&self) -> Result<Vec<SavedPart>, MachineError> {
        let save = || self.pc.parts().save().map_err(|error| MachineError::Unsaved(error.to_string()));
        self.pc.parts().restore(&save()?)?;
        save()
    }

    /// Takes on the state of a machine of the same shape. `fill` brings RAM, and is called when nothing else can be refused.
    /// The clock stands afterwards if it did before.
    ///
    /// # Errors
    /// [`RestoreError`]. The machine is as it was then, unless `fill` failed: it must not run then.
    pub fn take_on(
        &mut self,
        saved: &SavedMachine,
        fill: &mut dyn FnMut(&GuestRam) -> Result<(), String>,
    ) -> Result<(), RestoreError> {
        let platform = std::sync::Arc::clone(&self.platform);
        let own = platform.cpuid_of_all();
        if own.keeping(&saved.cpuid, |feature| saved.uses(feature))? != *own {
            return Err(RestoreError::Shape("its guest was told of another CPU".to_owned()));
        }
        if saved.cpus.len() != platform.vcpus().count() {
            return Err(RestoreError::Shape("it has another number of CPUs".to_owned()));
        }
        let states = saved.cpus.iter().map(|cpu| cpu.restored(own.physical_bits()));
        let states = states.collect::<Result<Vec<_>, _>>()?;
        platform.clock().accepts(&saved.clock)?;
        platform.accepts_offers(&saved.offers)?;
        self.pc.parts().check(&saved.parts)?;
        let stood = platform.clock().is_paused();
        let before = self.save()?;
        platform.clock().restore(&saved.clock);
        let mut taken = self.pc.parts().restore(&saved.parts);
        if taken.is_ok() {
            // Once more below; here an engine may still refuse.
            taken = self.vcpus().zip(&states).try_for_each(|(vcpu, state)| Ok(vcpu.load(state)?));
        }
        if let Err(refusal) = taken {
            platform.clock().restore(&before.clock);
            // All were in these states a moment ago.
            self.pc.parts().restore(&before.parts)?;
            for (vcpu, cpu) in self.vcpus().zip(&before.cpus) {
                vcpu.load(&cpu.restored(own.physical_bits())?)?;
            }
            if !stood {
                platform.clock().resume();
            }
            return Err(refusal);
        }
        self.stops.forget();
        fill(platform.ram()).map_err(RestoreError::Ram)?;
        platform.ram().forget_code();
        platform.restore_offers(&saved.offers);
        // What engines made of the RAM that was there is void.
        let forgets = self.executor.backend.ram_changed();
        forgets.map_err(|error| RestoreError::Ram(error.to_string()))?;
        let loaded = self.vcpus().zip(&states).try_for_each(|(vcpu, state)| vcpu.load(state));
        loaded.map_err(|error| RestoreError::Ram(error.to_string()))?;
        // A request of before is not one of this machine.
        platform.forget_power_request();
        if !stood {
            platform.clock().resume();
        }
        Ok(())
    }
}
