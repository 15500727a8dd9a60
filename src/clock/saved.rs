//! Saved guest time.
//!
//! The TSC of a real clock is the host's own: it is saved to be compared, and goes on from wherever the host's stands. That
//! of a counted clock is a line through guest time, which goes on as it was, also if it began as a real clock's.
use super::{Clock, ClockSource, Nanos};
use serde::{Deserialize, Serialize};

/// Guest time, when it stood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedClock {
    /// Guest nanoseconds.
    pub nanos: u64,
    /// The TSC at that time.
    pub tsc: u64,
    /// Ticks of the TSC in a second.
    pub tsc_hz: u64,
    /// A point of a counted clock's line: nanoseconds, and ticks at that time.
    pub point: Option<(u64, u64)>,
}

/// Why a clock cannot go on from a saved time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClockRefusal {
    /// No clock has been there.
    #[error("its clock shows a time that is not possible")]
    Impossible,
    /// The guest knows another frequency, and the host's counter has its own.
    #[error(
        "its time-stamp counter runs at {told} Hz, and that of this host, which the guest would read, at {own} Hz"
    )]
    Frequency {
        /// What the guest was told.
        told: u64,
        /// What this host has.
        own: u64,
    },
    /// The guest's TSC would run backwards.
    #[error(
        "the time-stamp counter of this host, which the guest would read, is behind the guest's: the host has started \
         anew since, or is another one"
    )]
    Behind,
}

/// The latest guest time that can be restored: half of what the nanoseconds can say, some 290 years.
const LATEST: u64 = 1 << 63;
/// Of one frequency measured twice, this fraction is noise.
const NOISE: u64 = 1000;

impl Clock {
    /// The time to save. To be asked while the clock stands.
    #[must_use]
    pub fn saved(&self) -> SavedClock {
        let point = matches!(self.source, ClockSource::Counted { .. }).then(|| {
            let line = self.line();
            (line.nanos, line.ticks)
        });
        SavedClock { nanos: self.now().0, tsc: self.tsc(), tsc_hz: self.tsc_hz(), point }
    }

    /// Whether this clock can go on from a saved time.
    ///
    /// # Errors
    /// [`ClockRefusal`] with the reason.
    pub fn accepts(&self, saved: &SavedClock) -> Result<(), ClockRefusal> {
        let &SavedClock { nanos, tsc, tsc_hz, point } = saved;
        let (began, _) = point.unwrap_or_default();
        if nanos > LATEST || began > nanos || !(1..=1 << 40).contains(&tsc_hz) {
            return Err(ClockRefusal::Impossible);
        }
        if self.source == ClockSource::Real {
            let own = self.tsc_hz();
            if own.abs_diff(tsc_hz) > own / NOISE {
                return Err(ClockRefusal::Frequency { told: tsc_hz, own });
            }
            if self.tsc() < tsc {
                return Err(ClockRefusal::Behind);
            }
        }
        Ok(())
    }

    /// Goes on from a saved time, which [`Self::accepts`] has accepted. A real clock stands there until it is resumed.
    pub fn restore(&self, saved: &SavedClock) {
        let &SavedClock { nanos, tsc, tsc_hz, point } = saved;
        self.pause();
        match self.source {
            ClockSource::Real => self.set_real(Nanos(nanos)),
            ClockSource::Counted { .. } => {
                let (began, ticks) = point.unwrap_or((nanos, tsc));
                self.set_line(began, ticks, tsc_hz);
                self.set_counted(Nanos(nanos));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COUNTED: ClockSource = ClockSource::Counted { nanos_per_instruction: 3 };

    proptest! {
        /// A counted clock that was saved and restored shows, ever after, what one shows that went on.
        #[test]
        fn a_counted_clock_goes_on_exactly(
            hz in 1_u64..6_000_000_000, tsc in any::<u64>(), before in 0_u64..1 << 30, after in 0_u64..1 << 30,
        ) {
            let begun = SavedClock { nanos: 12_345, tsc, tsc_hz: hz, point: None };
            let clock = Clock::new(COUNTED);
            clock.accepts(&begun).unwrap();
            clock.restore(&begun);
            prop_assert_eq!((clock.now().0, clock.tsc(), clock.tsc_hz()), (12_345, tsc, hz));
            clock.retire(before);
            let saved = clock.saved();
            let other = Clock::new(COUNTED);
            other.restore(&saved);
            prop_assert_eq!(other.saved(), saved);
            clock.retire(after);
            other.retire(after);
            prop_assert_eq!(other.saved(), clock.saved());
        }
    }

    #[test]
    fn a_real_clock_stands_at_the_saved_time_until_it_is_resumed() {
        let clock = Clock::new(ClockSource::Real);
        let saved = SavedClock { nanos: 5_000_000_000, ..clock.saved() };
        clock.accepts(&saved).unwrap();
        clock.restore(&saved);
        assert_eq!(clock.now(), Nanos(5_000_000_000));
        clock.resume();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(clock.now() > Nanos(5_000_000_000));
    }

    #[test]
    fn a_time_that_cannot_be_is_refused_with_the_reason() {
        let clock = Clock::new(ClockSource::Real);
        let now = clock.saved();
        for (saved, why) in [
            (SavedClock { nanos: u64::MAX, ..now }, ClockRefusal::Impossible),
            (SavedClock { point: Some((now.nanos + 1, 0)), ..now }, ClockRefusal::Impossible),
            (SavedClock { tsc_hz: 0, ..now }, ClockRefusal::Impossible),
            (SavedClock { tsc: u64::MAX, ..now }, ClockRefusal::Behind),
        ] {
            assert_eq!(clock.accepts(&saved), Err(why));
        }
        let other = SavedClock { tsc_hz: now.tsc_hz * 2, ..now };
        assert!(matches!(clock.accepts(&other), Err(ClockRefusal::Frequency { .. })));
        assert_eq!(Clock::new(COUNTED).accepts(&other), Ok(()), "a counted clock takes on any frequency");
    }
}
