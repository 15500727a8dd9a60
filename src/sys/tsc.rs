//! The host's time-stamp counter and its frequency.
#![expect(unsafe_code, reason = "RDTSC is an intrinsic")]
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Reads the TSC.
#[inline]
#[must_use]
pub fn read() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and has no effect beside its result.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    ticks: u64,
    /// By how many ticks it may be another one.
    doubt: u64,
    at: Instant,
}

impl Moment {
    /// Now. A pair of readings is good when nothing came between them: the tightest of several.
    fn now() -> Self {
        let one = |_| {
            let before = read();
            let at = Instant::now();
            let doubt = read().wrapping_sub(before) / 2;
            Self { ticks: before.wrapping_add(doubt), doubt: doubt + 1, at }
        };
        let first = one(());
        (0..20).map(|_| one(())).fold(first, |best, next| if next.doubt < best.doubt { next } else { best })
    }
}

/// When the measurement of [`frequency`] began.
static BEGIN: OnceLock<Moment> = OnceLock::new();

/// Begins to measure [`frequency`], which then need not wait as long, or not at all.
pub fn begin_measuring() {
    let _begun = BEGIN.get_or_init(Moment::now);
}

/// TSC ticks per second, measured once against the monotonic clock, as long as it takes until what the readings may be off
/// is below 2·10⁻⁵ of it: some milliseconds. After 20 ms it is taken as it is (on no host above 10⁻⁴).
#[must_use]
pub fn frequency() -> u64 {
    const PRECISION: u64 = 50_000;
    const LONGEST: Duration = Duration::from_millis(20);
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let begin = *BEGIN.get_or_init(Moment::now);
        loop {
            let end = Moment::now();
            let (ticks, passed) = (end.ticks.wrapping_sub(begin.ticks), end.at.duration_since(begin.at));
            let is_precise = (begin.doubt + end.doubt).saturating_mul(PRECISION) <= ticks;
            if is_precise || passed >= LONGEST {
                let nanos = passed.as_nanos().max(1);
                return u64::try_from(u128::from(ticks) * 1_000_000_000 / nanos).unwrap_or(1).max(1);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    })
}

/// Converts a number of ticks to nanoseconds.
#[must_use]
pub fn to_nanos(ticks: u64) -> u64 {
    u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(frequency())).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_advances_and_its_frequency_is_that_of_a_real_cpu() {
        let a = super::read();
        assert!(super::read() > a);
        assert!((500_000_000..10_000_000_000).contains(&super::frequency()));
    }

    #[test]
    fn the_frequency_is_as_precise_as_it_says() {
        super::begin_measuring();
        let hz = super::frequency();
        let begin = super::Moment::now();
        std::thread::sleep(std::time::Duration::from_millis(60));
        let end = super::Moment::now();
        let ticks = end.ticks - begin.ticks;
        let by_clock = end.at.duration_since(begin.at).as_nanos() * u128::from(hz) / 1_000_000_000;
        let off = ticks.abs_diff(u64::try_from(by_clock).unwrap());
        let doubt = begin.doubt + end.doubt;
        assert!(off <= ticks / 10_000 + doubt, "{off} of {ticks} ticks, {doubt} in doubt");
    }
}
