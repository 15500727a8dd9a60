//! Guest time: real, paused, or counted in instructions; and the queue of what is to happen when.
//!
//! All devices take time from one [`Clock`]. In the counted form time advances only as the engine retires
//! instructions, so that a run repeats exactly. Lock order: a [`TimerQueue`] holds no lock while it calls a device.
mod saved;
mod timers;

pub use saved::{ClockRefusal, SavedClock};
pub use timers::{Timer, TimerClient, TimerQueue};

use crate::sys::tsc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Guest nanoseconds since the machine was built.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// `self + nanos`, saturating.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to `self`; 0 if that lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a clock's time comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockSource {
    /// The host's monotonic clock and TSC.
    Real,
    /// Retired instructions: each one advances time and TSC by this many nanoseconds and ticks.
    Counted {
        /// Nanoseconds for each instruction, at least 1.
        nanos_per_instruction: u32,
    },
}

#[derive(Debug)]
struct RealTime {
    /// Guest time at `resumed`, or the time at which the clock stands.
    base: u64,
    resumed: Option<Instant>,
}

/// The guest's clock.
#[derive(Debug)]
pub struct Clock {
    source: ClockSource,
    real: Mutex<RealTime>,
    /// Instructions of a counted clock, and the time at which their count began.
    retired: AtomicU64,
    /// It stands.
    held: AtomicBool,
    began: AtomicU64,
    line: Mutex<Line>,
}

/// How the TSC of a counted clock follows guest time.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// A point of it: at this time ...
    nanos: u64,
    /// ... so many ticks.
    ticks: u64,
    hz: u64,
}

impl Line {
    /// One tick for each nanosecond.
    const PLAIN: Self = Self { nanos: 0, ticks: 0, hz: NANOS_PER_SECOND };

    fn at(&self, now: Nanos) -> u64 {
        let passed = now.since(Nanos(self.nanos));
        let ticks = match self.hz {
            NANOS_PER_SECOND => passed,
            hz => (u128::from(passed) * u128::from(hz) / u128::from(NANOS_PER_SECOND)) as u64,
        };
        self.ticks.wrapping_add(ticks)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Clock {
    /// A running clock at time zero.
    #[must_use]
    pub fn new(source: ClockSource) -> Self {
        let real = RealTime { base: 0, resumed: Some(Instant::now()) };
        let (retired, began, line) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Line::PLAIN));
        Self { source, real: Mutex::new(real), retired, held: AtomicBool::new(false), began, line }
    }

    /// Where time comes from.
    #[must_use]
    pub fn source(&self) -> ClockSource {
        self.source
    }

    /// Guest time now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        match self.source {
            ClockSource::Real => {
                let real = self.real.lock().unwrap_or_else(PoisonError::into_inner);
                let running =
                    real.resumed.map_or(0, |t| u64::try_from(t.elapsed().as_nanos()).unwrap_or(u64::MAX));
                Nanos(real.base.saturating_add(running))
            }
            ClockSource::Counted { nanos_per_instruction } => {
                let counted =
                    self.retired.load(Ordering::Relaxed).saturating_mul(u64::from(nanos_per_instruction));
                Nanos(self.began.load(Ordering::Relaxed)).after(counted)
            }
        }
    }

    /// The TSC that a guest without adjustment reads: the host's own, or the count of [`ClockSource::Counted`].
    #[must_use]
    pub fn tsc(&self) -> u64 {
        match self.source {
            ClockSource::Real => tsc::read(),
            ClockSource::Counted { .. } => self.line().at(self.now()),
        }
    }

    /// Ticks per second of [`Self::tsc`].
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        match self.source {
            ClockSource::Real => tsc::frequency(),
            ClockSource::Counted { .. } => self.line().hz,
        }
    }

    fn line(&self) -> Line {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_line(&self, nanos: u64, ticks: u64, hz: u64) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Line { nanos, ticks, hz };
    }

    /// Puts a counted clock to a time.
    fn set_counted(&self, now: Nanos) {
        self.began.store(now.0, Ordering::Relaxed);
        self.retired.store(0, Ordering::Relaxed);
    }

    /// Puts a real clock that stands to a time.
    fn set_real(&self, now: Nanos) {
        self.real.lock().unwrap_or_else(PoisonError::into_inner).base = now.0;
    }

    /// Whether a real clock stands.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.source == ClockSource::Real
            && self.real.lock().unwrap_or_else(PoisonError::into_inner).resumed.is_none()
    }

    /// Stops a real clock; a counted one stands whenever no instruction retires. Stopping twice is harmless.
    pub fn pause(&self) {
        let mut real = self.real.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resumed) = real.resumed.take() {
            let ran = u64::try_from(resumed.elapsed().as_nanos()).unwrap_or(u64::MAX);
            real.base = real.base.saturating_add(ran);
        }
    }

    /// Lets a paused clock run on from where it stands.
    pub fn resume(&self) {
        let mut real = self.real.lock().unwrap_or_else(PoisonError::into_inner);
        real.resumed.get_or_insert_with(Instant::now);
    }

    /// Tells a counted clock that `instructions` were retired. Without effect on a real one. One thread at a time may do so,
    /// that of the one CPU whose instructions count.
    #[inline]
    pub fn retire(&self, instructions: u64) {
        if matches!(self.source, ClockSource::Counted { .. }) && !self.held.load(Ordering::Relaxed) {
            // One thread writes: no need for a locked addition, which every instruction would pay for.
            let retired = self.retired.load(Ordering::Relaxed).wrapping_add(instructions);
            self.retired.store(retired, Ordering::Relaxed);
        }
    }

    /// Has a counted clock stand, whoever tells it of instructions, or go on.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// With a counted clock, how many instructions may retire until `deadline`; at least 1. `None` for a real one.
    #[must_use]
    pub fn instructions_until(&self, deadline: Nanos) -> Option<u64> {
        match self.source {
            ClockSource::Real => None,
            ClockSource::Counted { nanos_per_instruction } => {
                Some(deadline.since(self.now()).div_ceil(u64::from(nanos_per_instruction.max(1))).max(1))
            }
        }
    }

    /// Moves a counted clock to `deadline`, for a CPU that halts until then. Without effect on a real one.
    pub fn skip_to(&self, deadline: Nanos) {
        if let Some(instructions) = self.instructions_until(deadline)
            && deadline > self.now()
        {
            self.retire(instructions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_counted_clock_moves_only_with_instructions() {
        let clock = Clock::new(ClockSource::Counted { nanos_per_instruction: 2 });
        assert_eq!(clock.now(), Nanos(0));
        clock.retire(5);
        assert_eq!((clock.now(), clock.tsc()), (Nanos(10), 10));
        assert_eq!(clock.instructions_until(Nanos(15)), Some(3));
        clock.skip_to(Nanos(20));
        assert_eq!(clock.now(), Nanos(20));
        clock.skip_to(Nanos(4));
        assert_eq!(clock.now(), Nanos(20));
    }

    #[test]
    fn a_paused_clock_stands_and_goes_on_from_there() {
        let clock = Clock::new(ClockSource::Real);
        clock.pause();
        let at = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), at);
        clock.resume();
        std::thread::sleep(Duration::from_millis(1));
        assert!(clock.now() > at);
        assert_eq!(clock.instructions_until(at), None);
    }
}
