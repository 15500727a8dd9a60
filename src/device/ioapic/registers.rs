//! The I/O APIC as a person sees it: its select register stays where it is.
use super::IoApic;
use super::spec::{self, Entry, PINS};
use crate::device::lapic::DeliveryMode;
use crate::device::registers::Block;
use std::borrow::Cow;

fn words(entry: Entry, pin: usize, chip: &IoApic) -> Vec<Cow<'static, str>> {
    let bits = entry.bits();
    let mode = DeliveryMode::from_bits((bits >> 8) as u32);
    let to = if entry.contains(Entry::LOGICAL) { "logical" } else { "APIC" };
    let mut words = vec![
        format!("vector {:#04x}", bits as u8).into(),
        mode.name().into(),
        format!("to {to} {:#04x}", bits >> 56).into(),
        if entry.contains(Entry::LEVEL) { "level" } else { "edge" }.into(),
    ];
    let flags = [
        (entry.contains(Entry::POLARITY), "active low"),
        (entry.contains(Entry::MASKED), "masked"),
        (entry.contains(Entry::REMOTE_IRR), "remote IRR"),
        (chip.inputs >> pin & 1 != 0, "pin high"),
        (chip.edges >> pin & 1 != 0, "edge waits"),
    ];
    words.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.into()));
    words
}

impl IoApic {
    /// The registers by name.
    pub(in crate::device) fn describe(&self) -> Block {
        let mut block = Block::new("ioapic").plain("IOREGSEL", 8, self.select).plain("ID", 8, self.id).said(
            "VERSION",
            32,
            spec::VERSION_VALUE,
            format!("{PINS} inputs"),
        );
        for (pin, entry) in self.entries.iter().enumerate() {
            let untouched = *entry == Entry::MASKED;
            let words = match untouched && self.inputs >> pin & 1 == 0 {
                true => vec!["masked".into()],
                false => words(*entry, pin, self),
            };
            block = block.put(format!("REDTBL[{pin}]"), 64, entry.bits(), words);
        }
        block
    }

    /// As the 8259s': where the line at input `pin` is on its way.
    pub(in crate::device) fn way_of(&self, pin: u8) -> Option<String> {
        let entry = self.entries.get(usize::from(pin))?;
        let (high, edge) = (self.inputs >> pin & 1 != 0, self.edges >> pin & 1 != 0);
        let vector = entry.bits() as u8;
        let masked = entry.contains(Entry::MASKED);
        let name = format!("I/O APIC's input {pin} (vector {vector:#04x})");
        if entry.contains(Entry::REMOTE_IRR) {
            return Some(format!("sent by the {name}, and waits for its EOI (remote IRR)"));
        }
        match (high || edge, masked, entry.contains(Entry::LEVEL)) {
            (false, ..) => None,
            (true, true, true) => Some(format!("pending at the {name}: masked")),
            (true, true, false) => Some(format!("high at the {name}: masked, so that edges are lost")),
            (true, false, _) if edge => Some(format!("pending at the {name}")),
            // An edge that was sent is no longer the chip's affair.
            (true, false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::registers::tests::find;

    #[test]
    fn inputs_are_told_with_what_holds_them_back() {
        let mut chip = IoApic::default();
        chip.set_pin(4, true);
        assert_eq!(
            chip.way_of(4).unwrap(),
            "high at the I/O APIC's input 4 (vector 0x00): masked, so that edges are lost"
        );
        for (select, value) in [(0x22, 0x8041), (0x23, 0x0100_0000), (0x24, 0x1_8042)] {
            chip.write(0, select);
            chip.write(0x10, value);
        }
        chip.set_pin(9, true);
        chip.set_pin(10, true);
        assert!(chip.next_message().is_some());
        assert!(chip.way_of(9).unwrap().starts_with("sent by the I/O APIC's input 9 (vector 0x41)"));
        assert_eq!(chip.way_of(10).unwrap(), "pending at the I/O APIC's input 10 (vector 0x42): masked");
        assert_eq!((chip.way_of(11), chip.way_of(200)), (None, None));
        let blocks = [chip.describe()];
        let entry = find(&blocks, "ioapic", "REDTBL[9]");
        assert_eq!(entry.value, Some(0x0100_0000_0000_c041));
        assert_eq!(entry.words.join(", "), "vector 0x41, fixed, to APIC 0x01, level, remote IRR, pin high");
        assert_eq!(find(&blocks, "ioapic", "REDTBL[11]").words, ["masked"]);
    }
}
