//! The exit trace as a session keeps it: the machine's events, and at which instruction they happened where stepping
//! tells.
use crate::engine::{Event, Trace};
use std::collections::VecDeque;

/// An event and its instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traced {
    /// What happened.
    pub event: Event,
    /// Linear address of the instruction; known for those that were stepped.
    pub rip: Option<u64>,
}

/// The last [`Trace::CAPACITY`] events.
#[derive(Debug, Default)]
pub struct EventLog(VecDeque<Traced>);

impl EventLog {
    /// Takes what the machine recorded since the last call; all of it belongs to the instruction at `rip`, if given.
    pub fn collect(&mut self, trace: &Trace, rip: Option<u64>) {
        for event in trace.drain() {
            if self.0.len() == Trace::CAPACITY {
                self.0.pop_front();
            }
            self.0.push_back(Traced { event, rip });
        }
    }

    /// The last `count` events, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Traced> {
        self.0.range(self.0.len().saturating_sub(count)..)
    }

    /// Events that are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.0.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EventKind;

    #[test]
    fn the_newest_events_stay_with_their_instructions() {
        let trace = Trace::default();
        trace.enable(true);
        let mut log = EventLog::default();
        for turn in 0..3 {
            for _ in 0..Trace::CAPACITY / 2 {
                trace.record(EventKind::Halt, turn, 0, 0);
            }
            log.collect(&trace, Some(turn));
        }
        assert_eq!(log.kept(), Trace::CAPACITY);
        assert_eq!(log.last(1).next().and_then(|t| t.rip), Some(2));
        assert_eq!(log.last(usize::MAX).next().and_then(|t| t.rip), Some(1));
    }
}
