use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice, PowerRequest};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Default)]
struct Line {
    level: AtomicBool,
    edges: AtomicU32,
}

impl IrqSink for Line {
    fn set_line(&self, _: u8, level: bool) {
        if !self.level.swap(level, Ordering::SeqCst) && level {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Bench {
    device: I8042,
    power: Arc<PowerSwitch>,
    line: Arc<Line>,
}

impl Bench {
    fn new() -> Self {
        let (power, line) = (Arc::new(PowerSwitch::default()), Arc::new(Line::default()));
        let irq = IrqLine::new(Arc::clone(&line) as Arc<dyn IrqSink>, 1);
        Self { device: I8042::new(irq, Arc::clone(&power)), power, line }
    }

    fn write(&mut self, port: u16, value: u8) {
        self.device.port_write(Port(port), Width::B1, value.into());
    }

    fn read(&mut self, port: u16) -> u8 {
        self.device.port_read(Port(port), Width::B1) as u8
    }
}

#[test]
fn the_self_test_passes() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x64), 0x18);
    bench.write(0x64, 0xaa);
    assert_eq!(bench.read(0x64), 0x1d);
    assert_eq!((bench.read(0x60), bench.read(0x64)), (0x55, 0x1c));
    bench.write(0x64, 0xab);
    assert_eq!(bench.read(0x60), 0);
}

#[test]
fn resets() {
    for script in [&[(0x64, 0xfe)][..], &[(0x64, 0xd1), (0x60, 0xfe)], &[(0x64, 0xf0)]] {
        let mut bench = Bench::new();
        script.iter().for_each(|(port, value)| bench.write(*port, *value));
        assert_eq!(bench.power.take(), Some(PowerRequest::Reset), "{script:x?}");
    }
    let mut bench = Bench::new();
    for (port, value) in [(0x64, 0xff), (0x60, 0xfe), (0x64, 0xd1), (0x60, 0x03)] {
        bench.write(port, value);
    }
    assert!(!bench.power.is_requested());
}

#[test]
fn the_a20_gate_can_be_set_and_read() {
    let mut bench = Bench::new();
    assert!(bench.device.a20());
    bench.write(0x64, 0xdd);
    bench.write(0x64, 0xd0);
    assert_eq!((bench.device.a20(), bench.read(0x60)), (false, 0x01));
    bench.write(0x64, 0xd1);
    bench.write(0x60, 0xdf);
    bench.write(0x64, 0xd0);
    assert_eq!((bench.device.a20(), bench.read(0x60)), (true, 0xdf));
    bench.write(0x64, 0xdd);
    bench.write(0x64, 0xdf);
    assert!(bench.device.a20());
}

#[test]
fn the_command_byte_enables_the_interrupt() {
    let mut bench = Bench::new();
    bench.write(0x64, 0x60);
    bench.write(0x60, 0x01);
    bench.write(0x64, 0x20);
    assert!(bench.line.level.load(Ordering::SeqCst));
    assert_eq!(bench.read(0x60), 0x01);
    assert!(!bench.line.level.load(Ordering::SeqCst));
    bench.write(0x64, 0xd2);
    bench.write(0x60, 0x1c);
    assert_eq!(bench.read(0x60), 0x1c);
}

impl Bench {
    fn all(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        while self.read(0x64) & 1 != 0 {
            bytes.push(self.read(0x60));
        }
        bytes
    }

    /// Sends a byte to the keyboard; what it answers.
    fn send(&mut self, byte: u8) -> Vec<u8> {
        self.write(0x60, byte);
        self.all()
    }

    fn mode(&mut self, command_byte: u8) {
        self.write(0x64, 0x60);
        self.write(0x60, command_byte);
    }

    fn key(&mut self, code: u8, extended: bool) -> bool {
        self.device.strike(&[true, false].map(|down| KeyStroke { code, extended, down }))
    }
}

#[test]
fn the_keyboard_answers_its_commands() {
    let mut bench = Bench::new();
    bench.mode(0x00);
    assert_eq!(bench.send(0xff), [0xfa, 0xaa]);
    assert_eq!(bench.send(0xee), [0xee]);
    assert_eq!(bench.send(0xf2), [0xfa, 0xab, 0x83]);
    assert_eq!((bench.send(0xed), bench.send(7)), (vec![0xfa], vec![0xfa]));
    assert_eq!((bench.send(0xf0), bench.send(0)), (vec![0xfa], vec![0xfa, 2]));
    assert_eq!((bench.send(0xf3), bench.send(0xf4)), (vec![0xfa], vec![0xfa]), "a command in place of data");
    assert_eq!(bench.send(0x12), [0xfe]);
    assert_eq!(bench.send(0xfe), [0xfe], "once more");
    bench.write(0x64, 0xd4);
    assert!(bench.send(0xf4).is_empty(), "there is no mouse");
}

#[test]
fn keys_become_scan_codes_of_the_set_that_is_wanted() {
    let mut bench = Bench::new();
    bench.mode(0x00);
    assert!(!bench.key(0x1e, false), "not yet enabled");
    bench.send(0xf4);
    assert!(bench.key(0x1e, false) && bench.key(0x48, true));
    assert_eq!(bench.all(), [0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    bench.mode(0x40);
    assert!(bench.key(0x1e, false) && bench.key(0x48, true));
    assert_eq!(bench.all(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    bench.mode(0x00);
    bench.send(0xf0);
    bench.send(1);
    assert!(bench.key(0x1e, false) && bench.key(0x48, true));
    assert_eq!(bench.all(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    let taken = (0..100).filter(|_| bench.key(0x1e, false)).count();
    assert_eq!((taken, bench.all().len()), (8, 16), "one byte had gone to the output buffer");
}

#[test]
fn each_byte_of_the_keyboard_interrupts() {
    let mut bench = Bench::new();
    bench.mode(0x41);
    bench.send(0xf4);
    let before = bench.line.edges.load(Ordering::SeqCst);
    assert!(bench.key(0x1c, false));
    assert_eq!((bench.read(0x60), bench.read(0x60)), (0x1c, 0x9c));
    assert_eq!(bench.line.edges.load(Ordering::SeqCst) - before, 2);
    bench.write(0x64, 0xad);
    assert!(bench.key(0x1c, false));
    assert_eq!(bench.read(0x64) & 1, 0, "its clock is held");
    bench.write(0x64, 0xae);
    assert_eq!(bench.all(), [0x1c, 0x9c]);
}

proptest! {
    #[test]
    fn any_accesses_do_and_states_round_trip(
        steps in prop::collection::vec((prop::sample::select(vec![0x60_u16, 0x64, 0x61]), any::<Option<u8>>()), 0..200),
    ) {
        let (mut bench, mut other) = (Bench::new(), Bench::new());
        for (port, value) in steps {
            bench.device.strike(&[KeyStroke { code: port as u8, extended: false, down: true }]);
            match value {
                Some(value) => bench.write(port, value),
                None => {
                    bench.device.port_read(Port(port), Width::B4);
                }
            }
            let bytes = postcard::to_allocvec(&bench.device.saved()).unwrap();
            other.device.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
            prop_assert_eq!(&other.device.state, &bench.device.state);
            prop_assert_eq!(other.line.level.load(Ordering::SeqCst), bench.line.level.load(Ordering::SeqCst));
        }
    }
}
