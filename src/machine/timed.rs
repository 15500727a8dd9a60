//! What was counted in a guest's timed regions, apart from boot, calibration and talk.
//!
//! A guest marks the begin and the end of each region on the bench port, and which of them it reports. The counters are
//! read at the marks, and the ledger of times if it is kept: that costs nothing within a region, and no engine has to know of it. Counts that an engine adds up in
//! passing (retired instructions) are not exact at a mark; causes of leaving guest code are, because the mark left it.
use crate::abi;
use crate::engine::{Cause, Counters, Ticks};

/// A count for each cause, in the order of [`Cause::ALL`].
pub type Counts = [u64; Cause::ALL.len()];

/// What a region had, or what was there when it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How often what happened.
    pub counts: Counts,
    /// Where time went; nothing if the machine does not keep that.
    pub ticks: Ticks,
}

impl Tally {
    /// What the counters say now, of which this is the vCPU's thread.
    fn now(counters: &Counters) -> Self {
        Self { counts: Cause::ALL.map(|cause| counters.get(cause)), ticks: counters.ledger().read() }
    }

    /// What came from `began` on to this mark, the latter's own port access left out. Where the guest marks from ring 3, its way
    /// there and back remains: a few causes in each region, however long that is.
    fn since(mut self, began: &Self) -> Self {
        self.counts
            .iter_mut()
            .zip(began.counts)
            .for_each(|(count, before)| *count = count.wrapping_sub(before));
        self.ticks
            .iter_mut()
            .zip(began.ticks)
            .for_each(|(ticks, before)| *ticks = ticks.wrapping_sub(before));
        let port = &mut self.counts[Cause::PortIo as usize];
        *port = port.saturating_sub(1);
        self
    }

    fn add(&mut self, region: &Self) {
        self.counts.iter_mut().zip(region.counts).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        self.ticks.iter_mut().zip(region.ticks).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }
}

/// The tallies of the regions that the guest reports, summed up as marks come. Marks that make no sense are ignored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimedCounts {
    began: Option<Tally>,
    ended: Option<Tally>,
    kept: Option<Tally>,
}

impl TimedCounts {
    /// Takes notice of a mark that was written when the counters stood as they do.
    pub(super) fn mark(&mut self, mark: u32, counters: &Counters) {
        let now = Tally::now(counters);
        match mark {
            abi::MARK_BEGIN => (self.began, self.ended) = (Some(now), None),
            abi::MARK_END => self.ended = self.began.take().map(|began| now.since(&began)),
            abi::MARK_KEPT => {
                if let Some(region) = self.ended.take() {
                    self.kept.get_or_insert_default().add(&region);
                }
            }
            _ => {}
        }
    }

    /// The sums; `None` if the guest reported no region.
    #[must_use]
    pub fn kept(&self) -> Option<&Tally> {
        self.kept.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what an access to the bench port counts, then marks.
    fn write(timed: &mut TimedCounts, counters: &Counters, mark: u32) {
        counters.count(Cause::PortIo);
        timed.mark(mark, counters);
    }

    #[test]
    fn regions_that_are_kept_add_up_and_nothing_else_does() {
        let (mut timed, counters) = (TimedCounts::default(), Counters::default());
        counters.add(Cause::Mmio, 1000); // boot
        for (events, kept) in [(1, false), (2, true), (4, false), (8, false), (16, true)] {
            write(&mut timed, &counters, abi::MARK_BEGIN);
            counters.add(Cause::Mmio, events);
            counters.add(Cause::PortIo, 3 * events);
            write(&mut timed, &counters, abi::MARK_END);
            counters.add(Cause::Mmio, 500); // between regions
            if kept {
                write(&mut timed, &counters, abi::MARK_KEPT);
            }
        }
        let kept = timed.kept().unwrap().counts;
        assert_eq!((kept[Cause::Mmio as usize], kept[Cause::PortIo as usize]), (18, 54));
        assert_eq!(kept.iter().sum::<u64>(), 72);
    }

    #[test]
    fn marks_that_make_no_sense_count_nothing() {
        let (mut timed, counters) = (TimedCounts::default(), Counters::default());
        for mark in [abi::MARK_KEPT, abi::MARK_END, abi::MARK_KEPT, 77, abi::MARK_BEGIN, abi::MARK_KEPT] {
            write(&mut timed, &counters, mark);
        }
        assert_eq!(timed.kept(), None);
        counters.count(Cause::Idle);
        for mark in [abi::MARK_END, abi::MARK_END, abi::MARK_KEPT, abi::MARK_KEPT, abi::MARK_BEGIN] {
            write(&mut timed, &counters, mark);
        }
        assert_eq!(timed.kept(), None, "the second end took the region back");
        for mark in [abi::MARK_BEGIN, abi::MARK_END, abi::MARK_KEPT, abi::MARK_KEPT] {
            write(&mut timed, &counters, mark);
        }
        assert_eq!(
            timed.kept().unwrap().counts.iter().sum::<u64>(),
            0,
            "nothing happened, and it is kept once"
        );
    }
}
