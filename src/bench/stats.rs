//! Robust statistics of repetitions: medians, bootstrap intervals, outlier marks, geometric means.
//!
//! Medians and percentile bootstraps, because run times are skewed and have no known distribution. Every interval follows
//! from the data and a seed alone, so that the same CSV always gives the same page. Nothing here runs in a timed region.

use super::random::SplitMix64;

/// Resamples per interval: the 2.5 % tail then rests on 50 of them.
pub const RESAMPLES: usize = 2000;

/// A modified z-score above this marks an outlier (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
pub const OUTLIER_SCORE: f64 = 3.5;

/// A figure with its 95 % interval; `low <= mid <= high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The estimate itself.
    pub mid: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Half the interval's width relative to the estimate, 0 where the estimate is 0.
    pub fn relative_half_width(&self) -> f64 {
        if self.mid == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.mid.abs() }
    }
}

/// The median of finite values; the mean of the middle two if their number is even; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_sorted(&sorted)
}

fn median_sorted(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        // Halved before the sum, so that two huge values do not overflow to infinity.
        _ => Some(sorted[n / 2 - 1] / 2.0 + sorted[n / 2] / 2.0),
    }
}

/// The median with its 95 % percentile-bootstrap interval. One value gives an interval of width zero.
pub fn median_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let mid = median(values)?;
    let mut random = SplitMix64::new(seed);
    let mut medians: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| median(&resample(values, &mut random))).collect();
    Some(percentiles(mid, &mut medians))
}

/// The ratio of the medians of `values` and `base` with its 95 % interval, both resampled independently.
///
/// `None` if either is empty or the base's median is not positive.
pub fn ratio_interval(values: &[f64], base: &[f64], seed: u64) -> Option<Interval> {
    let bottom = median(base).filter(|b| *b > 0.0)?;
    let mid = median(values)? / bottom;
    let mut random = SplitMix64::new(seed);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let top = median(&resample(values, &mut random))?;
            let bottom = median(&resample(base, &mut random))?;
            Some(top / bottom).filter(|r| r.is_finite())
        })
        .collect();
    Some(percentiles(mid, &mut ratios))
}

fn resample(values: &[f64], random: &mut SplitMix64) -> Vec<f64> {
    (0..values.len()).map(|_| values[random.below(values.len())]).collect()
}

/// The 2.5 % and 97.5 % percentiles of `estimates`, widened where needed to contain `mid`.
fn percentiles(mid: f64, estimates: &mut [f64]) -> Interval {
    estimates.sort_by(f64::total_cmp);
    let at = |q: f64| {
        estimates.get(((estimates.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(mid)
    };
    Interval { mid, low: at(0.025).min(mid), high: at(0.975).max(mid) }
}

/// For each value whether it lies so far from the median that it is marked (it is never dropped).
///
/// Modified z-score: 0.6745 · |x − median| / MAD. If more than half of the values are equal the MAD is 0; the mean absolute
/// deviation stands in then, with its own constant. Fewer than four values say nothing about outliers.
pub fn outliers(values: &[f64]) -> Vec<bool> {
    let Some(mid) = median(values).filter(|_| values.len() >= 4) else {
        return vec![false; values.len()];
    };
    let deviations: Vec<f64> = values.iter().map(|v| (v - mid).abs()).collect();
    let mad = median(&deviations).unwrap_or(0.0);
    let scale = if mad > 0.0 {
        mad / 0.6745
    } else {
        deviations.iter().sum::<f64>() / deviations.len() as f64 * 1.253_314
    };
    deviations.iter().map(|d| scale > 0.0 && d / scale > OUTLIER_SCORE).collect()
}

/// The geometric mean of positive values; `None` of nothing or if one is not positive and finite.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert!((geometric_mean(&[1.0, 10.0, 100.0]).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
        assert_eq!(ratio_interval(&[2.0], &[0.0], 1), None);
    }

    #[test]
    fn marks_the_odd_one_out() {
        let marks = outliers(&[10.0, 10.1, 9.9, 10.05, 9.95, 30.0]);
        assert_eq!(marks, [false, false, false, false, false, true]);
        let mut same = vec![5.0; 12];
        same.push(9.0);
        assert_eq!(outliers(&same).iter().filter(|m| **m).count(), 1);
        assert!(outliers(&[5.0; 9]).iter().all(|m| !m));
        assert!(outliers(&[1.0, 1000.0]).iter().all(|m| !m));
    }

    #[test]
    fn interval_covers_the_true_median_about_as_often_as_it_says() {
        // 400 samples of 15 from a known uniform distribution (median 0.5): coverage of a 95 % interval must be near it.
        let mut random = SplitMix64::new(7);
        let hits = (0..400)
            .filter(|i| {
                let sample: Vec<f64> =
                    (0..15).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect();
                let interval = median_interval(&sample, *i).unwrap();
                interval.low <= 0.5 && 0.5 <= interval.high
            })
            .count();
        assert!((360..=400).contains(&hits), "{hits} of 400");
    }

    proptest! {
        #[test]
        fn intervals_contain_the_estimate_and_repeat(values in prop::collection::vec(1e-3f64..1e9, 1..30), seed: u64) {
            let a = median_interval(&values, seed).unwrap();
            prop_assert!(a.low <= a.mid && a.mid <= a.high);
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(min <= a.low && a.high <= max);
            prop_assert_eq!(a, median_interval(&values, seed).unwrap());
        }

        #[test]
        fn median_does_not_depend_on_order(mut values in prop::collection::vec(-1e9f64..1e9, 1..30), seed: u64) {
            let before = median(&values);
            SplitMix64::new(seed).shuffle(&mut values);
            prop_assert_eq!(before, median(&values));
        }

        #[test]
        fn ratio_scales_with_its_numerator(values in prop::collection::vec(1.0f64..1e6, 1..20),
                                           base in prop::collection::vec(1.0f64..1e6, 1..20), seed: u64) {
            let one = ratio_interval(&values, &base, seed).unwrap();
            let doubled: Vec<f64> = values.iter().map(|v| v * 2.0).collect();
            let two = ratio_interval(&doubled, &base, seed).unwrap();
            prop_assert!((two.mid - 2.0 * one.mid).abs() <= 1e-9 * two.mid);
            prop_assert!((two.low - 2.0 * one.low).abs() <= 1e-9 * two.low);
        }

        #[test]
        fn geometric_mean_lies_between_the_extremes(values in prop::collection::vec(1e-6f64..1e6, 1..20)) {
            let g = geometric_mean(&values).unwrap();
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(min * (1.0 - 1e-9) <= g && g <= max * (1.0 + 1e-9));
        }
    }
}
