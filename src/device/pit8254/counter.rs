//! One counter of the 8254. Time is in ticks of its input clock, as [`super::Pit8254`] counts them.
//!
//! Nothing ticks: the state says when counting started, and count and output are computed when somebody looks. The one
//! tick that the chip takes to load a count is left out, as other models do: a count of N ends N ticks after its write.
use super::spec::{Access, Mode, Status};
use serde::{Deserialize, Serialize};

/// Whether the counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Counting {
    /// Waits for a count or a trigger.
    No,
    /// Stopped by its gate (modes 0 and 4).
    Held {
        /// Ticks that had passed.
        elapsed: u64,
    },
    /// Counts.
    Since {
        /// The tick at which a whole period began.
        start: u64,
    },
}

/// When a count that was written during a periodic mode is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// At this tick.
    pub at: u64,
    /// The low half of a square wave begins there, not a whole period.
    pub low_half: bool,
}

/// The counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Counter {
    pub(super) mode: Mode,
    pub(super) access: Access,
    pub(super) bcd: bool,
    /// Level of the gate pin.
    pub(super) gate: bool,
    /// The count register: what was written last, 1–65536.
    pub(super) reload: u32,
    /// What is or was counted down from, 1–65536.
    pub(super) period: u32,
    pub(super) counting: Counting,
    /// A control word came and no count after it.
    pub(super) awaits_count: bool,
    /// `reload` is not yet loaded.
    pub(super) null_count: bool,
    pub(super) load: Option<Load>,
    /// The low byte of a count of which the high byte is to come.
    pub(super) written_low: Option<u8>,
    /// The next read gives the high byte.
    pub(super) read_high: bool,
    pub(super) latched_count: Option<u16>,
    pub(super) latched_status: Option<u8>,
}

impl Counter {
    /// After power-on, which the datasheet leaves open: a square wave without a count, so with its output high.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::Square,
            access: Access::Both,
            bcd: false,
            gate,
            reload: 0x1_0000,
            period: 0x1_0000,
            counting: Counting::No,
            awaits_count: true,
            null_count: true,
            load: None,
            written_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// What the counter wraps at.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Ticks for which a square wave is high.
    fn high_half(period: u32) -> u64 {
        u64::from(period.div_ceil(2))
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        match self.counting {
            Counting::No => None,
            Counting::Held { elapsed } => Some(elapsed),
            Counting::Since { start } => Some(now.saturating_sub(start)),
        }
    }

    /// Loads a waiting count whose time has come.
    pub(super) fn catch_up(&mut self, now: u64) {
        if let Some(Load { at, low_half }) = self.load.filter(|load| load.at <= now) {
            let before = if low_half { Self::high_half(self.reload) } else { 0 };
            self.begin(at.saturating_sub(before));
        }
    }

    /// Loads the count register; counting begins at tick `start`.
    fn begin(&mut self, start: u64) {
        self.period = self.reload;
        self.null_count = false;
        self.load = None;
        self.counting = Counting::Since { start };
    }

    /// The output pin.
    pub(super) fn out(&self, now: u64) -> bool {
        let period = u64::from(self.period);
        let elapsed = self.elapsed(now);
        match self.mode {
            Mode::TerminalCount => elapsed.is_some_and(|e| e >= period),
            Mode::OneShot => elapsed.is_none_or(|e| e >= period),
            Mode::Rate => !self.gate || elapsed.is_none_or(|e| e % period != period - 1),
            Mode::Square => !self.gate || elapsed.is_none_or(|e| e % period < Self::high_half(self.period)),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != Some(period),
        }
    }

    /// The first tick after `tick` at which the output rises, if nothing is written until then.
    pub(super) fn next_rise(&self, tick: u64) -> Option<u64> {
        let Counting::Since { start } = self.counting else {
            return None;
        };
        let period = u64::from(self.period);
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => Some(start + period).filter(|at| *at > tick),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => Some(start + period + 1).filter(|at| *at > tick),
            Mode::Rate | Mode::Square if !self.gate => None,
            Mode::Rate | Mode::Square => match self.load {
                Some(Load { at, low_half: true }) if tick < at => Some(at + u64::from(self.reload / 2)),
                _ => Some(tick.max(start) + period - tick.saturating_sub(start) % period),
            },
        }
    }

    /// The count as it is read: 16 bits, BCD if so programmed.
    pub(super) fn count(&self, now: u64) -> u16 {
        let (period, modulus) = (self.period, self.modulus());
        let count = match (self.elapsed(now), self.mode) {
            (None, _) => period,
            (Some(e), Mode::Rate) => period - (e % u64::from(period)) as u32,
            (Some(e), Mode::Square) => {
                let (phase, half) = (e % u64::from(period), Self::high_half(period));
                let in_half = if phase < half { phase } else { phase - half };
                (period & !1).saturating_sub(2 * in_half as u32)
            }
            (Some(e), _) => period + modulus - (e % u64::from(modulus)) as u32,
        } % modulus;
        if self.bcd { to_bcd(count) } else { count as u16 }
    }

    pub(super) fn status(&self, now: u64) -> u8 {
        let mut status = Status::empty();
        status.set(Status::OUT, self.out(now));
        status.set(Status::NULL_COUNT, self.null_count);
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        status.bits() | access << 4 | self.mode.number() << 1 | u8::from(self.bcd)
    }

    /// Counter latch command; a count that is latched already stays.
    pub(super) fn latch_count(&mut self, now: u64) {
        let count = self.count(now);
        self.latched_count.get_or_insert(count);
    }

    /// Latches the status byte, likewise.
    pub(super) fn latch_status(&mut self, now: u64) {
        let status = self.status(now);
        self.latched_status.get_or_insert(status);
    }

    /// A control word for this counter.
    pub(super) fn program(&mut self, access: Access, mode: Mode, bcd: bool) {
        *self = Self {
            access,
            mode,
            bcd,
            reload: self.reload.min(if bcd { 10_000 } else { 0x1_0000 }),
            period: self.period.min(if bcd { 10_000 } else { 0x1_0000 }),
            ..Self::new(self.gate)
        };
    }

    /// A read of the counter's port.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (byte, is_last) = match (self.access, self.read_high) {
            (Access::Low, _) => (low, true),
            (Access::High, _) => (high, true),
            (Access::Both, false) => (low, false),
            (Access::Both, true) => (high, true),
        };
        self.read_high = !is_last;
        if is_last {
            self.latched_count = None;
        }
        byte
    }

    /// A write to the counter's port.
    pub(super) fn write(&mut self, value: u8, now: u64) {
        let count = match (self.access, self.written_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.written_low = Some(value);
                if self.mode == Mode::TerminalCount {
                    // Half a count stops mode 0, with the output low.
                    self.counting = Counting::No;
                }
                return;
            }
        };
        let count = if self.bcd { from_bcd(count) } else { count.into() };
        self.reload = if count == 0 { self.modulus() } else { count };
        self.awaits_count = false;
        self.null_count = true;
        self.count_written(now);
    }

    fn count_written(&mut self, now: u64) {
        match (self.mode, self.counting) {
            // Gate-triggered modes take the count at the next trigger.
            (Mode::OneShot | Mode::HardwareStrobe, _) => {}
            (Mode::Rate | Mode::Square, Counting::Since { start }) => {
                let (period, half) = (u64::from(self.period), Self::high_half(self.period));
                let phase = now.saturating_sub(start) % period;
                let low_half = self.mode == Mode::Square && phase < half;
                let at = now - phase + if low_half { half } else { period };
                self.load.get_or_insert(Load { at, low_half });
            }
            (Mode::Rate | Mode::Square, _) => {
                if self.gate {
                    self.begin(now);
                }
            }
            (Mode::TerminalCount | Mode::SoftwareStrobe, _) => {
                self.begin(now);
                if !self.gate {
                    self.counting = Counting::Held { elapsed: 0 };
                }
            }
        }
    }

    /// Drives the gate pin.
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == std::mem::replace(&mut self.gate, gate) {
            return;
        }
        match (self.mode, self.counting, gate) {
            (Mode::TerminalCount | Mode::SoftwareStrobe, Counting::Since { start }, false) => {
                let elapsed = now.saturating_sub(start);
                self.counting = Counting::Held { elapsed };
            }
            (Mode::TerminalCount | Mode::SoftwareStrobe, Counting::Held { elapsed }, true) => {
                let start = now.saturating_sub(elapsed);
                self.counting = Counting::Since { start };
            }
            (Mode::Rate | Mode::Square, _, false) => {
                self.counting = Counting::No;
                self.load = None;
            }
            (Mode::Rate | Mode::Square | Mode::OneShot | Mode::HardwareStrobe, _, true)
                if !self.awaits_count =>
            {
                self.begin(now);
            }
            _ => {}
        }
    }
}

fn to_bcd(value: u32) -> u16 {
    let digit = |by: u32| (value / by % 10) as u16;
    digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
}

/// Digits above 9, which the chip does not define, count as what their bits say.
fn from_bcd(bcd: u16) -> u32 {
    let digit = |shift: u32| u32::from(bcd >> shift & 0xf);
    (digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)) % 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bcd_round_trips() {
        for value in 0..10_000 {
            assert_eq!(from_bcd(to_bcd(value)), value);
        }
        assert_eq!(to_bcd(1234), 0x1234);
    }

    /// Programs both bytes of `count` at tick 1000 of a counter with its gate high.
    fn counter(mode: Mode, count: u16) -> Counter {
        let mut counter = Counter::new(true);
        counter.program(Access::Both, mode, false);
        let [low, high] = count.to_le_bytes();
        counter.write(low, 1000);
        counter.write(high, 1000);
        counter
    }

    /// The rises found by looking at the output of each tick.
    fn rises(counter: &Counter, ticks: std::ops::Range<u64>) -> Vec<u64> {
        ticks.filter(|t| !counter.out(t - 1) && counter.out(*t)).collect()
    }

    #[test]
    fn next_rise_agrees_with_the_output() {
        for mode in [Mode::TerminalCount, Mode::Rate, Mode::Square, Mode::SoftwareStrobe] {
            for count in [2, 3, 7, 10] {
                let counter = counter(mode, count);
                let (mut tick, mut found) = (1000, vec![]);
                while let Some(next) = counter.next_rise(tick).filter(|t| *t < 1100) {
                    found.push(next);
                    tick = next;
                }
                assert_eq!(found, rises(&counter, 1001..1100), "{mode:?} {count}");
                assert!(!found.is_empty());
            }
        }
    }

    #[test]
    fn outputs_follow_the_waveforms() {
        let wave = |mode, count| -> String {
            let counter = counter(mode, count);
            (1000..1012).map(|t| if counter.out(t) { '^' } else { '_' }).collect()
        };
        assert_eq!(wave(Mode::TerminalCount, 4), "____^^^^^^^^");
        assert_eq!(wave(Mode::Rate, 4), "^^^_^^^_^^^_");
        assert_eq!(wave(Mode::Square, 4), "^^__^^__^^__");
        assert_eq!(wave(Mode::Square, 5), "^^^__^^^__^^");
        assert_eq!(wave(Mode::SoftwareStrobe, 4), "^^^^_^^^^^^^");
        assert_eq!(wave(Mode::OneShot, 4), "^^^^^^^^^^^^", "not triggered");
    }

    #[test]
    fn counts_follow_the_modes() {
        let counts = |mode, count| -> Vec<u16> {
            let counter = counter(mode, count);
            (1000..1009).map(|t| counter.count(t)).collect()
        };
        assert_eq!(counts(Mode::TerminalCount, 3), [3, 2, 1, 0, 0xffff, 0xfffe, 0xfffd, 0xfffc, 0xfffb]);
        assert_eq!(counts(Mode::Rate, 3), [3, 2, 1, 3, 2, 1, 3, 2, 1]);
        assert_eq!(counts(Mode::Square, 4), [4, 2, 4, 2, 4, 2, 4, 2, 4]);
        assert_eq!(counts(Mode::Square, 5), [4, 2, 0, 4, 2, 4, 2, 0, 4]);
    }

    #[test]
    fn a_new_count_of_a_periodic_mode_waits_for_the_end_of_the_cycle_or_half() {
        let mut rate = counter(Mode::Rate, 10);
        rate.write(4, 1013);
        rate.write(0, 1013);
        assert_eq!(rate.status(1013) & 0x40, 0x40, "null count");
        rate.catch_up(1019);
        assert_eq!((rate.count(1019), rate.next_rise(1019)), (1, Some(1020)));
        rate.catch_up(1021);
        assert_eq!((rate.status(1021) & 0x40, rate.count(1021), rate.next_rise(1021)), (0, 3, Some(1024)));

        let mut square = counter(Mode::Square, 10);
        square.write(6, 1002);
        square.write(0, 1002);
        assert_eq!(square.next_rise(1002), Some(1008), "five high, three low");
        square.catch_up(1030);
        let wave: String = (1005..1015).map(|t| if square.out(t) { '^' } else { '_' }).collect();
        assert_eq!(wave, "___^^^___^");
    }
}
