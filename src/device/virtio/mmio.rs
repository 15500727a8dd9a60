//! A virtio device in memory (virtio 1.2, 4.2): one page of registers and one interrupt line.
//!
//! Registers are 32 bits wide and are accessed so; other accesses to them read as zero and write nothing. The
//! configuration space takes every width. Every access ends in [`VirtioMmio::sync`].
use super::VirtioDevice;
use super::spec::{Isr, mmio as register};
use super::transport::{Place, Transport};
use crate::arch::Width;
use crate::bus::{IrqLine, MmioDevice, VcpuId};
use crate::mem::GuestRam;
use std::sync::Arc;

/// A device with its registers in memory.
#[derive(Debug)]
pub struct VirtioMmio<D: VirtioDevice> {
    // Runtime glue.
    irq: IrqLine,
    /// The level last given to `irq`.
    driven: bool,
    transport: Transport<D>,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Bytes that the registers and the configuration take.
    pub const SIZE: u64 = 0x1000;

    /// `device` after power-on, on line `irq`, with its queues in `ram`.
    #[must_use]
    pub fn new(device: D, ram: Arc<GuestRam>, irq: IrqLine) -> Self {
        Self { irq, driven: false, transport: Transport::new(device, ram) }
    }

    /// The registers and the device behind them.
    #[must_use]
    pub fn transport(&self) -> &Transport<D> {
        &self.transport
    }

    /// Does something with the device from the host's side and has it serve the queue `index`.
    pub fn act<R>(&mut self, index: u16, act: impl FnOnce(&mut D) -> R) -> R {
        let result = self.transport.act(index, act);
        self.sync();
        result
    }

    pub(super) fn transport_mut(&mut self) -> &mut Transport<D> {
        &mut self.transport
    }

    /// Recomputes the interrupt line.
    pub(super) fn sync(&mut self) {
        let level = !self.transport.isr().is_empty();
        if level != self.driven {
            self.driven = level;
            self.irq.set(level);
        }
    }

    /// Gives the line the level that holds, whatever it was given before.
    pub(super) fn drive(&mut self) {
        self.driven = !self.transport.isr().is_empty();
        self.irq.set(self.driven);
    }

    fn read_register(&self, offset: u64) -> u32 {
        let transport = &self.transport;
        match offset {
            register::MAGIC => register::MAGIC_VALUE,
            register::VERSION => register::VERSION_VALUE,
            register::DEVICE_ID => transport.device_id(),
            register::VENDOR_ID => register::VENDOR_VALUE,
            register::DEVICE_FEATURES => transport.device_features(),
            register::QUEUE_SIZE_MAX => transport.queue().map_or(0, |queue| queue.most.into()),
            register::QUEUE_READY => transport.queue().map_or(0, |queue| queue.enabled.into()),
            register::INTERRUPT_STATUS => transport.isr().bits().into(),
            register::STATUS => transport.status().into(),
            offset if register::SHARED_MEMORY_LENGTH.contains(&offset) => u32::MAX,
            // The configuration of no device here changes while it is there.
            register::CONFIGURATION_GENERATION => 0,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let transport = &mut self.transport;
        match offset {
            register::DEVICE_FEATURES_SELECT => transport.select_device_features(value),
            register::DRIVER_FEATURES => transport.set_driver_features(value),
            register::DRIVER_FEATURES_SELECT => transport.select_driver_features(value),
            register::QUEUE_SELECT => transport.select_queue(value),
            register::QUEUE_SIZE => transport.set_queue_size(value),
            register::QUEUE_READY if value & 1 != 0 => transport.enable_queue(),
            register::QUEUE_READY => transport.disable_queue(),
            register::QUEUE_NOTIFY => transport.notify(value),
            register::INTERRUPT_ACK => transport.acknowledge(Isr::from_bits_truncate(value as u8)),
            // The bits above the status are reserved; alone they are no reset.
            register::STATUS if value == 0 || value as u8 != 0 => transport.set_status(value as u8),
            register::QUEUE_DESCRIPTORS_LOW => transport.set_queue_place(Place::Descriptors, false, value),
            register::QUEUE_DESCRIPTORS_HIGH => transport.set_queue_place(Place::Descriptors, true, value),
            register::QUEUE_DRIVER_LOW => transport.set_queue_place(Place::Driver, false, value),
            register::QUEUE_DRIVER_HIGH => transport.set_queue_place(Place::Driver, true, value),
            register::QUEUE_DEVICE_LOW => transport.set_queue_place(Place::Device, false, value),
            register::QUEUE_DEVICE_HIGH => transport.set_queue_place(Place::Device, true, value),
            _ => {}
        }
    }
}

impl<D: VirtioDevice> MmioDevice for VirtioMmio<D> {
    fn mmio_read(&mut self, _: VcpuId, offset: u64, width: Width) -> u64 {
        match offset.checked_sub(register::CONFIGURATION) {
            Some(into) => self.transport.read_configuration(into, width.bytes()),
            None if width == Width::B4 => self.read_register(offset).into(),
            None => 0,
        }
    }

    fn mmio_write(&mut self, _: VcpuId, offset: u64, width: Width, value: u64) {
        // No device here has a configuration that the driver writes.
        if width == Width::B4 && offset < register::CONFIGURATION {
            self.write_register(offset, value as u32);
            self.sync();
        }
    }
}
