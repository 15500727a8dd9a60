//! Breakpoints on addresses, as the slow path of memory sees them.
use crate::arch::address::PAGE_SIZE;

/// What a breakpoint stops at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Execute,
    Write,
    /// An access to ports.
    Port,
    /// Reads and writes.
    Access,
}

/// One breakpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    pub start: u64,
    pub length: u64,
    pub kind: Use,
}

impl Watch {
    fn overlaps(&self, at: u64, length: u64) -> bool {
        at < self.start.saturating_add(self.length) && self.start < at.saturating_add(length)
    }
}

/// The breakpoints that are enabled.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Watches {
    /// By the number of their register.
    pub list: [Option<Watch>; 4],
    /// Any of them is on data.
    data: bool,
    /// Those that the instruction has hit so far, a bit each.
    pub hit: u8,
    /// What a debugger outside watches for writes, beside the guest's own.
    outside: Outside,
    /// Where a write began that the debugger is to hear of.
    pub outside_hit: Option<u64>,
}

/// Addresses whose writes a debugger outside of the guest wants to hear of.
pub(crate) type Outside = [Option<Watch>; OUTSIDE];

/// How many of them there are.
pub(crate) const OUTSIDE: usize = 4;

impl Watches {
    /// Takes breakpoints over.
    pub(crate) fn set(&mut self, list: [Option<Watch>; 4]) {
        self.data = Self::on_data(&list) || self.outside != [None; OUTSIDE];
        self.list = list;
    }

    fn on_data(list: &[Option<Watch>]) -> bool {
        list.iter().flatten().any(|w| matches!(w.kind, Use::Write | Use::Access))
    }

    /// None of the guest's, and those of a debugger.
    pub(crate) fn of_outside(outside: Outside) -> Self {
        Self { outside, data: Self::on_data(&outside), ..Self::default() }
    }

    /// Which of them, a bit each, an access of `length` bytes at `at` hits.
    pub(crate) fn hits(&self, at: u64, length: u64, counts: impl Fn(Use) -> bool) -> u8 {
        let mut hits = 0;
        for (i, watch) in self.list.iter().enumerate() {
            if let Some(watch) = watch
                && counts(watch.kind)
                && watch.overlaps(at, length)
            {
                hits |= 1 << i;
            }
        }
        hits
    }

    /// Notes an access to memory; says whether it hit anything.
    #[inline]
    pub(crate) fn note(&mut self, at: u64, length: usize, write: bool) -> bool {
        if !self.data {
            return false;
        }
        let hits = self.hits(at, length as u64, |kind| kind == Use::Access || write && kind == Use::Write);
        self.hit |= hits;
        if write && self.outside.iter().flatten().any(|watch| watch.overlaps(at, length as u64)) {
            self.outside_hit.get_or_insert(at);
            return true;
        }
        hits != 0
    }

    /// Notes an access to ports.
    #[inline]
    pub(crate) fn note_port(&mut self, port: u16, length: usize) {
        self.hit |= self.hits(port.into(), length as u64, |kind| kind == Use::Port);
    }

    /// Whether accesses to the page of `at` must be looked at.
    pub(crate) fn watch_page(&self, at: u64) -> bool {
        let page = at & !(PAGE_SIZE - 1);
        self.data
            && (self.hits(page, PAGE_SIZE, |kind| matches!(kind, Use::Write | Use::Access)) != 0
                || self.outside.iter().flatten().any(|watch| watch.overlaps(page, PAGE_SIZE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_hits_what_it_overlaps_and_is_of_its_kind() {
        let mut watches = Watches::default();
        assert!(!watches.note(0, 8, true));
        watches.set([
            Some(Watch { start: 0x1004, length: 4, kind: Use::Write }),
            None,
            Some(Watch { start: 0x1008, length: 8, kind: Use::Access }),
            Some(Watch { start: 0x1000, length: 1, kind: Use::Execute }),
        ]);
        assert!(!watches.note(0x1000, 4, true) && !watches.note(0x1004, 4, false));
        assert!(watches.note(0x1001, 4, true));
        assert_eq!(watches.hit, 1);
        assert!(watches.note(0x1006, 4, false));
        assert_eq!(watches.hit, 5);
        assert!(watches.watch_page(0x1fff) && !watches.watch_page(0x2000));
    }
}
