//! Dates of the Gregorian calendar, and how the clock's registers show them.
use super::spec::{B, PM};

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;

/// A date and time of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Date {
    /// 0–9999.
    pub(super) year: i64,
    /// 1–12.
    pub(super) month: i64,
    /// 1–31.
    pub(super) day: i64,
    /// 0–23.
    pub(super) hour: i64,
    /// 0–59.
    pub(super) minute: i64,
    /// 0–59.
    pub(super) second: i64,
}

/// Days from 1 March of year 0 to the first of each month, counted from March.
const DAYS_BEFORE: [i64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;
const FOUR_CENTURIES: i64 = 146_097;

/// Days of `years` whole years that begin in March, within four centuries.
fn days_of_years(years: i64) -> i64 {
    years * 365 + years / 4 - years / 100 + years / 400
}

impl Date {
    /// The date of a number of seconds since 1970.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(DAY) + EPOCH, seconds.rem_euclid(DAY));
        let (era, in_era) = (days.div_euclid(FOUR_CENTURIES), days.rem_euclid(FOUR_CENTURIES));
        // The guess is at most one year too high.
        let guess = (in_era / 365).min(399);
        let years = if days_of_years(guess) > in_era { guess - 1 } else { guess };
        let in_year = in_era - days_of_years(years);
        let from_march = DAYS_BEFORE.partition_point(|d| *d <= in_year) as i64 - 1;
        let month = (from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + years + i64::from(month <= 2),
            month,
            day: in_year - DAYS_BEFORE[from_march as usize] + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Seconds since 1970. Any values do: days and times beyond their range run over into the next unit.
    pub(super) fn to_seconds(self) -> i64 {
        let from_march = (self.month.clamp(1, 12) + 9) % 12;
        let year = self.year - i64::from(self.month <= 2);
        let (era, years) = (year.div_euclid(400), year.rem_euclid(400));
        let before = DAYS_BEFORE[from_march as usize];
        let days = era * FOUR_CENTURIES + days_of_years(years) + before + self.day - 1 - EPOCH;
        ((days * 24 + self.hour) * 60 + self.minute) * 60 + self.second
    }

    /// Day of the week, 1 = Sunday.
    pub(super) fn weekday(self) -> u8 {
        ((self.to_seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1) as u8
    }
}

/// A number below 100 in the form that register B asks for.
pub(super) fn encode(value: i64, form: B) -> u8 {
    let value = value.rem_euclid(100) as u8;
    if form.contains(B::DM) { value } else { ((value / 10) << 4) | (value % 10) }
}

/// The number that a register holds.
pub(super) fn decode(register: u8, form: B) -> i64 {
    if form.contains(B::DM) {
        register.into()
    } else {
        i64::from(register >> 4) * 10 + i64::from(register & 0xf)
    }
}

/// An hour, 0–23, in the form that register B asks for.
pub(super) fn encode_hour(hour: i64, form: B) -> u8 {
    if form.contains(B::H24) {
        return encode(hour, form);
    }
    let half = encode((hour + 11) % 12 + 1, form);
    if hour >= 12 { half | PM } else { half }
}

/// The hour that a register holds.
pub(super) fn decode_hour(register: u8, form: B) -> i64 {
    if form.contains(B::H24) {
        return decode(register, form);
    }
    let afternoon = if register & PM != 0 { 12 } else { 0 };
    decode(register & !PM, form) % 12 + afternoon
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, year, month, day, weekday) in [
            (0, 1970, 1, 1, 5),
            (951_782_400, 2000, 2, 29, 3),
            (951_868_800, 2000, 3, 1, 4),
            (1_709_164_800, 2024, 2, 29, 5),
            (4_107_542_399, 2100, 2, 28, 1),
            (4_107_542_400, 2100, 3, 1, 2),
            (-2_203_977_600, 1900, 2, 28, 4),
            (253_402_300_799, 9999, 12, 31, 6),
        ] {
            let date = Date::from_seconds(seconds);
            assert_eq!(
                (date.year, date.month, date.day, date.weekday()),
                (year, month, day, weekday),
                "{seconds}"
            );
        }
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut last = Date::from_seconds(-400 * 366 * DAY);
        for n in -400 * 366 + 1..400 * 366 {
            let date = Date::from_seconds(n * DAY + 3601);
            assert_eq!(date.to_seconds(), n * DAY + 3601);
            assert_eq!((date.hour, date.minute, date.second), (1, 0, 1));
            let leap = date.year % 4 == 0 && (date.year % 100 != 0 || date.year % 400 == 0);
            let length = match last.month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            if date.day == 1 {
                assert_eq!(last.day, length);
                assert_eq!(date.month, last.month % 12 + 1);
                assert_eq!(date.year, last.year + i64::from(date.month == 1));
            } else {
                assert_eq!((date.day, date.month, date.year), (last.day + 1, last.month, last.year));
            }
            last = date;
        }
    }

    #[test]
    fn forms_of_numbers() {
        for form in [B::empty(), B::DM, B::H24, B::DM | B::H24] {
            for value in 0..100 {
                assert_eq!(decode(encode(value, form), form), value);
            }
            for hour in 0..24 {
                assert_eq!(decode_hour(encode_hour(hour, form), form), hour);
            }
        }
        assert_eq!(encode(59, B::empty()), 0x59);
        let hours = [0, 1, 11, 12, 13, 23].map(|h| encode_hour(h, B::empty()));
        assert_eq!(hours, [0x12, 0x01, 0x11, 0x92, 0x81, 0x91]);
    }
}
