//! A driver for the first virtio disk on the PCI bus, polled: one request at a time, in one queue.
//! Source: OASIS "Virtual I/O Device (VIRTIO) Version 1.2", 2.7 (split queues), 4.1 (PCI) and 5.2 (block device).

use crate::disk::{Disk, SECTOR};
use crate::layout::{PAGE, TEST_WINDOW};
use crate::paging::{self, NO_EXECUTE, WRITABLE};
use crate::pci::{self, Function};
use crate::single::Single;

/// First word of configuration space: vendor, and a block device of version 1.
const BLOCK: u32 = 0x1042_1af4;
const VENDOR_CAPABILITY: u32 = 0x09;
/// Kinds of places that a capability names.
const COMMON: u32 = 1;
const NOTIFY: u32 = 2;
const CONFIGURATION: u32 = 4;

/// Registers of the common configuration.
const DEVICE_FEATURES_SELECT: u64 = 0x00;
const DEVICE_FEATURES: u64 = 0x04;
const DRIVER_FEATURES_SELECT: u64 = 0x08;
const DRIVER_FEATURES: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
const QUEUE_PLACES: u64 = 0x20;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// Feature: writes may stay in a cache until a flush.
const FLUSH: u32 = 1 << 9;
/// Feature, in the upper word: version 1.
const VERSION_1: u32 = 1;

const NEXT: u16 = 1;
const WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const READ: u32 = 0;
const WRITE: u32 = 1;
/// Entries of the queue: what a request takes, rounded up.
const ENTRIES: usize = 4;
/// A descriptor's place, length, flags and the next one's number, in words of 32 bits.
type Descriptor = [u32; 4];

/// The queue and the rest of a request, where the device reaches them.
#[repr(C, align(4096))]
struct Shared {
    descriptors: [Descriptor; ENTRIES],
    /// Flags, index, the ring.
    available: [u16; 2 + ENTRIES],
    // The next is aligned to 4 bytes.
    /// Flags and index.
    used: [u16; 2],
    used_ring: [[u32; 2]; ENTRIES],
    /// Type, reserved, sector.
    header: [u32; 4],
    outcome: u8,
}

static SHARED: Single<Shared> = Single::new(Shared {
    descriptors: [[0; 4]; ENTRIES],
    available: [0; 2 + ENTRIES],
    used: [0; 2],
    used_ring: [[0; 2]; ENTRIES],
    header: [0; 4],
    outcome: 0,
});

/// Registers in memory.
#[derive(Clone, Copy, Debug)]
struct Registers(u64);

impl Registers {
    /// Maps what a capability names. Each kind has a page of the window.
    fn map(function: Function, kind: u32) -> Option<(Self, u8)> {
        let fits = |at: u8| {
            let head = function.read(at);
            head & 0xff == VENDOR_CAPABILITY && head >> 24 == kind
        };
        let at = function.capability(fits)?;
        let bar = function.memory(function.read(at + 4) as u8)?;
        let place = bar + u64::from(function.read(at + 8));
        let window = TEST_WINDOW + u64::from(kind) * 2 * PAGE;
        const UNCACHED: u64 = 1 << 4 | 1 << 3;
        for page in 0..2 {
            let frame = (place & !(PAGE - 1)) + page * PAGE;
            paging::map(window + page * PAGE, frame, WRITABLE | NO_EXECUTE | UNCACHED);
        }
        Some((Self(window + place % PAGE), at))
    }

    fn read<T>(self, offset: u64) -> T {
        // SAFETY: mapped, and registers of a device; the types used are integers.
        unsafe { ((self.0 + offset) as *const T).read_volatile() }
    }

    fn write<T>(self, offset: u64, value: T) {
        // SAFETY: as in `read`.
        unsafe { ((self.0 + offset) as *mut T).write_volatile(value) }
    }
}

/// The disk.
#[derive(Debug)]
pub struct Block {
    sectors: u64,
    notify: Registers,
    /// Requests so far.
    made: u16,
}

impl Block {
    /// The disk, if there is one.
    pub fn find() -> Option<Self> {
        let function = Function::find(|who, _| who == BLOCK)?;
        function.enable(pci::DECODES_MEMORY | pci::MASTER | pci::NO_PIN);
        let (common, _) = Registers::map(function, COMMON)?;
        let (notify, at) = Registers::map(function, NOTIFY)?;
        let (configuration, _) = Registers::map(function, CONFIGURATION)?;
        let step = u64::from(function.read(at + 16));
        common.write(STATUS, 0_u8);
        while common.read::<u8>(STATUS) != 0 {
            core::hint::spin_loop();
        }
        common.write(STATUS, ACKNOWLEDGE | DRIVER);
        for (half, wanted) in [(0_u32, FLUSH), (1, VERSION_1)] {
            common.write(DEVICE_FEATURES_SELECT, half);
            let offered: u32 = common.read(DEVICE_FEATURES);
            common.write(DRIVER_FEATURES_SELECT, half);
            common.write(DRIVER_FEATURES, offered & wanted);
        }
        common.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert!(common.read::<u8>(STATUS) & FEATURES_OK != 0, "the virtio disk refuses version 1");
        common.write(QUEUE_SELECT, 0_u16);
        assert!(usize::from(common.read::<u16>(QUEUE_SIZE)) >= ENTRIES, "the virtio disk has no queue");
        common.write(QUEUE_SIZE, ENTRIES as u16);
        let shared = SHARED.pointer();
        let tell = |number: u64, place: u64| {
            common.write(QUEUE_PLACES + 8 * number, place as u32);
            common.write(QUEUE_PLACES + 8 * number + 4, (place >> 32) as u32);
        };
        // SAFETY: the device is reset, and does not use it; places within it.
        unsafe {
            (&raw mut (*shared).available[0]).write_volatile(NO_INTERRUPT);
            tell(0, &raw const (*shared).descriptors as u64);
            tell(1, &raw const (*shared).available as u64);
            tell(2, &raw const (*shared).used as u64);
        }
        let offset = u64::from(common.read::<u16>(QUEUE_NOTIFY_OFFSET));
        common.write(QUEUE_ENABLE, 1_u16);
        common.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        let sectors = u64::from(configuration.read::<u32>(4)) << 32 | u64::from(configuration.read::<u32>(0));
        Some(Self { sectors, notify: Registers(notify.0 + offset * step), made: 0 })
    }

    fn request(&mut self, kind: u32, at: u64, buffer: *const u8, length: usize) {
        let flags = if kind == READ { NEXT | WRITES } else { NEXT };
        let shared = SHARED.pointer();
        self.made = self.made.wrapping_add(1);
        // SAFETY: the device is idle until it is notified, and then this waits for it. Volatile: it writes behind the
        // compiler's back, and stores of x86 are seen in order.
        unsafe {
            let places = [
                (&raw const (*shared).header as u64, 16, NEXT),
                (buffer as u64, length as u32, flags),
                (&raw const (*shared).outcome as u64, 1, WRITES),
            ];
            for (number, (place, bytes, flags)) in places.into_iter().enumerate() {
                let next = if flags & NEXT != 0 { number as u32 + 1 } else { 0 };
                let words = (&raw mut (*shared).descriptors[number]).cast::<u32>();
                words.write_volatile(place as u32);
                words.add(1).write_volatile((place >> 32) as u32);
                words.add(2).write_volatile(bytes);
                words.add(3).write_volatile(u32::from(flags) | next << 16);
            }
            let header = (&raw mut (*shared).header).cast::<u32>();
            header.write_volatile(kind);
            header.add(2).write_volatile(at as u32);
            header.add(3).write_volatile((at >> 32) as u32);
            (&raw mut (*shared).outcome).write_volatile(0xff);
            let available = (&raw mut (*shared).available).cast::<u16>();
            let slot = usize::from(self.made.wrapping_sub(1)) % ENTRIES;
            available.add(2 + slot).write_volatile(0);
            available.add(1).write_volatile(self.made);
            self.notify.write(0, 0_u16);
            while (&raw const (*shared).used[1]).read_volatile() != self.made {
                core::hint::spin_loop();
            }
            let outcome = (&raw const (*shared).outcome).read_volatile();
            assert!(outcome == 0, "the virtio disk's outcome is {outcome}");
        }
    }
}

impl Disk for Block {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, at: u64, into: &mut [u8]) {
        debug_assert!(into.len().is_multiple_of(SECTOR));
        self.request(READ, at, into.as_ptr(), into.len());
    }

    fn write(&mut self, at: u64, from: &[u8]) {
        debug_assert!(from.len().is_multiple_of(SECTOR));
        self.request(WRITE, at, from.as_ptr(), from.len());
    }
}
