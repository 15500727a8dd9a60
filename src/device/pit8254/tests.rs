use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice};
use crate::clock::{ClockSource, TimerQueue};
use proptest::prelude::*;
use std::sync::Mutex;
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
    clock: Arc<Clock>,
    timers: Arc<TimerQueue>,
    line: Arc<Line>,
    pit: Arc<Mutex<Pit8254>>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        let (timers, line) = (TimerQueue::new(), Arc::new(Line::default()));
        let (timer, irq) = (timers.add(), IrqLine::new(Arc::clone(&line) as Arc<dyn IrqSink>, 0));
        let pit = Arc::new(Mutex::new(Pit8254::new(irq, Arc::clone(&clock), timer.clone())));
        timer.connect(&(Arc::clone(&pit) as Arc<Mutex<dyn TimerClient>>));
        let bench = Self { clock, timers, line, pit };
        bench.edges();
        bench
    }

    fn write(&self, port: u16, value: u8) {
        self.pit.lock().unwrap().port_write(Port(port), Width::B1, value.into());
    }

    fn read(&self, port: u16) -> u8 {
        self.pit.lock().unwrap().port_read(Port(port), Width::B1) as u8
    }

    fn read_count(&self, port: u16) -> u16 {
        u16::from_le_bytes([self.read(port), self.read(port)])
    }

    /// A control word and both bytes of a count.
    fn program(&self, control: u8, count: u16) {
        self.write(0x43, control);
        let port = 0x40 + u16::from(control >> 6);
        count.to_le_bytes().into_iter().for_each(|b| self.write(port, b));
    }

    /// Lets time pass until `ticks` more ticks of the counters have begun, and runs what is due.
    fn pass(&self, ticks: u64) {
        let to = time_of(tick_of(self.clock.now()) + ticks);
        while let Some(at) = self.timers.next_deadline().filter(|at| *at <= to) {
            self.clock.skip_to(at);
            self.timers.run_due(self.clock.now());
        }
        self.clock.skip_to(to);
    }

    /// Rising edges of the line since the last call.
    fn edges(&self) -> u32 {
        self.line.edges.swap(0, Ordering::SeqCst)
    }

    fn level(&self) -> bool {
        self.line.level.load(Ordering::SeqCst)
    }
}

#[test]
fn ticks_and_times_agree() {
    for tick in [0, 1, 2, 1000, 1_193_182, 1 << 50] {
        let at = time_of(ORIGIN + tick);
        assert_eq!(tick_of(at), ORIGIN + tick);
        assert!(at.0 == 0 || tick_of(Nanos(at.0 - 1)) < ORIGIN + tick);
    }
    assert_eq!(time_of(ORIGIN + PIT_HZ), Nanos(1_000_000_000));
}

#[test]
fn the_rate_generator_interrupts_once_a_period() {
    for control in [0x34, 0x36] {
        let bench = Bench::new();
        bench.program(control, 11_932);
        assert_eq!(bench.edges(), 0, "the output was high and stays so");
        for _ in 0..5 {
            bench.pass(11_931);
            assert_eq!(bench.edges(), 0);
            bench.pass(1);
            assert_eq!(bench.edges(), 1);
        }
        assert!(bench.level());
    }
}

#[test]
fn terminal_count_interrupts_once() {
    let bench = Bench::new();
    bench.program(0x30, 100);
    assert!(!bench.level());
    bench.pass(99);
    assert_eq!((bench.read_count(0x40), bench.edges()), (1, 0));
    bench.pass(1);
    assert_eq!((bench.edges(), bench.level()), (1, true));
    assert_eq!(bench.timers.next_deadline(), None);
    bench.pass(70_000);
    assert_eq!(bench.edges(), 0);
    assert_eq!(bench.read_count(0x40), (65_536_u32 * 2 - 70_000) as u16, "it counts on");
    bench.write(0x40, 50);
    assert!(!bench.level(), "half a count takes the output down");
    bench.write(0x40, 0);
    bench.pass(50);
    assert_eq!(bench.edges(), 1);
}

#[test]
fn late_ticks_are_merged_and_keep_their_phase() {
    let bench = Bench::new();
    bench.program(0x34, 1000);
    bench.clock.skip_to(time_of(tick_of(bench.clock.now()) + 4500));
    bench.timers.run_due(bench.clock.now());
    assert_eq!(bench.edges(), 1);
    bench.pass(499);
    assert_eq!(bench.edges(), 0);
    bench.pass(1);
    assert_eq!(bench.edges(), 1);
}

#[test]
fn tiny_periods_do_not_bury_the_host() {
    let bench = Bench::new();
    for count in [1, 2, 3] {
        bench.program(0x34, count);
        bench.edges();
        bench.pass(PIT_HZ / 1000);
        assert!(bench.edges() <= 100, "a millisecond, at most one in ten microseconds");
    }
}

#[test]
fn latches_hold_until_they_are_read() {
    let bench = Bench::new();
    bench.program(0x34, 1000);
    bench.pass(100);
    bench.write(0x43, 0x00);
    bench.pass(100);
    bench.write(0x43, 0x00);
    assert_eq!(bench.read_count(0x40), 900);
    assert_eq!(bench.read_count(0x40), 800);
    bench.program(0x76, 0);
    bench.write(0x43, 0xc6);
    bench.pass(10);
    assert_eq!(bench.read(0x40), 0xb4, "status first: output high, both bytes, mode 2");
    assert_eq!(bench.read_count(0x40), 800);
    assert_eq!(bench.read(0x41), 0xb6);
    assert_eq!(bench.read_count(0x41), 0);
    bench.write(0x43, 0xe8);
    assert_eq!(bench.read(0x42) & 0xc0, 0xc0, "counter 2 has no count yet");
    assert_eq!(bench.read(0x43), 0xff);
}

#[test]
fn single_bytes_of_a_count() {
    let bench = Bench::new();
    bench.write(0x43, 0x14);
    bench.write(0x40, 200);
    bench.pass(1);
    assert_eq!((bench.read(0x40), bench.read(0x40)), (199, 199));
    bench.write(0x43, 0x24);
    bench.write(0x40, 2);
    bench.pass(1);
    assert_eq!((bench.read(0x40), bench.read(0x40)), (1, 1));
}

#[test]
fn decimal_counts() {
    let bench = Bench::new();
    bench.program(0x35, 0x1000);
    bench.pass(1);
    assert_eq!(bench.read_count(0x40), 0x0999);
    bench.program(0x35, 0);
    bench.pass(1);
    assert_eq!(bench.read_count(0x40), 0x9999);
}

#[test]
fn the_gate_of_counter_two() {
    let bench = Bench::new();
    bench.write(0x61, 0);
    bench.program(0xb0, 100);
    bench.pass(50);
    assert_eq!(bench.read_count(0x42), 100, "held");
    bench.write(0x61, 1);
    bench.pass(60);
    bench.write(0x61, 0);
    bench.pass(60);
    assert_eq!((bench.read_count(0x42), bench.read(0x61) & 0x2f), (40, 0));
    bench.write(0x61, 3);
    bench.pass(39);
    assert_eq!(bench.read(0x61) & 0x2f, 0x03);
    bench.pass(1);
    assert_eq!(bench.read(0x61) & 0x2f, 0x23);
}

#[test]
fn gate_triggered_modes() {
    let bench = Bench::new();
    bench.program(0xb2, 10);
    assert_eq!(bench.read(0x61) & 0x20, 0x20);
    for _ in 0..2 {
        bench.write(0x61, 1);
        assert_eq!(bench.read(0x61) & 0x20, 0);
        bench.write(0x61, 0);
        bench.pass(5);
    }
    bench.pass(4);
    assert_eq!(bench.read(0x61) & 0x20, 0, "the second trigger began anew");
    bench.pass(1);
    assert_eq!(bench.read(0x61) & 0x20, 0x20);
    bench.program(0xba, 3);
    bench.write(0x61, 1);
    let strobe: Vec<_> = (0..6)
        .map(|_| {
            let out = bench.read(0x61) & 0x20 != 0;
            bench.pass(1);
            out
        })
        .collect();
    assert_eq!(strobe, [true, true, true, false, true, true]);
}

#[test]
fn the_refresh_bit_toggles() {
    let bench = Bench::new();
    let mut toggles = 0;
    let mut last = bench.read(0x61) & 0x10;
    for _ in 0..PIT_HZ / 1000 {
        bench.pass(1);
        let now = bench.read(0x61) & 0x10;
        toggles += u32::from(now != last);
        last = now;
    }
    assert!((66..=67).contains(&toggles), "{toggles} in a millisecond");
}

#[derive(Clone, Debug)]
enum Step {
    Read(u16),
    Write(u16, u8),
    Pass(u64),
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop::sample::select(vec![0x40, 0x41, 0x42, 0x43, 0x61, 0x44]);
    let control = (0..3_u8, 0..64_u8).prop_map(|(c, rest)| Step::Write(0x43, c << 6 | rest | 0x10));
    prop_oneof![
        port.clone().prop_map(Step::Read),
        (port, any::<u8>()).prop_map(|(p, v)| Step::Write(p, v)),
        (0x40..0x43_u16, 0..4_u8).prop_map(|(p, v)| Step::Write(p, v)),
        control,
        (0..500_u64).prop_map(Step::Pass),
        prop_oneof![0..200_000_u64, any::<u32>().prop_map(u64::from)].prop_map(Step::Sleep),
    ]
}

impl Bench {
    fn apply(&self, step: &Step) -> u8 {
        match *step {
            Step::Read(port) => return self.read(port),
            Step::Write(port, value) => self.write(port, value),
            Step::Pass(ticks) => self.pass(ticks),
            Step::Sleep(nanos) => {
                self.clock.retire(nanos);
                self.timers.run_due(self.clock.now());
            }
        }
        0
    }
}

proptest! {
    #[test]
    fn a_restored_timer_behaves_like_the_saved_one(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..40),
    ) {
        let (bench, other) = (Bench::new(), Bench::new());
        for s in &before {
            bench.apply(s);
        }
        bench.pit.lock().unwrap().sync();
        let bytes = postcard::to_allocvec(&bench.pit.lock().unwrap().saved()).unwrap();
        other.clock.retire(bench.clock.now().0);
        other.pit.lock().unwrap().restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        bench.edges();
        other.edges();
        prop_assert_eq!(bench.level(), other.level());
        for s in &after {
            prop_assert_eq!(bench.apply(s), other.apply(s));
            prop_assert_eq!((bench.edges(), bench.level()), (other.edges(), other.level()));
            prop_assert_eq!(bench.pit.lock().unwrap().saved(), other.pit.lock().unwrap().saved());
        }
    }
}
