//! The local APIC's timer (SDM 11.5.4): one-shot and periodic.
//!
//! It is known by when it next reaches zero. A read computes the count from that; nothing ticks. Periods that passed
//! unseen are merged: they make one interrupt, as the one bit of the IRR would make of them anyway.
use crate::arch::layout::LAPIC_HZ;
use crate::clock::Nanos;
use crate::device::SHORTEST_PERIOD;

/// Nanoseconds for one tick of the undivided timer.
const TICK: u64 = 1_000_000_000 / LAPIC_HZ;

/// The counter. Masking and modes are in the local vector table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counter {
    /// Initial count register.
    pub(super) initial: u32,
    /// Divide configuration register: bits 3, 1, 0.
    pub(super) divide: u32,
    /// When the count reaches zero; `None` while it stands at zero.
    pub(super) expiry: Option<Nanos>,
}

impl Counter {
    /// Nanoseconds for one count.
    fn step(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        TICK << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.step()
    }

    /// The current count.
    pub(super) fn current(&self, now: Nanos) -> u32 {
        self.expiry.map_or(0, |at| at.since(now).div_ceil(self.step()).min(u32::MAX.into()) as u32)
    }

    /// Writes the initial count: 0 stops the timer, all else starts it anew.
    pub(super) fn start(&mut self, initial: u32, now: Nanos) {
        self.initial = initial;
        self.expiry = (initial != 0).then(|| now.after(self.period()));
    }

    /// Writes the divide configuration: the count goes on from where it stands, at the new rate.
    pub(super) fn set_divide(&mut self, divide: u32, now: Nanos) {
        let count = self.expiry.map(|_| u64::from(self.current(now)));
        self.divide = divide & 0xb;
        self.expiry = count.map(|c| now.after(c * self.step()));
    }

    /// Whether the count has reached zero since it was last asked; starts the next period, if `periodic`.
    pub(super) fn expired(&mut self, periodic: bool, now: Nanos) -> bool {
        let Some(at) = self.expiry.filter(|at| *at <= now) else {
            return false;
        };
        self.expiry = (periodic && self.initial != 0).then(|| {
            let period = self.period();
            at.after(now.since(at) / period * period + period)
        });
        true
    }

    /// When the host should look again. Very short periods are stretched, see [`SHORTEST_PERIOD`].
    pub(super) fn wake(&self, periodic: bool, now: Nanos) -> Option<Nanos> {
        let at = self.expiry?;
        if periodic && self.period() < SHORTEST_PERIOD { Some(now.after(SHORTEST_PERIOD)) } else { Some(at) }
    }
}
