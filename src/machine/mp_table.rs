//! The tables by which guests from before ACPI learn of CPUs and of the I/O APIC's inputs (Intel, MultiProcessor
//! Specification 1.4, chapter 4).
//!
//! The floating pointer lies at [`layout::MP_POINTER`], where such guests search, and the table behind it. They say what
//! the MADT says; the I/O APIC has the first ID that no CPU has, as old guests want it.
use crate::arch::layout;
use crate::device::pci::{PciHost, SLOTS};
use crate::mem::GuestRam;

const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// Version of the local APICs, and of the I/O APIC.
const VERSIONS: (u8, u8) = (0x14, 0x11);
/// Flags of an entry: polarity and trigger as the bus has them; active high and level-triggered.
const AS_THE_BUS: u16 = 0;
const LEVEL_HIGH: u16 = 0b1101;
/// Kinds of an interrupt.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the tables for `cpus` CPUs into `ram`; RAM too small for them gets none.
pub(super) fn write(ram: &GuestRam, cpus: u8) {
    let at = layout::MP_POINTER;
    let mut bytes = Vec::from(*b"_MP_");
    bytes.extend((at.0 as u32 + 16).to_le_bytes());
    // One paragraph, of revision 1.4, with a table.
    bytes.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes.extend(table(cpus));
    // A guest with less than 1 MiB of RAM does without.
    let _too_small = ram.write(at, &bytes);
}

/// The byte by which `bytes` add up to zero.
pub(super) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// The entries, and how many there are.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn add(&mut self, entry: &[u8]) {
        self.bytes.extend(entry);
        self.count += 1;
    }

    /// An interrupt of a bus at an input of the I/O APIC (kind 3), or of all local APICs (kind 4).
    fn add_interrupt(&mut self, kind: u8, interrupt: u8, flags: u16, source: (u8, u8), to: (u8, u8)) {
        let [low, high] = flags.to_le_bytes();
        self.add(&[kind, interrupt, low, high, source.0, source.1, to.0, to.1]);
    }
}

fn table(cpus: u8) -> Vec<u8> {
    let mut entries = Entries::default();
    for id in 0..cpus {
        let mut cpu = [0; 20];
        // Enabled, and whether it is the boot processor; signature and features are CPUID's to tell.
        cpu[..4].copy_from_slice(&[0, id, VERSIONS.0, 1 | u8::from(id == 0) << 1]);
        cpu[8..10].copy_from_slice(&0x0201_u16.to_le_bytes());
        entries.add(&cpu);
    }
    entries.add(b"\x01\x00PCI   ");
    entries.add(b"\x01\x01ISA   ");
    let ioapic = cpus;
    let [a, b, c, d] = (layout::IOAPIC.0 as u32).to_le_bytes();
    entries.add(&[2, ioapic, VERSIONS.1, 1, a, b, c, d]);
    for slot in 1..SLOTS {
        let source = (PCI_BUS, (slot as u8) << 2);
        entries.add_interrupt(3, INT, LEVEL_HIGH, source, (ioapic, PciHost::line_of(slot)));
    }
    for line in (0..16).filter(|line| *line != layout::IRQ_CASCADE && !layout::PCI_LINES.contains(line)) {
        let (pin, flags) = match line {
            layout::IRQ_PIT => (layout::IOAPIC_PIN_PIT, AS_THE_BUS),
            layout::IRQ_SCI => (line, LEVEL_HIGH),
            _ => (line, AS_THE_BUS),
        };
        entries.add_interrupt(3, INT, flags, (ISA_BUS, line), (ioapic, pin));
    }
    // LINT0 is the 8259s' output, LINT1 is NMI.
    entries.add_interrupt(4, EXT_INT, AS_THE_BUS, (ISA_BUS, 0), (0xff, 0));
    entries.add_interrupt(4, NMI, AS_THE_BUS, (ISA_BUS, 0), (0xff, 1));

    let mut table = Vec::from(*b"PCMP");
    table.extend((44 + entries.bytes.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"TRIVISORPC          ");
    table.extend([0; 6]);
    table.extend(entries.count.to_le_bytes());
    table.extend((layout::LAPIC.0 as u32).to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.bytes);
    table[7] = checksum(&table);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;

    #[test]
    fn the_pointer_leads_to_a_table_that_adds_up_and_has_all_cpus() {
        let ram = GuestRam::new(1 << 20).unwrap();
        write(&ram, 3);
        let read = |at: u64, size: usize| {
            let mut bytes = vec![0; size];
            ram.read(Gpa(at), &mut bytes).unwrap();
            bytes
        };
        let pointer = read(layout::MP_POINTER.0, 16);
        assert_eq!((&pointer[..4], checksum(&pointer)), (&b"_MP_"[..], 0));
        let at = u64::from(u32::from_le_bytes(pointer[4..8].try_into().unwrap()));
        let size = u16::from_le_bytes(read(at + 4, 2).try_into().unwrap());
        let table = read(at, size.into());
        assert_eq!((&table[..4], checksum(&table)), (&b"PCMP"[..], 0));
        let (mut at, mut kinds) = (44, [0; 5]);
        while at < table.len() {
            kinds[usize::from(table[at])] += 1;
            at += if table[at] == 0 { 20 } else { 8 };
        }
        assert_eq!((at, kinds[0], kinds[1], kinds[2], kinds[4]), (table.len(), 3, 2, 1, 2));
        assert_eq!(usize::from(table[34]), kinds.iter().sum::<usize>());
        write(&GuestRam::new(4096).unwrap(), 1);
    }
}
