use super::*;
use crate::bus::MsiSink;
use crate::device::pci::{PciDevice, PciHost};
use crate::device::virtio::spec::pci::{self as register, common};
use proptest::prelude::*;
use std::sync::Mutex;

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

/// The level of any line.
#[derive(Default)]
struct Pin(AtomicBool);

impl IrqSink for Pin {
    fn set_line(&self, line: u8, level: bool) {
        assert_eq!(line, PciHost::line_of(1));
        self.0.store(level, Ordering::SeqCst);
    }
}

/// A device in slot 1 and what a driver has found out about it.
struct Slot {
    ram: Arc<GuestRam>,
    device: Arc<Mutex<VirtioPci<Sink>>>,
    messages: Arc<Messages>,
    pin: Arc<Pin>,
    /// By the kind of a vendor-specific capability: where its registers are.
    places: [u64; 5],
    /// Where the message control register is.
    control: usize,
    _host: PciHost,
}

impl Slot {
    /// Walks the list of capabilities, as a driver does.
    fn new() -> Self {
        let ram = Arc::new(GuestRam::new(RAM).unwrap());
        let (messages, pin) = (Arc::new(Messages::default()), Arc::new(Pin::default()));
        let face = VirtioPci::new(Sink::default(), Arc::clone(&ram), messages.clone());
        let device = Arc::new(Mutex::new(face));
        let mut host = PciHost::new(pin.clone());
        assert!(host.plug(device.clone()).is_ok());
        let bytes = *device.lock().unwrap().config().bytes();
        assert_eq!(bytes[..4], [0xf4, 0x1a, 0x40 + 42, 0x10]);
        let (mut places, mut control) = ([u64::MAX; 5], 0);
        let mut at = usize::from(bytes[0x34]);
        while at != 0 {
            let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| bytes[at + i + k]));
            match bytes[at] {
                register::CAPABILITY => {
                    assert_eq!(bytes[at + 4], 0, "all are in one BAR");
                    assert!(word(8) + word(12) <= 0x8000);
                    places[usize::from(bytes[at + 3])] = word(8).into();
                    if bytes[at + 3] == register::NOTIFY {
                        assert_eq!((bytes[at + 2], word(16)), (20, 4));
                    }
                }
                register::CAPABILITY_MSIX => {
                    control = at + 2;
                    assert_eq!((word(0) >> 16, word(4), word(8)), (2, 0x4000, 0x5000));
                }
                other => panic!("capability {other:#x}"),
            }
            at = usize::from(bytes[at + 1]);
        }
        assert!(places[1..].iter().all(|&p| p != u64::MAX) && control != 0);
        let mut slot = Self { ram, device, messages, pin, places, control, _host: host };
        slot.config(4, &[6, 0]);
        slot
    }

    fn config(&mut self, at: usize, bytes: &[u8]) {
        let mut device = self.device.lock().unwrap();
        device.config().put(at, bytes);
        device.config_changed(at);
    }

    fn get(&self, offset: u64, width: Width) -> u64 {
        self.device.lock().unwrap().bar_read(0, offset, width)
    }

    fn set(&self, offset: u64, width: Width, value: u64) {
        self.device.lock().unwrap().bar_write(0, offset, width, value);
    }

    fn start(&self) {
        let at = self.places[1];
        self.set(at + common::STATUS, Width::B1, 0);
        self.set(at + common::STATUS, Width::B1, 3);
        for half in 0..2 {
            self.set(at + common::DEVICE_FEATURES_SELECT, Width::B4, half);
            let offered = self.get(at + common::DEVICE_FEATURES, Width::B4);
            self.set(at + common::DRIVER_FEATURES_SELECT, Width::B4, half);
            self.set(at + common::DRIVER_FEATURES, Width::B4, offered);
        }
        self.set(at + common::STATUS, Width::B1, 11);
        assert_eq!(self.get(at + common::STATUS, Width::B1), 11);
        for queue in 0..self.get(at + common::QUEUES, Width::B2) as u32 {
            self.set(at + common::QUEUE_SELECT, Width::B2, queue.into());
            self.set(at + common::QUEUE_SIZE, Width::B2, RING.into());
            self.set(at + common::QUEUE_VECTOR, Width::B2, u64::from(queue) + 1);
            self.set(at + common::QUEUE_DESCRIPTORS, Width::B4, ring(queue));
            self.set(at + common::QUEUE_DESCRIPTORS + 4, Width::B4, 0);
            self.set(at + common::QUEUE_DRIVER, Width::B8, ring(queue) + 0x400);
            self.set(at + common::QUEUE_DEVICE, Width::B4, ring(queue) + 0x800);
            self.set(at + common::QUEUE_ENABLE, Width::B2, 1);
            assert_eq!(self.get(at + common::QUEUE_ENABLE, Width::B2), 1);
        }
        self.set(at + common::CONFIGURATION_VECTOR, Width::B2, 0);
        self.set(at + common::STATUS, Width::B1, 15);
    }

    /// Makes descriptor 0 available for the time `index` and notifies.
    fn offer(&self, queue: u32, index: u16) {
        let mut bytes = 0x8000_u64.to_le_bytes().to_vec();
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        self.ram.write(Gpa(ring(queue)), &bytes).unwrap();
        self.ram.write_u16(Gpa(ring(queue) + 0x402), index);
        let at = self.places[1] + common::QUEUE_SELECT;
        self.set(at, Width::B2, queue.into());
        let offset = self.get(self.places[1] + common::QUEUE_NOTIFY_OFFSET, Width::B2);
        self.set(self.places[2] + 4 * offset, Width::B2, queue.into());
    }

    fn used(&self, queue: u32) -> u16 {
        self.ram.read_u16(Gpa(ring(queue) + 0x802)).unwrap()
    }

    fn pin(&self) -> bool {
        self.pin.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_driver_finds_its_way_and_is_interrupted_by_the_pin() {
    let slot = Slot::new();
    slot.start();
    assert_eq!(slot.get(slot.places[4] + 2, Width::B2), 0x0403);
    slot.offer(1, 1);
    assert_eq!((slot.used(1), slot.pin()), (1, true));
    assert_eq!(slot.get(slot.places[3], Width::B1), 1);
    assert_eq!((slot.get(slot.places[3], Width::B1), slot.pin()), (0, false), "reading acknowledges");
    assert!(slot.messages.0.lock().unwrap().is_empty());
    let at = slot.places[1];
    assert_eq!(slot.get(at + common::QUEUE_DRIVER + 4, Width::B4), 0);
    assert_eq!(slot.get(at + common::QUEUE_DRIVER, Width::B8), ring(1) + 0x400);
    slot.set(at + common::STATUS, Width::B1, 0);
    assert_eq!(slot.get(at + common::QUEUE_VECTOR, Width::B2), 0xffff);
}

#[test]
fn messages_say_which_queue_it_was() {
    let mut slot = Slot::new();
    for vector in 0..3 {
        for (word, value) in [0xfee0_0000, 0, 0x40 + vector, 0].into_iter().enumerate() {
            slot.set(0x4000 + 16 * vector + 4 * word as u64, Width::B4, value);
        }
    }
    let control = slot.control;
    slot.config(control, &[2, 0x80]);
    slot.start();
    let sent = |slot: &Slot| std::mem::take(&mut *slot.messages.0.lock().unwrap());
    slot.offer(1, 1);
    assert_eq!((sent(&slot), slot.pin()), (vec![(0xfee0_0000, 0x42)], false));
    slot.set(0x400c + 16, Width::B4, 1);
    slot.offer(0, 1);
    assert_eq!((sent(&slot), slot.get(0x5000, Width::B8)), (vec![], 2));
    slot.set(0x400c + 16, Width::B4, 0);
    assert_eq!((sent(&slot), slot.get(0x5000, Width::B4)), (vec![(0xfee0_0000, 0x41)], 0));
    slot.ram.write_u16(Gpa(ring(0) + 0x402), 100);
    slot.set(slot.places[2], Width::B2, 0);
    assert_eq!(sent(&slot), [(0xfee0_0000, 0x40)], "the status has changed");
    slot.config(control, &[2, 0]);
    assert!(slot.pin(), "without messages, by the pin");
    let at = slot.places[1];
    slot.set(at + common::CONFIGURATION_VECTOR, Width::B2, 3);
    assert_eq!(
        slot.get(at + common::CONFIGURATION_VECTOR, Width::B2),
        0xffff,
        "there is none of that number"
    );
}

#[test]
fn a_device_that_may_not_reach_ram_does_nothing() {
    let mut slot = Slot::new();
    slot.start();
    slot.config(4, &[2, 0]);
    slot.offer(0, 1);
    assert_eq!(slot.used(0), 0);
    slot.config(4, &[6, 0]);
    slot.offer(0, 1);
    assert_eq!(slot.used(0), 1);
}

#[test]
fn a_saved_device_goes_on_with_its_interrupts() {
    let slot = Slot::new();
    slot.start();
    slot.offer(0, 1);
    let bytes = postcard::to_allocvec(&slot.device.lock().unwrap().saved()).unwrap();
    let other = Slot::new();
    other.device.lock().unwrap().restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
    assert!(other.pin());
    assert_eq!(other.device.lock().unwrap().saved(), slot.device.lock().unwrap().saved());
    let mut bad = slot.device.lock().unwrap().saved();
    bad.transport.queues.pop();
    assert!(other.device.lock().unwrap().restore(&bad).is_err());
}

proptest! {
    #[test]
    fn any_accesses_leave_a_device_that_starts(
        accesses in prop::collection::vec(
            (prop_oneof![0..0x40_u64, 0x1000..0x1004_u64, 0x3000..0x3010_u64, 0..0x8000_u64],
             any::<bool>(), 0..4_usize, prop_oneof![0..16_u64, any::<u64>()]),
            0..100,
        ),
    ) {
        let mut slot = Slot::new();
        for (offset, write, width, value) in accesses {
            let width = [Width::B1, Width::B2, Width::B4, Width::B8][width];
            if offset + width.bytes() as u64 > 0x8000 {
                continue;
            }
            if write {
                slot.set(offset, width, value & width.mask());
            } else {
                let read = slot.get(offset, width);
                prop_assert_eq!(read & !width.mask(), 0);
            }
        }
        let control = slot.control;
        slot.config(control, &[2, 0]);
        slot.ram.write_u16(Gpa(ring(0) + 0x402), 0);
        slot.start();
        slot.ram.write_u16(Gpa(ring(0) + 0x802), 0);
        slot.offer(0, 1);
        prop_assert_eq!((slot.used(0), slot.pin()), (1, true));
    }
}
