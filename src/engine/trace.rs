//! The exit trace: the last accesses and events of a machine, for people who look at it or want to be stopped by one.
//!
//! Off by default and then one relaxed load on the access path.
use super::catch::Catch;
use crate::sys::signal::KickCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// `value` was written to control register `at`; told only by engines that execute the instruction themselves.
    ControlWrite,
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
    /// What stops the machine, and by whom.
    catches: Vec<Catch>,
    /// The CPUs'.
    kicks: Vec<Arc<KickCell>>,
    /// What each CPU's first event was since the last look that was caught.
    caught: Vec<(Event, Arc<KickCell>)>,
}

/// Somebody wants events to be kept.
const RECORDS: u8 = 1;
/// Somebody wants to be stopped by some.
const CATCHES: u8 = 2;
/// Some of them KVM does not hear of.
const CATCHES_HIDDEN: u8 = 4;

/// A ring of the last [`Trace::CAPACITY`] events.
#[derive(Debug, Default)]
pub struct Trace {
    wants: AtomicU8,
    ring: Mutex<Ring>,
}

impl Trace {
    /// Events that are kept.
    pub const CAPACITY: usize = 4096;

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn wants(&self, what: u8) -> bool {
        self.wants.load(Ordering::Relaxed) & what != 0
    }

    /// Switches recording on or off.
    pub fn enable(&self, on: bool) {
        if on {
            self.wants.fetch_or(RECORDS, Ordering::Relaxed);
        } else {
            self.wants.fetch_and(!RECORDS, Ordering::Relaxed);
        }
    }

    /// Whether events are recorded.
    #[inline]
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.wants(RECORDS)
    }

    /// From now on events that one of `catches` matches have that CPU leave its run whose thread made them, and are there to
    /// be taken ([`Self::take_caught`]). `kicks` are those of all CPUs; the first one's is an event of no CPU.
    pub fn catch(&self, catches: Vec<Catch>, kicks: Vec<Arc<KickCell>>) {
        let hidden = catches.iter().any(Catch::is_hidden_by_hardware);
        let wants = if catches.is_empty() { 0 } else { CATCHES } | if hidden { CATCHES_HIDDEN } else { 0 };
        let mut ring = self.lock();
        ring.caught.clear();
        ring.catches = catches;
        ring.kicks = kicks;
        self.wants.fetch_and(RECORDS, Ordering::Relaxed);
        self.wants.fetch_or(wants, Ordering::Relaxed);
    }

    /// Whether some event may stop the machine. An engine that comes out late for it goes by single instructions then.
    #[inline]
    #[must_use]
    pub fn catches(&self) -> bool {
        self.wants(CATCHES)
    }

    /// Whether one of them is of a kind that hardware keeps to itself: an interpreter has to look for it.
    #[inline]
    #[must_use]
    pub fn catches_hidden(&self) -> bool {
        self.wants(CATCHES_HIDDEN)
    }

    /// The event of this CPU that was caught since the last look, if one was.
    pub fn take_caught(&self, kick: &KickCell) -> Option<Event> {
        if !self.catches() {
            return None;
        }
        let mut ring = self.lock();
        let place = ring.caught.iter().position(|(_, by)| std::ptr::eq(Arc::as_ptr(by), kick))?;
        Some(ring.caught.swap_remove(place).0)
    }

    /// What was caught and not taken is void.
    pub fn forget_caught(&self) {
        if self.catches() {
            self.lock().caught.clear();
        }
    }

    /// Records an event, if recording is on.
    #[inline]
    pub fn record(&self, kind: EventKind, at: u64, value: u64, width: u8) {
        if self.wants(RECORDS | CATCHES) {
            self.push(kind, at, value, width);
        }
    }

    #[cold]
    fn push(&self, kind: EventKind, at: u64, value: u64, width: u8) {
        let mut ring = self.lock();
        let number = ring.next;
        ring.next += 1;
        let event = Event { number, kind, at, value, width };
        if ring.catches.iter().any(|catch| catch.matches(&event)) {
            let own =
                ring.kicks.iter().find(|kick| kick.is_bound_here()).or(ring.kicks.first()).map(Arc::clone);
            if let Some(kick) = own
                && !ring.caught.iter().any(|(_, by)| Arc::ptr_eq(by, &kick))
            {
                kick.kick();
                ring.caught.push((event, kick));
            }
        }
        if self.is_enabled() {
            if ring.events.len() == Self::CAPACITY {
                ring.events.pop_front();
            }
            ring.events.push_back(event);
        }
    }

    /// Takes the events recorded so far, oldest first.
    #[must_use]
    pub fn drain(&self) -> Vec<Event> {
        self.lock().events.drain(..).collect()
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

    #[test]
    fn what_is_caught_kicks_and_is_told_once() {
        let (trace, kick, other) = (Trace::default(), KickCell::new(), KickCell::new());
        let kicks = vec![Arc::clone(&kick), Arc::clone(&other)];
        trace.catch(vec![Catch::Kind(EventKind::Interrupt, Some(0x20))], kicks.clone());
        trace.record(EventKind::Interrupt, 0x21, 0, 0);
        assert!(!kick.is_raised() && trace.take_caught(&kick).is_none());
        trace.record(EventKind::Interrupt, 0x20, 0, 0);
        trace.record(EventKind::Interrupt, 0x20, 1, 0);
        assert!(kick.take_leave());
        assert_eq!(trace.take_caught(&other), None, "another CPU's");
        assert_eq!(trace.take_caught(&kick).map(|event| (event.at, event.value)), Some((0x20, 0)));
        assert!(trace.take_caught(&kick).is_none() && trace.drain().is_empty(), "nobody records");
        let bound = other.bind().unwrap();
        trace.record(EventKind::Interrupt, 0x20, 0, 0);
        assert!(!kick.take_leave() && other.take_leave(), "that of the thread");
        assert!(trace.take_caught(&other).is_some());
        drop(bound);
        trace.catch(vec![], kicks);
        trace.record(EventKind::Interrupt, 0x20, 0, 0);
        assert!(!trace.catches() && trace.take_caught(&kick).is_none());
    }
}
