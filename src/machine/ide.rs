//! The IDE disks and CD-ROM drives of a machine: a controller in a slot of its PCI bus, where one is wanted.
use super::parts::Parts;
use super::{MachineError, MachineSpec};
use crate::arch::layout;
use crate::bus::{Bus, IrqLine, IrqSink};
use crate::device::disk::DiskStore;
use crate::device::ide::{DISKS, Ide};
use crate::device::pci::PciHost;
use crate::host::disk::{self, Failures};
use crate::mem::GuestRam;
use std::sync::{Arc, Mutex};

/// What is said of a disk that cannot be written.
pub(super) fn read_only(store: &dyn DiskStore) -> &'static str {
    if store.is_read_only() { ", read-only" } else { "" }
}

/// Plugs in a controller with the disks that `spec` wants; returns how they fare, in their order.
pub(super) fn plug(
    spec: &MachineSpec,
    pci: &mut PciHost,
    bus: &mut Bus,
    ram: &Arc<GuestRam>,
    lines: &Arc<dyn IrqSink>,
    parts: &mut Parts,
) -> Result<Vec<Failures>, MachineError> {
    let (disks, cds) = (&spec.ide_disks, &spec.cdroms);
    if disks.is_empty() && cds.is_empty() {
        return Ok(vec![]);
    }
    if disks.len() + cds.len() > DISKS {
        return Err(MachineError::NoIdePlace);
    }
    let line = |number| IrqLine::new(Arc::clone(lines), number);
    let mut ide = Ide::new(Arc::clone(ram), layout::IRQ_IDE.map(line));
    let mut all = vec![];
    let mut name = String::from("ide");
    // PCs have their CD-ROM drive on the second channel.
    let free = (DISKS / 2..DISKS).chain(0..DISKS / 2).filter(|place| *place >= disks.len());
    let disks = (0..).zip(disks).map(|place| (place, false));
    let cds = free.zip(cds).map(|place| (place, true));
    for ((number, wanted), is_cd) in disks.chain(cds) {
        let failures = Failures::default();
        let store = disk::open(wanted, &failures)?;
        name += &format!(
            ", {} {number} of {} sectors{}",
            if is_cd { "CD-ROM drive" } else { "disk" },
            store.size() / 512,
            read_only(&*store)
        );
        let serial = format!("trivisor-ide-{number}");
        let attached =
            if is_cd { ide.attach_cd(number, store, &serial) } else { ide.attach(number, store, &serial) };
        attached.map_err(|_taken| MachineError::NoIdePlace)?;
        all.push(failures);
    }
    let ide = Arc::new(Mutex::new(ide));
    parts.add_locked(name, &ide, Ide::saved, Ide::restore);
    for ports in [
        layout::IDE_PRIMARY,
        layout::IDE_PRIMARY_CONTROL,
        layout::IDE_SECONDARY,
        layout::IDE_SECONDARY_CONTROL,
    ] {
        bus.claim_ports("ide", ports, ide.clone())?;
    }
    pci.plug(ide).map_err(|_full| MachineError::NoSlot)?;
    Ok(all)
}
