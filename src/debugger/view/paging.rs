//! A page-table walk, drawn level by level (SDM 4.3–4.5).
use super::{Angled, Hex};
use crate::arch::paging::{Level, PagingMode, key, look};
use crate::arch::{Cr0, Cr4, Efer, Gva};
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::Symbols;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

/// One entry on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Name of the table: PML4, PDPT, PD, PT.
    pub table: &'static str,
    /// Number of the entry in it.
    pub index: u64,
    /// Guest-physical address of the entry.
    pub entry_at: Hex,
    /// The entry.
    pub entry: Hex,
    /// Its flags in words.
    pub flags: Vec<Cow<'static, str>>,
    /// Whether it maps a page.
    pub leaf: bool,
}

/// A walk.
#[derive(Clone, Debug, Serialize)]
pub struct Walk {
    /// What was looked up.
    pub address: Hex,
    /// Its symbol.
    pub symbol: Option<String>,
    /// Kind of paging, in words.
    pub paging: &'static str,
    /// CR3.
    pub cr3: Hex,
    /// From the root to the end.
    pub steps: Vec<Step>,
    /// The guest-physical address, if there is one.
    pub physical: Option<Hex>,
    /// The outcome in words.
    pub outcome: String,
}

/// Walks the tables for `address`; nothing is changed.
#[must_use]
pub fn walk(memory: &GuestMemory<'_>, symbols: &Symbols, address: u64) -> Walk {
    let mode = memory.paging();
    let long = mode.efer.contains(Efer::LMA);
    let pae = long || mode.cr4.contains(Cr4::PAE);
    let on = mode.cr0.contains(Cr0::PG);
    let paging = match (on, long, pae) {
        (false, ..) => "paging is off",
        (_, true, _) => "4-level paging",
        (_, _, true) => "PAE paging",
        _ => "32-bit paging",
    };
    let physical = memory.locate(Space::Virtual, address);
    let levels = if on && physical.is_none() && !Gva(address).is_canonical() {
        Vec::new()
    } else {
        look(memory.ram(), mode, Gva(address))
    };
    let outcome = if !on {
        match physical {
            Some(gpa) => format!("guest-physical {gpa}, the same{}", what_lies_there(memory, gpa.0)),
            None => "nowhere".to_owned(),
        }
    } else if levels.is_empty() {
        "not canonical: bits 63 to 47 differ, so that an access raises #GP (or #SS)".to_owned()
    } else {
        match (physical, levels.last()) {
            (Some(gpa), Some(leaf)) => {
                format!(
                    "guest-physical {gpa}, {} page{}{}{}",
                    size_name(pae, leaf.level),
                    rights(&levels, pae, mode.efer.contains(Efer::NXE)),
                    by_key(mode, &levels),
                    what_lies_there(memory, gpa.0)
                )
            }
            (None, Some(last)) if last.entry & 1 != 0 => {
                "a reserved bit is set: an access raises #PF".to_owned()
            }
            _ => "not present: an access raises #PF".to_owned(),
        }
    };
    Walk {
        address: Hex(address),
        symbol: symbols.label(address),
        paging,
        cr3: Hex(mode.cr3),
        steps: levels.iter().map(|level| step(level, address, pae, mode)).collect(),
        physical: physical.map(Hex::from),
        outcome,
    }
}

fn what_lies_there(memory: &GuestMemory<'_>, at: u64) -> &'static str {
    if memory.ram().offset(crate::arch::Gpa(at), 1).is_some() {
        ""
    } else {
        "; no RAM is there: a device, or nothing"
    }
}

fn step(level: &Level, address: u64, pae: bool, mode: &PagingMode) -> Step {
    let long = mode.efer.contains(Efer::LMA);
    let table = match level.level {
        4 => "PML4",
        3 => "PDPT",
        2 => "PD",
        _ => "PT",
    };
    let (shift, mask) = match (pae, long, level.level) {
        (false, ..) => (12 + 10 * (u32::from(level.level) - 1), 0x3ff),
        (true, false, 3) => (30, 3),
        _ => (12 + 9 * (u32::from(level.level) - 1), 0x1ff),
    };
    let rights_in_entry = long || level.level < 3;
    let mut flags = flags(level, pae, rights_in_entry).into_iter().map(Cow::from).collect::<Vec<_>>();
    if level.leaf && mode.has_keys() {
        flags.push(format!("key {}", key(level.entry)).into());
    }
    Step {
        table,
        index: address >> shift & mask,
        entry_at: level.entry_at.into(),
        entry: Hex(level.entry),
        flags,
        leaf: level.leaf,
    }
}

fn flags(level: &Level, pae: bool, rights_in_entry: bool) -> Vec<&'static str> {
    let bit = |n: u32| level.entry >> n & 1 != 0;
    if !bit(0) {
        return vec!["not present"];
    }
    let mut words = vec!["present"];
    if rights_in_entry {
        words.push(if bit(1) { "writable" } else { "read-only" });
        words.push(if bit(2) { "user" } else { "supervisor" });
    }
    let mut when = |set: bool, word| {
        if set {
            words.push(word);
        }
    };
    when(bit(3), "write-through");
    when(bit(4), "uncached");
    when(bit(5) && rights_in_entry, "accessed");
    when(bit(6) && level.leaf, "dirty");
    when(level.leaf && level.level > 1, "large page");
    when(bit(8) && level.leaf, "global");
    when(pae && bit(63), "no-execute");
    words
}

/// What all levels together allow.
fn rights(levels: &[Level], pae: bool, nxe: bool) -> String {
    let considered = |l: &&Level| !(pae && levels.len() <= 3 && l.level == 3 && levels[0].level == 3);
    let all = |n: u32| levels.iter().filter(considered).all(|l| l.entry >> n & 1 != 0);
    let never = pae && nxe && levels.iter().any(|l| l.entry >> 63 != 0);
    format!(
        ": {}, {}, {}",
        if all(1) { "writable" } else { "read-only" },
        if never { "not executable" } else { "executable" },
        if all(2) { "ring 3 too" } else { "rings 0 to 2 only" }
    )
}

/// What the page's protection key forbids, and whom: PKRU and IA32_PKRS ask nobody for his ring.
fn by_key(mode: &PagingMode, levels: &[Level]) -> &'static str {
    let user = levels.iter().all(|level| level.entry >> 2 & 1 != 0);
    let rights = levels.last().and_then(|leaf| mode.key_rights(leaf.entry, user));
    match rights.map(|rights| (rights.access, rights.write)) {
        Some((false, _)) => "; its key forbids data accesses",
        Some((_, false)) => "; its key forbids writing",
        _ => "",
    }
}

const fn size_name(pae: bool, level: u8) -> &'static str {
    match (pae, level) {
        (_, 1) => "4 KiB",
        (true, 2) => "2 MiB",
        (false, 2) => "4 MiB",
        _ => "1 GiB",
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", self.address, Angled(&self.symbol), self.paging)?;
        if self.paging != "paging is off" {
            write!(f, ", CR3 = {}", self.cr3)?;
        }
        let mut indent = 0;
        for step in &self.steps {
            let name = format!("{}[{}]", step.table, step.index);
            let place = format!("{:indent$}└ {name:9} at {}", "", step.entry_at);
            write!(f, "\n{place:32} = 0x{:016x}  {}", step.entry.0, step.flags.join(", "))?;
            indent += 2;
        }
        write!(f, "\n{:indent$}= {}", "", self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{CpuState, Gpa};
    use crate::debugger::memory::tests::long_mode;
    use crate::debugger::symbols::tests::sample;
    use crate::mem::GuestRam;

    #[test]
    fn four_levels() {
        let (ram, state) = long_mode();
        let memory = GuestMemory::new(&ram, &state);
        let symbols = sample();
        let text: Vec<String> = [0x20_0094, 0x40_1234, 0xfee0_0020, 0x20_1000, 0x7fff_ffff_f000, 1 << 63]
            .map(|at| walk(&memory, &symbols, at).to_string())
            .to_vec();
        insta::assert_snapshot!(text.join("\n\n"));
    }

    #[test]
    fn protection_keys_show_where_they_count() {
        let (ram, mut state) = long_mode();
        let leaf = Gpa(look(&ram, GuestMemory::new(&ram, &state).paging(), Gva(0x20_0094))
            .pop()
            .unwrap()
            .entry_at
            .0);
        let mut entry = [0; 8];
        ram.read(leaf, &mut entry).unwrap();
        ram.write(leaf, &(u64::from_le_bytes(entry) | 5 << 59).to_le_bytes()).unwrap();
        let outcome = |state: &CpuState| {
            let walk = walk(&GuestMemory::new(&ram, state), &Symbols::default(), 0x20_0094);
            (walk.steps.last().unwrap().flags.contains(&"key 5".into()), walk.outcome)
        };
        let (shown, plain) = outcome(&state);
        assert!(!shown && !plain.contains("key"));
        state.cr4 |= Cr4::PKE | Cr4::PKS;
        assert_eq!(outcome(&state), (true, plain.clone()));
        for (rights, forbids) in [(0b01, "data accesses"), (0b10, "writing"), (0b11, "data accesses")] {
            (state.pkru, state.msrs.pkrs) = (rights << 10, u64::from(rights) << 10);
            assert_eq!(outcome(&state), (true, format!("{plain}; its key forbids {forbids}")));
        }
    }

    #[test]
    fn other_kinds_of_paging() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
        put(0x1000, 0x2001);
        put(0x2000, 0xe7);
        // 32-bit tables: entry 0 to a table with a read-only page, entry 1 a 4 MiB page.
        put(0x3000, 0x0040_0083_0000_4027);
        put(0x4000, 0x5025);
        let mut state = CpuState::reset();
        let symbols = Symbols::default();
        let mut text = vec![walk(&GuestMemory::new(&ram, &state), &symbols, 0x1234).to_string()];
        state.cr0 |= Cr0::PE | Cr0::PG;
        state.cr4 = Cr4::PAE;
        state.cr3 = 0x1000;
        text.push(walk(&GuestMemory::new(&ram, &state), &symbols, 0x1234).to_string());
        state.cr4 = Cr4::PSE;
        state.cr3 = 0x3000;
        text.push(walk(&GuestMemory::new(&ram, &state), &symbols, 0x123).to_string());
        text.push(walk(&GuestMemory::new(&ram, &state), &symbols, 0x40_0123).to_string());
        insta::assert_snapshot!(text.join("\n\n"));
    }
}
