//! The descriptor tables, decoded (SDM 3.5.2, 6.11, 6.14.1).
use super::segment::{describe, system};
use super::trace::exception;
use super::{Angled, Hex};
use crate::arch::{CpuState, DescriptorTable, Segment};
use crate::debugger::memory::GuestMemory;
use crate::debugger::symbols::Symbols;
use serde::Serialize;
use std::fmt;

/// One descriptor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Selector or vector.
    pub index: Hex,
    /// The first 8 bytes.
    pub raw: Hex,
    /// What it describes.
    pub meaning: String,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// `GDT` or `IDT`.
    pub name: &'static str,
    /// Linear base.
    pub base: Hex,
    /// Its symbol.
    pub symbol: Option<String>,
    /// Offset of the last byte.
    pub limit: Hex,
    /// Descriptors that are present.
    pub rows: Vec<Row>,
    /// How many are not.
    pub absent: usize,
    /// Whether the table ends in memory that cannot be read.
    pub unreadable: bool,
}

fn table(name: &'static str, register: DescriptorTable, symbols: &Symbols) -> Table {
    Table {
        name,
        base: Hex(register.base),
        symbol: symbols.label(register.base),
        limit: Hex(register.limit.into()),
        rows: Vec::new(),
        absent: 0,
        unreadable: false,
    }
}

/// The descriptors of the GDT.
#[must_use]
pub fn gdt(memory: &GuestMemory<'_>, symbols: &Symbols, state: &CpuState) -> Table {
    let register = state.gdtr;
    let long = state.is_long_mode();
    let mut shown = table("GDT", register, symbols);
    let mut offset = 0_u64;
    while offset + 7 <= u64::from(register.limit) {
        let at = register.base.wrapping_add(offset);
        let Some(raw) = memory.read_u64(at) else {
            shown.unreadable = true;
            break;
        };
        // The limit is 16 bits wide, so that an offset is a selector.
        let selector = offset as u16;
        let mut segment = Segment::from_descriptor(selector, raw);
        let system = segment.attributes & Segment::CODE_OR_DATA == 0;
        let wide = long && system && segment.is_present();
        if wide {
            let high = memory.read_u64(at.wrapping_add(8)).unwrap_or(0);
            segment.base |= high << 32;
        }
        if segment.is_present() {
            let meaning = describe(&segment, long) + &Angled(&symbols.label(segment.base)).to_string();
            shown.rows.push(Row { index: Hex(offset), raw: Hex(raw), meaning });
        } else {
            shown.absent += 1;
        }
        offset += if wide { 16 } else { 8 };
    }
    shown
}

/// The gates of the IDT.
#[must_use]
pub fn idt(memory: &GuestMemory<'_>, symbols: &Symbols, state: &CpuState) -> Table {
    let register = state.idtr;
    let long = state.is_long_mode();
    let mut shown = table("IDT", register, symbols);
    let size = if long { 16 } else { 8 };
    // More than 256 vectors do not exist, whatever the limit.
    for vector in 0..256_u64.min((u64::from(register.limit) + 1) / size) {
        let at = register.base.wrapping_add(vector * size);
        let (Some(raw), Some(high)) =
            (memory.read_u64(at), if long { memory.read_u64(at.wrapping_add(8)) } else { Some(0) })
        else {
            shown.unreadable = true;
            break;
        };
        if raw >> 47 & 1 == 0 {
            shown.absent += 1;
            continue;
        }
        let target = raw & 0xffff | raw >> 32 & 0xffff_0000 | high << 32;
        let selector = raw >> 16 & 0xffff;
        let ist = raw >> 32 & 7;
        let mut meaning = format!(
            "{}: {selector:#x}:{target:#x}{}, {}, ring {}",
            exception(vector),
            Angled(&symbols.label(target)),
            system((raw >> 40 & 15) as u8, long),
            raw >> 45 & 3
        );
        if long && ist != 0 {
            meaning.push_str(&format!(", stack IST{ist}"));
        }
        shown.rows.push(Row { index: Hex(vector), raw: Hex(raw), meaning });
    }
    shown
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}{}, limit {}", self.name, self.base, Angled(&self.symbol), self.limit)?;
        for row in &self.rows {
            write!(f, "\n{:>5}  {:016x}  {}", row.index.to_string(), row.raw.0, row.meaning)?;
        }
        if self.absent > 0 {
            write!(f, "\n{} not present", self.absent)?;
        }
        if self.unreadable { f.write_str("\nthe rest is not mapped to RAM") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::tests::long_mode;
    use crate::debugger::symbols::tests::sample;

    #[test]
    fn a_long_mode_gdt_with_a_task_state() {
        let (ram, mut state) = long_mode();
        let entries: [u64; 6] = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8b20_26d0_0067,
            0xffff_8000,
        ];
        for (i, entry) in entries.iter().enumerate() {
            ram.write(Gpa(0x8100 + 8 * i as u64), &entry.to_le_bytes()).unwrap();
        }
        state.gdtr = DescriptorTable { base: 0x20_0100, limit: 47 };
        insta::assert_snapshot!(gdt(&GuestMemory::new(&ram, &state), &sample(), &state));
    }

    #[test]
    fn a_long_mode_idt_that_runs_out_of_memory() {
        let (ram, mut state) = long_mode();
        ram.write(Gpa(0x8fd0), &0x0020_8e00_0008_26d0_u64.to_le_bytes()).unwrap();
        ram.write(Gpa(0x8ff0), &0x0020_ef02_0008_15c0_u64.to_le_bytes()).unwrap();
        state.idtr = DescriptorTable { base: 0x20_0fd0, limit: u16::MAX };
        insta::assert_snapshot!(idt(&GuestMemory::new(&ram, &state), &sample(), &state));
    }

    #[test]
    fn empty_and_unmapped_tables_are_shown_as_such() {
        let (ram, mut state) = long_mode();
        state.gdtr = DescriptorTable { base: u64::MAX - 3, limit: u16::MAX };
        state.idtr = DescriptorTable::default();
        let memory = GuestMemory::new(&ram, &state);
        assert!(gdt(&memory, &sample(), &state).unreadable);
        assert!(idt(&memory, &sample(), &state).rows.is_empty());
    }
}
