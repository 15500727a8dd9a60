//! Makes a plan fit its deadline: fewer repetitions where a run is slow, and only there.
//!
//! A kernel at ring 0 may take ten thousand times longer in one mode than in another. If all cells had to share what time
//! there is, those few would leave two repetitions to everything. So after the warm-up, which shows what each cell costs,
//! every cell may spend the same time, and the dear ones get fewer repetitions, at least [`LEAST`] if the
//! time allows that, else one.

use std::collections::BTreeMap;
use std::time::Duration;

/// Fewest repetitions that a cell is cut to while there is time: below it an interval means nothing.
pub(super) const LEAST: u32 = 3;

/// A cell: index of the workload, index of the column.
pub(super) type Cell = (usize, usize);

/// Repetitions of each cell whose run costs `cost`, so that all of them take no longer than `available`, if one
/// repetition of each allows it; `wanted` at most.
pub(super) fn repetitions(
    cost: &BTreeMap<Cell, Duration>,
    wanted: u32,
    available: Duration,
) -> BTreeMap<Cell, u32> {
    let floor = |n: u32| cost.values().map(|c| c.as_secs_f64() * f64::from(n)).sum::<f64>();
    let least = if floor(LEAST) <= available.as_secs_f64() { LEAST.min(wanted) } else { 1 };
    let share = |limit: f64, cost: f64| ((limit / cost.max(1e-6)) as u32).clamp(least, wanted);
    let total = |limit: f64| -> f64 {
        cost.values().map(|c| f64::from(share(limit, c.as_secs_f64())) * c.as_secs_f64()).sum()
    };
    // The time that each cell may spend: found by halving, since the total only grows with it.
    let dearest = cost.values().map(Duration::as_secs_f64).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, dearest * f64::from(wanted) + 1.0);
    if total(high) <= available.as_secs_f64() {
        low = high;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if total(middle) <= available.as_secs_f64() {
            low = middle;
        } else {
            high = middle;
        }
    }
    cost.iter().map(|(cell, c)| (*cell, share(low, c.as_secs_f64()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_dear_cells_give_way() {
        let mut cost: BTreeMap<Cell, Duration> =
            (0..20).map(|i| ((i, 0), Duration::from_millis(100))).collect();
        cost.insert((0, 1), Duration::from_secs(10));
        let cut = repetitions(&cost, 10, Duration::from_secs(62));
        assert!((0..20).all(|i| cut[&(i, 0)] == 10));
        assert_eq!(cut[&(0, 1)], 4);
    }

    proptest! {
        #[test]
        fn the_plan_fits_or_is_the_least(costs in prop::collection::vec(0u64..5_000_000, 1..40), wanted in 1u32..30,
                                         available in 0u64..500_000_000) {
            let cost: BTreeMap<Cell, Duration> =
                costs.iter().enumerate().map(|(i, c)| ((i, 0), Duration::from_micros(*c))).collect();
            let cut = repetitions(&cost, wanted, Duration::from_micros(available));
            let total: u64 = cost.iter().map(|(cell, c)| c.as_micros() as u64 * u64::from(cut[cell])).sum();
            let least = cut.values().all(|n| *n == 1);
            prop_assert!(total <= available + 1000 || least, "{} of {}", total, available);
            let three: u64 = costs.iter().sum::<u64>() * u64::from(LEAST);
            prop_assert!(three + 1000 > available || cut.values().all(|n| *n >= LEAST.min(wanted)));
            prop_assert!(cut.values().all(|n| (1..=wanted).contains(n)));
            for (a, b) in cost.iter().flat_map(|a| cost.iter().map(move |b| (a, b))) {
                prop_assert!(a.1 > b.1 || cut[a.0] >= cut[b.0], "a cheaper cell never gets fewer");
            }
            let whole: u64 = costs.iter().sum::<u64>() * u64::from(wanted);
            prop_assert!(whole + 1000 > available || cut.values().all(|n| *n == wanted));
        }
    }
}
