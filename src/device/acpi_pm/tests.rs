use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice, PowerRequest};
use crate::clock::{ClockSource, TimerQueue};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
struct Line(AtomicBool);

impl IrqSink for Line {
    fn set_line(&self, _: u8, level: bool) {
        self.0.store(level, Ordering::SeqCst);
    }
}

const BASE: u16 = 0x600;

struct Bench {
    device: Arc<Mutex<AcpiPm>>,
    line: Arc<Line>,
    clock: Arc<Clock>,
    timers: Arc<TimerQueue>,
    power: Arc<PowerSwitch>,
}

impl Bench {
    fn new() -> Self {
        let (line, power) = (Arc::new(Line::default()), Arc::new(PowerSwitch::default()));
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        let timers = TimerQueue::new();
        let timer = timers.add();
        let irq = IrqLine::new(Arc::clone(&line) as Arc<dyn IrqSink>, 9);
        let device = AcpiPm::new(Port(BASE), irq, Arc::clone(&clock), timer.clone(), Arc::clone(&power));
        let device = Arc::new(Mutex::new(device));
        timer.connect(&(Arc::clone(&device) as Arc<Mutex<dyn TimerClient>>));
        Self { device, line, clock, timers, power }
    }

    fn read(&self, at: u16, width: Width) -> u32 {
        self.device.lock().unwrap().port_read(Port(BASE + at), width)
    }

    fn write(&self, at: u16, value: u16) {
        self.device.lock().unwrap().port_write(Port(BASE + at), Width::B2, value.into());
    }

    fn pass(&self, nanos: u64) {
        self.clock.retire(nanos);
        self.timers.run_due(self.clock.now());
    }

    fn level(&self) -> bool {
        self.line.0.load(Ordering::SeqCst)
    }
}

#[test]
fn the_timer_counts_at_its_frequency_and_wraps() {
    let bench = Bench::new();
    assert_eq!(bench.read(8, Width::B4), 0);
    bench.pass(1_000_000_000);
    assert_eq!(bench.read(8, Width::B4), 3_579_545);
    assert_eq!(bench.read(10, Width::B2), 3_579_545 >> 16);
    bench.pass(1_200_000_000_000);
    assert_eq!(u64::from(bench.read(8, Width::B4)), 3_579_545 * 1201 % (1 << 32));
}

/// Time goes on between any two looks at this clock.
#[test]
fn the_timer_is_read_whole() {
    let bench = Bench::new();
    let clock = Arc::new(Clock::new(ClockSource::Real));
    let irq = IrqLine::new(Arc::clone(&bench.line) as Arc<dyn IrqSink>, 9);
    let mut device = AcpiPm::new(Port(BASE), irq, clock, bench.timers.add(), Arc::clone(&bench.power));
    let mut before = 0;
    for _ in 0..20_000 {
        let now = device.port_read(Port(BASE + 8), Width::B4);
        assert!(now >= before, "{now:#x} after {before:#x}");
        before = now;
    }
}

#[test]
fn a_change_of_the_top_bit_interrupts_if_it_may() {
    let bench = Bench::new();
    bench.pass(700_000_000_000);
    assert_eq!(bench.read(0, Width::B2), 1);
    assert!(!bench.level());
    bench.write(0, 1);
    assert_eq!(bench.read(0, Width::B2), 0);
    bench.write(2, 1);
    assert!(!bench.level());
    let deadline = bench.timers.next_deadline().unwrap();
    bench.pass(deadline.since(bench.clock.now()) - 1);
    assert!(!bench.level());
    bench.pass(1);
    assert!(bench.level());
    bench.write(0, 1);
    assert!(!bench.level());
}

#[test]
fn soft_off_is_the_only_sleep() {
    for (value, off) in [(0x2000, true), (0x2400, false), (0x1c00, false), (0x0003, false), (0x2001, true)] {
        let bench = Bench::new();
        bench.write(4, value);
        let asked = off.then_some(PowerRequest::Off(1));
        assert_eq!(bench.power.take(), asked, "{value:#x}");
        assert_eq!(bench.read(4, Width::B2), u32::from(value & !0x2000 | 1));
    }
    let bench = Bench::new();
    bench.device.lock().unwrap().port_write(Port(BASE + 5), Width::B1, 0x20);
    assert_eq!(bench.power.take(), Some(PowerRequest::Off(1)), "a byte at a time");
}

#[test]
fn the_power_button_is_an_event() {
    let bench = Bench::new();
    bench.device.lock().unwrap().press_power_button();
    assert_eq!((bench.read(0, Width::B2), bench.level()), (0x100, false));
    bench.write(2, 0x100);
    assert!(bench.level());
    bench.write(0, 0x100);
    assert!(!bench.level());
    // Linux reads back what it has enabled.
    bench.write(2, 0xffff);
    assert_eq!(bench.read(2, Width::B2), 0x521);
}

proptest! {
    #[test]
    fn a_restored_device_goes_on_as_the_saved_one(
        accesses in proptest::collection::vec((0_u16..14, any::<u16>(), 0_u64..2_000_000_000_000), 0..40),
    ) {
        let (bench, other) = (Bench::new(), Bench::new());
        for (at, value, nanos) in accesses {
            bench.write(at, value);
            bench.pass(nanos);
        }
        other.clock.retire(bench.clock.now().0);
        other.device.lock().unwrap().restore(&bench.device.lock().unwrap().saved());
        prop_assert_eq!(bench.level(), other.level());
        for at in 0..12 {
            prop_assert_eq!(bench.read(at, Width::B1), other.read(at, Width::B1));
        }
        prop_assert_eq!(bench.timers.next_deadline(), other.timers.next_deadline());
    }
}
