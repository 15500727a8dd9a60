//! One function's configuration space: bytes, and which of their bits the guest can write.
use super::spec::{self, BARS, Command, SIZE, at};
use crate::bus::IrqLine;

/// Who a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface: 0xBBSSPP.
    pub class: u32,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// What a base address register decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers. The guest should place it within the bridge's window all the same.
    Memory64 {
        /// Reads have no effect.
        prefetchable: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// A range that a function answers at now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decoded {
    pub(super) bar: usize,
    pub(super) io: bool,
    pub(super) start: u64,
    pub(super) size: u64,
}

/// Room for base address registers, of which the lower part is given away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub(super) free: u64,
    /// Behind its last byte.
    pub(super) end: u64,
}

impl Window {
    /// `size` bytes at a multiple of `size`, which is a power of two.
    fn take(&mut self, size: u64) -> Option<u64> {
        let start = self.free.next_multiple_of(size);
        let end = start.checked_add(size).filter(|&end| end <= self.end)?;
        self.free = end;
        Some(start)
    }
}

/// The configuration space of one function with a header of type 0.
#[derive(Debug)]
pub struct ConfigSpace {
    pub(super) bytes: [u8; SIZE],
    pub(super) writable: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    /// Where the next capability goes, and where its place is to be noted.
    free: usize,
    link: usize,
    line: Option<IrqLine>,
    asserted: bool,
    has_pin: bool,
}

impl ConfigSpace {
    /// A space without base address registers, capabilities and interrupt.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bars: [None; BARS],
            free: at::FREE,
            link: at::CAPABILITIES,
            line: None,
            asserted: false,
            has_pin: true,
        };
        space.put(at::VENDOR, &identity.vendor.to_le_bytes());
        space.put(at::DEVICE, &identity.device.to_le_bytes());
        space.put(at::REVISION, &[identity.revision]);
        space.put(at::CLASS, &identity.class.to_le_bytes()[..3]);
        space.put(at::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.put(at::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.allow(at::COMMAND, &Command::all().bits().to_le_bytes());
        space.allow(at::CACHE_LINE, &[0xff]);
        space.allow(at::LATENCY, &[0xff]);
        space.allow(at::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds base address register `index` (0–5) for `size` bytes: a power of two, at least 16 for memory and 4 for
    /// ports. A 64-bit one takes the next register too.
    ///
    /// # Panics
    /// If that cannot be: the device's own fault.
    #[must_use]
    pub fn with_bar(mut self, index: usize, kind: BarKind, size: u64) -> Self {
        let wide = matches!(kind, BarKind::Memory64 { .. });
        let least = if kind == BarKind::Io { 4 } else { 16 };
        assert!(size.is_power_of_two() && (least..=1 << 31).contains(&size), "size of a BAR");
        assert!(index + usize::from(wide) < BARS && self.bars[index].is_none(), "number of a BAR");
        let place = at::BAR + 4 * index;
        let low = match kind {
            BarKind::Io => spec::BAR_IO,
            BarKind::Memory32 => 0,
            BarKind::Memory64 { prefetchable: false } => spec::BAR_64,
            BarKind::Memory64 { prefetchable: true } => spec::BAR_64 | spec::BAR_PREFETCHABLE,
        };
        self.put(place, &low.to_le_bytes());
        let mask = (!(size - 1)).to_le_bytes();
        self.allow(place, if wide { &mask } else { &mask[..4] });
        self.bars[index] = Some(Bar { kind, size });
        self
    }

    /// Without an interrupt pin: the function interrupts in another way, or not at all.
    #[must_use]
    pub fn without_pin(mut self) -> Self {
        self.has_pin = false;
        self
    }

    /// Adds a register of the device's own behind the header: its bytes, and which of their bits the guest can write.
    #[must_use]
    pub fn with_register(mut self, offset: usize, bytes: &[u8], writable: &[u8]) -> Self {
        self.put(offset, bytes);
        self.allow(offset, writable);
        self
    }

    /// Adds a capability: `id`, and what follows the pointer to the next one, with the bits that the guest can write.
    /// Returns its offset.
    ///
    /// # Panics
    /// If there is no room: the device's own fault.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let offset = self.free;
        assert!(writable.len() <= body.len() && offset + 2 + body.len() <= SIZE, "room for a capability");
        self.put(offset, &[id, 0]);
        self.put(offset + 2, body);
        self.allow(offset + 2, writable);
        self.put(self.link, &[offset as u8]);
        self.link = offset + 1;
        self.free = (offset + 2 + body.len()).next_multiple_of(4);
        let status = u16::from_le_bytes([self.bytes[at::STATUS], self.bytes[at::STATUS + 1]]);
        self.put(at::STATUS, &(status | spec::STATUS_CAPABILITIES).to_le_bytes());
        offset
    }

    /// Gives each base address register a place, the next free one of its window, as firmware does before a guest
    /// starts; decoding stays off. One for which there is no room stays without.
    pub(super) fn place(&mut self, ports: &mut Window, memory: &mut Window) {
        for (index, bar) in self.bars.into_iter().enumerate() {
            let Some(Bar { kind, size }) = bar else { continue };
            let window = if kind == BarKind::Io { &mut *ports } else { &mut *memory };
            if let Some(start) = window.take(size) {
                let at = at::BAR + 4 * index;
                // Both windows end below 4 GiB; the low bits say what kind it is.
                self.put(at, &(start as u32 | u32::from(self.bytes[at])).to_le_bytes());
            }
        }
    }

    /// Connects pin INTA, by the bridge.
    pub(super) fn connect(&mut self, line: IrqLine, number: u8) {
        if !self.has_pin {
            return;
        }
        self.line = Some(line);
        self.put(at::INTERRUPT_PIN, &[1]);
        self.put(at::INTERRUPT_LINE, &[number]);
    }

    /// Asserts or releases the function's interrupt, as far as the command register lets it reach the pin.
    pub fn set_interrupt(&mut self, asserted: bool) {
        self.asserted = asserted;
        self.drive();
    }

    pub(super) fn drive(&mut self) {
        let bit = spec::STATUS_INTERRUPT as u8;
        self.bytes[at::STATUS] = self.bytes[at::STATUS] & !bit | if self.asserted { bit } else { 0 };
        let level = self.asserted && !self.command().contains(Command::INTX_OFF);
        if let Some(line) = &self.line {
            line.set(level);
        }
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(u16::from_le_bytes([
            self.bytes[at::COMMAND],
            self.bytes[at::COMMAND + 1],
        ]))
    }

    /// All bytes, as the guest reads them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// Sets bytes, whether the guest can write them or not; what lies beyond the space is left out.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (place, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *place = *byte;
        }
    }

    /// The guest writes one byte.
    pub(super) fn write(&mut self, offset: usize, value: u8) {
        if let (Some(byte), Some(&mask)) = (self.bytes.get_mut(offset), self.writable.get(offset)) {
            *byte = *byte & !mask | value & mask;
        }
        if offset / 2 == at::COMMAND / 2 {
            self.drive();
        }
    }

    /// What the function answers at, as base address registers and command register stand.
    pub(super) fn decoded(&self) -> impl Iterator<Item = Decoded> {
        let command = self.command();
        self.bars.iter().enumerate().filter_map(move |(index, bar)| {
            let Bar { kind, size } = (*bar)?;
            let word = |i: usize| {
                let at = at::BAR + 4 * i;
                let b = &self.bytes;
                u64::from(u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]))
            };
            let io = kind == BarKind::Io;
            let start = match kind {
                BarKind::Memory64 { .. } => word(index) & !0xf | word(index + 1) << 32,
                BarKind::Memory32 => word(index) & !0xf,
                BarKind::Io => word(index) & !3,
            };
            let on = command.contains(if io { Command::IO } else { Command::MEMORY });
            // A register that was not set yet decodes nothing; nor does one that is being asked for its size.
            (on && start != 0).then_some(Decoded { bar: index, io, start, size })
        })
    }
}
