//! Whether two sets of repetitions differ by more than chance: a rank test, and a correction for asking often.
//!
//! Ranks, because run times are skewed and have outliers; by permutation, because repetitions are few, and ties happen.

use super::random::SplitMix64;

/// Arrangements that are all tried; of more, this many random ones are.
pub(super) const ARRANGEMENTS: usize = 20_000;

/// The probability that `a` and `b`, if drawn from one distribution, have ranks as far apart as they do: the two-sided
/// Wilcoxon rank-sum test (Wilcoxon, "Individual Comparisons by Ranking Methods", 1945) by permutation. `None` if one is empty.
pub fn rank_sum(a: &[f64], b: &[f64], seed: u64) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut ranks = doubled_ranks(&all);
    let expected = a.len() as i64 * (all.len() as i64 + 1);
    let distance = |sum: i64| (sum - expected).abs();
    let observed = distance(ranks[..a.len()].iter().sum());
    if let Some(sums) = all_sums(&ranks, a.len()) {
        let as_far = sums.iter().filter(|sum| distance(**sum) >= observed).count();
        return Some(as_far as f64 / sums.len() as f64);
    }
    let mut random = SplitMix64::new(seed);
    let as_far = (0..ARRANGEMENTS)
        .filter(|_| {
            random.shuffle(&mut ranks);
            distance(ranks[..a.len()].iter().sum()) >= observed
        })
        .count();
    // The arrangement that was observed is one of them.
    Some((as_far + 1) as f64 / (ARRANGEMENTS + 1) as f64)
}

/// Twice the rank of each value from 1 on; equal values share the mean of theirs, which is why twice.
fn doubled_ranks(values: &[f64]) -> Vec<i64> {
    let below = |value: f64| values.iter().filter(|other| other.total_cmp(&value).is_lt()).count();
    let equal = |value: f64| values.iter().filter(|other| other.total_cmp(&value).is_eq()).count();
    values.iter().map(|&value| (2 * below(value) + equal(value) + 1) as i64).collect()
}

/// The sums of all choices of `count` of `ranks`; `None` if there are too many.
fn all_sums(ranks: &[i64], count: usize) -> Option<Vec<i64>> {
    // By how many were chosen of those seen so far.
    let mut sums: Vec<Vec<i64>> = vec![Vec::new(); count + 1];
    sums[0].push(0);
    for (seen, rank) in ranks.iter().enumerate() {
        for chosen in (1..=count.min(seen + 1)).rev() {
            let more: Vec<i64> = sums[chosen - 1].iter().map(|sum| sum + rank).collect();
            sums[chosen].extend(more);
            if sums[chosen].len() > ARRANGEMENTS {
                return None;
            }
        }
    }
    sums.pop()
}

/// For each probability the share of false alarms among all that are no larger, if they are taken for differences: the
/// correction of Benjamini and Hochberg ("Controlling the False Discovery Rate", 1995).
pub fn false_discovery(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
    let mut corrected = vec![1.0; probabilities.len()];
    let mut least = 1.0_f64;
    for (place, &index) in order.iter().enumerate().rev() {
        least = least.min(probabilities[index] * probabilities.len() as f64 / (place + 1) as f64);
        // Rounding must not make it smaller.
        corrected[index] = least.max(probabilities[index]);
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_probabilities() {
        // Of the 20 choices of three of six two are as far apart as can be.
        assert_eq!(rank_sum(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], 1), Some(0.1));
        // Hollander and Wolfe, "Nonparametric Statistical Methods", table of 5 and 5: P(W <= 16) = 0.0079 on one side.
        let p = rank_sum(&[1.0, 2.0, 3.0, 4.0, 6.0], &[5.0, 7.0, 8.0, 9.0, 10.0], 1).unwrap();
        assert!((p - 2.0 * 2.0 / 252.0).abs() < 1e-12, "{p}");
        assert_eq!(rank_sum(&[2.0; 4], &[2.0; 4], 1), Some(1.0));
        assert_eq!(rank_sum(&[], &[1.0], 1), None);
    }

    #[test]
    fn ranks_of_equal_values_are_shared() {
        assert_eq!(doubled_ranks(&[5.0, 1.0, 5.0]), [5, 2, 5]);
    }

    #[test]
    fn false_alarms_are_as_rare_as_they_say() {
        // 200 comparisons of ten with ten of one distribution: 5 % of them below 0.05.
        let mut random = SplitMix64::new(11);
        let mut draw = || (0..10).map(|_| random.below(1 << 30) as f64).collect::<Vec<_>>();
        let pairs: Vec<_> = (0..200).map(|_| (draw(), draw())).collect();
        let below = pairs.iter().filter(|(a, b)| rank_sum(a, b, 3).is_some_and(|p| p <= 0.05)).count();
        assert!((2..=22).contains(&below), "{below} of 200");
    }

    #[test]
    fn the_correction_of_many_questions() {
        // The example of the paper's section 3.2, first five of fifteen, the rest large.
        let p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9];
        let q = false_discovery(&p);
        assert!(q[3] <= 0.05 && q[4] > 0.05, "four are rejected at 0.05, as there: {q:?}");
        assert!(false_discovery(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn the_sides_can_be_exchanged(a in prop::collection::vec(0.0..100.0, 1..7), b in prop::collection::vec(0.0..100.0, 1..7)) {
            let (one, other) = (rank_sum(&a, &b, 1).unwrap(), rank_sum(&b, &a, 1).unwrap());
            prop_assert!((one - other).abs() < 1e-12 && one > 0.0 && one <= 1.0);
        }

        #[test]
        fn corrected_probabilities_are_no_smaller_and_keep_their_order(p in prop::collection::vec(0.0..=1.0, 1..40)) {
            let q = false_discovery(&p);
            for i in 0..p.len() {
                prop_assert!(q[i] >= p[i] && q[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || q[i] <= q[j]);
                }
            }
        }
    }
}
