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

/// TSC ticks per second, measured once against the monotonic clock over 20 ms (error below 10⁻⁴).
#[must_use]
pub fn frequency() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        // A pair of readings is good when nothing came between them: keep the tightest of several.
        let pair = || {
            (0..20)
                .map(|_| {
                    let before = read();
                    let now = Instant::now();
                    let after = read();
                    (after.wrapping_sub(before), before.wrapping_add(after.wrapping_sub(before) / 2), now)
                })
                .min_by_key(|p| p.0)
                .map_or_else(|| (read(), Instant::now()), |p| (p.1, p.2))
        };
        let (tsc0, t0) = pair();
        std::thread::sleep(Duration::from_millis(20));
        let (tsc1, t1) = pair();
        let nanos = t1.duration_since(t0).as_nanos().max(1);
        u64::try_from(u128::from(tsc1.wrapping_sub(tsc0)) * 1_000_000_000 / nanos).unwrap_or(1).max(1)
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
}
