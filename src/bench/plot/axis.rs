//! Axes: where a value stands, and where the grid lines are.

/// A logarithmic axis: horizontal, or upright if its pixels are those of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LogAxis {
    low: f64,
    high: f64,
    left: f64,
    right: f64,
}

impl LogAxis {
    /// An axis from pixel `left` to `right` that holds all positive finite `values`, with a little air at both ends.
    pub(super) fn holding(values: impl Iterator<Item = f64>, left: f64, right: f64) -> LogAxis {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for v in values.filter(|v| v.is_finite() && *v > 0.0) {
            low = low.min(v);
            high = high.max(v);
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        // At least half a decade, so that noise does not fill the figure.
        let short = (10f64.sqrt() / (high / low)).max(1.0).sqrt();
        let air = (high / low).powf(0.03).max(1.05);
        LogAxis { low: low / short / air, high: high * short * air, left, right }
    }

    /// Pixels of a factor of ten; negative on an axis that goes the other way.
    pub(super) fn decade(&self) -> f64 {
        (self.right - self.left) / (self.high / self.low).log10()
    }

    /// Pixel of a value, kept within the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln();
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }

    /// Grid values: whether each is labelled. Decades, or 1-2-5 where decades are few.
    pub(super) fn ticks(&self) -> Vec<(f64, bool)> {
        let decades = (self.high / self.low).log10();
        let mut ticks = Vec::new();
        for exponent in self.low.log10().floor() as i32..=self.high.log10().ceil() as i32 {
            for step in 1..10 {
                let value = 10f64.powi(exponent) * f64::from(step);
                let labelled = step == 1 || (decades <= 3.0 && (step == 2 || step == 5)) || decades <= 0.6;
                let drawn = labelled || decades <= 2.0;
                if drawn && (self.low..=self.high).contains(&value) {
                    ticks.push((value, labelled));
                }
            }
        }
        ticks
    }
}

/// A horizontal linear axis around zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinearAxis {
    low: f64,
    high: f64,
    left: f64,
    right: f64,
}

impl LinearAxis {
    /// An axis from `low` to `high`, at the pixels `left` and `right`; zero is always on it.
    pub(super) fn new(low: f64, high: f64, left: f64, right: f64) -> LinearAxis {
        let low = low.min(0.0);
        let high = high.max(0.0).max(low + 1e-9);
        LinearAxis { low, high, left, right }
    }

    /// Pixel of a value, kept within the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }

    /// Round grid values, about eight.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 8.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_stand_on_the_axis_in_order(a in 1e-3f64..1e12, b in 1e-3f64..1e12) {
            let axis = LogAxis::holding([a, b].into_iter(), 100.0, 900.0);
            prop_assert!((a < b) == (axis.at(a) < axis.at(b)) || a == b);
            prop_assert!(axis.at(a) > 100.0 && axis.at(a) < 900.0);
            let labelled = axis.ticks().iter().filter(|t| t.1).count();
            prop_assert!((1..=18).contains(&labelled), "{} labels", labelled);
        }

        #[test]
        fn linear_ticks_are_few_and_inside(low in -100f64..0.0, high in 0.1f64..100.0) {
            let axis = LinearAxis::new(low, high, 0.0, 800.0);
            let ticks = axis.ticks();
            prop_assert!((3..=10).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.iter().all(|t| *t >= low - 1e-9 && *t <= high + 1e-9));
        }
    }

    #[test]
    fn nothing_gives_an_axis_all_the_same() {
        let axis = LogAxis::holding([f64::NAN, -1.0, 0.0].into_iter(), 0.0, 100.0);
        assert!(axis.at(1.0).is_finite() && !axis.ticks().is_empty());
    }
}
