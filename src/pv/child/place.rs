//! Which CPUs the child may run on, and how long both sides look at the shared page before they sleep.
//!
//! Looking only works while engine and child run at the same time. So the child is kept off the CPU that the engine's
//! thread is on, wherever the user or the host's scheduler has put that; the thread itself is not moved. Where the
//! process has one CPU nobody looks at all: each look would only keep the other side from running.
//!
//! How long the engine looks follows the guest, as KVM's halt polling does: longer while a longer look would have
//! caught the report, shorter while guest code runs for so long that it would not.
use crate::sys::{affinity, tsc};

/// The engine's first look, in nanoseconds.
const FIRST_LOOK: u64 = 30_000;
/// Its shortest.
const LEAST_LOOK: u64 = 10_000;
/// Its longest: a wake-up on another CPU costs a quarter of that.
const MOST_LOOK: u64 = 200_000;
/// How often the child looks before it sleeps; a look is a PAUSE, about 50 ns.
const CHILD_LOOKS: u32 = 600;
/// The same, where it waits for the other process of its vCPU: for longer than a wake-up on another CPU takes, or two that
/// have fallen asleep once would never find each other awake again.
const PAIR_LOOKS: u32 = 4000;

/// Where the child runs and how long to look for its report.
#[derive(Debug)]
pub(super) struct Placement {
    /// CPUs that the engine's thread could use when the child was made; ascending.
    allowed: Vec<usize>,
    /// The CPU that the child keeps off.
    avoided: Option<usize>,
    /// For a user's process: the engine sleeps, and its CPU is to be used.
    takes_over: Option<bool>,
    look: u64,
    least: u64,
    most: u64,
}

impl Placement {
    /// The placement of a kernel's process, which may run on all CPUs of the calling thread.
    pub(super) fn new() -> Self {
        Self::on(affinity::allowed().unwrap_or_default(), false)
    }

    /// The placement of a user's process beside it.
    pub(super) fn beside(&self) -> Self {
        Self::on(self.allowed.clone(), true)
    }

    fn on(allowed: Vec<usize>, user: bool) -> Self {
        let ticks = |nanos: u64| tsc::frequency() / 1_000_000 * nanos / 1000;
        let [look, least, most] =
            if allowed.len() < 2 { [0; 3] } else { [FIRST_LOOK, LEAST_LOOK, MOST_LOOK].map(ticks) };
        Self { allowed, avoided: None, takes_over: user.then_some(false), look, least, most }
    }

    /// How often the child looks before it sleeps; at least 1.
    pub(super) fn child_looks(&self) -> u32 {
        if self.most == 0 { 1 } else { CHILD_LOOKS }
    }

    /// TSC ticks for which the engine looks before it sleeps.
    pub(super) fn look_ticks(&self) -> u64 {
        self.look
    }

    /// Learns from a look that was too short: `waited` ticks passed until the report came.
    pub(super) fn slept(&mut self, waited: u64) {
        self.look =
            if waited < self.most { (2 * self.look).min(self.most) } else { (self.look / 2).max(self.least) };
    }

    /// The CPUs on which the child is to run while the engine is on `engine`; `None` if nothing is to change.
    fn around(&mut self, engine: usize) -> Option<Vec<usize>> {
        if self.avoided == Some(engine) {
            return None;
        }
        self.avoided = Some(engine);
        let mut others: Vec<usize> = self.allowed.iter().copied().filter(|&cpu| cpu != engine).collect();
        match self.takes_over {
            // One of its own, so that the kernel's process finds another.
            Some(_) if others.len() > 1 => others.truncate(1),
            Some(true) => others = vec![engine],
            _ => {}
        }
        (!others.is_empty()).then_some(others)
    }

    /// Whether engine, kernel and user have to share two CPUs.
    pub(super) fn is_tight(&self) -> bool {
        self.allowed.len() == 2
    }

    /// How often a child looks at its turn while the other one of the vCPU runs; at least 1.
    pub(super) fn pair_looks(&self) -> u32 {
        if self.allowed.len() > 2 || self.takes_over == Some(true) && self.most > 0 { PAIR_LOOKS } else { 1 }
    }

    /// Says whether a user's process takes the CPU that the engine sleeps on, where there are two; the next
    /// [`Self::update`] acts on it.
    pub(super) fn take_over(&mut self, takes: bool) {
        self.takes_over = Some(takes);
        self.avoided = None;
    }

    /// Keeps `child` off the CPU of the calling thread, which is the engine's. Costs a few nanoseconds unless that
    /// has changed. A host that refuses costs speed only.
    pub(super) fn update(&mut self, child: i32) {
        if self.most == 0 {
            return;
        }
        if let Some(cpus) = affinity::current().and_then(|engine| self.around(engine)) {
            // It may have fewer CPUs by now, or be gone: the hand-over then sleeps sooner or finds out.
            let _ = affinity::pin_thread(child, &cpus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_keeps_off_the_engines_cpu_and_follows_when_that_moves() {
        let mut place = Placement::on(vec![2, 3, 7], false);
        assert_eq!(place.around(3), Some(vec![2, 7]));
        assert_eq!(place.around(3), None);
        assert_eq!(place.around(2), Some(vec![3, 7]));
        assert_eq!(place.around(5), Some(vec![2, 3, 7]));
        assert!(place.look_ticks() > 0 && place.child_looks() > 1);
    }

    #[test]
    fn a_user_has_a_cpu_of_its_own_or_the_one_that_the_engine_sleeps_on() {
        let mut place = Placement::on(vec![2, 3, 7], true);
        assert_eq!((place.around(2), place.pair_looks() > 1), (Some(vec![3]), true));
        let mut place = Placement::on(vec![0, 1], true);
        assert_eq!((place.around(0), place.pair_looks()), (Some(vec![1]), 1));
        place.take_over(true);
        assert_eq!((place.around(0), place.pair_looks() > 1), (Some(vec![0]), true));
        place.take_over(false);
        assert_eq!((place.around(0), place.pair_looks()), (Some(vec![1]), 1));
    }

    #[test]
    fn on_one_cpu_nobody_looks() {
        let mut place = Placement::on(vec![4], false);
        assert_eq!((place.look_ticks(), place.child_looks()), (0, 1));
        assert_eq!(place.around(4), None);
        place.slept(1);
        assert_eq!(place.look_ticks(), 0);
    }

    #[test]
    fn looks_grow_while_that_would_help_and_shrink_while_it_would_not() {
        let mut place = Placement::on(vec![0, 1], false);
        let (first, most) = (place.look_ticks(), place.most);
        place.slept(first + 1);
        assert_eq!(place.look_ticks(), 2 * first);
        (0..20).for_each(|_| place.slept(most - 1));
        assert_eq!(place.look_ticks(), most);
        (0..20).for_each(|_| place.slept(most));
        assert_eq!(place.look_ticks(), place.least);
    }
}
