//! Breakpoints on addresses, as the slow path of memory sees them.
use crate::arch::Gva;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{self, WatchHit};

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
pub(crate) struct Watches<'a> {
    /// By the number of their register.
    pub list: [Option<Watch>; 4],
    /// Any of them is on data.
    data: bool,
    /// Those that the instruction has hit so far, a bit each.
    pub hit: u8,
    /// What a debugger outside watches, beside the guest's own.
    outside: &'a [engine::Watch],
    /// The first access that the debugger is to hear of.
    pub outside_hit: Option<WatchHit>,
}

impl<'a> Watches<'a> {
    /// Takes breakpoints over.
    pub(crate) fn set(&mut self, list: [Option<Watch>; 4]) {
        let on_data = |w: &Watch| matches!(w.kind, Use::Write | Use::Access);
        self.data = list.iter().flatten().any(on_data) || !self.outside.is_empty();
        self.list = list;
    }

    /// None of the guest's, and those of a debugger.
    pub(crate) fn of_outside(outside: &'a [engine::Watch]) -> Self {
        Self { outside, data: !outside.is_empty(), ..Self::default() }
    }

    /// Whether a debugger wants to hear of reads, which do not end a block as writes can.
    #[inline]
    pub(crate) fn are_on_reads(&self) -> bool {
        self.outside.iter().any(|watch| watch.kind.counts(false))
    }

    /// The instruction at the linear address `at` has been executed: what was hit was by it.
    #[inline]
    pub(crate) fn made_by(&mut self, at: impl FnOnce() -> u64) {
        if let Some(hit) = &mut self.outside_hit
            && hit.by.is_none()
        {
            hit.by = Some(Gva(at()));
        }
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
        let length = length as u64;
        let met = self.outside.iter().find(|watch| watch.kind.counts(write) && watch.overlaps(at, length));
        if let Some(watch) = met {
            let at = Gva(at.max(watch.at.0));
            self.outside_hit.get_or_insert(WatchHit { at, kind: watch.kind, by: None });
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
                || self.outside.iter().any(|watch| watch.overlaps(page, PAGE_SIZE)))
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

    #[test]
    fn a_debugger_hears_of_the_first_access_of_its_kind() {
        use crate::engine::WatchKind;
        let watch = |at, kind| engine::Watch { at: Gva(at), length: 4, kind };
        let outside = [watch(0x1004, WatchKind::Write), watch(0x2000, WatchKind::Read)];
        let mut watches = Watches::of_outside(&outside);
        assert!(!watches.note(0x1004, 4, false) && !watches.note(0x2000, 4, true));
        assert!(watches.watch_page(0x1000) && watches.watch_page(0x2fff) && !watches.watch_page(0x3000));
        assert!(watches.note(0x1000, 8, true));
        assert!(watches.note(0x2003, 1, false));
        assert!(watches.are_on_reads());
        watches.made_by(|| 7);
        watches.made_by(|| 8);
        let hit = WatchHit { at: Gva(0x1004), kind: WatchKind::Write, by: Some(Gva(7)) };
        assert_eq!((watches.outside_hit, watches.hit), (Some(hit), 0));
    }
}
