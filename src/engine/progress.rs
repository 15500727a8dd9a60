//! How far a machine with a counted clock has come, exactly: a position.
//!
//! A position is the number of turns since the machine was built. A turn is what a step of [`super::DebugVcpu`] does: one
//! instruction retires, one exception or interrupt is delivered, a repeated string instruction does a part of its work, or
//! a halted CPU's clock goes to the next deadline. From the same state the same inputs at the same positions lead through
//! the same states: that is what going back and replaying are built on. Only a machine with one CPU and a counted clock
//! counts turns.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The position of a machine, and up to where it may run. Written by the boot CPU's thread alone.
#[derive(Debug)]
pub struct Progress {
    position: AtomicU64,
    target: AtomicU64,
    /// The next position at which cached translations are to be forgotten.
    epoch: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        let target = AtomicU64::new(u64::MAX);
        Self { position: AtomicU64::new(0), target, epoch: AtomicU64::new(Self::EPOCH) }
    }
}

impl Progress {
    /// Turns between the positions at which a CPU forgets its cached translations. A translation that is cached, and one
    /// that is walked anew, differ in the accessed bits that the guest may have cleared in between. So that a machine that is
    /// put back does what it did before, snapshots are taken at these positions, where its caches are empty both times.
    pub const EPOCH: u64 = 1 << 18;

    /// Turns so far.
    #[inline]
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Relaxed)
    }

    /// The machine stands somewhere else now.
    pub fn set_position(&self, position: u64) {
        self.position.store(position, Relaxed);
        self.epoch.store(Self::epoch_after(position), Relaxed);
    }

    /// The first position of an epoch after `position`.
    #[must_use]
    pub const fn epoch_after(position: u64) -> u64 {
        (position / Self::EPOCH).saturating_add(1).saturating_mul(Self::EPOCH)
    }

    /// A run stops before the turn at `target`; `None`: nowhere.
    pub fn set_target(&self, target: Option<u64>) {
        self.target.store(target.unwrap_or(u64::MAX), Relaxed);
    }

    /// Whether the run is to stop here.
    #[inline]
    #[must_use]
    pub fn is_at_target(&self) -> bool {
        self.position() >= self.target.load(Relaxed)
    }

    /// Turns that may be made until the run is to stop, or an epoch ends; 0 at these places.
    #[inline]
    #[must_use]
    pub fn left(&self) -> u64 {
        self.target.load(Relaxed).min(self.epoch.load(Relaxed)).saturating_sub(self.position())
    }

    /// Whether an epoch ends here; says so once.
    #[inline]
    #[must_use]
    pub fn takes_epoch(&self) -> bool {
        let (position, epoch) = (self.position(), self.epoch.load(Relaxed));
        if position < epoch {
            return false;
        }
        self.epoch.store(Self::epoch_after(position), Relaxed);
        true
    }

    /// So many turns were made.
    #[inline]
    pub fn advance(&self, turns: u64) {
        // One thread writes: no need for a locked addition.
        self.position.store(self.position().wrapping_add(turns), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_to_its_target_and_looks_up_at_the_end_of_each_epoch() {
        let progress = Progress::default();
        assert_eq!(progress.left(), Progress::EPOCH);
        progress.set_target(Some(10));
        assert_eq!((progress.left(), progress.is_at_target()), (10, false));
        progress.advance(10);
        assert_eq!((progress.left(), progress.is_at_target()), (0, true));
        progress.set_target(None);
        assert_eq!(progress.left(), Progress::EPOCH - 10);
        progress.advance(Progress::EPOCH - 10);
        assert_eq!(progress.left(), 0);
        assert!(progress.takes_epoch() && !progress.takes_epoch());
        assert_eq!(progress.left(), Progress::EPOCH);
        progress.set_position(u64::MAX - 5);
        assert_eq!(progress.left(), 5);
        progress.set_position(3);
        assert!(!progress.takes_epoch());
    }
}
