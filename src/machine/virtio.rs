//! The virtio devices of a machine, on its PCI bus or in memory: disks in the order in which they are wanted, then the
//! rest.
//!
//! In memory each device has a page of the window [`layout::VIRTIO`] and an input of the I/O APIC that nothing else has,
//! both in turn. The guest learns of them from the DSDT ([`super::firmware`]).
use super::ide::read_only;
use super::parts::Parts;
use super::spec::VirtioPlace;
use super::{ConsoleSink, MachineError, MachineSpec};
use crate::arch::{Gpa, layout};
use crate::bus::{Bus, IrqLine, IrqSink, MsiSink};
use crate::device::pci::PciHost;
use crate::device::virtio::block::Block;
use crate::device::virtio::console::Console;
use crate::device::virtio::entropy::Entropy;
use crate::device::virtio::net::{self, Net};
use crate::device::virtio::{VirtioDevice, VirtioMmio, VirtioPci};
use crate::host::disk::{self, Failures};
use crate::host::entropy::HostEntropy;
use crate::host::net::Network;
use crate::mem::GuestRam;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where in memory the device `index` has its registers, and at which input of the I/O APIC its interrupt arrives.
pub(super) fn place(index: u8) -> (Gpa, u8) {
    (Gpa(layout::VIRTIO.0 + u64::from(index) * layout::VIRTIO_SIZE), layout::VIRTIO_PINS.start() + index)
}

/// A device that is in a machine, from the host's side. It does not keep the machine.
#[derive(Debug)]
pub enum Plugged<D: VirtioDevice> {
    /// On the PCI bus.
    Pci(Weak<Mutex<VirtioPci<D>>>),
    /// In memory.
    Memory(Weak<Mutex<VirtioMmio<D>>>),
}

impl<D: VirtioDevice> Clone for Plugged<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Pci(device) => Self::Pci(Weak::clone(device)),
            Self::Memory(device) => Self::Memory(Weak::clone(device)),
        }
    }
}

impl<D: VirtioDevice> Plugged<D> {
    /// Does something with the device and has it serve the queue `index`; `None` if the machine is gone.
    pub(super) fn act<R>(&self, index: u16, act: impl FnOnce(&mut D) -> R) -> Option<R> {
        Some(match self {
            Self::Pci(device) => {
                let device = device.upgrade()?;
                let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                device.act(index, act)
            }
            Self::Memory(device) => {
                let device = device.upgrade()?;
                let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                device.act(index, act)
            }
        })
    }
}

/// Where the devices go.
pub(super) struct Sockets<'a> {
    pub(super) place: VirtioPlace,
    pub(super) pci: &'a mut PciHost,
    pub(super) bus: &'a mut Bus,
    pub(super) ram: &'a Arc<GuestRam>,
    pub(super) lines: &'a Arc<dyn IrqSink>,
    pub(super) messages: &'a Arc<dyn MsiSink>,
    /// Devices that are in memory already.
    pub(super) used: u8,
    /// Learns of them.
    pub(super) parts: &'a mut Parts,
}

impl Sockets<'_> {
    fn insert<D: VirtioDevice + 'static>(
        &mut self,
        name: String,
        device: D,
    ) -> Result<Plugged<D>, MachineError> {
        let ram = Arc::clone(self.ram);
        Ok(match self.place {
            VirtioPlace::Pci => {
                let device = Arc::new(Mutex::new(VirtioPci::new(device, ram, Arc::clone(self.messages))));
                let plugged = Plugged::Pci(Arc::downgrade(&device));
                let save = |d: &VirtioPci<D>| (d.saved(), d.transport().device().saved());
                self.parts.add_locked(name, &device, save, |device, (registers, rest)| {
                    device.restore(registers)?;
                    device.restore_device(rest)
                });
                self.pci.plug(device).map_err(|_full| MachineError::NoSlot)?;
                plugged
            }
            VirtioPlace::Memory => {
                let (at, pin) = place(self.used);
                if !layout::VIRTIO_PINS.contains(&pin) {
                    return Err(MachineError::NoVirtioPlace);
                }
                self.used += 1;
                let line = IrqLine::new(Arc::clone(self.lines), pin);
                let device = Arc::new(Mutex::new(VirtioMmio::new(device, ram, line)));
                let plugged = Plugged::Memory(Arc::downgrade(&device));
                let save = |d: &VirtioMmio<D>| (d.saved(), d.transport().device().saved());
                self.parts.add_locked(name, &device, save, |device, (registers, rest)| {
                    device.restore(registers)?;
                    device.restore_device(rest)
                });
                self.bus.claim_mmio("virtio", at, layout::VIRTIO_SIZE, device)?;
                plugged
            }
        })
    }

    /// Plugs in a console that prints to `sink`.
    pub(super) fn insert_console(
        &mut self,
        sink: Box<dyn ConsoleSink>,
    ) -> Result<Plugged<Console>, MachineError> {
        self.insert("virtio-console".to_owned(), Console::new(sink))
    }

    /// Plugs in what `spec` wants; returns how the disks fare, in their order.
    pub(super) fn insert_all(&mut self, spec: &MachineSpec) -> Result<Vec<Failures>, MachineError> {
        let mut all = vec![];
        for (number, wanted) in spec.disks.iter().enumerate() {
            let failures = Failures::default();
            let store = disk::open(wanted, &failures)?;
            let block_name =
                format!("virtio-block {number} of {} sectors{}", store.size() / 512, read_only(&*store));
            self.insert(block_name, Block::new(store, &format!("trivisor-{number}")))?;
            all.push(failures);
        }
        if spec.entropy {
            let source = HostEntropy::open()
                .map_err(|source| MachineError::Host { what: "cannot get random bytes", source })?;
            self.insert("virtio-entropy".to_owned(), Entropy::new(Box::new(source)))?;
        }
        if let Some(wanted) = &spec.network {
            let (network, incoming) = Network::open(wanted)?;
            let card = self.insert("virtio-net".to_owned(), Net::new(mac(), Box::new(network)))?;
            if let Some(incoming) = incoming {
                // A frame for which the card has no room is lost; the first after the machine's end is the last.
                let take = move |frame: &[u8]| card.act(net::RECEIVE, |net| net.receive(frame)).is_some();
                incoming
                    .start(take)
                    .map_err(|source| MachineError::Host { what: "cannot read the network", source })?;
            }
        }
        Ok(all)
    }
}

/// An address of a local kind that two processes of one host do not share.
fn mac() -> [u8; 6] {
    let [a, b, c, _] = std::process::id().to_le_bytes();
    [0x52, 0x54, 0, c, b, a]
}
