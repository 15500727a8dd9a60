//! The exit trace in words: what left the guest, and where it went.
use super::{Angled, Hex};
use crate::arch::exception::Vector;
use crate::arch::{Port, layout, msr};
use crate::debugger::events::Traced;
use crate::debugger::symbols::Symbols;
use crate::engine::{EventCost, EventKind};
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The event's number; gaps are events that were not kept.
    pub number: u64,
    /// What happened: `port-write`, `interrupt`, …
    pub kind: &'static str,
    /// Address, port, index or vector.
    pub at: Hex,
    /// The value that went with it.
    pub value: Hex,
    /// Bytes of the access.
    pub width: u8,
    /// The same in words.
    pub words: String,
    /// The instruction, where it is known.
    pub rip: Option<Hex>,
    /// Its symbol.
    pub symbol: Option<String>,
    /// What it cost, as far as that is known: host time from leaving guest code until that went on, in nanoseconds.
    pub nanos: Option<u64>,
    /// Events that this is the cost of together: this one, and those after it that are within it.
    pub events: Option<u32>,
    /// The event in whose cost this one's is.
    pub within: Option<u64>,
}

/// A piece of the trace.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Whether events are being recorded.
    pub recording: bool,
    /// How many are kept.
    pub kept: usize,
    /// Oldest first.
    pub lines: Vec<Line>,
}

/// The events in words.
#[must_use]
pub fn lines<'a>(events: impl Iterator<Item = &'a Traced>, symbols: &Symbols) -> Vec<Line> {
    events
        .map(|traced| {
            let event = traced.event;
            // Hypercalls and rescues say themselves where they happened.
            let site = matches!(event.kind, EventKind::Hypercall | EventKind::Rescue).then_some(event.at);
            let rip = traced.rip.or(site);
            Line {
                number: event.number,
                kind: name(event.kind),
                at: Hex(event.at),
                value: Hex(event.value),
                width: event.width,
                words: words(event.kind, event.at, event.value, event.width),
                rip: rip.map(Hex),
                symbol: rip.and_then(|at| symbols.label(at)),
                nanos: if let EventCost::Stay { nanos, .. } = event.cost { Some(nanos) } else { None },
                events: if let EventCost::Stay { events, .. } = event.cost { Some(events) } else { None },
                within: if let EventCost::Within(first) = event.cost { Some(first) } else { None },
            }
        })
        .collect()
}

/// What one kind of event cost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CostRow {
    /// The kind.
    pub kind: &'static str,
    /// Events of it that are kept.
    pub count: usize,
    /// Stays outside of guest code that began with one: those that were timed.
    pub timed: usize,
    /// What these took together, in nanoseconds; other events that they had are in it.
    pub total: u64,
    /// The median of them, in nanoseconds.
    pub median: Option<u64>,
}

/// What events cost, by kind.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// Those that took the most in all first.
    pub rows: Vec<CostRow>,
    /// Events whose cost is not known, nor in another's.
    pub unknown: usize,
}

/// Sums up what events cost.
#[must_use]
pub fn costs<'a>(events: impl Iterator<Item = &'a Traced>) -> Costs {
    let mut kinds: Vec<(&'static str, usize, Vec<u64>)> = Vec::new();
    let mut unknown = 0;
    for event in events.map(|traced| traced.event) {
        let name = name(event.kind);
        let place = kinds.iter().position(|(kind, ..)| *kind == name).unwrap_or_else(|| {
            kinds.push((name, 0, Vec::new()));
            kinds.len() - 1
        });
        let (_, count, timed) = &mut kinds[place];
        *count += 1;
        match event.cost {
            EventCost::Stay { nanos, .. } => timed.push(nanos),
            EventCost::Within(_) => {}
            EventCost::Unknown => unknown += 1,
        }
    }
    let row = |(kind, count, mut timed): (&'static str, usize, Vec<u64>)| {
        timed.sort_unstable();
        let median = timed.get(timed.len() / 2).map(|&upper| match timed.len() % 2 {
            0 => timed[timed.len() / 2 - 1].midpoint(upper),
            _ => upper,
        });
        let total = timed.iter().fold(0, |sum: u64, &nanos| sum.saturating_add(nanos));
        CostRow { kind, count, timed: timed.len(), total, median }
    };
    let mut rows: Vec<_> = kinds.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.total, row.count)));
    Costs { rows, unknown }
}

/// Nanoseconds for people.
fn time(nanos: u64) -> String {
    match nanos {
        0..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        _ => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return f.write_str("no events are kept; 'trace on' records what leaves the guest");
        }
        write!(f, "{:12} {:>8} {:>8} {:>12} {:>12}", "kind", "count", "timed", "total", "median")?;
        for row in &self.rows {
            let CostRow { kind, count, timed, total, median } = row;
            let total = if *timed == 0 { "not known".to_owned() } else { time(*total) };
            let median = median.map_or_else(|| "not known".to_owned(), time);
            write!(f, "\n{kind:12} {count:>8} {timed:>8} {total:>12} {median:>12}")?;
        }
        if self.unknown > 0 {
            write!(
                f,
                "\nof {} the cost is not known: the interpreter executed the guest, or it did not go on since",
                self.unknown
            )?;
        }
        Ok(())
    }
}

/// The word for a kind of event.
#[must_use]
pub const fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::PortRead => "port-read",
        EventKind::PortWrite => "port-write",
        EventKind::MmioRead => "mmio-read",
        EventKind::MmioWrite => "mmio-write",
        EventKind::MsrRead => "msr-read",
        EventKind::MsrWrite => "msr-write",
        EventKind::Cpuid => "cpuid",
        EventKind::Interrupt => "interrupt",
        EventKind::Exception => "exception",
        EventKind::Hypercall => "hypercall",
        EventKind::Rescue => "rescue",
        EventKind::Halt => "halt",
        EventKind::ControlWrite => "cr-write",
    }
}

/// What happened, in words.
#[must_use]
pub fn words(kind: EventKind, at: u64, value: u64, width: u8) -> String {
    let digits = 2 * usize::from(width);
    let text = |value: u64| match u8::try_from(value) {
        Ok(b @ 0x20..0x7f) if width == 1 => format!(" '{}'", char::from(b)),
        _ => String::new(),
    };
    match kind {
        EventKind::PortRead => format!("in {at:#x}{} gave 0x{value:0digits$x}", device_of_port(at)),
        EventKind::PortWrite => {
            format!("out {at:#x}{}, 0x{value:0digits$x}{}", device_of_port(at), text(value))
        }
        EventKind::MmioRead => format!("read {at:#x}{} gave 0x{value:0digits$x}", device_at(at)),
        EventKind::MmioWrite => format!("write {at:#x}{}, 0x{value:0digits$x}", device_at(at)),
        EventKind::MsrRead => format!("rdmsr {at:#x}{} gave {value:#x}", msr_name(at)),
        EventKind::MsrWrite => format!("wrmsr {at:#x}{}, {value:#x}", msr_name(at)),
        EventKind::Cpuid => format!("cpuid leaf {at:#x} gave eax {value:#x}"),
        EventKind::Interrupt => format!("interrupt vector {at:#x} entered"),
        EventKind::Exception => format!("{} entered, error code {value:#x}", exception(at)),
        EventKind::Hypercall => format!("hypercall at {at:#x}, {value:#x}"),
        EventKind::Rescue => format!("instruction at {at:#x} executed by the interpreter"),
        EventKind::Halt => "halted until an interrupt".to_owned(),
        EventKind::ControlWrite => format!("cr{at} = {value:#x}"),
    }
}

fn device_of_port(port: u64) -> String {
    let all: [(&RangeInclusive<Port>, &str); 11] = [
        (&layout::PIC_MASTER, "master PIC"),
        (&layout::PIC_SLAVE, "slave PIC"),
        (&layout::PIC_ELCR, "PIC ELCR"),
        (&layout::PIT, "PIT"),
        (&layout::SYSTEM_CONTROL, "system control"),
        (&layout::I8042_DATA, "i8042"),
        (&layout::I8042_COMMAND, "i8042"),
        (&layout::CMOS, "CMOS"),
        (&layout::COM1, "COM1"),
        (&layout::DEBUG_EXIT, "debug exit"),
        (&layout::BENCH, "bench"),
    ];
    let port = u16::try_from(port).map(Port);
    match all.iter().find(|(range, _)| port.is_ok_and(|p| range.contains(&p))) {
        Some((_, name)) => format!(" ({name})"),
        None => String::new(),
    }
}

fn device_at(at: u64) -> &'static str {
    if at.checked_sub(layout::LAPIC.0).is_some_and(|offset| offset < layout::LAPIC_SIZE) {
        " (local APIC)"
    } else if at.checked_sub(layout::IOAPIC.0).is_some_and(|offset| offset < 0x1000) {
        " (I/O APIC)"
    } else {
        ""
    }
}

fn msr_name(index: u64) -> &'static str {
    match u32::try_from(index) {
        Ok(msr::APIC_BASE) => " (APIC base)",
        Ok(msr::TSC) => " (TSC)",
        Ok(msr::EFER) => " (EFER)",
        Ok(0x6e0) => " (TSC deadline)",
        _ => "",
    }
}

/// The exception of a vector, with its usual abbreviation.
#[must_use]
pub fn exception(vector: u64) -> String {
    let known = [
        (Vector::DivideError, "#DE"),
        (Vector::Debug, "#DB"),
        (Vector::Nmi, "NMI"),
        (Vector::Breakpoint, "#BP"),
        (Vector::Overflow, "#OF"),
        (Vector::BoundRange, "#BR"),
        (Vector::InvalidOpcode, "#UD"),
        (Vector::DeviceNotAvailable, "#NM"),
        (Vector::DoubleFault, "#DF"),
        (Vector::InvalidTss, "#TS"),
        (Vector::SegmentNotPresent, "#NP"),
        (Vector::StackFault, "#SS"),
        (Vector::GeneralProtection, "#GP"),
        (Vector::PageFault, "#PF"),
        (Vector::X87, "#MF"),
        (Vector::AlignmentCheck, "#AC"),
        (Vector::MachineCheck, "#MC"),
        (Vector::Simd, "#XM"),
    ];
    match known.iter().find(|(v, _)| u64::from(*v as u8) == vector) {
        Some((_, short)) => (*short).to_owned(),
        None => format!("vector {vector:#x}"),
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.recording { "on" } else { "off" };
        write!(f, "trace is {state}, {} events kept", self.kept)?;
        if self.lines.is_empty() && !self.recording {
            f.write_str("; 'trace on' records what leaves the guest")?;
        }
        for line in &self.lines {
            let place = match line.rip {
                Some(rip) => format!("   at {rip}{}", Angled(&line.symbol)),
                None => String::new(),
            };
            write!(f, "\n{:>6}  {:10}  {}{place}", line.number, line.kind, line.words)?;
            match (line.nanos, line.events, line.within) {
                (Some(nanos), Some(2..), _) => {
                    write!(f, "   [{}, with {} more]", time(nanos), line.events.unwrap_or(1) - 1)?
                }
                (Some(nanos), ..) => write!(f, "   [{}]", time(nanos))?,
                (_, _, Some(first)) => write!(f, "   [in {first}]")?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debugger::symbols::tests::sample;
    use crate::engine::Event;

    #[test]
    fn each_kind_in_words() {
        let event = |number, kind, at, value, width, rip| Traced {
            event: Event { number, kind, at, value, width, cost: EventCost::Unknown },
            rip,
        };
        let events = [
            event(0, EventKind::PortWrite, 0x3f8, 0x48, 1, Some(0x20_22f4)),
            event(1, EventKind::PortRead, 0x3fd, 0x60, 1, None),
            event(2, EventKind::PortWrite, 0x1234, 5, 2, None),
            event(3, EventKind::MmioRead, 0xfee0_0020, 0, 4, None),
            event(4, EventKind::MmioWrite, 0xd000_0000, 7, 8, None),
            event(5, EventKind::MsrRead, 0x1b, 0xfee0_0900, 8, None),
            event(6, EventKind::Cpuid, 1, 0x6fb, 4, None),
            event(7, EventKind::Interrupt, 0x20, 0, 0, None),
            event(8, EventKind::Exception, 14, 2, 0, None),
            event(9, EventKind::Exception, 33, 0, 0, None),
            event(10, EventKind::Hypercall, 0x20_0094, 3, 0, None),
            event(11, EventKind::Rescue, 0x20_0094, 0, 0, None),
            event(15, EventKind::Halt, 0, 0, 0, None),
        ];
        let symbols = sample();
        let shown = Trace { recording: true, kept: 13, lines: lines(events.iter(), &symbols) };
        insta::assert_snapshot!(shown);
        let none = Trace { recording: false, kept: 0, lines: Vec::new() };
        assert_eq!(none.to_string(), "trace is off, 0 events kept; 'trace on' records what leaves the guest");
    }

    #[test]
    fn costs_are_told_beside_events_and_summed_up_by_kind() {
        let event = |number, kind, cost| Traced {
            event: Event { number, kind, at: 0x3f8, value: 0x41, width: 1, cost },
            rip: None,
        };
        let stay = |nanos, events| EventCost::Stay { nanos, events };
        let events = [
            event(0, EventKind::PortWrite, stay(900, 1)),
            event(1, EventKind::PortWrite, stay(25_000, 2)),
            event(2, EventKind::Interrupt, EventCost::Within(1)),
            event(3, EventKind::PortWrite, stay(1_100, 1)),
            event(4, EventKind::PortWrite, stay(1_300, 1)),
            event(5, EventKind::Cpuid, stay(12_345_678, 1)),
            event(6, EventKind::Halt, EventCost::Unknown),
        ];
        let lines = lines(events.iter(), &Symbols::default());
        insta::assert_snapshot!(Trace { recording: true, kept: 7, lines }, @r"
        trace is on, 7 events kept
             0  port-write  out 0x3f8 (COM1), 0x41 'A'   [900 ns]
             1  port-write  out 0x3f8 (COM1), 0x41 'A'   [25.0 µs, with 1 more]
             2  interrupt   interrupt vector 0x3f8 entered   [in 1]
             3  port-write  out 0x3f8 (COM1), 0x41 'A'   [1100 ns]
             4  port-write  out 0x3f8 (COM1), 0x41 'A'   [1300 ns]
             5  cpuid       cpuid leaf 0x3f8 gave eax 0x41   [12.3 ms]
             6  halt        halted until an interrupt
        ");
        insta::assert_snapshot!(costs(events.iter()), @r"
        kind            count    timed        total       median
        cpuid               1        1      12.3 ms      12.3 ms
        port-write          4        4      28.3 µs      1200 ns
        interrupt           1        0    not known    not known
        halt                1        0    not known    not known
        of 1 the cost is not known: the interpreter executed the guest, or it did not go on since
        ");
        assert!(costs([].iter()).to_string().starts_with("no events are kept"));
    }
}
