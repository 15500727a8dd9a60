//! What a machine with firmware has beside others: the image at the end of 4 GiB, its configuration, its log.
use super::firmware::{self, Shape};
use super::spec::FirmwareSpec;
use super::{MachineError, MachineSpec};
use crate::arch::{Gpa, layout};
use crate::bus::{Bus, Lock};
use crate::device::firmware_log::FirmwareLog;
use crate::device::fw_cfg::{FwCfg, key};
use crate::device::rom::Rom;
use crate::host::console::{Capture, Stream};
use crate::machine::ConsoleSink;
use crate::mem::GuestRam;
use std::fs::File;
use std::sync::Arc;

/// Kind of memory that is RAM, in a BIOS's map of memory.
const E820_RAM: u32 = 1;

/// Puts the firmware `rom` and what goes with it into the machine.
pub(super) fn insert(
    spec: &MachineSpec,
    shape: Shape,
    rom: &[u8],
    bus: &mut Bus,
    ram: &Arc<GuestRam>,
) -> Result<Arc<Lock<FwCfg>>, MachineError> {
    let size = rom.len() as u64;
    let start = Gpa(layout::FIRMWARE_END.0 - size.min(layout::FIRMWARE_MOST));
    bus.claim_mmio("firmware", start, layout::FIRMWARE_END.0 - start.0, Arc::new(Rom::new(rom)))?;
    let log = FirmwareLog::new(log(&spec.firmware)?);
    bus.claim_ports("firmware-log", layout::FIRMWARE_LOG, Arc::new(Lock::new(log)))?;
    let configuration = Arc::new(Lock::new(configuration(&spec.firmware, shape, ram)));
    bus.claim_ports("fw-cfg", layout::FW_CFG, configuration.clone())?;
    bus.claim_ports("fw-cfg", layout::FW_CFG_DMA, configuration.clone())?;
    Ok(configuration)
}

fn log(spec: &FirmwareSpec) -> Result<Box<dyn ConsoleSink>, MachineError> {
    let Some(path) = &spec.log else { return Ok(Box::new(Capture::new(0))) };
    let stream = File::create(path).and_then(|file| Stream::new(Box::new(file), Arc::default()));
    match stream {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(MachineError::Host { what: "cannot write the firmware's log", source }),
    }
}

fn configuration(spec: &FirmwareSpec, shape: Shape, ram: &Arc<GuestRam>) -> FwCfg {
    let mut device = FwCfg::new(Arc::clone(ram));
    let cpus = u16::from(shape.cpus).to_le_bytes();
    device.set_item(key::CPUS, cpus.to_vec());
    device.set_item(key::MOST_CPUS, cpus.to_vec());
    device.set_item(key::BOOT_MENU, u16::from(spec.boot_menu).to_le_bytes().to_vec());
    let map = ram.slots().iter().flat_map(|slot| {
        [&slot.gpa.0.to_le_bytes()[..], &slot.size.to_le_bytes(), &E820_RAM.to_le_bytes()].concat()
    });
    device.add_file("etc/e820", map.collect());
    for (name, bytes) in firmware::files(shape) {
        device.add_file(name, bytes);
    }
    match &spec.vga_bios {
        Some(bios) => device.add_file("vgaroms/vgabios.bin", bios.clone()),
        None => {
            let port = u64::from(layout::COM1.start().0);
            device.add_file("etc/sercon-port", port.to_le_bytes().to_vec());
        }
    }
    device
}
