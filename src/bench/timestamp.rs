//! UTC timestamps as text, from the system clock, without a calendar library.
//!
//! The conversion from days to a civil date is the usual one over 400-year eras of the proleptic Gregorian calendar.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in UTC, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    millis: u64,
}

impl Timestamp {
    /// The present; the epoch itself if the host's clock stands before 1970.
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    pub fn from_unix_millis(millis: u64) -> Timestamp {
        Timestamp { millis }
    }

    /// RFC 3339 with milliseconds: `2026-11-22T04:29:08.123Z`.
    pub fn rfc3339(self) -> String {
        let (y, m, d) = civil(self.millis / 86_400_000);
        let (h, min, s) = self.clock();
        format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{:03}Z", self.millis % 1000)
    }

    /// A name for a run that sorts by time and is safe in file names: `20261122T042908Z`.
    pub fn compact(self) -> String {
        let (y, m, d) = civil(self.millis / 86_400_000);
        let (h, min, s) = self.clock();
        format!("{y:04}{m:02}{d:02}T{h:02}{min:02}{s:02}Z")
    }

    fn clock(self) -> (u64, u64, u64) {
        let seconds = self.millis / 1000 % 86_400;
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// Year, month and day of the day `days` after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Day 0 of the shifted calendar is 0000-03-01, so that the leap day is the last of its year.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        // Seconds as given by `date -u -d … +%s`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from_unix_millis(seconds * 1000).rfc3339(), text);
        }
        assert_eq!(Timestamp::from_unix_millis(951_782_400_999).compact(), "20000229T000000Z");
    }

    #[test]
    fn consecutive_days_differ_by_one_day() {
        let mut last = (1969, 12, 31);
        for day in 0..60_000 {
            let next = civil(day);
            let same_month = next.0 == last.0 && next.1 == last.1 && next.2 == last.2 + 1;
            let new_month =
                next.2 == 1 && last.2 >= 28 && (next.1 == last.1 + 1 || (next.1, last.1) == (1, 12));
            assert!(same_month || new_month, "{last:?} {next:?}");
            last = next;
        }
    }
}
