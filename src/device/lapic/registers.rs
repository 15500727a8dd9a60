//! A local APIC as a person sees it: counts as they stand now, no error register cleared.
use super::spec::{ApicBase, LVT_COUNT, Lvt, Svr, TIMER, VERSION};
use super::timer::Counter;
use super::{Lapic, Vectors};
use crate::device::registers::{Block, names};
use std::borrow::Cow;

const LVT_NAMES: [&str; LVT_COUNT] =
    ["LVT_TIMER", "LVT_THERMAL", "LVT_PERFORMANCE", "LVT_LINT0", "LVT_LINT1", "LVT_ERROR"];

fn list(set: &Vectors) -> Vec<Cow<'static, str>> {
    let vectors: Vec<_> =
        (0..=255).filter(|&v| set.contains(v)).map(|v| format!("{v:#04x}").into()).collect();
    if vectors.is_empty() { vec!["none".into()] } else { vectors }
}

fn entry_words(index: usize, entry: Lvt) -> Vec<Cow<'static, str>> {
    let mut words = vec![format!("vector {:#04x}", entry.vector()).into()];
    if index == TIMER {
        let mode = if entry.contains(Lvt::DEADLINE) {
            "TSC deadline"
        } else if entry.contains(Lvt::PERIODIC) {
            "periodic"
        } else {
            "one-shot"
        };
        words.push(mode.into());
    } else {
        words.push(entry.mode().name().into());
        words.push(if entry.contains(Lvt::LEVEL) { "level" } else { "edge" }.into());
    }
    words.extend(entry.contains(Lvt::REMOTE_IRR).then_some("remote IRR".into()));
    words.push(if entry.contains(Lvt::MASKED) { "masked" } else { "not masked" }.into());
    words
}

impl Lapic {
    /// The registers by name, of the local APIC of CPU `number`.
    pub(in crate::device) fn describe(&self, number: usize) -> Block {
        let s = &self.state;
        let now = self.clock.now();
        let Counter { initial, divide, expiry } = s.counter;
        let mut base = names(&ApicBase::from_bits_truncate(
            s.base.bits() & (ApicBase::BSP | ApicBase::EXTD | ApicBase::ENABLE).bits(),
        ));
        base.push(format!("at {:#x}", s.base.bits() & 0x000f_ffff_ffff_f000).into());
        let spurious = format!("spurious vector {:#04x}", s.svr.bits() as u8);
        let mut svr = names(&(s.svr & Svr::ENABLE));
        svr.push(
            if s.svr.contains(Svr::ENABLE) { spurious } else { format!("switched off, {spurious}") }.into(),
        );
        let left = match expiry {
            None => "stands".to_owned(),
            Some(at) if at <= now => "has run out".to_owned(),
            Some(at) => format!("runs out in {:.3} µs of guest time", at.since(now) as f64 / 1000.0),
        };
        let ppr = self.ppr();
        let mut block = Block::new(format!("lapic {number}"))
            .put("APIC_BASE", 64, s.base.bits(), base)
            .said("ID", 32, s.id, format!("logical {:#04x}", s.ldr))
            .plain("VERSION", 32, VERSION)
            .said("TPR", 8, s.tpr, format!("CR8 = {}", s.tpr >> 4))
            .said("PPR", 8, ppr, format!("vectors from {:#x} on get through", (u16::from(ppr >> 4) + 1) << 4))
            .said("DFR", 4, s.model, if s.model == 0xf { "flat" } else { "cluster" })
            .put("SVR", 32, s.svr.bits(), svr)
            .words("IRR", list(&s.irr))
            .words("ISR", list(&s.isr))
            .words("TMR", list(&s.tmr))
            .flags("ESR", s.esr)
            .plain("ICR", 64, u64::from(s.icr[1]) << 32 | u64::from(s.icr[0]));
        for (index, (name, entry)) in LVT_NAMES.into_iter().zip(s.lvt).enumerate() {
            block = block.put(name, 32, entry.bits(), entry_words(index, entry));
        }
        block = block.plain("INITIAL_COUNT", 32, initial).said(
            "DIVIDE",
            32,
            divide,
            format!("by {}", 1 << (((divide & 3 | divide >> 1 & 4) + 1) & 7)),
        );
        if self.waits_for_deadline() {
            return block.said("TSC_DEADLINE", 64, s.deadline, left);
        }
        block.said("CURRENT_COUNT", 32, s.counter.current(now), left)
    }

    /// Why this APIC hands out nothing, if interrupts wait in it, the highest first; or what it hands out.
    pub(in crate::device) fn waits(&self) -> Option<String> {
        let highest = self.state.irr.highest()?;
        let vectors = list(&self.state.irr).join(", ");
        let why = if !self.is_software_enabled() {
            "held back: the APIC is switched off".to_owned()
        } else if self.deliverable().is_some() {
            format!("vector {highest:#04x} is offered to the CPU")
        } else if let Some(serviced) = self.state.isr.highest().filter(|v| v & 0xf0 >= highest & 0xf0) {
            format!("held back by vector {serviced:#04x} in service, until its EOI")
        } else {
            format!("held back by the TPR ({:#04x}, CR8 = {})", self.state.tpr, self.state.tpr >> 4)
        };
        Some(format!("pending in the local APIC: {vectors}; {why}"))
    }
}
