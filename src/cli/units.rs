//! Sizes and durations as people write them.
use std::time::Duration;

/// The longest duration that anyone means.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses `128M`, `1G`, `64k` or plain bytes; the suffixes are powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    // A number's own parser would also take a sign.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a size; write for instance 128M or 1G".into());
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "more than any machine has".into())
}

/// A number, perhaps of thousands: `5000`, `20k`, `1M`.
pub(super) fn number(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    // A number's own parser would also take a sign.
    let number = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(factor));
    number.ok_or_else(|| "a number is wanted, as 5000, 20k or 1M".to_owned())
}

/// Parses `5%` or `0.5%`, as a share: 0.05 or 0.005.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    // A number's own parser would also take signs, exponents and words as "inf".
    let number = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    let number = number.and_then(|digits| digits.parse::<f64>().ok());
    number.map(|number| number / 100.0).ok_or_else(|| "not a share; write for instance 5% or 0.5%".to_owned())
}

/// Parses `10s`, `500ms`, `2m` or plain seconds: more than nothing, and at most [`LONGEST`].
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "not a duration; write for instance 10s, 500ms or 2m".to_owned();
    let (digits, scale) = if let Some(d) = text.strip_suffix("ms") {
        (d, 0.001)
    } else if let Some(d) = text.strip_suffix('s') {
        (d, 1.0)
    } else if let Some(d) = text.strip_suffix('m') {
        (d, 60.0)
    } else {
        (text, 1.0)
    };
    // A number's own parser would also take signs, exponents and words as "inf".
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(number * scale) {
        Ok(Duration::ZERO) => Err("no time at all; give at least 1ms, or leave the option out".into()),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("more than a year; leave the option out to set no limit".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(size("128M"), Ok(128 << 20));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("1T"), Ok(1 << 40));
        for wrong in ["", "M", "-1", "+1", "1.5G", "ten", "99999999999G", "99999999999999999999", "1é", "é"]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_have_decimal_suffixes() {
        assert_eq!((number("5000"), number("20k"), number("1M")), (Ok(5000), Ok(20_000), Ok(1_000_000)));
        for wrong in ["", "k", "-1", "+1", "1.5k", "many", "99999999999999999999", "99999999999999999G", "1é"]
        {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in [
            "",
            "s",
            "-1s",
            "+1s",
            "nan",
            "inf",
            "1e3",
            "1e400s",
            "1h",
            "0",
            "0ms",
            "0.0s",
            ".",
            "9999999999m",
            "é",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
