//! Quantities as people read them: three significant digits and an SI prefix.

/// A time in nanoseconds, with the unit that keeps it between 1 and 1000: `1.23 µs`.
pub fn time(ns: f64) -> String {
    if !ns.is_finite() {
        return "–".to_owned();
    }
    let (value, unit) = match ns.abs() {
        a if a < 999.5 => (ns, "ns"),
        a if a < 999.5e3 => (ns / 1e3, "µs"),
        a if a < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// A count: `950`, `12.3 k`, `4.56 M`.
pub fn count(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match value.abs() {
        a if a < 999.5 => digits(value),
        a if a < 999.5e3 => format!("{} k", digits(value / 1e3)),
        a if a < 999.5e6 => format!("{} M", digits(value / 1e6)),
        _ => format!("{} G", digits(value / 1e9)),
    }
}

/// A ratio: `1.02×`, `12.3×`, `4 560×`.
pub fn ratio(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value >= 999.5 { format!("{}×", grouped(value)) } else { format!("{}×", digits(value)) }
}

/// Three significant digits, trailing zeros kept only where they carry information; whole numbers stay whole.
pub fn digits(value: f64) -> String {
    let a = value.abs();
    if a >= 99.95 || (value.fract() == 0.0 && a < 1000.0) {
        format!("{value:.0}")
    } else if a >= 9.995 {
        format!("{value:.1}")
    } else if a >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// A number without a prefix: three significant digits, or all of a whole number: `1.25`, `12 345`.
pub fn whole(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value >= 999.5 { grouped(value) } else { digits(value) }
}

/// A whole number with thin groups of three: `12 345`.
fn grouped(value: f64) -> String {
    let plain = format!("{value:.0}");
    let mut out = String::new();
    for (i, c) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i) % 3 == 0 {
            out.push('\u{a0}');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well() {
        assert_eq!(time(0.5), "0.50 ns");
        assert_eq!(time(1234.0), "1.23 µs");
        assert_eq!(time(999.7), "1.00 µs");
        assert_eq!(time(6.5e9), "6.50 s");
        assert_eq!(count(950.0), "950");
        assert_eq!(count(12_345.0), "12.3 k");
        assert_eq!(ratio(1.018), "1.02×");
        assert_eq!(ratio(12_345.0), "12\u{a0}345×");
        assert_eq!(
            (whole(12_345.4), whole(5.25), whole(5.0)),
            ("12\u{a0}345".into(), "5.25".into(), "5".into())
        );
        assert_eq!(time(f64::NAN), "–");
    }
}
