//! The exit trace: the last accesses and events of a machine, for people who look at it.
//!
//! Off by default and then one relaxed load on the access path.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// `value` was read from port `at`.
    PortRead,
    /// `value` was written to port `at`.
    PortWrite,
    /// `value` was read from device memory at `at`.
    MmioRead,
    /// `value` was written to device memory at `at`.
    MmioWrite,
    /// `value` was read from platform MSR `at`.
    MsrRead,
    /// `value` was written to platform MSR `at`.
    MsrWrite,
    /// CPUID of leaf `at` gave EAX `value`.
    Cpuid,
    /// Interrupt vector `at` was entered.
    Interrupt,
    /// Exception vector `at` with error code `value` was entered.
    Exception,
    /// A hypercall or patched site at `at`; what `value` means is the mode's.
    Hypercall,
    /// The instruction at `at` was executed by `single` because the host could not.
    Rescue,
    /// The CPU halted.
    Halt,
}

/// One line of the trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Counts up from 0, so that gaps show.
    pub number: u64,
    /// What.
    pub kind: EventKind,
    /// Address, port, index or vector.
    pub at: u64,
    /// Value.
    pub value: u64,
    /// Bytes of the access, 0 where that means nothing.
    pub width: u8,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
}

/// A ring of the last [`Trace::CAPACITY`] events.
#[derive(Debug, Default)]
pub struct Trace {
    enabled: AtomicBool,
    ring: Mutex<Ring>,
}

impl Trace {
    /// Events that are kept.
    pub const CAPACITY: usize = 4096;

    /// Switches recording on or off.
    pub fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Relaxed);
    }

    /// Whether events are recorded.
    #[inline]
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Records an event, if recording is on.
    #[inline]
    pub fn record(&self, kind: EventKind, at: u64, value: u64, width: u8) {
        if self.is_enabled() {
            self.push(kind, at, value, width);
        }
    }

    #[cold]
    fn push(&self, kind: EventKind, at: u64, value: u64, width: u8) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.events.len() == Self::CAPACITY {
            ring.events.pop_front();
        }
        let number = ring.next;
        ring.next += 1;
        ring.events.push_back(Event { number, kind, at, value, width });
    }

    /// Takes the events recorded so far, oldest first.
    #[must_use]
    pub fn drain(&self) -> Vec<Event> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_events_and_their_numbers() {
        let trace = Trace::default();
        trace.record(EventKind::Halt, 0, 0, 0);
        assert!(trace.drain().is_empty());
        trace.enable(true);
        for i in 0..Trace::CAPACITY as u64 + 2 {
            trace.record(EventKind::PortRead, i, 0, 1);
        }
        let events = trace.drain();
        assert_eq!((events.len(), events[0].number), (Trace::CAPACITY, 2));
    }
}
