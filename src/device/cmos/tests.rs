use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice};
use crate::clock::{ClockSource, TimerQueue};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Default)]
struct Line {
    level: AtomicU32,
    edges: AtomicU32,
}

impl IrqSink for Line {
    fn set_line(&self, _: u8, level: bool) {
        if self.level.swap(level.into(), Ordering::SeqCst) == 0 && level {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Bench {
    clock: Arc<Clock>,
    timers: Arc<TimerQueue>,
    line: Arc<Line>,
    cmos: Arc<Mutex<Cmos>>,
}

/// 29 February 2024, 23:59:58, a Thursday.
const START: i64 = 1_709_251_198;

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        let (timers, line) = (TimerQueue::new(), Arc::new(Line::default()));
        let (timer, irq) = (timers.add(), IrqLine::new(Arc::clone(&line) as Arc<dyn IrqSink>, 8));
        let cmos = Cmos::new(irq, Arc::clone(&clock), timer.clone(), START, 6 << 30);
        let cmos = Arc::new(Mutex::new(cmos));
        timer.connect(&(Arc::clone(&cmos) as Arc<Mutex<dyn TimerClient>>));
        Self { clock, timers, line, cmos }
    }

    fn write(&self, register: u8, value: u8) {
        let both = u32::from(value) << 8 | u32::from(register);
        self.cmos.lock().unwrap().port_write(Port(0x70), Width::B2, both);
    }

    fn read(&self, register: u8) -> u8 {
        let mut cmos = self.cmos.lock().unwrap();
        cmos.port_write(Port(0x70), Width::B1, register.into());
        (cmos.port_read(Port(0x70), Width::B2) >> 8) as u8
    }

    /// Century, year, month, day, hours, minutes, seconds.
    fn time(&self) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|r| self.read(r))
    }

    fn pass(&self, nanos: u64) {
        let to = self.clock.now().after(nanos);
        while let Some(at) = self.timers.next_deadline().filter(|at| *at <= to) {
            self.clock.skip_to(at);
            self.timers.run_due(self.clock.now());
        }
        self.clock.skip_to(to);
    }

    fn edges(&self) -> u32 {
        self.line.edges.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn time_runs_over_a_leap_day_in_each_form() {
    let bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]);
    assert_eq!((bench.read(6), bench.read(0x0d)), (5, 0x80));
    bench.pass(SECOND - 1);
    assert_eq!(bench.read(0), 0x58);
    bench.pass(1);
    assert_eq!(bench.read(0), 0x59);
    bench.write(0x0b, 0x04);
    assert_eq!(bench.time(), [0x20, 24, 2, 29, 0x80 | 11, 59, 59]);
    bench.write(0x0b, 0x02);
    bench.pass(SECOND);
    assert_eq!(bench.time(), [0x20, 0x24, 0x03, 0x01, 0, 0, 0]);
    assert_eq!(bench.read(6), 6);
}

#[test]
fn the_update_flag_precedes_each_change() {
    let bench = Bench::new();
    assert_eq!(bench.read(0x0a), 0x26);
    bench.pass(SECOND - spec::UIP_NANOS - 1);
    assert_eq!(bench.read(0x0a), 0x26);
    bench.pass(1);
    assert_eq!(bench.read(0x0a), 0xa6);
    assert_eq!(bench.read(0), 0x58);
    bench.pass(spec::UIP_NANOS);
    assert_eq!((bench.read(0x0a), bench.read(0)), (0x26, 0x59));
}

#[test]
fn the_guest_sets_the_time() {
    let bench = Bench::new();
    bench.pass(SECOND / 4);
    bench.write(0x0b, 0x82);
    for (register, value) in
        [(0, 0x30), (2, 0x15), (4, 0x08), (6, 0x02), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)]
    {
        bench.write(register, value);
        assert_eq!(bench.read(register), value);
    }
    bench.pass(10 * SECOND);
    assert_eq!(bench.read(0), 0x30, "it stands");
    assert_eq!(bench.read(0x0a), 0x26, "no update while it stands");
    bench.write(0x0b, 0x02);
    bench.pass(SECOND - 1);
    assert_eq!(bench.read(0), 0x30);
    bench.pass(1);
    assert_eq!(bench.time(), [0x19, 0x99, 0x12, 0x31, 0x08, 0x15, 0x31]);
    assert_eq!(bench.read(6), 2);
    bench.pass(16 * 3600 * SECOND);
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 0x00, 0x15, 0x31]);
    assert_eq!(bench.read(6), 3, "the guest's own weekday goes on");
    bench.write(2, 0x44);
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 0x00, 0x44, 0x31], "also without SET");
}

#[test]
fn releasing_the_divider_updates_half_a_second_later() {
    let bench = Bench::new();
    bench.write(0x0a, 0x70);
    bench.pass(5 * SECOND);
    assert_eq!(bench.read(0), 0x58);
    bench.write(0x0a, 0x20);
    bench.pass(SECOND / 2 - 1);
    assert_eq!(bench.read(0), 0x58);
    bench.pass(1);
    assert_eq!(bench.read(0), 0x59);
}

#[test]
fn periodic_interrupts_come_at_their_rate_and_wait_for_a_read() {
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        let bench = Bench::new();
        bench.write(0x0a, 0x20 | rate);
        bench.read(0x0c);
        bench.write(0x0b, 0x42);
        let mut interrupts = 0;
        while bench.clock.now() < Nanos(SECOND) {
            let Some(at) = bench.timers.next_deadline() else {
                panic!("nothing is due");
            };
            bench.pass(at.since(bench.clock.now()));
            assert_eq!(bench.edges(), 1);
            assert_eq!(bench.timers.next_deadline(), None, "silent until register C is read");
            assert_eq!(bench.read(0x0c) & 0xc0, 0xc0);
            interrupts += 1;
        }
        assert_eq!(interrupts, hz, "rate {rate}");
    }
    let bench = Bench::new();
    bench.write(0x0a, 0x20);
    bench.write(0x0b, 0x42);
    assert_eq!(bench.timers.next_deadline(), None, "rate 0 is off");
}

#[test]
fn update_ended_and_alarm() {
    let bench = Bench::new();
    bench.write(0x0b, 0x12);
    bench.pass(SECOND);
    assert_eq!((bench.edges(), bench.read(0x0c) & 0x90, bench.read(0x0c)), (1, 0x90, 0));
    for (register, value) in [(1, 0x05), (3, 0x00), (5, 0xc0)] {
        bench.write(register, value);
    }
    bench.write(0x0b, 0x22);
    bench.pass(5 * SECOND);
    assert_eq!(bench.edges(), 0);
    bench.pass(SECOND);
    assert_eq!((bench.edges(), bench.read(0x0c) & 0xa0), (1, 0xa0));
    bench.pass(3599 * SECOND);
    assert_eq!(bench.edges(), 0);
    bench.pass(SECOND);
    assert_eq!(bench.edges(), 1, "every hour");
}

#[test]
fn flags_rise_without_interrupts() {
    let bench = Bench::new();
    bench.read(0x0c);
    bench.write(3, 0x30);
    bench.pass(90 * SECOND);
    assert_eq!((bench.read(0x0c), bench.edges()), (0x50, 0), "the alarm is at half past midnight");
    bench.pass(400 * 24 * 3600 * SECOND);
    assert_eq!((bench.read(0x0c), bench.edges()), (0x70, 0));
}

#[test]
fn ram_keeps_what_is_written_and_says_how_much_memory_there_is() {
    let bench = Bench::new();
    let word = |low| u16::from_le_bytes([bench.read(low), bench.read(low + 1)]);
    assert_eq!((word(0x15), word(0x17), word(0x30)), (640, 0xffff, 0xffff));
    assert_eq!(u64::from(word(0x34)) << 16, (3 << 30) - (16 << 20));
    assert_eq!((word(0x5b), bench.read(0x5d)), ((3_u64 << 30 >> 16) as u16, 0));
    bench.write(0x0f, 0x0a);
    bench.write(0xff, 0x77);
    assert_eq!((bench.read(0x0f), bench.read(0x7f)), (0x0a, 0x77));
    assert_eq!(bench.cmos.lock().unwrap().port_read(Port(0x70), Width::B1), 0xff);
}

fn step() -> impl Strategy<Value = (u8, Option<u8>, u64)> {
    let register = prop_oneof![0..0x10_u8, Just(0x32), any::<u8>()];
    let value = prop_oneof![any::<u8>(), 0..0x60_u8];
    let nanos = prop_oneof![0..10_000_000_u64, 0..100 * SECOND, Just(0), Just(1000 * 24 * 3600 * SECOND)];
    (register, prop::option::of(value), nanos)
}

impl Bench {
    fn apply(&self, (register, value, nanos): (u8, Option<u8>, u64)) -> u8 {
        self.clock.retire(nanos);
        self.timers.run_due(self.clock.now());
        match value {
            Some(value) => {
                self.write(register, value);
                0
            }
            None => self.read(register),
        }
    }
}

proptest! {
    #[test]
    fn a_restored_clock_behaves_like_the_saved_one(
        before in prop::collection::vec(step(), 0..40),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let (bench, other) = (Bench::new(), Bench::new());
        for s in before {
            bench.apply(s);
        }
        let bytes = postcard::to_allocvec(&bench.cmos.lock().unwrap().saved()).unwrap();
        other.clock.retire(bench.clock.now().0);
        other.cmos.lock().unwrap().restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        other.edges();
        bench.edges();
        for s in after {
            prop_assert_eq!(bench.apply(s), other.apply(s));
            prop_assert_eq!(bench.edges(), other.edges());
            prop_assert_eq!(bench.cmos.lock().unwrap().saved(), other.cmos.lock().unwrap().saved());
        }
    }
}
