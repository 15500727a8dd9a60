//! The virtio devices of a machine, in the slots of its PCI bus: disks in the order in which they are wanted, then the
//! rest.
use super::{ConsoleSink, MachineError, MachineSpec};
use crate::bus::MsiSink;
use crate::device::pci::{PciDevice, PciHost};
use crate::device::virtio::block::Block;
use crate::device::virtio::console::Console;
use crate::device::virtio::entropy::Entropy;
use crate::device::virtio::net::{self, Net};
use crate::device::virtio::{VirtioDevice, VirtioPci};
use crate::host::disk::{self, Failures};
use crate::host::entropy::HostEntropy;
use crate::host::net::Network;
use crate::mem::GuestRam;
use std::sync::{Arc, Mutex, PoisonError};

/// Plugs in a console that prints to `sink`.
pub(super) fn plug_console(
    pci: &mut PciHost,
    ram: &Arc<GuestRam>,
    messages: &Arc<dyn MsiSink>,
    sink: Box<dyn ConsoleSink>,
) -> Result<Arc<Mutex<VirtioPci<Console>>>, MachineError> {
    let device = on_pci(Console::new(sink), ram, messages);
    insert(pci, device.clone())?;
    Ok(device)
}

/// Plugs in what `spec` wants; returns how the disks fare, in their order.
pub(super) fn plug(
    spec: &MachineSpec,
    pci: &mut PciHost,
    ram: &Arc<GuestRam>,
    messages: &Arc<dyn MsiSink>,
) -> Result<Vec<Failures>, MachineError> {
    let mut all = vec![];
    for (number, wanted) in spec.disks.iter().enumerate() {
        let failures = Failures::default();
        let store = disk::open(wanted, &failures)?;
        let block = Block::new(store, &format!("trivisor-{number}"));
        insert(pci, on_pci(block, ram, messages))?;
        all.push(failures);
    }
    if spec.entropy {
        let source = HostEntropy::open()
            .map_err(|source| MachineError::Host { what: "cannot get random bytes", source })?;
        insert(pci, on_pci(Entropy::new(Box::new(source)), ram, messages))?;
    }
    if let Some(wanted) = &spec.network {
        let (network, incoming) = Network::open(wanted)?;
        let card = on_pci(Net::new(mac(), Box::new(network)), ram, messages);
        insert(pci, card.clone())?;
        if let Some(incoming) = incoming {
            let card = Arc::downgrade(&card);
            let take = move |frame: &[u8]| {
                let Some(card) = card.upgrade() else { return false };
                let mut card = card.lock().unwrap_or_else(PoisonError::into_inner);
                let _lost_if_full = card.act(net::RECEIVE, |net| net.receive(frame));
                true
            };
            incoming
                .start(take)
                .map_err(|source| MachineError::Host { what: "cannot read the network", source })?;
        }
    }
    Ok(all)
}

/// An address of a local kind that two processes of one host do not share.
fn mac() -> [u8; 6] {
    let [a, b, c, _] = std::process::id().to_le_bytes();
    [0x52, 0x54, 0, c, b, a]
}

fn on_pci<D: VirtioDevice + 'static>(
    device: D,
    ram: &Arc<GuestRam>,
    messages: &Arc<dyn MsiSink>,
) -> Arc<Mutex<VirtioPci<D>>> {
    Arc::new(Mutex::new(VirtioPci::new(device, Arc::clone(ram), Arc::clone(messages))))
}

fn insert(pci: &mut PciHost, device: Arc<Mutex<dyn PciDevice>>) -> Result<(), MachineError> {
    pci.plug(device).map(drop).map_err(|_full| MachineError::NoSlot)
}
