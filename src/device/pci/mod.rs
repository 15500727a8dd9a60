//! A PCI bus behind a host bridge: configuration mechanism #1, base address registers, interrupt pins.
//!
//! A device implements [`PciDevice`] and is plugged into a slot ([`PciHost::plug`]) while the machine is built; each has
//! one function. The bridge claims two windows of the machine's bus, for ports and for memory, and leads accesses in
//! there to the function whose base address registers decode them; what none decodes floats. Pin INTA of a slot is one of
//! the lines ([`crate::arch::layout::PCI_LINES`]), level-triggered and shared by the slots that have the same.
//! Message-signalled interrupts are a device's own capability; it sends them by [`crate::bus::MsiSink`].
//!
//! Lock order: a device's lock, then the routes', then the shared lines' and the interrupt complex's. A device is never
//! called under the routes' lock.
mod config;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use config::{BarKind, ConfigSpace, Identity};
pub use saved::SavedPci;
pub use spec::Command;

use crate::arch::layout::{PCI_LINES, PCI_MEMORY, PCI_MEMORY_SIZE, PCI_PORTS};
use crate::arch::{Port, Width};
use crate::bus::{IrqLine, IrqSink, Lock, MmioTarget, PortTarget, VcpuId};
use config::{Decoded, Window};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Slots of the bus; the bridge itself is in slot 0.
pub const SLOTS: usize = 32;

/// A device in a slot.
///
/// Form: the device owns its [`ConfigSpace`] and builds it with its base address registers and capabilities. The bridge
/// reads and writes it for the guest; [`Self::config_changed`] lets the device follow what the guest wrote, for example
/// in a capability. The interrupt pin is driven with [`ConfigSpace::set_interrupt`].
pub trait PciDevice: Send {
    /// The function's configuration space.
    fn config(&mut self) -> &mut ConfigSpace;
    /// The guest has written configuration space at `offset`.
    fn config_changed(&mut self, _offset: usize) {}
    /// Reads `width` bytes at `offset` of what base address register `bar` decodes. An access does not cross the end.
    fn bar_read(&mut self, bar: usize, offset: u64, width: Width) -> u64;
    /// Writes the low `width` bytes of `value`; the bits above are zero.
    fn bar_write(&mut self, bar: usize, offset: u64, width: Width, value: u64);
}

/// A slot's device, shared with whoever feeds it from the host's side.
pub type SharedPciDevice = Arc<Mutex<dyn PciDevice>>;

/// The bridge, and the bus behind it.
pub struct PciHost {
    slots: [Option<SharedPciDevice>; SLOTS],
    lines: Arc<SharedLines>,
    /// CONFIG_ADDRESS.
    address: AtomicU32,
    /// What is decoded, by slot.
    routes: Lock<Vec<(usize, Decoded)>>,
    /// What base address registers were not given yet.
    ports: Window,
    memory: Window,
}

impl std::fmt::Debug for PciHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used: Vec<_> = (0..SLOTS).filter(|&slot| self.slots[slot].is_some()).collect();
        f.debug_struct("PciHost").field("slots", &used).finish_non_exhaustive()
    }
}

/// The shared lines, each asserted while any of its slots asserts it.
struct SharedLines {
    sink: Arc<dyn IrqSink>,
    /// The slots that assert their line.
    asserted: Lock<u32>,
}

/// One slot's end of a shared line; the "line" that it is told of is the slot.
impl IrqSink for SharedLines {
    fn set_line(&self, slot: u8, level: bool) {
        let line = PciHost::line_of(slot.into());
        let on_line = (0..SLOTS)
            .filter(|&other| PciHost::line_of(other) == line)
            .fold(0_u32, |all, other| all | 1 << other);
        let mut asserted = self.asserted.lock();
        let (before, bit) = (*asserted, 1 << (slot & 31));
        *asserted = if level { before | bit } else { before & !bit };
        if (before & on_line == 0) != (*asserted & on_line == 0) {
            // Under the lock: the line follows in the order of the changes.
            self.sink.set_line(line, level);
        }
    }
}

/// The host bridge's own function: Intel's 440FX. Of its registers beyond the header those for shadow RAM (PAM0–PAM6,
/// datasheet 290549, 3.2.18) keep what is written; RAM below 1 MiB can always be read and written.
struct Bridge(ConfigSpace);

impl PciDevice for Bridge {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
    fn bar_read(&mut self, _: usize, _: u64, width: Width) -> u64 {
        width.mask()
    }
    fn bar_write(&mut self, _: usize, _: u64, _: Width, _: u64) {}
}

impl PciHost {
    /// A bridge with nothing behind it, whose lines end in `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn IrqSink>) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_0000,
            subsystem_vendor: 0,
            subsystem: 0,
        };
        let mut slots = [const { None }; SLOTS];
        let config = ConfigSpace::new(identity).with_register(spec::PAM0, &[0; 7], &[0xff; 7]);
        let bridge: SharedPciDevice = Arc::new(Mutex::new(Bridge(config)));
        slots[0] = Some(bridge);
        Self {
            slots,
            lines: Arc::new(SharedLines { sink, asserted: Lock::new(0) }),
            address: AtomicU32::new(0),
            routes: Lock::new(Vec::new()),
            ports: Window { free: PCI_PORTS.start().0.into(), end: u64::from(PCI_PORTS.end().0) + 1 },
            memory: Window { free: PCI_MEMORY.0, end: PCI_MEMORY.0 + PCI_MEMORY_SIZE },
        }
    }

    /// Shows firmware that it runs on the PC that QEMU made known, by the bridge's subsystem.
    pub fn show_firmware(&mut self) {
        if let Some(bridge) = &self.slots[0] {
            lock(bridge).config().put(spec::at::SUBSYSTEM_VENDOR, &[0xf4, 0x1a, 0x00, 0x11]);
        }
    }

    /// The line of the machine that pin INTA of a slot is wired to.
    #[must_use]
    pub fn line_of(slot: usize) -> u8 {
        PCI_LINES[slot % PCI_LINES.len()]
    }

    /// Puts a device into the lowest free slot, whose number it returns, wires its pin and gives its base address
    /// registers places.
    ///
    /// # Errors
    /// The device, if all slots are taken.
    pub fn plug(&mut self, device: SharedPciDevice) -> Result<usize, SharedPciDevice> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else { return Err(device) };
        let sink: Arc<dyn IrqSink> = self.lines.clone();
        let line = IrqLine::new(sink, slot as u8);
        lock(&device).config().connect(line, Self::line_of(slot));
        // A guest without firmware finds all in place, in windows that nothing else tells it of.
        lock(&device).config().place(&mut self.ports, &mut self.memory);
        self.slots[slot] = Some(device);
        Ok(slot)
    }

    /// The slot and offset that CONFIG_ADDRESS names, if there is a device: bus 0, function 0.
    fn selected(&self) -> Option<(usize, &SharedPciDevice, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        if address & spec::ENABLE == 0 || address & 0x00ff_0700 != 0 {
            return None;
        }
        let slot = (address >> 11 & 31) as usize;
        Some((slot, self.slots[slot].as_ref()?, (address & 0xfc) as usize))
    }

    fn config_read(&self, port: Port, width: Width) -> u32 {
        let Some((_, device, register)) = self.selected() else { return u32::MAX };
        let mut device = lock(device);
        let bytes = device.config().bytes();
        let first = register + usize::from(port.0 - spec::DATA);
        (0..width.bytes().min(4))
            .fold(0, |value, i| value | u32::from(bytes.get(first + i).copied().unwrap_or(0xff)) << (8 * i))
    }

    fn config_write(&self, port: Port, width: Width, value: u32) {
        let Some((slot, device, register)) = self.selected() else { return };
        let mut device = lock(device);
        let first = register + usize::from(port.0 - spec::DATA);
        for i in 0..width.bytes().min(4) {
            device.config().write(first + i, (value >> (8 * i)) as u8);
        }
        device.config_changed(first);
        let mut routes = self.routes.lock();
        routes.retain(|(other, _)| *other != slot);
        routes.extend(device.config().decoded().map(|decoded| (slot, decoded)));
    }

    /// Who answers for `bytes` bytes at an address: device, register, offset.
    fn route(&self, io: bool, at: u64, bytes: usize) -> Option<(&SharedPciDevice, usize, u64)> {
        let found = self.routes.lock().iter().find_map(|(slot, decoded)| {
            let offset = at.checked_sub(decoded.start).filter(|_| decoded.io == io)?;
            (offset < decoded.size && bytes as u64 <= decoded.size - offset).then_some((
                *slot,
                decoded.bar,
                offset,
            ))
        });
        let (slot, bar, offset) = found?;
        Some((self.slots[slot].as_ref()?, bar, offset))
    }
}

fn lock(device: &SharedPciDevice) -> MutexGuard<'_, dyn PciDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ports of the configuration mechanism, and the window of ports.
impl PortTarget for PciHost {
    fn port_read(&self, port: Port, width: Width) -> u32 {
        match port.0 {
            // Only the whole register is there; the bytes in between are other devices', which are not there.
            spec::ADDRESS if width == Width::B4 => self.address.load(Ordering::Relaxed),
            spec::DATA..=0xcff => self.config_read(port, width),
            _ if PCI_PORTS.contains(&port) => self
                .route(true, port.0.into(), width.bytes())
                .map_or(u32::MAX, |(device, bar, offset)| lock(device).bar_read(bar, offset, width) as u32),
            _ => u32::MAX,
        }
    }

    fn port_write(&self, port: Port, width: Width, value: u32) {
        match port.0 {
            spec::ADDRESS if width == Width::B4 => {
                self.address.store(value & spec::ADDRESS_WRITABLE, Ordering::Relaxed);
            }
            spec::DATA..=0xcff => self.config_write(port, width, value),
            _ if PCI_PORTS.contains(&port) => {
                if let Some((device, bar, offset)) = self.route(true, port.0.into(), width.bytes()) {
                    lock(device).bar_write(bar, offset, width, value.into());
                }
            }
            _ => {}
        }
    }
}

/// The window of memory.
impl MmioTarget for PciHost {
    fn mmio_read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        self.route(false, PCI_MEMORY.0 + offset, width.bytes())
            .map_or(u64::MAX, |(device, bar, offset)| lock(device).bar_read(bar, offset, width))
    }

    fn mmio_write(&self, _: VcpuId, offset: u64, width: Width, value: u64) {
        if let Some((device, bar, offset)) = self.route(false, PCI_MEMORY.0 + offset, width.bytes()) {
            lock(device).bar_write(bar, offset, width, value);
        }
    }
}
