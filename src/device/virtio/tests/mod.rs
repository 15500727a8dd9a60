//! A driver in guest memory for tests, and what queues and registers do with drivers good and bad.
mod hostile;
mod pci;
mod registers;
mod rings;

use super::spec::mmio as register;
use super::*;
use crate::arch::{Gpa, Width};
use crate::bus::{IrqLine, IrqSink, MmioDevice, VcpuId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags of descriptors.
pub(super) const READ: u16 = 0;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
/// Entries of the driver's queues.
pub(super) const RING: u16 = 16;
/// Bytes of the driver's RAM.
pub(super) const RAM: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Line(AtomicBool);

impl IrqSink for Line {
    fn set_line(&self, line: u8, level: bool) {
        assert_eq!(line, 5);
        self.0.store(level, Ordering::SeqCst);
    }
}

/// A device and its driver. The rings are low in RAM; buffers have all from 0x8000 on.
pub(super) struct Driver<D: VirtioDevice> {
    pub(super) ram: Arc<GuestRam>,
    pub(super) face: VirtioMmio<D>,
    line: Arc<Line>,
    /// For each queue, the next free descriptor and the available index.
    next: Vec<(u16, u16)>,
    /// The features that it takes if they are offered.
    pub(super) wanted: u64,
}

impl<D: VirtioDevice> Driver<D> {
    /// The device after power-on.
    pub(super) fn new(device: D) -> Self {
        let ram = Arc::new(GuestRam::new(RAM).unwrap());
        let line = Arc::new(Line::default());
        let irq = IrqLine::new(line.clone() as Arc<dyn IrqSink>, 5);
        let next = device.queue_sizes().iter().map(|_| (0, 0)).collect();
        let face = VirtioMmio::new(device, Arc::clone(&ram), irq);
        Self { ram, face, line, next, wanted: u64::MAX }
    }

    /// The device, ready, with all features that it offers.
    pub(super) fn started(device: D) -> Self {
        let mut driver = Self::new(device);
        driver.start(u64::MAX);
        driver
    }

    pub(super) fn get(&mut self, offset: u64) -> u32 {
        self.face.mmio_read(VcpuId(0), offset, Width::B4) as u32
    }

    pub(super) fn set(&mut self, offset: u64, value: u32) {
        self.face.mmio_write(VcpuId(0), offset, Width::B4, value.into());
    }

    /// The initialisation of 3.1.1, with those of `wanted` that are offered.
    pub(super) fn start(&mut self, wanted: u64) {
        self.negotiate(wanted);
        for queue in 0..self.next.len() as u32 {
            self.place(queue, RING.into(), [0, 0x400, 0x800].map(|at| ring(queue) + at));
        }
        self.set(register::STATUS, 15);
    }

    /// The initialisation, with empty rings.
    pub(super) fn start_over(&mut self) {
        for queue in 0..self.next.len() {
            self.write(ring(queue as u32) + 0x400, &[0; 0x800]);
            self.next[queue] = (0, 0);
        }
        self.start(self.wanted);
    }

    pub(super) fn negotiate(&mut self, wanted: u64) {
        self.set(register::STATUS, 0);
        self.set(register::STATUS, 3);
        for half in 0..2 {
            self.set(register::DEVICE_FEATURES_SELECT, half);
            let offered = self.get(register::DEVICE_FEATURES);
            self.set(register::DRIVER_FEATURES_SELECT, half);
            self.set(register::DRIVER_FEATURES, offered & (wanted >> (32 * half)) as u32);
        }
        self.set(register::STATUS, 11);
    }

    /// Sets a queue up with these places and hands it over.
    pub(super) fn place(&mut self, queue: u32, size: u32, places: [u64; 3]) {
        self.set(register::QUEUE_SELECT, queue);
        self.set(register::QUEUE_SIZE, size);
        let registers =
            [register::QUEUE_DESCRIPTORS_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW];
        for (register, place) in registers.into_iter().zip(places) {
            self.set(register, place as u32);
            self.set(register + 4, (place >> 32) as u32);
        }
        self.set(register::QUEUE_READY, 1);
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).unwrap();
    }

    pub(super) fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    pub(super) fn descriptor(&self, table: u64, index: u16, at: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + u64::from(index) * 16, &bytes);
    }

    /// Makes a chain available, of buffers with their address, length and flags; returns its head.
    pub(super) fn offer(&mut self, queue: u16, buffers: &[(u64, u32, u16)]) -> u16 {
        let (first, _) = self.next[usize::from(queue)];
        for (i, &(at, length, flags)) in buffers.iter().enumerate() {
            let index = (first + i as u16) % RING;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(ring(queue.into()), index, at, length, flags | more, (index + 1) % RING);
        }
        self.next[usize::from(queue)].0 = (first + buffers.len() as u16) % RING;
        self.announce(queue, first);
        first
    }

    /// Makes the chain that begins with `head` available.
    pub(super) fn announce(&mut self, queue: u16, head: u16) {
        let available = &mut self.next[usize::from(queue)].1;
        let ring = ring(queue.into()) + 0x400;
        let entry = Gpa(ring + 4 + 2 * u64::from(*available % RING));
        *available = available.wrapping_add(1);
        assert!(self.ram.write_u16(entry, head));
        assert!(self.ram.write_u16(Gpa(ring + 2), *available));
    }

    pub(super) fn notify(&mut self, queue: u16) {
        self.set(register::QUEUE_NOTIFY, queue.into());
    }

    pub(super) fn used_index(&self, queue: u16) -> u16 {
        self.ram.read_u16(Gpa(ring(queue.into()) + 0x802)).unwrap()
    }

    /// The used ring's entries, if it was not passed round.
    pub(super) fn used(&self, queue: u16) -> Vec<(u32, u32)> {
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let entries = self.bytes(ring(queue.into()) + 0x804, 8 * usize::from(self.used_index(queue)));
        entries.chunks(8).map(|entry| (word(entry), word(&entry[4..]))).collect()
    }

    /// Whether the line is up; acknowledges.
    pub(super) fn interrupted(&mut self) -> bool {
        let level = self.line.0.load(Ordering::SeqCst);
        let status = self.get(register::INTERRUPT_STATUS);
        assert_eq!(level, status != 0);
        self.set(register::INTERRUPT_ACK, status);
        assert!(!self.line.0.load(Ordering::SeqCst));
        level
    }

    /// Whether the device asks for a reset.
    pub(super) fn needs_reset(&mut self) -> bool {
        self.get(register::STATUS) & 0x40 != 0
    }
}

/// Where the rings of a queue begin.
pub(super) const fn ring(queue: u32) -> u64 {
    0x1000 + 0x1000 * queue as u64
}

/// Gives every chain back at once, and remembers how much of it there was.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) seen: Vec<(u64, u64)>,
    pub(super) features: u64,
}

impl VirtioDevice for Sink {
    type Saved = ();

    fn device_id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        1 << 3
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 16]
    }
    fn configuration(&self) -> [u8; CONFIGURATION] {
        std::array::from_fn(|i| i as u8 + 1)
    }
    fn negotiated(&mut self, features: u64) {
        self.features = features;
    }
    fn serve(&mut self, _: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        while let Some(chain) = queue.pop(ram)? {
            self.seen.push((chain.readable.left(), chain.writable.left()));
            queue.push(ram, &chain, 0)?;
        }
        Ok(())
    }
    fn reset(&mut self) {
        self.features = 0;
    }

    fn saved(&self) {}

    fn restore(&mut self, (): &()) -> Result<(), BadState> {
        Ok(())
    }
}
