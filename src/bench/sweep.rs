//! Sweeps: one thing measured at growing sizes. How a point is named, and what makes a series of points.
//!
//! A point is a metric whose name ends in its size: `rep_outs[bytes=4096]@ring0` is one operation, `rep_outs`, that did 4096
//! bytes. Points whose names differ in the number only are one series.

use std::fmt;

/// The size of a point: what is counted, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// What is counted, in the plural: `bytes`.
    pub what: String,
    /// How many of it, at least 1.
    pub count: u64,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}={}]", self.what, self.count)
    }
}

/// A metric of the CSV that names a size, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The metric without its size and ring.
    pub base: String,
    /// The size.
    pub size: Size,
    /// What stands behind the size: `@ring0`, or nothing.
    pub rest: String,
}

impl Point {
    /// Takes a metric apart; `None` if it names no size.
    pub fn parse(metric: &str) -> Option<Point> {
        let (base, behind) = metric.split_once('[')?;
        let (size, rest) = behind.split_once(']')?;
        let (what, digits) = size.split_once('=')?;
        let is_number = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        let count = digits.parse().ok().filter(|_| is_number)?;
        let whole = !base.is_empty() && !what.is_empty() && (rest.is_empty() || rest.starts_with('@'));
        whole.then(|| Point {
            base: base.to_owned(),
            size: Size { what: what.to_owned(), count },
            rest: rest.to_owned(),
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.base, self.size, self.rest)
    }
}

/// Whether a metric of the CSV is a point of a sweep.
pub fn is_point(metric: &str) -> bool {
    Point::parse(metric).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_metrics_are_no_points() {
        for metric in [
            "crc32@ring3",
            "wall",
            "",
            "[bytes=1]@ring0",
            "a[bytes=]@ring0",
            "a[bytes=0]@ring0",
            "a[bytes=01]",
            "a[bytes=+1]",
            "a[=1]",
            "a[bytes]",
            "a[bytes=1",
            "a[bytes=1].checksum",
            "a[bytes=99999999999999999999999]",
        ] {
            assert_eq!(Point::parse(metric), None, "{metric}");
        }
    }

    proptest! {
        #[test]
        fn a_point_is_named_as_it_is_read(base in "[a-z][a-z0-9_.-]{0,20}", what in "[a-z]{1,10}", count in 1u64..,
                                          rest in "(@ring[0-3])?") {
            let point = Point { base, size: Size { what, count }, rest };
            prop_assert_eq!(Point::parse(&point.to_string()), Some(point));
        }

        #[test]
        fn what_is_read_is_named_the_same(metric in "[a-z\\[\\]=@0-9]{0,24}") {
            if let Some(point) = Point::parse(&metric) {
                prop_assert_eq!(point.to_string(), metric);
                prop_assert!(point.size.count > 0);
            }
        }
    }
}
