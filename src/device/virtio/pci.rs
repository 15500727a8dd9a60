//! A virtio device on PCI (virtio 1.2, 4.1): all registers in one base address register, interrupts by pin or message.
//!
//! Registers are accessed in their own width; a 64-bit register also as two halves. The device does nothing for a
//! notification while the command register forbids it to reach RAM. Every access ends in [`VirtioPci::sync`]. The
//! window through configuration space (4.1.4.9) is not there: it is for firmware that cannot reach memory.
use super::msix::{self, Msix};
use super::spec::device_id;
use super::spec::pci::{self as register, NO_VECTOR, common};
use super::transport::{Place, Transport};
use super::{SavedTransport, VirtioDevice};
use crate::arch::Width;
use crate::bus::MsiSink;
use crate::device::BadState;
use crate::device::pci::{BarKind, Command, ConfigSpace, Identity, PciDevice};
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The base address register, and what lies where in it.
const BAR: usize = 0;
const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const CONFIGURATION: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
/// Distance of the queues' places to notify at.
const NOTIFY_STEP: u64 = 4;

/// A device in a PCI slot.
pub struct VirtioPci<D> {
    // Runtime glue.
    messages: Arc<dyn MsiSink>,
    transport: Transport<D>,
    // Volatile state.
    config: ConfigSpace,
    /// Where the message control register is in it.
    control: usize,
    pub(super) vectors: Vectors,
    pub(super) msix: Msix,
}

/// Which entries of the table interrupts use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Vectors {
    pub(super) configuration: u16,
    pub(super) queues: Vec<u16>,
}

impl Vectors {
    fn new(queues: u16) -> Self {
        Self { configuration: NO_VECTOR, queues: vec![NO_VECTOR; queues.into()] }
    }
}

/// State of a device on PCI, beside its configuration space and what the device keeps itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedVirtioPci {
    /// The registers.
    pub transport: SavedTransport,
    vectors: Vectors,
    msix: Msix,
}

impl<D: VirtioDevice> std::fmt::Debug for VirtioPci<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// Base class, subclass and interface of a kind of device.
fn class(device: u32) -> u32 {
    match device {
        device_id::NET => 0x02_0000,
        device_id::BLOCK => 0x01_8000,
        device_id::CONSOLE => 0x07_8000,
        _ => 0xff_0000,
    }
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// `device` after power-on, with its queues in `ram`, whose messages go to `messages`.
    #[must_use]
    pub fn new(device: D, ram: Arc<GuestRam>, messages: Arc<dyn MsiSink>) -> Self {
        let transport = Transport::new(device, ram);
        let kind = transport.device_id();
        let identity = Identity {
            vendor: register::VENDOR,
            device: register::DEVICE + kind as u16,
            // 1 and above: a device without the registers of older standards.
            revision: 1,
            class: class(kind),
            subsystem_vendor: register::VENDOR,
            subsystem: register::DEVICE + kind as u16,
        };
        let mut config = ConfigSpace::new(identity).with_bar(BAR, BarKind::Memory32, BAR_SIZE);
        for (kind, at, length) in [
            (register::COMMON, COMMON, common::SIZE),
            (register::ISR, ISR, 1),
            (register::DEVICE_CONFIGURATION, CONFIGURATION, super::CONFIGURATION as u64),
        ] {
            config.add_capability(register::CAPABILITY, &capability(16, kind, at, length), &[]);
        }
        let queues = transport.queues();
        let length = NOTIFY_STEP * u64::from(queues);
        let mut notify = capability(20, register::NOTIFY, NOTIFY, length);
        notify.extend((NOTIFY_STEP as u32).to_le_bytes());
        config.add_capability(register::CAPABILITY, &notify, &[]);
        let msix = Msix::new(queues + 1);
        let mut body = (msix.len() - 1).to_le_bytes().to_vec();
        body.extend((TABLE as u32 | BAR as u32).to_le_bytes());
        body.extend((PENDING as u32 | BAR as u32).to_le_bytes());
        let writable = (msix::ENABLE | msix::FUNCTION_MASK).to_le_bytes();
        let control = 2 + config.add_capability(register::CAPABILITY_MSIX, &body, &writable);
        Self { messages, transport, config, control, vectors: Vectors::new(queues), msix }
    }

    /// The registers and the device behind them.
    #[must_use]
    pub fn transport(&self) -> &Transport<D> {
        &self.transport
    }

    /// Does something with the device from the host's side and has it serve the queue `index`, if it may reach RAM.
    pub fn act<R>(&mut self, index: u16, act: impl FnOnce(&mut D) -> R) -> R {
        if !self.config.command().contains(Command::MASTER) {
            return act(self.transport.device_mut());
        }
        let result = self.transport.act(index, act);
        self.sync();
        result
    }

    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedVirtioPci {
        let Self { messages: _, transport, config: _, control: _, vectors, msix } = self;
        SavedVirtioPci { transport: transport.saved(), vectors: vectors.clone(), msix: msix.clone() }
    }

    /// Takes on a saved state, after the configuration space has taken on its own, and drives the interrupt accordingly.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedVirtioPci) -> Result<(), BadState> {
        let SavedVirtioPci { transport, vectors, msix } = saved;
        if !self.msix.is_like(msix) || vectors.queues.len() != self.vectors.queues.len() {
            return Err(BadState { device: "virtio-pci", what: "another number of interrupts" });
        }
        self.transport.restore(transport)?;
        (self.vectors, self.msix) = (vectors.clone(), msix.clone());
        self.sync();
        Ok(())
    }

    /// Has the device take on its saved state, after [`Self::restore`].
    ///
    /// # Errors
    /// As [`VirtioDevice::restore`].
    pub fn restore_device(&mut self, saved: &D::Saved) -> Result<(), BadState> {
        self.transport.device_mut().restore(saved)
    }

    /// Sends what has been raised, and recomputes the pin.
    fn sync(&mut self) {
        let raised = self.transport.take_raised();
        if self.msix.is_enabled() {
            if raised.configuration {
                self.msix.raise(self.vectors.configuration);
            }
            for (index, &vector) in self.vectors.queues.iter().enumerate() {
                if raised.queues & 1 << index != 0 {
                    self.msix.raise(vector);
                }
            }
            if self.config.command().contains(Command::MASTER) {
                while let Some((address, data)) = self.msix.next_message() {
                    self.messages.send(address, data);
                }
            }
        }
        let pin = !self.msix.is_enabled() && !self.transport.isr().is_empty();
        self.config.set_interrupt(pin);
    }

    fn read_common(&self, offset: u64) -> u64 {
        let transport = &self.transport;
        let queue = transport.queue();
        let select = usize::from(transport.queue_select());
        match offset {
            common::DEVICE_FEATURES_SELECT => transport.state.device_features_select.into(),
            common::DEVICE_FEATURES => transport.device_features().into(),
            common::DRIVER_FEATURES_SELECT => transport.state.driver_features_select.into(),
            common::DRIVER_FEATURES => transport.driver_features().into(),
            common::CONFIGURATION_VECTOR => self.vectors.configuration.into(),
            common::QUEUES => transport.queues().into(),
            common::STATUS => transport.status().into(),
            // The configuration of no device here changes while it is there.
            common::CONFIGURATION_GENERATION => 0,
            common::QUEUE_SELECT => transport.queue_select().into(),
            common::QUEUE_SIZE => queue.map_or(0, |queue| queue.size.into()),
            common::QUEUE_VECTOR => self.vectors.queues.get(select).map_or(NO_VECTOR, |&v| v).into(),
            common::QUEUE_ENABLE => queue.map_or(0, |queue| queue.enabled.into()),
            common::QUEUE_NOTIFY_OFFSET => queue.map_or(0, |_| transport.queue_select().into()),
            common::QUEUE_DESCRIPTORS => queue.map_or(0, |queue| queue.places.descriptors.0),
            common::QUEUE_DRIVER => queue.map_or(0, |queue| queue.places.driver.0),
            common::QUEUE_DEVICE => queue.map_or(0, |queue| queue.places.device.0),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, width: Width, value: u64) {
        // A queue's place, in two halves or as a whole.
        if (common::QUEUE_DESCRIPTORS..common::SIZE).contains(&offset) {
            let place = match offset & !7 {
                common::QUEUE_DESCRIPTORS => Place::Descriptors,
                common::QUEUE_DRIVER => Place::Driver,
                _ => Place::Device,
            };
            match (width, offset & 7) {
                (Width::B8, 0) => {
                    self.transport.set_queue_place(place, false, value as u32);
                    self.transport.set_queue_place(place, true, (value >> 32) as u32);
                }
                (Width::B4, 0 | 4) => self.transport.set_queue_place(place, offset & 4 != 0, value as u32),
                _ => {}
            }
            return;
        }
        if register_width(offset) != Some(width) {
            return;
        }
        let transport = &mut self.transport;
        match offset {
            common::DEVICE_FEATURES_SELECT => transport.select_device_features(value as u32),
            common::DRIVER_FEATURES_SELECT => transport.select_driver_features(value as u32),
            common::DRIVER_FEATURES => transport.set_driver_features(value as u32),
            common::CONFIGURATION_VECTOR => self.vectors.configuration = self.existing(value as u16),
            common::STATUS => {
                transport.set_status(value as u8);
                if value == 0 {
                    self.vectors = Vectors::new(transport.queues());
                }
            }
            common::QUEUE_SELECT => transport.select_queue(value as u32),
            common::QUEUE_SIZE => transport.set_queue_size(value as u32),
            common::QUEUE_VECTOR => {
                let vector = self.existing(value as u16);
                let select = usize::from(self.transport.queue_select());
                if let Some(place) = self.vectors.queues.get_mut(select) {
                    *place = vector;
                }
            }
            // Only a reset takes a queue back.
            common::QUEUE_ENABLE if value == 1 => transport.enable_queue(),
            _ => {}
        }
    }

    /// A vector that the table has, or none: the driver reads it back.
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.len() { vector } else { NO_VECTOR }
    }
}

/// The width in which a common register below the queues' places is accessed.
fn register_width(offset: u64) -> Option<Width> {
    Some(match offset {
        common::DEVICE_FEATURES_SELECT
        | common::DEVICE_FEATURES
        | common::DRIVER_FEATURES_SELECT
        | common::DRIVER_FEATURES => Width::B4,
        common::STATUS | common::CONFIGURATION_GENERATION => Width::B1,
        common::CONFIGURATION_VECTOR
        | common::QUEUES
        | common::QUEUE_SELECT
        | common::QUEUE_SIZE
        | common::QUEUE_VECTOR
        | common::QUEUE_ENABLE
        | common::QUEUE_NOTIFY_OFFSET => Width::B2,
        _ => return None,
    })
}

/// A vendor-specific capability of `length` bytes, behind the pointer to the next one.
fn capability(length: u8, kind: u8, at: u64, size: u64) -> Vec<u8> {
    let mut body = vec![length, kind, BAR as u8, 0, 0, 0];
    body.extend((at as u32).to_le_bytes());
    body.extend((size as u32).to_le_bytes());
    body
}

impl<D: VirtioDevice> PciDevice for VirtioPci<D> {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_changed(&mut self, _: usize) {
        let bytes = self.config.bytes();
        self.msix.control(u16::from_le_bytes([bytes[self.control], bytes[self.control + 1]]));
        self.sync();
    }

    fn bar_read(&mut self, _: usize, offset: u64, width: Width) -> u64 {
        match offset {
            COMMON..ISR => {
                // A half or a part of a register is that part.
                let whole = if offset < common::QUEUE_DESCRIPTORS { offset } else { offset & !7 };
                self.read_common(whole) >> (8 * (offset - whole)) & width.mask()
            }
            ISR => {
                // Reading acknowledges (4.1.4.5).
                let isr = self.transport.isr();
                self.transport.acknowledge(isr);
                self.sync();
                isr.bits().into()
            }
            CONFIGURATION..NOTIFY => self.transport.read_configuration(offset - CONFIGURATION, width.bytes()),
            TABLE..PENDING => words(width, offset - TABLE, |at| self.msix.read(at)),
            PENDING..BAR_SIZE => words(width, offset - PENDING, |at| match at {
                0 => self.msix.pending() as u32,
                4 => (self.msix.pending() >> 32) as u32,
                _ => 0,
            }),
            _ => 0,
        }
    }

    fn bar_write(&mut self, _: usize, offset: u64, width: Width, value: u64) {
        match offset {
            COMMON..ISR => self.write_common(offset, width, value),
            NOTIFY..TABLE if self.config.command().contains(Command::MASTER) => {
                self.transport.notify(((offset - NOTIFY) / NOTIFY_STEP) as u32);
            }
            TABLE..PENDING if width >= Width::B4 && offset.is_multiple_of(4) => {
                self.msix.write(offset - TABLE, value as u32);
                if width == Width::B8 {
                    self.msix.write(offset - TABLE + 4, (value >> 32) as u32);
                }
            }
            _ => {}
        }
        self.sync();
    }
}

/// A read of one or two words.
fn words(width: Width, at: u64, read: impl Fn(u64) -> u32) -> u64 {
    let low = u64::from(read(at & !3)) >> (8 * (at % 4));
    let high = if width == Width::B8 { u64::from(read((at & !3) + 4)) << 32 } else { 0 };
    (low | high) & width.mask()
}
