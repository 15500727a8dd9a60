//! Events at which a debugger wants the machine to stop.
//!
//! They are those of the trace, so that one place sees the events of all modes. Whoever meets one that is caught asks
//! its own CPU to leave: it stands behind the instruction that made it, or at the first one of the handler that was entered.
use super::trace::{Event, EventKind};
use std::ops::RangeInclusive;

/// Which events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Catch {
    /// Those of this kind: all, or those of one port, address, MSR, leaf, vector or register.
    Kind(EventKind, Option<u64>),
    /// Accesses to one of these ports.
    Ports(RangeInclusive<u64>),
    /// Accesses to device memory at these addresses.
    Memory(RangeInclusive<u64>),
}

impl Catch {
    /// Whether it is this event.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        use EventKind::{MmioRead, MmioWrite, PortRead, PortWrite};
        let last = event.at.saturating_add(u64::from(event.width).saturating_sub(1));
        let touches = |range: &RangeInclusive<u64>| event.at <= *range.end() && *range.start() <= last;
        match self {
            Self::Kind(kind, at) => *kind == event.kind && at.is_none_or(|at| at == event.at),
            Self::Ports(range) => matches!(event.kind, PortRead | PortWrite) && touches(range),
            Self::Memory(range) => matches!(event.kind, MmioRead | MmioWrite) && touches(range),
        }
    }

    /// Whether the host's CPU and kernel keep such events to themselves, where KVM executes the guest.
    #[must_use]
    pub fn is_hidden_by_hardware(&self) -> bool {
        use EventKind::{ControlWrite, Cpuid, Exception};
        matches!(self, Self::Kind(Exception | ControlWrite | Cpuid, _))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_caught_by_kind_number_or_place() {
        let event =
            |kind, at, width| Event { number: 0, kind, at, value: 0, width, cost: Default::default() };
        let write = event(EventKind::PortWrite, 0x3f8, 1);
        assert!(Catch::Kind(EventKind::PortWrite, None).matches(&write));
        assert!(Catch::Kind(EventKind::PortWrite, Some(0x3f8)).matches(&write));
        assert!(!Catch::Kind(EventKind::PortWrite, Some(0x3f9)).matches(&write));
        assert!(!Catch::Kind(EventKind::PortRead, None).matches(&write));
        assert!(Catch::Ports(0x3f8..=0x3ff).matches(&write) && !Catch::Ports(0x3f0..=0x3f7).matches(&write));
        assert!(Catch::Ports(0x3fb..=0x3fc).matches(&event(EventKind::PortRead, 0x3f8, 4)));
        assert!(!Catch::Memory(0..=0xffff).matches(&write));
        assert!(Catch::Memory(0x1000..=0x1fff).matches(&event(EventKind::MmioRead, 0xffc, 8)));
    }
}
