//! The two 8259s as a person sees them: nothing is polled or acknowledged.
use super::PicPair;
use super::chip::{Awaited, Chip};
use crate::arch::layout::IRQ_CASCADE;
use crate::device::registers::Block;
use std::borrow::Cow;

/// The inputs whose bits are set, by the numbers of their lines.
fn lines(bits: u8, first: u8) -> Vec<Cow<'static, str>> {
    (0..8).filter(|ir| bits >> ir & 1 != 0).map(|ir| format!("IRQ{}", first + ir).into()).collect()
}

fn describe(name: &str, chip: &Chip, first: u8) -> Block {
    let awaited = match chip.awaited {
        Awaited::Mask => None,
        Awaited::Icw2 => Some("ICW2 is to come"),
        Awaited::Icw3 => Some("ICW3 is to come"),
        Awaited::Icw4 => Some("ICW4 is to come"),
    };
    let modes = [
        (chip.auto_eoi, "automatic end of interrupt"),
        (chip.rotate_in_aeoi, "rotates"),
        (chip.special_fully_nested, "special fully nested"),
        (chip.special_mask, "special mask"),
        (chip.single, "single"),
        (chip.poll, "the next read polls"),
    ];
    let mut mode: Vec<Cow<'static, str>> =
        modes.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.into()).collect();
    mode.extend(awaited.map(Into::into));
    if mode.is_empty() {
        mode.push("fully nested, ends by EOI".into());
    }
    let reads = if chip.read_isr { "a read gives ISR" } else { "a read gives IRR" };
    mode.push(reads.into());
    let cascade = if chip.is_master { "slave at IR2" } else { "slave 2" };
    Block::new(name)
        .put("IRR", 8, chip.irr, lines(chip.irr, first))
        .put("IMR", 8, chip.imr, lines(chip.imr, first))
        .put("ISR", 8, chip.isr, lines(chip.isr, first))
        .put("inputs", 8, chip.inputs, lines(chip.inputs, first))
        .said("ICW2", 8, chip.base, format!("vectors {:#04x}-{:#04x}", chip.base, chip.base | 7))
        .said("ICW3", 8, if chip.is_master { 1_u8 << IRQ_CASCADE } else { IRQ_CASCADE }, cascade)
        .words("mode", mode)
        .said("priority", 3, chip.first, format!("IR{} is the highest", chip.first))
        .put("ELCR", 8, chip.elcr, lines(chip.elcr, first))
}

impl PicPair {
    /// The registers of both, by name.
    pub(in crate::device) fn describe(&self) -> [Block; 2] {
        [describe("pic8259 master", &self.master, 0), describe("pic8259 slave", &self.slave, 8)]
    }

    /// Where line `line` is on its way through the chips: what the chip that has it says, or `None` if it knows nothing of it.
    /// The sentence goes on from "IRQ4: ".
    pub(in crate::device) fn way_of(&self, line: u8) -> Option<String> {
        let (chip, ir, name) = match line {
            IRQ_CASCADE => return None,
            0..=7 => (&self.master, line, "8259 master"),
            8..=15 => (&self.slave, line - 8, "8259 slave"),
            _ => return None,
        };
        let bit = 1 << ir;
        let service = if chip.isr & bit == 0 { "" } else { "in service, " };
        if chip.irr & bit == 0 {
            return (chip.isr & bit != 0).then(|| format!("in service in the {name}, until its EOI"));
        }
        let vector = chip.base | ir;
        let why = if chip.imr & bit != 0 {
            "masked by the IMR".to_owned()
        } else if chip.requested() != Some(ir) {
            match chip.requested() {
                Some(other) => format!("waits behind IR{other}"),
                None => format!("held back by what is in service (ISR {:#04x})", chip.isr),
            }
        } else if !chip.is_master && self.master.requested() != Some(IRQ_CASCADE) {
            if self.master.imr & 1 << IRQ_CASCADE != 0 {
                "the slave asks, and the master's IMR masks IR2".to_owned()
            } else {
                "the slave asks, and the master is at something higher".to_owned()
            }
        } else {
            "the chip asks for it".to_owned()
        };
        Some(format!("{service}pending in the {name} (vector {vector:#04x}): {why}"))
    }

    /// The vector that [`Self::acknowledge`] would give.
    pub(in crate::device) fn next_vector(&self) -> Option<u8> {
        Some(match self.master.requested()? {
            IRQ_CASCADE => self.slave.base | self.slave.requested().unwrap_or(super::SPURIOUS),
            ir => self.master.base | ir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Port;
    use crate::device::registers::tests::find;

    #[test]
    fn a_line_is_told_with_what_holds_it_back() {
        let mut pics = PicPair::default();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
        ] {
            pics.write(Port(port), value);
        }
        pics.write(Port(0x21), 0x10);
        assert_eq!(pics.way_of(4), None);
        pics.set_line(4, true);
        assert_eq!(pics.way_of(4).unwrap(), "pending in the 8259 master (vector 0x34): masked by the IMR");
        pics.set_line(3, true);
        assert_eq!(
            (pics.way_of(3).unwrap().ends_with("the chip asks for it"), pics.next_vector()),
            (true, Some(0x33))
        );
        let before = pics.clone();
        let blocks = pics.describe();
        assert_eq!(find(&blocks, "pic8259 master", "IRR").words, ["IRQ3", "IRQ4"]);
        assert_eq!(find(&blocks, "pic8259 slave", "ICW2").words, ["vectors 0x38-0x3f"]);
        assert_eq!(pics, before);
        assert_eq!(pics.acknowledge(), 0x33);
        assert_eq!(pics.way_of(3).unwrap(), "in service in the 8259 master, until its EOI");
        pics.set_line(7, true);
        assert!(pics.way_of(7).unwrap().ends_with("held back by what is in service (ISR 0x08)"));
        pics.set_line(8, true);
        pics.write(Port(0x21), 0x14);
        assert!(pics.way_of(8).unwrap().ends_with("the master's IMR masks IR2"), "{:?}", pics.way_of(8));
    }
}
