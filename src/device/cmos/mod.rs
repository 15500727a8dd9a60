//! A PC's real-time clock and CMOS RAM: a Motorola MC146818A at ports 0x70 and 0x71.
//!
//! Time of day is the guest's clock plus an origin; nothing ticks. Flags (periodic, alarm, update ended) are computed
//! from what passed since the last look, and the host's timer is armed only while an interrupt is enabled. While the
//! guest sets the time (SET, or the divider in reset) the registers hold what it writes. A date that does not exist
//! runs over into the next month. Every access ends in [`Cmos::sync`].
mod calendar;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::SavedCmos;

use super::BytePorts;
use crate::arch::Port;
use crate::arch::layout::{CMOS, LOW_RAM_END};
use crate::bus::IrqLine;
use crate::clock::{Clock, Nanos, Timer, TimerClient};
use calendar::{DAY, Date, decode, decode_hour, encode, encode_hour};
use spec::{B, C, index};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

/// The clock and the RAM. It claims both ports and is the client of its timer.
#[derive(Debug)]
pub struct Cmos {
    // Runtime glue.
    irq: IrqLine,
    clock: Arc<Clock>,
    timer: Timer,
    /// The level last given to `irq`.
    driven: bool,
    // Volatile state.
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    /// The index, 0–127.
    selected: u8,
    /// RAM, alarms and control registers. The time registers count while the time is held.
    ram: [u8; spec::SIZE],
    /// Seconds since 1970 at guest time zero, rounded down, while the time runs.
    origin: i64,
    /// Nanoseconds of guest time by which the seconds begin late, below one second.
    phase: u64,
    /// What the guest's day of the week is ahead of the date's.
    weekday_ahead: u8,
    /// Second up to which update and alarm flags are computed.
    seen_second: i64,
    /// Tick of the crystal up to which the periodic flag is computed.
    seen_tick: u64,
}

impl State {
    fn b(&self) -> B {
        B::from_bits_retain(self.ram[index::B])
    }

    fn is_held(&self) -> bool {
        self.b().contains(B::SET) || self.ram[index::A] & spec::DIVIDER >= 0x60
    }

    /// Seconds since 1970.
    fn seconds(&self, now: Nanos) -> i64 {
        let running = now.0.saturating_add(SECOND - self.phase) / SECOND;
        self.origin.saturating_add(running as i64)
    }

    /// Nanoseconds until the next update.
    fn until_update(&self, now: Nanos) -> u64 {
        SECOND - now.0.saturating_add(SECOND - self.phase) % SECOND
    }

    /// Writes the time registers for a date.
    fn show(&mut self, seconds: i64) {
        let (form, date) = (self.b(), Date::from_seconds(seconds));
        let weekday = (date.weekday() - 1 + self.weekday_ahead) % 7 + 1;
        self.ram[index::SECONDS] = encode(date.second, form);
        self.ram[index::MINUTES] = encode(date.minute, form);
        self.ram[index::HOURS] = encode_hour(date.hour, form);
        self.ram[index::WEEKDAY] = encode(weekday.into(), form);
        self.ram[index::DAY] = encode(date.day, form);
        self.ram[index::MONTH] = encode(date.month, form);
        self.ram[index::YEAR] = encode(date.year, form);
        // The century's place is BCD whatever the form is.
        self.ram[index::CENTURY] = encode(date.year / 100, B::empty());
    }

    /// Takes the time registers as the time at `now`; the next update comes `until` nanoseconds later.
    fn set_time(&mut self, now: Nanos, until: u64) {
        let form = self.b();
        let century = decode(self.ram[index::CENTURY], B::empty());
        let date = Date {
            year: century * 100 + decode(self.ram[index::YEAR], form),
            month: decode(self.ram[index::MONTH], form),
            day: decode(self.ram[index::DAY], form),
            hour: decode_hour(self.ram[index::HOURS], form),
            minute: decode(self.ram[index::MINUTES], form),
            second: decode(self.ram[index::SECONDS], form),
        };
        let seconds = date.to_seconds();
        let weekday = decode(self.ram[index::WEEKDAY], form) + 7 - i64::from(date.weekday());
        self.weekday_ahead = weekday.rem_euclid(7) as u8;
        self.phase = now.0.saturating_add(until) % SECOND;
        self.origin = 0;
        self.origin = seconds - self.seconds(now);
        self.seen_second = seconds;
    }

    /// Whether the alarm registers match a second.
    fn is_alarm(&self, seconds: i64) -> bool {
        let (form, time) = (self.b(), seconds.rem_euclid(DAY));
        let matches = |alarm: usize, value: u8| self.ram[alarm] >= spec::ANY || self.ram[alarm] == value;
        matches(index::SECONDS_ALARM, encode(time % 60, form))
            && matches(index::MINUTES_ALARM, encode(time / 60 % 60, form))
            && matches(index::HOURS_ALARM, encode_hour(time / 3600, form))
    }

    /// Ticks of the crystal in a period of the periodic interrupt.
    fn periodic_ticks(&self) -> Option<u64> {
        match self.ram[index::A] & spec::RATE {
            0 => None,
            // The two fastest selections repeat slower ones (table 5).
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Raises the flags for what passed until `now`.
    fn catch_up(&mut self, now: Nanos) {
        let tick = tick_of(now);
        let running = self.ram[index::A] & spec::DIVIDER < 0x60;
        if let Some(ticks) = self.periodic_ticks().filter(|_| running)
            && tick / ticks > self.seen_tick / ticks
        {
            self.ram[index::C] |= C::PF.bits();
        }
        self.seen_tick = tick;
        if self.is_held() {
            return;
        }
        let second = self.seconds(now);
        if second > self.seen_second {
            self.ram[index::C] |= C::UF.bits();
            let first = self.seen_second.saturating_add(1).max(second - DAY + 1);
            if (first..=second).any(|s| self.is_alarm(s)) {
                self.ram[index::C] |= C::AF.bits();
            }
            self.seen_second = second;
        }
    }

    /// When the next flag may rise that makes an interrupt.
    fn next_event(&self, now: Nanos) -> Option<Nanos> {
        let running = self.ram[index::A] & spec::DIVIDER < 0x60;
        let periodic = self
            .periodic_ticks()
            .filter(|_| running && self.b().contains(B::PIE))
            .map(|ticks| time_of((tick_of(now) / ticks + 1) * ticks));
        let update = (!self.is_held() && self.b().intersects(B::UIE | B::AIE))
            .then(|| now.after(self.until_update(now)));
        periodic.into_iter().chain(update).min()
    }
}

/// The tick of the crystal that `now` lies in.
fn tick_of(now: Nanos) -> u64 {
    (u128::from(now.0) * u128::from(spec::CRYSTAL_HZ) / u128::from(SECOND)) as u64
}

/// When a tick of the crystal begins.
fn time_of(tick: u64) -> Nanos {
    let nanos = (u128::from(tick) * u128::from(SECOND)).div_ceil(u128::from(spec::CRYSTAL_HZ));
    Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Cmos {
    /// A clock that shows `seconds` since 1970 (UTC) at the present guest time, on line `irq`, and RAM that says how
    /// much memory the machine has, at the places that firmware looks at (as in QEMU).
    #[must_use]
    pub fn new(irq: IrqLine, clock: Arc<Clock>, timer: Timer, seconds: i64, memory: u64) -> Self {
        let now = clock.now();
        let mut state = State {
            selected: 0,
            ram: [0; spec::SIZE],
            origin: 0,
            phase: now.0 % SECOND,
            weekday_ahead: 0,
            seen_second: 0,
            seen_tick: tick_of(now),
        };
        state.ram[index::A] = spec::DIVIDER_32768 | 6;
        state.ram[index::B] = B::H24.bits();
        state.origin = seconds - state.seconds(now);
        state.seen_second = seconds;
        describe_memory(&mut state.ram, memory);
        let mut cmos = Self { irq, clock, timer, driven: false, state };
        cmos.sync();
        cmos
    }

    /// Recomputes flags, line and timer.
    fn sync(&mut self) -> Nanos {
        let now = self.clock.now();
        self.state.catch_up(now);
        let happened = C::from_bits_truncate(self.state.ram[index::C]) - C::IRQF;
        let level = happened.bits() & self.state.ram[index::B] != 0;
        let irqf = if level { C::IRQF } else { C::empty() };
        self.state.ram[index::C] = (happened | irqf).bits();
        if level != std::mem::replace(&mut self.driven, level) {
            self.irq.set(level);
        }
        // Until the guest has read register C nothing more can be said with the line.
        match self.state.next_event(now).filter(|_| !level) {
            Some(at) => self.timer.arm(at),
            None => self.timer.cancel(),
        }
        now
    }

    fn read_register(&mut self, now: Nanos) -> u8 {
        let s = &mut self.state;
        let selected = usize::from(s.selected);
        match selected {
            index::SECONDS
            | index::MINUTES
            | index::HOURS
            | index::WEEKDAY..=index::YEAR
            | index::CENTURY
                if !s.is_held() =>
            {
                s.show(s.seconds(now));
                s.ram[selected]
            }
            index::A if !s.is_held() && s.until_update(now) <= spec::UIP_NANOS => s.ram[index::A] | spec::UIP,
            index::C => std::mem::take(&mut s.ram[index::C]),
            index::D => spec::VRT,
            _ => s.ram[selected],
        }
    }

    fn write_register(&mut self, value: u8, now: Nanos) {
        let s = &mut self.state;
        let was_held = s.is_held();
        if !was_held {
            s.show(s.seconds(now));
        }
        let until = s.until_update(now);
        match usize::from(s.selected) {
            // Read-only.
            index::C | index::D => return,
            index::A => s.ram[index::A] = value & !spec::UIP,
            index::B => {
                let set = B::from_bits_retain(value).contains(B::SET);
                // Setting stops the update-ended interrupt (datasheet, "SET").
                s.ram[index::B] = if set { value & !B::UIE.bits() } else { value };
                if !was_held && !set {
                    // Only the form changed: the time goes on.
                    return;
                }
            }
            selected => s.ram[selected] = value,
        }
        match (was_held, s.is_held()) {
            (_, true) => {}
            (false, false) => {
                if is_time(s.selected) {
                    s.set_time(now, until);
                }
            }
            // The divider was let go, or SET taken back: the first update comes half a second later, in the first case.
            (true, false) => {
                let until = if usize::from(s.selected) == index::A { SECOND / 2 } else { SECOND };
                s.set_time(now, until);
            }
        }
    }
}

/// Whether a register takes part in the time.
fn is_time(selected: u8) -> bool {
    matches!(
        usize::from(selected),
        index::SECONDS | index::MINUTES | index::HOURS | index::WEEKDAY..=index::YEAR | index::CENTURY
    )
}

/// Writes the size of memory where firmware looks for it.
fn describe_memory(ram: &mut [u8; spec::SIZE], memory: u64) {
    const MIB: u64 = 1 << 20;
    let low = memory.min(LOW_RAM_END.0);
    let word = |value: u64| (value.min(0xffff) as u16).to_le_bytes();
    let kib_above_1m = word(low.saturating_sub(MIB) >> 10);
    let blocks_above_16m = word(low.saturating_sub(16 * MIB) >> 16);
    let blocks_above_4g = ((memory - low) >> 16).min(0xff_ffff).to_le_bytes();
    ram[0x15..=0x16].copy_from_slice(&word(640));
    ram[0x17..=0x18].copy_from_slice(&kib_above_1m);
    ram[0x30..=0x31].copy_from_slice(&kib_above_1m);
    ram[0x34..=0x35].copy_from_slice(&blocks_above_16m);
    ram[0x5b..=0x5d].copy_from_slice(&blocks_above_4g[..3]);
}

impl BytePorts for Cmos {
    /// The index port cannot be read.
    fn read_byte(&mut self, port: Port) -> u8 {
        let now = self.sync();
        let value = if port == *CMOS.end() { self.read_register(now) } else { 0xff };
        self.sync();
        value
    }

    /// Bit 7 of the index masks the NMI, which this machine does not have.
    fn write_byte(&mut self, port: Port, value: u8) {
        let now = self.sync();
        if port == *CMOS.start() {
            self.state.selected = value & 0x7f;
        } else if port == *CMOS.end() {
            self.write_register(value, now);
        }
        self.sync();
    }
}

impl TimerClient for Cmos {
    fn timer_fired(&mut self, _: Nanos) {
        self.sync();
    }
}
