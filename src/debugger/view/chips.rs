//! The interrupt chips: what waits where and what for, and then their registers.
use super::devices::{Block, Devices};
use crate::arch::{Activity, CpuState, Rflags};
use crate::machine::{Offer, Way};
use serde::Serialize;
use std::fmt;

/// The devices whose registers belong to this view, by the beginning of their names.
pub const CHIPS: [&str; 4] = ["pic8259", "ioapic", "lapic", "pit8254"];

/// An interrupt line that some chip has something of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// Its number.
    pub irq: u8,
    /// Where it is, and what for.
    pub places: Vec<String>,
}

/// What a CPU is offered, and whether it takes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cpu {
    /// Its number.
    pub number: u8,
    /// The chips offer it an interrupt.
    pub offered: bool,
    /// What is offered to it or held back from it, one sentence each.
    pub waiting: Vec<String>,
    /// Why it would not take an interrupt now; `None` if it would.
    pub refuses: Option<&'static str>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Chips {
    /// Lines on their way.
    pub lines: Vec<Line>,
    /// The CPUs, by number.
    pub cpus: Vec<Cpu>,
    /// Registers.
    pub blocks: Vec<Block>,
}

/// Why a CPU in this state takes no interrupt (SDM vol. 3A, 6.8).
#[must_use]
pub fn refuses(state: &CpuState) -> Option<&'static str> {
    match state.activity {
        Activity::WaitsForStartUp => Some("it waits for start-up"),
        Activity::Shutdown => Some("it is shut down"),
        _ if !state.rflags.contains(Rflags::IF) => Some("interrupts are off (RFLAGS.IF = 0)"),
        _ if state.pending_exception.is_some() => Some("an exception is delivered first"),
        _ if state.interrupt_shadow => {
            Some("the instruction after STI, MOV SS or POP SS is executed first (interrupt shadow)")
        }
        _ => None,
    }
}

/// What the chips say, for CPUs in these states.
#[must_use]
pub fn show(ways: Vec<Way>, offers: Vec<Offer>, states: &[CpuState], blocks: Vec<Block>) -> Chips {
    let cpu = |(offer, state): (Offer, &CpuState)| {
        let mut waiting: Vec<String> = offer.lapic.into_iter().collect();
        match offer.pic {
            Some((vector, Ok(()))) => waiting.push(format!("the 8259s offer vector {vector:#04x}")),
            Some((vector, Err(why))) => {
                waiting.push(format!("the 8259s ask for vector {vector:#04x}, unheard: {why}"));
            }
            None => {}
        }
        waiting.extend(offer.messages.iter().map(|message| format!("{message} was sent to it")));
        Cpu { number: offer.vcpu.0, offered: offer.offered, waiting, refuses: refuses(state) }
    };
    Chips {
        lines: ways.into_iter().map(|way| Line { irq: way.line, places: way.places }).collect(),
        cpus: offers.into_iter().zip(states).map(cpu).collect(),
        blocks,
    }
}

impl fmt::Display for Chips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            f.write_str("no line is pending")?;
        }
        for (number, line) in self.lines.iter().enumerate() {
            let break_ = if number == 0 { "" } else { "\n" };
            write!(f, "{break_}IRQ{}: {}", line.irq, line.places.join("; "))?;
        }
        for cpu in &self.cpus {
            let waiting = match cpu.waiting.is_empty() {
                true => "nothing waits".to_owned(),
                false => cpu.waiting.join("; "),
            };
            let then = match (cpu.offered, cpu.refuses) {
                (true, None) => "; it is taken before the next instruction".to_owned(),
                (true, Some(why)) => format!("; not taken now: {why}"),
                (false, None) => "; interrupts are on".to_owned(),
                (false, Some(why)) => format!("; {why}"),
            };
            write!(f, "\nCPU {}: {waiting}{then}", cpu.number)?;
        }
        if !self.blocks.is_empty() {
            write!(f, "\n{}", Devices { blocks: self.blocks.clone() })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::VcpuId;

    #[test]
    fn what_is_pending_is_told_with_what_it_waits_for() {
        let offer = |number, lapic: Option<&str>, pic, offered, messages| Offer {
            vcpu: VcpuId(number),
            lapic: lapic.map(str::to_owned),
            pic,
            offered,
            messages,
        };
        let offers = vec![
            offer(0, Some("pending in the local APIC: 0x45; …"), Some((0x24, Ok(()))), true, vec![]),
            offer(1, None, Some((0x24, Err("its LINT0 is shut"))), false, vec!["NMI"]),
        ];
        let mut states = [CpuState::reset(), CpuState::reset()];
        states[1].activity = Activity::WaitsForStartUp;
        let ways =
            || vec![Way { line: 4, places: vec!["pending here".to_owned(), "masked there".to_owned()] }];
        insta::assert_snapshot!(show(ways(), offers.clone(), &states, vec![]), @r"
        IRQ4: pending here; masked there
        CPU 0: pending in the local APIC: 0x45; …; the 8259s offer vector 0x24; not taken now: interrupts are off (RFLAGS.IF = 0)
        CPU 1: the 8259s ask for vector 0x24, unheard: its LINT0 is shut; NMI was sent to it; it waits for start-up
        ");
        states[0].rflags |= Rflags::IF;
        let taken = show(vec![], offers.clone(), &states, vec![]).to_string();
        assert!(taken.starts_with("no line is pending\nCPU 0: "), "{taken}");
        assert!(taken.contains("; it is taken before the next instruction\n"), "{taken}");
        states[0].interrupt_shadow = true;
        let shadow = show(vec![], offers, &states, vec![]);
        assert!(shadow.cpus[0].refuses.is_some_and(|why| why.contains("after STI")), "{shadow}");
    }
}
