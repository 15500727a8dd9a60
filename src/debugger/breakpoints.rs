//! The breakpoints, catchpoints and watchpoints that a person has set, numbered as they came.
use super::condition::Condition;
use super::watchpoints::Watchpoint;
use crate::arch::Gva;
use crate::engine::{Catch, Event};
use serde::{Serialize, Serializer};

/// One breakpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Breakpoint {
    /// Counts up from 1 and is never used again.
    pub number: u32,
    /// Linear address.
    #[serde(serialize_with = "super::view::hex_address")]
    pub at: Gva,
    /// As it was written.
    pub written: String,
    /// It stops the guest only if this is true.
    #[serde(serialize_with = "condition")]
    pub condition: Option<Condition>,
    /// How often it was met.
    pub hits: u64,
}

fn condition<S: Serializer>(condition: &Option<Condition>, to: S) -> Result<S::Ok, S::Error> {
    condition.as_ref().map(ToString::to_string).serialize(to)
}

/// Events that stop the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Catchpoint {
    /// As a breakpoint's.
    pub number: u32,
    /// As it was written.
    pub written: String,
    /// How often it was met.
    pub hits: u64,
    /// What is caught.
    #[serde(skip)]
    pub filters: Vec<Catch>,
}

/// All breakpoints of a session.
#[derive(Debug, Default)]
pub struct Breakpoints {
    list: Vec<Breakpoint>,
    catches: Vec<Catchpoint>,
    watches: Vec<Watchpoint>,
    made: u32,
}

impl Breakpoints {
    /// Adds one; the same address twice gives two, as each may be deleted on its own.
    pub fn add(&mut self, at: Gva, written: String, condition: Option<Condition>) -> &Breakpoint {
        self.made += 1;
        self.list.push(Breakpoint { number: self.made, at, written, condition, hits: 0 });
        &self.list[self.list.len() - 1]
    }

    /// Adds a catchpoint; its number.
    pub fn add_catch(&mut self, written: String, filters: Vec<Catch>) -> u32 {
        self.made += 1;
        self.catches.push(Catchpoint { number: self.made, written, hits: 0, filters });
        self.made
    }

    /// Adds a watchpoint, which is given its number.
    pub fn add_watch(&mut self, watch: Watchpoint) -> u32 {
        self.made += 1;
        self.watches.push(Watchpoint { number: self.made, ..watch });
        self.made
    }

    /// Removes number `number`; whether there was one.
    pub fn remove(&mut self, number: u32) -> bool {
        let before = self.len();
        self.list.retain(|b| b.number != number);
        self.catches.retain(|c| c.number != number);
        self.watches.retain(|w| w.number != number);
        self.len() < before
    }

    /// Removes all of all kinds; how many there were.
    pub fn clear(&mut self) -> usize {
        let count = self.len();
        (self.list, self.catches, self.watches) = Default::default();
        count
    }

    /// Removes all watchpoints; how many there were.
    pub fn clear_watches(&mut self) -> usize {
        std::mem::take(&mut self.watches).len()
    }

    fn len(&self) -> usize {
        self.list.len() + self.catches.len() + self.watches.len()
    }

    /// In the order in which they were set.
    #[must_use]
    pub fn list(&self) -> &[Breakpoint] {
        &self.list
    }

    /// The catchpoints, in the order in which they were set.
    #[must_use]
    pub fn catches(&self) -> &[Catchpoint] {
        &self.catches
    }

    /// The watchpoints, in the order in which they were set.
    #[must_use]
    pub fn watchpoints(&self) -> &[Watchpoint] {
        &self.watches
    }

    /// Keeps what a watchpoint's memory holds now.
    pub fn see(&mut self, number: u32, now: Vec<u8>) {
        self.watches.iter_mut().filter(|w| w.number == number).for_each(|w| w.seen.clone_from(&now));
    }

    /// Counts a meeting of these.
    pub fn count(&mut self, numbers: &[u32]) {
        self.list.iter_mut().filter(|b| numbers.contains(&b.number)).for_each(|b| b.hits += 1);
        self.watches.iter_mut().filter(|w| numbers.contains(&w.number)).for_each(|w| w.hits += 1);
    }

    /// Counts an event; the numbers of the catchpoints whose it is.
    pub fn hit_catches(&mut self, event: &Event) -> Vec<u32> {
        let met = self.catches.iter_mut().filter(|c| c.matches(event));
        met.map(|c| {
            c.hits += 1;
            c.number
        })
        .collect()
    }

    /// Their addresses together with `more`, each once, ascending: what an engine is told.
    #[must_use]
    pub fn addresses(&self, more: &[Gva]) -> Vec<Gva> {
        let mut all: Vec<Gva> = self.list.iter().map(|b| b.at).chain(more.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_twice() {
        let mut breakpoints = Breakpoints::default();
        assert_eq!(breakpoints.add(Gva(1), "1".into(), None).number, 1);
        assert_eq!(breakpoints.add_catch("2".into(), vec![]), 2);
        assert!(breakpoints.remove(2));
        assert!(!breakpoints.remove(2));
        assert_eq!(breakpoints.add(Gva(2), "2".into(), None).number, 3);
    }

    #[test]
    fn an_engine_is_told_each_address_once() {
        let mut breakpoints = Breakpoints::default();
        breakpoints.add(Gva(9), "a".into(), None);
        breakpoints.add(Gva(2), "b".into(), None);
        breakpoints.add(Gva(9), "c".into(), None);
        assert_eq!(breakpoints.addresses(&[Gva(2), Gva(4)]), [Gva(2), Gva(4), Gva(9)]);
        breakpoints.count(&[1, 3]);
        assert_eq!(breakpoints.list().iter().map(|b| b.hits).collect::<Vec<_>>(), [1, 0, 1]);
    }
}
