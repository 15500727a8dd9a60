use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice, PowerRequest};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
struct Line(AtomicBool);

impl IrqSink for Line {
    fn set_line(&self, _: u8, level: bool) {
        self.0.store(level, Ordering::SeqCst);
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
    assert!(bench.line.0.load(Ordering::SeqCst));
    assert_eq!(bench.read(0x60), 0x01);
    assert!(!bench.line.0.load(Ordering::SeqCst));
    bench.write(0x64, 0xd2);
    bench.write(0x60, 0x1c);
    assert_eq!(bench.read(0x60), 0x1c);
    bench.write(0x60, 0xed);
    assert_eq!(bench.read(0x64), 0x10, "no keyboard answers");
}

proptest! {
    #[test]
    fn any_accesses_do_and_states_round_trip(
        steps in prop::collection::vec((prop::sample::select(vec![0x60_u16, 0x64, 0x61]), any::<Option<u8>>()), 0..200),
    ) {
        let (mut bench, mut other) = (Bench::new(), Bench::new());
        for (port, value) in steps {
            match value {
                Some(value) => bench.write(port, value),
                None => {
                    bench.device.port_read(Port(port), Width::B4);
                }
            }
            let bytes = postcard::to_allocvec(&bench.device.saved()).unwrap();
            other.device.restore(&postcard::from_bytes(&bytes).unwrap());
            prop_assert_eq!(&other.device.state, &bench.device.state);
            prop_assert_eq!(other.line.0.load(Ordering::SeqCst), bench.line.0.load(Ordering::SeqCst));
        }
    }
}
