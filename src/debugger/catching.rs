//! Catchpoints: events of the guest, by the names of the trace, that stop it; and breakpoints with conditions.
use super::breakpoints::Catchpoint;
use super::condition::Condition;
use super::error::DebuggerError;
use super::memory::Space;
use super::session::{Reply, Session};
use super::view::trace;
use crate::arch::{CpuState, Gva, layout};
use crate::engine::{Catch, Event, EventKind};
use serde_json::json;

/// What is to be caught, as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatchRequest {
    /// Events of these kinds; of which port, address, leaf, vector or register, if not of all.
    Kinds(Vec<EventKind>, Option<u64>),
    /// Accesses to a device.
    Device(String),
}

/// The words of `catch exit`: those of the trace, and for what belongs together.
const CAUSES: [(&str, &[EventKind]); 17] = [
    ("port-read", &[EventKind::PortRead]),
    ("port-write", &[EventKind::PortWrite]),
    ("port", &[EventKind::PortRead, EventKind::PortWrite]),
    ("mmio-read", &[EventKind::MmioRead]),
    ("mmio-write", &[EventKind::MmioWrite]),
    ("mmio", &[EventKind::MmioRead, EventKind::MmioWrite]),
    ("msr-read", &[EventKind::MsrRead]),
    ("msr-write", &[EventKind::MsrWrite]),
    ("msr", &[EventKind::MsrRead, EventKind::MsrWrite]),
    ("cpuid", &[EventKind::Cpuid]),
    ("interrupt", &[EventKind::Interrupt]),
    ("exception", &[EventKind::Exception]),
    ("hypercall", &[EventKind::Hypercall]),
    ("rescue", &[EventKind::Rescue]),
    ("halt", &[EventKind::Halt]),
    ("cr-write", &[EventKind::ControlWrite]),
    ("hlt", &[EventKind::Halt]),
];

impl CatchRequest {
    /// Parses what stands behind `catch`; `number` parses a number.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn parse(text: &str, number: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let of = |cause: &str, which: Option<&&str>| {
            let found = CAUSES.iter().find(|(name, _)| *name == cause);
            let (_, kinds) = found.ok_or_else(|| {
                let names: Vec<_> = CAUSES.iter().map(|(name, _)| *name).collect();
                format!("'{cause}' is no cause; there are {}", names.join(", "))
            })?;
            Ok(Self::Kinds(kinds.to_vec(), which.map(|which| number(which)).transpose()?))
        };
        match words.as_slice() {
            [] => Err("what is to be caught is missing".to_owned()),
            ["device", name] => Ok(Self::Device((*name).to_owned())),
            ["device"] => Err("the name of a device is missing".to_owned()),
            ["exit", cause] => of(cause, None),
            ["exit", cause, which] => of(cause, Some(which)),
            [cause @ ("interrupt" | "exception" | "cr-write")] => of(cause, None),
            [cause @ ("interrupt" | "exception" | "cr-write"), which] => of(cause, Some(which)),
            ["exit"] => of("", None),
            [other, ..] => {
                Err(format!("'{other}' is neither exit, interrupt, exception, cr-write nor device"))
            }
        }
    }
}

impl Session {
    /// Stops the guest at such events from now on.
    pub(super) fn catch(&mut self, request: &CatchRequest, written: &str) -> Result<Reply, DebuggerError> {
        let filters = match request {
            CatchRequest::Kinds(kinds, which) => {
                kinds.iter().map(|kind| Catch::Kind(*kind, *which)).collect()
            }
            CatchRequest::Device(name) => self.places_of(name)?,
        };
        let number = self.breakpoints.add_catch(written.to_owned(), filters);
        self.tell_catches();
        let mut reply = Reply::said(format!("catchpoint {number}: {written}"));
        reply.data = json!({"number": number, "catch": written});
        if self.machine.catches_are_interpreted() {
            self.note_interpreter(&mut reply);
        }
        Ok(reply)
    }

    /// Where a device is.
    fn places_of(&self, name: &str) -> Result<Vec<Catch>, DebuggerError> {
        const LAPIC: &str = "lapic";
        let bus = self.machine.platform().bus();
        let ports = bus.ports_of(name).into_iter().map(|port| u64::from(port.0)..=u64::from(port.0));
        let mut places: Vec<_> = ports.map(Catch::Ports).collect();
        places.extend(bus.memory_of(name).map(Catch::Memory));
        if name == LAPIC {
            let first = layout::LAPIC.0;
            places.push(Catch::Memory(first..=first + (layout::LAPIC_SIZE - 1)));
        }
        if places.is_empty() {
            let mut names = bus.names();
            names.push(LAPIC);
            return Err(DebuggerError::NoDevice { name: name.to_owned(), names: names.join(", ") });
        }
        Ok(places)
    }

    /// Tells the machine what is caught.
    pub(super) fn tell_catches(&self) {
        let filters = self.breakpoints.catches().iter().flat_map(|point| point.filters.iter().cloned());
        self.machine.catch_events(filters.collect());
    }

    /// What was caught, in words: the catchpoints, and the event.
    pub(super) fn caught(&mut self, event: &Event) -> (Vec<u32>, String) {
        let numbers = self.breakpoints.hit_catches(event);
        let what = format!(
            "{}: {}",
            trace::name(event.kind),
            trace::words(event.kind, event.at, event.value, event.width)
        );
        (numbers, what)
    }

    /// Counts a meeting of the breakpoints at `at` whose conditions hold; their numbers.
    pub(super) fn meet(&mut self, at: Gva) -> Vec<u32> {
        if !self.breakpoints.list().iter().any(|b| b.at == at) {
            return Vec::new();
        }
        // One whose condition has no value stops the guest, and so does one that cannot be asked.
        let met = match self.state() {
            Ok(state) => self.met_at(at, &state),
            Err(_) => self.breakpoints.list().iter().filter(|b| b.at == at).map(|b| b.number).collect(),
        };
        self.breakpoints.count(&met);
        met
    }

    /// The breakpoints at `at` whose conditions hold in `state`. One whose condition has no value stops the guest: a person
    /// who wrote it wants to know.
    pub(super) fn met_at(&self, at: Gva, state: &CpuState) -> Vec<u32> {
        let holds = |condition: &Condition| self.holds(condition, state).unwrap_or(true);
        let here = self.breakpoints.list().iter().filter(|b| b.at == at);
        here.filter(|b| b.condition.as_ref().is_none_or(holds)).map(|b| b.number).collect()
    }

    /// Whether a condition is true in `state`, the present one.
    fn holds(&self, condition: &Condition, state: &CpuState) -> Result<bool, DebuggerError> {
        let cr8 = self.machine.platform().cr8(self.cpu);
        let memory = self.memory(state);
        let read = |at, bytes: usize| {
            let read = memory.read_prefix(Space::Virtual, at, bytes);
            let mut all = [0; 8];
            (read.len() == bytes).then(|| {
                all[..bytes].copy_from_slice(&read);
                u64::from_le_bytes(all)
            })
        };
        Ok(condition.holds(&self.scope(state, cr8), read)?)
    }
}

impl Catchpoint {
    /// Whether the event is one of its.
    pub(super) fn matches(&self, event: &Event) -> bool {
        self.filters.iter().any(|filter| filter.matches(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debugger::expression::parse_number;

    fn parse(text: &str) -> Result<CatchRequest, String> {
        CatchRequest::parse(text, |word| parse_number(word).map_err(|error| error.to_string()))
    }

    #[test]
    fn what_can_be_caught() {
        use EventKind::{ControlWrite, Exception, Interrupt, PortRead, PortWrite};
        let kinds = |kinds: &[EventKind], which| Ok(CatchRequest::Kinds(kinds.to_vec(), which));
        assert_eq!(parse("exit port"), kinds(&[PortRead, PortWrite], None));
        assert_eq!(parse("exit port-write 0x3f8"), kinds(&[PortWrite], Some(0x3f8)));
        assert_eq!(parse("interrupt"), kinds(&[Interrupt], None));
        assert_eq!(parse("exception 14"), kinds(&[Exception], Some(14)));
        assert_eq!(parse("cr-write 3"), kinds(&[ControlWrite], Some(3)));
        assert_eq!(parse("device uart16550"), Ok(CatchRequest::Device("uart16550".into())));
        for wrong in ["", "exit", "exit nothing", "device", "interrupt x", "rain", "exit port 1 2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
