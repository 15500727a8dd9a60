use super::*;
use crate::arch::Width;
use crate::bus::{IrqSink, PortDevice};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Line {
    level: AtomicBool,
    edges: AtomicU32,
}

impl IrqSink for Line {
    fn set_line(&self, line: u8, level: bool) {
        assert_eq!(line, 4);
        if level && !self.level.swap(level, Ordering::SeqCst) {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
        self.level.store(level, Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<u8>>>);

impl ConsoleSink for Sent {
    fn transmit(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend(bytes);
    }
}

struct Bench {
    uart: Uart16550,
    line: Arc<Line>,
    sent: Sent,
}

impl Bench {
    fn new() -> Self {
        let (line, sent) = (Arc::new(Line::default()), Sent::default());
        let irq = IrqLine::new(Arc::clone(&line) as Arc<dyn IrqSink>, 4);
        let uart = Uart16550::new(Port(0x3f8), irq, Box::new(sent.clone()));
        Self { uart, line, sent }
    }

    /// With OUT2 set and these interrupts enabled.
    fn enabled(ier: u8) -> Self {
        let mut bench = Self::new();
        bench.write(4, 0x0b);
        bench.write(1, ier);
        bench
    }

    fn read(&mut self, register: u16) -> u8 {
        self.uart.port_read(Port(0x3f8 + register), Width::B1) as u8
    }

    fn write(&mut self, register: u16, value: u8) {
        self.uart.port_write(Port(0x3f8 + register), Width::B1, value.into());
    }

    fn level(&self) -> bool {
        self.line.level.load(Ordering::SeqCst)
    }

    fn edges(&self) -> u32 {
        self.line.edges.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn reset_values() {
    let mut bench = Bench::new();
    let values: Vec<_> = (0..8).map(|r| bench.read(r)).collect();
    assert_eq!(values, [0, 0, 1, 0, 0, 0x60, 0xb0, 0]);
    assert_eq!(bench.read(8), 0xff, "behind the registers");
}

#[test]
fn what_is_written_is_sent_at_once() {
    let mut bench = Bench::new();
    b"hello".iter().for_each(|b| bench.write(0, *b));
    assert_eq!(bench.read(5), 0x60);
    bench.write(3, 0x40);
    bench.write(0, b'!');
    assert_eq!(*bench.sent.0.lock().unwrap(), b"hello", "a break holds the line");
}

#[test]
fn the_divisor_latch_hides_data_and_enable() {
    let mut bench = Bench::new();
    bench.write(3, 0x83);
    bench.write(0, 0x34);
    bench.write(1, 0x12);
    assert_eq!((bench.read(0), bench.read(1)), (0x34, 0x12));
    bench.write(3, 0x03);
    assert_eq!((bench.read(0), bench.read(1)), (0, 0));
    assert!(bench.sent.0.lock().unwrap().is_empty());
}

#[test]
fn out2_gates_the_line() {
    let mut bench = Bench::new();
    bench.write(1, 2);
    assert!(!bench.level());
    bench.write(4, 8);
    assert!(bench.level());
    bench.write(4, 0);
    assert!(!bench.level());
}

#[test]
fn the_transmitter_interrupt_comes_with_each_character_and_goes_with_its_identification() {
    let mut bench = Bench::enabled(0);
    bench.write(1, 2);
    assert_eq!(bench.edges(), 1, "enabling it raises it");
    assert_eq!(bench.read(2), 2);
    assert_eq!((bench.read(2), bench.level()), (1, false));
    bench.write(1, 2);
    assert!(!bench.level(), "it was enabled before");
    bench.write(0, b'a');
    assert_eq!((bench.edges(), bench.level()), (1, true));
    bench.write(0, b'b');
    assert_eq!(bench.edges(), 1, "one edge for each character, identified or not");
    bench.write(1, 0);
    assert!(!bench.level());
}

#[test]
fn without_fifos_characters_come_one_by_one() {
    let mut bench = Bench::enabled(1);
    assert_eq!(bench.uart.receive(b"xyz"), 3);
    for expected in *b"xyz" {
        assert_eq!((bench.edges(), bench.level()), (1, true));
        assert_eq!((bench.read(2), bench.read(5)), (4, 0x61));
        assert_eq!(bench.read(0), expected);
    }
    assert_eq!((bench.edges(), bench.level(), bench.read(5)), (0, false, 0x60));
}

#[test]
fn fifos_interrupt_at_their_trigger_level_or_by_timeout() {
    for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut bench = Bench::enabled(1);
        bench.write(2, fcr);
        assert_eq!(bench.read(2), 0xc1);
        for n in 1..=16 {
            bench.uart.receive(&[n]);
            assert_eq!(bench.read(2), if n >= level { 0xc4 } else { 0xcc }, "{n} of {level}");
        }
        bench.uart.receive(b"more");
        assert_eq!(bench.read(5), 0x61, "no overrun from the host");
        let all: Vec<_> = std::iter::from_fn(|| (bench.read(5) & 1 != 0).then(|| bench.read(0))).collect();
        assert_eq!((all.len(), &all[16..]), (20, &b"more"[..]));
        assert_eq!((bench.read(2), bench.level()), (0xc1, false));
    }
}

#[test]
fn a_guest_that_reads_one_character_for_each_interrupt_gets_all() {
    let mut bench = Bench::enabled(1);
    bench.write(2, 0xc1);
    bench.uart.receive(b"abc");
    let mut seen = vec![];
    while bench.edges() == 1 {
        seen.push(bench.read(0));
    }
    assert_eq!(seen, b"abc");
}

#[test]
fn switching_or_resetting_the_fifo_empties_it() {
    let mut bench = Bench::new();
    bench.write(2, 1);
    bench.uart.receive(b"abc");
    bench.write(2, 3);
    assert_eq!(bench.read(5) & 1, 0);
    bench.uart.receive(b"d");
    bench.write(2, 0);
    assert_eq!((bench.read(5) & 1, bench.read(2)), (0, 1));
    bench.uart.receive(b"e");
    bench.write(2, 6);
    assert_eq!(bench.read(0), b'e', "without the enable bit the others mean nothing");
}

#[test]
fn the_loop_returns_characters_and_overruns() {
    let mut bench = Bench::enabled(4);
    bench.write(3, 3);
    bench.write(4, 0x18);
    bench.read(6);
    bench.uart.receive(b"h");
    bench.write(0, 0xa5);
    assert_eq!((bench.read(5), bench.read(0)), (0x61, 0xa5));
    bench.write(0, 1);
    bench.write(0, 2);
    assert!(bench.level());
    assert_eq!((bench.read(2), bench.read(5)), (6, 0x63), "overrun");
    assert_eq!((bench.read(5), bench.read(0), bench.level()), (0x61, 2, false), "the newer one stays");
    bench.write(2, 1);
    (0..17).for_each(|n| bench.write(0, n));
    assert_eq!(bench.read(5), 0x63);
    assert_eq!((0..16).map(|_| bench.read(0)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert_eq!(bench.read(5) & 1, 0);
    bench.write(3, 2);
    bench.write(0, 0xff);
    assert_eq!(bench.read(0), 0x7f, "seven bits");
    assert!(bench.sent.0.lock().unwrap().is_empty());
    bench.write(4, 8);
    assert_eq!(bench.read(0), b'h', "the line is back");
}

#[test]
fn a_break_in_the_loop_is_a_zero_with_errors() {
    let mut bench = Bench::enabled(4);
    bench.write(2, 1);
    bench.write(4, 0x18);
    bench.write(0, b'a');
    bench.write(3, 0x43);
    assert_eq!(bench.read(5), 0xe1, "behind a good character");
    assert!(!bench.level());
    bench.read(0);
    assert!(bench.level());
    assert_eq!((bench.read(2), bench.read(5)), (0xc6, 0xf9));
    assert_eq!((bench.read(5), bench.read(0)), (0x61, 0));
}

#[test]
fn modem_inputs_follow_the_outputs_in_the_loop() {
    let mut bench = Bench::enabled(8);
    bench.write(4, 0x1f);
    assert_eq!(bench.read(6), 0xf0, "RI rose: no delta; the others were high");
    bench.write(4, 0x1b);
    assert!(bench.level());
    assert_eq!((bench.read(2), bench.read(6), bench.level()), (0, 0xb4, false), "RI fell");
    bench.write(4, 0x18);
    assert_eq!(bench.read(6), 0x83);
    bench.write(4, 0x08);
    assert_eq!(bench.read(6), 0xb3);
    assert_eq!(bench.read(6), 0xb0);
}

#[test]
fn causes_are_served_in_their_order() {
    let mut bench = Bench::enabled(0xf);
    bench.write(4, 0x18);
    bench.write(0, 1);
    bench.write(0, 2);
    assert_eq!(bench.read(2), 6);
    bench.read(5);
    assert_eq!(bench.read(2), 4);
    bench.read(0);
    assert_eq!(bench.read(2), 2);
    assert_eq!(bench.read(2), 0);
    bench.read(6);
    assert_eq!((bench.read(2), bench.level()), (1, false));
}

#[test]
fn the_backlog_is_bounded() {
    let mut bench = Bench::new();
    let much = vec![7; 10_000];
    assert_eq!(bench.uart.receive(&much), 4096);
    assert_eq!(bench.uart.receive(&much), 1, "one is in the receiver");
    assert_eq!(bench.uart.receive(&much), 0);
}

fn access() -> impl Strategy<Value = (u16, Option<u8>, bool)> {
    (0..9_u16, prop::option::of(any::<u8>()), prop::bool::weighted(0.1))
}

impl Bench {
    fn apply(&mut self, (register, value, receive): (u16, Option<u8>, bool)) -> u32 {
        match value {
            Some(value) if receive => self.uart.receive(&[value, 1, 2]) as u32,
            Some(value) => {
                self.write(register, value);
                0
            }
            None => self.uart.port_read(Port(0x3f8 + register), Width::B4),
        }
    }
}

proptest! {
    #[test]
    fn a_restored_uart_behaves_like_the_saved_one(
        before in prop::collection::vec(access(), 0..120),
        after in prop::collection::vec(access(), 0..60),
    ) {
        let (mut bench, mut other) = (Bench::new(), Bench::new());
        for a in before {
            bench.apply(a);
        }
        let bytes = postcard::to_allocvec(&bench.uart.saved()).unwrap();
        other.uart.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        prop_assert_eq!(other.level(), bench.level());
        for a in after {
            prop_assert_eq!(bench.apply(a), other.apply(a));
            prop_assert_eq!(bench.level(), other.level());
            prop_assert_eq!(bench.uart.saved(), other.uart.saved());
            // The line says what the identification register would say.
            let pending = bench.uart.state.cause() != Iir::None;
            prop_assert_eq!(bench.level(), pending && bench.uart.state.mcr.contains(Mcr::OUT2));
        }
    }
}
