//! All interrupt chips as a person sees them: their registers, and where each interrupt waits, and what for.
use super::{Chips, InterruptComplex, Signals};
use crate::arch::layout::{IOAPIC_PIN_PIT, IRQ_CASCADE, IRQ_PIT};
use crate::bus::VcpuId;
use crate::device::registers::{Block, Described};
use std::sync::atomic::Ordering;

/// Inputs of the I/O APIC.
const PINS: u8 = 24;

/// What the chips hold for one CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which one.
    pub vcpu: VcpuId,
    /// What waits in its local APIC, in a sentence, with the reason if it is held back there.
    pub lapic: Option<String>,
    /// The 8259s ask for this vector, and whether this CPU hears them: why not, if it does not.
    pub pic: Option<(u8, Result<(), &'static str>)>,
    /// The CPU is offered an interrupt: it takes it as soon as it can take any.
    pub offered: bool,
    /// Messages that are no interrupts and that it has not taken yet: INIT, NMI, start-up.
    pub messages: Vec<&'static str>,
}

/// One line of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// Its number.
    pub line: u8,
    /// Where it is, and what for, one sentence for each chip that has it.
    pub places: Vec<String>,
}

impl Chips {
    fn ways(&self) -> Vec<Way> {
        let of = |line: u8| {
            let pin = match line {
                IRQ_PIT => Some(IOAPIC_PIN_PIT),
                IRQ_CASCADE => None,
                line => Some(line),
            };
            let places = [self.pics.way_of(line), pin.and_then(|pin| self.ioapic.way_of(pin))];
            Way { line, places: places.into_iter().flatten().collect() }
        };
        (0..PINS).map(of).filter(|way| !way.places.is_empty()).collect()
    }

    fn offer(&self, number: usize) -> Option<Offer> {
        let lapic = self.lapics.get(number)?;
        let heard =
            if lapic.accepts_extint() { Ok(()) } else { Err("its LINT0 does not let the 8259s through") };
        let pic = self.pics.next_vector().map(|vector| (vector, heard));
        let signals = self.signals.get(number).map_or(0, |s| s.0.load(Ordering::SeqCst));
        let messages = [(Signals::INIT, "INIT"), (Signals::NMI, "NMI"), (Signals::START_UP, "start-up")];
        Some(Offer {
            vcpu: VcpuId(number as u8),
            lapic: lapic.waits(),
            offered: lapic.deliverable().is_some() || matches!(pic, Some((_, Ok(())))),
            pic,
            messages: messages
                .into_iter()
                .filter(|(bit, _)| signals & bit != 0)
                .map(|(_, name)| name)
                .collect(),
        })
    }
}

impl InterruptComplex {
    /// The lines that some chip has something of, and what each CPU is offered. Nothing is acknowledged.
    #[must_use]
    pub fn waiting(&self) -> (Vec<Way>, Vec<Offer>) {
        let chips = self.lock();
        (chips.ways(), (0..chips.lapics.len()).filter_map(|number| chips.offer(number)).collect())
    }
}

impl Described for InterruptComplex {
    /// The chips have names of their own.
    fn describe(&self, _: &str) -> Vec<Block> {
        let chips = self.lock();
        let mut blocks = chips.pics.describe().to_vec();
        blocks.push(chips.ioapic.describe());
        blocks.extend(chips.lapics.iter().enumerate().map(|(number, lapic)| lapic.describe(number)));
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Port, Width};
    use crate::bus::{InterruptController, IrqSink, MmioTarget, PortTarget};
    use crate::clock::{Clock, ClockSource, TimerQueue};
    use crate::device::interrupts::{IoApicPage, LapicPage, PicPorts};
    use crate::device::registers::tests::find;
    use std::sync::Arc;

    fn complex() -> Arc<InterruptComplex> {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        InterruptComplex::new(&clock, &[TimerQueue::new()], Box::new(|_| ()))
    }

    #[test]
    fn a_line_is_followed_through_the_chips_to_the_cpu() {
        let complex = complex();
        let (ways, offers) = complex.waiting();
        assert!(ways.is_empty() && !offers[0].offered, "{ways:?} {offers:?}");
        complex.set_line(4, true);
        let (ways, offers) = complex.waiting();
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0].line, 4);
        assert!(ways[0].places[0].ends_with("masked by the IMR"), "{ways:?}");
        assert!(ways[0].places[1].ends_with("masked, so that edges are lost"), "{ways:?}");
        assert!(!offers[0].offered && offers[0].pic.is_none());
        // The 8259 lets it through, and LINT0 is open after reset.
        let pics = PicPorts(Arc::clone(&complex));
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xef)] {
            pics.port_write(Port(port), Width::B1, value);
        }
        complex.set_line(4, false);
        complex.set_line(4, true);
        let offer = complex.waiting().1.remove(0);
        assert_eq!((offer.pic, offer.offered), (Some((0x24, Ok(()))), true));
        assert_eq!(complex.acknowledge(VcpuId(0)), Some(0x24), "looking took nothing away");
    }

    #[test]
    fn what_the_local_apic_holds_back_is_told_with_the_reason() {
        let complex = complex();
        let (lapic, ioapic) = (LapicPage(Arc::clone(&complex)), IoApicPage(Arc::clone(&complex)));
        let write = |at, value| lapic.mmio_write(VcpuId(0), at, Width::B4, value);
        write(0xf0, 0x1ff);
        write(0x80, 0x50);
        for (select, value) in [(0x18, 0x45), (0x19, 0)] {
            ioapic.mmio_write(VcpuId(0), 0, Width::B4, select);
            ioapic.mmio_write(VcpuId(0), 0x10, Width::B4, value);
        }
        complex.set_line(4, true);
        let waits = || complex.waiting().1.remove(0);
        assert_eq!(
            waits().lapic.unwrap(),
            "pending in the local APIC: 0x45; held back by the TPR (0x50, CR8 = 5)"
        );
        assert!(!waits().offered);
        let blocks = complex.describe("interrupts");
        assert_eq!(find(&blocks, "lapic 0", "IRR").words, ["0x45"]);
        assert_eq!(find(&blocks, "lapic 0", "PPR").value, Some(0x50));
        assert_eq!(
            find(&blocks, "lapic 0", "LVT_LINT0").words,
            ["vector 0x00", "ExtINT", "edge", "not masked"]
        );
        write(0x80, 0);
        assert!(waits().offered && waits().lapic.unwrap().ends_with("vector 0x45 is offered to the CPU"));
        assert_eq!(complex.acknowledge(VcpuId(0)), Some(0x45));
        complex.set_line(4, false);
        complex.set_line(4, true);
        assert!(waits().lapic.unwrap().ends_with("held back by vector 0x45 in service, until its EOI"));
    }
}
