//! An 8254 programmable interval timer and the PC's port 0x61 (Intel 231164-005).
//!
//! Counter 0 is the timer of line 0, whose level is the counter's output; counter 1 refreshed the memory of old; counter
//! 2 has its gate and output at port 0x61 and drives a speaker that is not there.
//!
//! The host's timer is armed for the next rise of counter 0 only. Late ticks: rises that passed unseen are merged into
//! one edge, in phase with the counter, never caught up in a burst; an edge-triggered controller would merge most of
//! them anyway. Periods below [`SHORTEST_PERIOD`] are stretched to it. Every access ends in [`Pit8254::sync`].
mod counter;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use counter::{Counting, Load};
pub use saved::{SavedCounter, SavedPit};
pub use spec::{Access, Mode};

use super::{BytePorts, SHORTEST_PERIOD};
use crate::arch::Port;
use crate::arch::layout::{PIT, PIT_HZ, SYSTEM_CONTROL};
use crate::bus::IrqLine;
use crate::clock::{Clock, Nanos, Timer, TimerClient};
use counter::Counter;
use spec::{Control, SystemControl};
use std::sync::Arc;

/// Ticks that are taken to have passed when the machine was built: more than a period, so that a period may have begun
/// before.
const ORIGIN: u64 = 1 << 17;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The tick that `now` lies in.
fn tick_of(now: Nanos) -> u64 {
    ORIGIN + (u128::from(now.0) * u128::from(PIT_HZ) / NANOS_PER_SECOND) as u64
}

/// When a tick begins.
fn time_of(tick: u64) -> Nanos {
    let nanos = (u128::from(tick.saturating_sub(ORIGIN)) * NANOS_PER_SECOND).div_ceil(u128::from(PIT_HZ));
    Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The timer and port 0x61. It claims both port ranges and is the client of its timer.
#[derive(Debug)]
pub struct Pit8254 {
    // Runtime glue.
    irq: IrqLine,
    clock: Arc<Clock>,
    timer: Timer,
    /// The level last given to `irq`.
    driven: bool,
    // Volatile state.
    counters: [Counter; 3],
    system_control: SystemControl,
    /// Rises of counter 0 up to this tick have been passed on.
    seen: u64,
}

impl Pit8254 {
    /// A timer after power-on. Its line goes high at once, as the output of counter 0 is.
    #[must_use]
    pub fn new(irq: IrqLine, clock: Arc<Clock>, timer: Timer) -> Self {
        let mut pit = Self {
            irq,
            clock,
            timer,
            driven: false,
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            system_control: SystemControl::empty(),
            seen: ORIGIN,
        };
        pit.sync();
        pit
    }

    /// Brings the counters, the line and the host's timer up to date; returns the tick.
    fn sync(&mut self) -> u64 {
        let nanos = self.clock.now();
        let now = tick_of(nanos);
        let rose = self.counters[0].next_rise(self.seen).is_some_and(|at| at <= now);
        self.seen = now;
        for counter in &mut self.counters {
            counter.catch_up(now);
        }
        if rose {
            self.drive(false);
            self.drive(true);
        }
        self.drive(self.counters[0].out(now));
        self.arm(nanos, now);
        now
    }

    fn drive(&mut self, level: bool) {
        if level != std::mem::replace(&mut self.driven, level) {
            self.irq.set(level);
        }
    }

    fn arm(&self, nanos: Nanos, now: u64) {
        let counter = &self.counters[0];
        match counter.next_rise(now) {
            Some(rise)
                if counter.mode.is_periodic()
                    && time_of(ORIGIN + u64::from(counter.period)).0 < SHORTEST_PERIOD =>
            {
                self.timer.arm(time_of(rise).max(nanos.after(SHORTEST_PERIOD)));
            }
            Some(rise) => self.timer.arm(time_of(rise)),
            None => self.timer.cancel(),
        }
    }

    fn control(&mut self, word: u8, now: u64) {
        match Control::from(word) {
            Control::Latch { counter } => self.counters[counter].latch_count(now),
            Control::ReadBack { counters, count, status } => {
                let chosen = self.counters.iter_mut().enumerate().filter(|(i, _)| counters >> i & 1 != 0);
                for (_, counter) in chosen {
                    if count {
                        counter.latch_count(now);
                    }
                    if status {
                        counter.latch_status(now);
                    }
                }
            }
            Control::Program { counter, access, mode, bcd } => {
                self.counters[counter].program(access, mode, bcd)
            }
        }
    }

    fn read_system_control(&self, now: u64) -> u8 {
        let mut value = self.system_control;
        let refreshes = self.clock.now().0 / spec::REFRESH_NANOS;
        value.set(SystemControl::REFRESH, refreshes & 1 != 0);
        value.set(SystemControl::OUT2, self.counters[2].out(now));
        value.bits()
    }
}

impl BytePorts for Pit8254 {
    fn read_byte(&mut self, port: Port) -> u8 {
        let now = self.sync();
        let value = match port.0.wrapping_sub(PIT.start().0) {
            counter @ 0..=2 => self.counters[usize::from(counter)].read(now),
            _ if SYSTEM_CONTROL.contains(&port) => self.read_system_control(now),
            // The control port cannot be read.
            _ => 0xff,
        };
        self.sync();
        value
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        let now = self.sync();
        match port.0.wrapping_sub(PIT.start().0) {
            counter @ 0..=2 => self.counters[usize::from(counter)].write(value, now),
            3 => self.control(value, now),
            _ if SYSTEM_CONTROL.contains(&port) => {
                self.system_control = SystemControl::from_bits_truncate(value) & SystemControl::WRITABLE;
                let gate = self.system_control.contains(SystemControl::GATE2);
                self.counters[2].set_gate(gate, now);
            }
            _ => {}
        }
        self.sync();
    }
}

impl TimerClient for Pit8254 {
    fn timer_fired(&mut self, _: Nanos) {
        self.sync();
    }
}
