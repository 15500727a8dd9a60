//! The breakpoints that a person has set, numbered as they came.
use crate::arch::Gva;
use serde::Serialize;

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
    /// How often it was met.
    pub hits: u64,
}

/// All breakpoints of a session.
#[derive(Debug, Default)]
pub struct Breakpoints {
    list: Vec<Breakpoint>,
    made: u32,
}

impl Breakpoints {
    /// Adds one; the same address twice gives two, as each may be deleted on its own.
    pub fn add(&mut self, at: Gva, written: String) -> &Breakpoint {
        self.made += 1;
        self.list.push(Breakpoint { number: self.made, at, written, hits: 0 });
        &self.list[self.list.len() - 1]
    }

    /// Removes number `number`; whether there was one.
    pub fn remove(&mut self, number: u32) -> bool {
        let before = self.list.len();
        self.list.retain(|b| b.number != number);
        self.list.len() < before
    }

    /// Removes all; how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.list).len()
    }

    /// In the order in which they were set.
    #[must_use]
    pub fn list(&self) -> &[Breakpoint] {
        &self.list
    }

    /// Whether one stands at `at`.
    #[must_use]
    pub fn contains(&self, at: Gva) -> bool {
        self.list.iter().any(|b| b.at == at)
    }

    /// Counts a meeting at `at`; the numbers that stand there.
    pub fn hit(&mut self, at: Gva) -> Vec<u32> {
        let met = self.list.iter_mut().filter(|b| b.at == at);
        met.map(|b| {
            b.hits += 1;
            b.number
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
        assert_eq!(breakpoints.add(Gva(1), "1".into()).number, 1);
        assert_eq!(breakpoints.add(Gva(2), "2".into()).number, 2);
        assert!(breakpoints.remove(2));
        assert!(!breakpoints.remove(2));
        assert_eq!(breakpoints.add(Gva(2), "2".into()).number, 3);
    }

    #[test]
    fn an_engine_is_told_each_address_once() {
        let mut breakpoints = Breakpoints::default();
        breakpoints.add(Gva(9), "a".into());
        breakpoints.add(Gva(2), "b".into());
        breakpoints.add(Gva(9), "c".into());
        assert_eq!(breakpoints.addresses(&[Gva(2), Gva(4)]), [Gva(2), Gva(4), Gva(9)]);
        assert_eq!(breakpoints.hit(Gva(9)), [1, 3]);
        assert_eq!(breakpoints.list()[0].hits, 1);
        assert_eq!(breakpoints.hit(Gva(4)), [0_u32; 0]);
    }
}
