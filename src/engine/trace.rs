//! The exit trace: the last accesses and events of a machine, for people who look at it or want to be stopped by one.
//!
//! Off by default and then one relaxed load on the access path, and two for each exit of an engine that leaves guest code for it.
//!
//! What an event cost is told where an engine leaves guest code for it: it says when it has left ([`Trace::left`]) and when it
//! is about to go on ([`Trace::goes_on`]). An interpreter leaves nothing, and of its events no cost is known.
use super::catch::Catch;
use crate::sys::signal::KickCell;
use crate::sys::tsc;
use std::cell::Cell;
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

/// What an event cost: the host's time from the moment in which the engine had the CPU after the guest's code to that in which
/// it gave it back. The way out and back is not in it; what the host did meanwhile for others is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EventCost {
    /// It is not known: guest code was not left for it, or did not go on since.
    #[default]
    Unknown,
    /// The first event of a stay outside of the guest, and of how many: what all of them took, in nanoseconds.
    Stay {
        /// Nanoseconds.
        nanos: u64,
        /// Events of the stay, this one too.
        events: u32,
    },
    /// It is in the cost of the event with this number.
    Within(u64),
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
    /// What it cost.
    pub cost: EventCost,
}

/// A stay outside of guest code.
#[derive(Clone, Copy, Debug)]
struct Stay {
    /// The TSC when it began.
    since: u64,
    /// The first of its events that was recorded, and how many were.
    events: Option<(u64, u32)>,
}

thread_local! {
    /// The stay of the vCPU that this thread runs.
    static STAY: Cell<Option<Stay>> = const { Cell::new(None) };
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
            // Measured once, which takes a while.
            let _hz = tsc::frequency();
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

    /// The calling thread begins to run a vCPU: whatever it was outside of guest code for before is not to be counted.
    #[inline]
    pub fn begins(&self) {
        if self.is_enabled() {
            STAY.set(None);
        }
    }

    /// The calling thread has just come out of guest code.
    #[inline]
    pub fn left(&self) {
        if self.is_enabled() {
            STAY.set(Some(Stay { since: tsc::read(), events: None }));
        }
    }

    /// The calling thread enters guest code now.
    #[inline]
    pub fn goes_on(&self) {
        if self.is_enabled() {
            self.end_stay();
        }
    }

    #[cold]
    fn end_stay(&self) {
        let now = tsc::read();
        let Some(Stay { since, events: Some((first, events)) }) = STAY.take() else { return };
        let ticks = u128::from(now.wrapping_sub(since)) * 1_000_000_000;
        let nanos = u64::try_from(ticks / u128::from(tsc::frequency().max(1))).unwrap_or(u64::MAX);
        let mut ring = self.lock();
        // Others may have been pushed out of the ring since.
        let oldest = ring.events.front().map_or(u64::MAX, |event| event.number);
        let place = first.checked_sub(oldest).and_then(|place| usize::try_from(place).ok());
        if let Some(event) = place.and_then(|place| ring.events.get_mut(place)) {
            event.cost = EventCost::Stay { nanos, events };
        }
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
        let event = Event { number, kind, at, value, width, cost: self.cost_of(number) };
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

    /// What is known of an event's cost when it happens: in which stay it is.
    fn cost_of(&self, number: u64) -> EventCost {
        let Some(mut stay) = STAY.get().filter(|_| self.is_enabled()) else { return EventCost::Unknown };
        let (first, events) = stay.events.unwrap_or((number, 0));
        stay.events = Some((first, events + 1));
        STAY.set(Some(stay));
        if events == 0 { EventCost::Unknown } else { EventCost::Within(first) }
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
    fn an_event_costs_what_its_stay_outside_of_the_guest_took() {
        let trace = Trace::default();
        trace.left();
        trace.enable(true);
        trace.record(EventKind::PortRead, 1, 0, 1);
        trace.left();
        trace.record(EventKind::PortRead, 2, 0, 1);
        let begun = tsc::read();
        while tsc::read().wrapping_sub(begun) < tsc::frequency() / 1000 {}
        trace.goes_on();
        // Nobody left guest code for this one.
        trace.record(EventKind::Halt, 3, 0, 0);
        trace.goes_on();
        for _ in 0..2 {
            trace.left();
            trace.goes_on();
        }
        trace.left();
        trace.record(EventKind::PortWrite, 4, 0, 1);
        trace.record(EventKind::Interrupt, 5, 0, 0);
        trace.goes_on();
        // It does not go on after these.
        trace.left();
        trace.record(EventKind::PortWrite, 6, 0, 1);
        trace.begins();
        trace.goes_on();
        let events = trace.drain();
        let costs: Vec<_> = events.iter().map(|event| event.cost).collect();
        assert_eq!(
            (costs[0], costs[2], costs[5]),
            (EventCost::Unknown, EventCost::Unknown, EventCost::Unknown)
        );
        assert!(matches!(costs[1], EventCost::Stay { nanos: 1_000_000.., events: 1 }), "{costs:?}");
        assert!(matches!(costs[3], EventCost::Stay { events: 2, .. }), "{costs:?}");
        assert_eq!(costs[4], EventCost::Within(events[3].number));
        // One that was pushed out of the ring meanwhile.
        trace.left();
        for n in 0..=Trace::CAPACITY as u64 {
            trace.record(EventKind::Halt, n, 0, 0);
        }
        trace.goes_on();
        assert!(trace.drain().iter().all(|event| !matches!(event.cost, EventCost::Stay { .. })));
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
