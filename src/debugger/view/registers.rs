//! Registers, with what changed marked and flags by name.
use super::segment::describe;
use super::{Angled, Hex};
use crate::arch::paging::KeyRights;
use crate::arch::state::gpr;
use crate::arch::{Activity, CpuState, Cr4, DescriptorTable, Rflags, Segment, XsaveArea};
use crate::debugger::registers::{SEGMENTS, read};
use crate::debugger::symbols::Symbols;
use serde::Serialize;
use std::fmt;

/// Which registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// General registers, RIP, RFLAGS.
    General,
    /// Segment registers, TR, LDTR, and the descriptor tables.
    Segments,
    /// CR0–CR8, EFER, XCR0.
    Control,
    /// DR0–DR7.
    Debug,
    /// MSRs.
    Msr,
    /// XMM and YMM, MXCSR, x87 control.
    Xmm,
    /// Everything but XMM.
    All,
}

impl Group {
    /// The group of that name; none is [`Self::General`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "" | "general" => Self::General,
            "segments" | "segment" => Self::Segments,
            "control" => Self::Control,
            "debug" => Self::Debug,
            "msr" | "msrs" => Self::Msr,
            "xmm" | "ymm" | "sse" | "avx" | "vector" => Self::Xmm,
            "all" => Self::All,
            _ => return None,
        })
    }
}

/// One register.
#[derive(Clone, Debug, Serialize)]
pub struct Register {
    /// Its name, lower case.
    pub name: String,
    /// What it holds.
    pub value: Hex,
    /// Whether that differs from when the guest was last resumed.
    pub changed: bool,
    /// The value in words: names of set bits, a symbol, a descriptor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub meaning: String,
}

/// A vector register.
#[derive(Clone, Debug, Serialize)]
pub struct VectorRegister {
    /// Its name, lower case.
    pub name: String,
    /// All 256 bits as hexadecimal digits, most significant first.
    pub value: String,
    /// Whether it differs from when the guest was last resumed.
    pub changed: bool,
}

/// Registers to be shown, in sections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Registers {
    /// General registers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub general: Vec<Register>,
    /// The others, one a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Register>,
    /// Vector registers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vectors: Vec<VectorRegister>,
}

/// What registers are shown from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The present state.
    pub now: &'a CpuState,
    /// The state when the guest was last resumed.
    pub before: Option<&'a CpuState>,
    /// CR8, which the platform holds.
    pub cr8: u8,
    /// Names.
    pub symbols: &'a Symbols,
}

/// The registers of a group.
#[must_use]
pub fn show(source: &Source<'_>, group: Group) -> Registers {
    let mut shown = Registers::default();
    let all = group == Group::All;
    if all || group == Group::General {
        general(source, &mut shown);
    }
    if all || group == Group::Segments {
        segments(source, &mut shown.others);
    }
    if all || group == Group::Control {
        control(source, &mut shown.others);
    }
    if all || group == Group::Debug {
        named(source, &["dr0", "dr1", "dr2", "dr3", "dr6", "dr7"], &mut shown.others);
    }
    if all || group == Group::Msr {
        let names = [
            "star",
            "lstar",
            "cstar",
            "sfmask",
            "kernel_gs_base",
            "fs_base",
            "gs_base",
            "sysenter_cs",
            "sysenter_esp",
            "sysenter_eip",
            "pat",
            "tsc_aux",
        ];
        named(source, &names, &mut shown.others);
    }
    if group == Group::Xmm {
        vectors(source, &mut shown);
    }
    shown
}

/// One register by name.
#[must_use]
pub fn show_one(source: &Source<'_>, name: &str) -> Option<Registers> {
    let mut shown = Registers::default();
    let mut all = show(source, Group::All);
    all.general.append(&mut all.others);
    if let Some(found) = all.general.into_iter().find(|r| r.name == name) {
        shown.others.push(found);
    } else if read(source.now, name).is_some() {
        named(source, &[name], &mut shown.others);
    } else {
        let number = name.strip_prefix("xmm").or_else(|| name.strip_prefix("ymm"))?;
        let mut every = Registers::default();
        vectors(source, &mut every);
        let wanted = format!("ymm{}", number.parse::<u8>().ok()?);
        shown.vectors = every.vectors.into_iter().filter(|v| v.name == wanted).collect();
        if shown.vectors.is_empty() {
            return None;
        }
    }
    Some(shown)
}

fn register(source: &Source<'_>, name: &str, value: u64, meaning: String) -> Register {
    let changed = source.before.is_some_and(|before| read(before, name) != read(source.now, name));
    Register { name: name.to_owned(), value: Hex(value), changed, meaning }
}

fn named(source: &Source<'_>, names: &[&str], into: &mut Vec<Register>) {
    for name in names {
        let value = read(source.now, name).unwrap_or(0);
        into.push(register(source, name, value, source.symbols.label(value).unwrap_or_default()));
    }
}

fn general(source: &Source<'_>, shown: &mut Registers) {
    let now = source.now;
    for (name, &value) in gpr::NAMES.iter().zip(&now.gpr) {
        shown.general.push(register(source, name, value, String::new()));
    }
    let place = Angled(&source.symbols.label(now.rip)).to_string();
    shown.general.push(register(source, "rip", now.rip, place.trim_start().to_owned()));
    shown.general.push(register(source, "rflags", now.rflags.bits(), flags(now)));
}

fn flags(state: &CpuState) -> String {
    let quiet = Rflags::FIXED | Rflags::IOPL;
    let mut words: Vec<&str> = (state.rflags - quiet).iter_names().map(|(name, _)| name).collect();
    if words.is_empty() {
        words.push("no flag set");
    }
    let mut text = words.join(" ");
    text.push_str(&format!(
        "; IOPL {}, ring {}, {}-bit code",
        state.rflags.iopl(),
        state.cpl(),
        state.code_bits()
    ));
    match state.activity {
        Activity::Running => {}
        Activity::Halted => text.push_str(", halted"),
        Activity::WaitsForStartUp => text.push_str(", waits for a start-up message"),
        Activity::Shutdown => text.push_str(", shut down"),
    }
    if state.interrupt_shadow {
        text.push_str(", interrupts held off for one instruction");
    }
    if let Some(exception) = state.pending_exception {
        text.push_str(&format!(", {:?} is about to be raised", exception.vector));
    }
    text
}

fn segments(source: &Source<'_>, into: &mut Vec<Register>) {
    let now = source.now;
    let mut push = |name: &str, segment: &Segment, was: Option<&Segment>| {
        into.push(Register {
            name: name.to_owned(),
            value: Hex(segment.selector.into()),
            changed: was.is_some_and(|was| was != segment),
            meaning: describe(segment, now.is_long_mode()),
        });
    };
    for (i, name) in SEGMENTS.iter().enumerate() {
        push(name, &now.segments[i], source.before.map(|b| &b.segments[i]));
    }
    push("tr", &now.tr, source.before.map(|b| &b.tr));
    push("ldtr", &now.ldtr, source.before.map(|b| &b.ldtr));
    let mut push = |name: &str, table: &DescriptorTable, was: Option<&DescriptorTable>| {
        into.push(Register {
            name: name.to_owned(),
            value: Hex(table.base),
            changed: was.is_some_and(|was| was != table),
            meaning: format!("limit {:#x}{}", table.limit, Angled(&source.symbols.label(table.base))),
        });
    };
    push("gdtr", &now.gdtr, source.before.map(|b| &b.gdtr));
    push("idtr", &now.idtr, source.before.map(|b| &b.idtr));
}

fn control(source: &Source<'_>, into: &mut Vec<Register>) {
    fn bits(names: impl Iterator<Item = &'static str>) -> String {
        names.collect::<Vec<_>>().join(" ")
    }
    let now = source.now;
    let cr3 =
        [(8, "PWT"), (16, "PCD")].into_iter().filter(|(bit, _)| now.cr3 & bit != 0).map(|(_, name)| name);
    let rows = [
        ("cr0", bits(now.cr0.iter_names().map(|(n, _)| n))),
        ("cr2", source.symbols.label(now.cr2).unwrap_or_default()),
        ("cr3", bits(cr3)),
        ("cr4", bits(now.cr4.iter_names().map(|(n, _)| n))),
        ("efer", bits(now.efer.iter_names().map(|(n, _)| n))),
        ("xcr0", bits(now.xcr0.iter_names().map(|(n, _)| n))),
    ];
    // Rights by protection key, where they count.
    let keys = [("pkru", Cr4::PKE), ("pkrs", Cr4::PKS)].into_iter().filter(|(_, bit)| now.cr4.contains(*bit));
    let keys = keys.map(|(name, _)| (name, forbidden(read(now, name).unwrap_or(0) as u32)));
    for (name, meaning) in rows.into_iter().chain(keys) {
        into.push(register(source, name, read(now, name).unwrap_or(0), meaning));
    }
    into.push(Register {
        name: "cr8".to_owned(),
        value: Hex(source.cr8.into()),
        changed: false,
        meaning: "task priority of the local APIC".to_owned(),
    });
}

/// Which keys a register forbids something.
fn forbidden(rights: u32) -> String {
    let word = |key: u8| match KeyRights::of(rights, key) {
        KeyRights { access: false, .. } => Some(format!("{key}: no access")),
        KeyRights { write: false, .. } => Some(format!("{key}: no writing")),
        _ => None,
    };
    (0..16).filter_map(word).collect::<Vec<_>>().join(", ")
}

fn vectors(source: &Source<'_>, shown: &mut Registers) {
    let area = &source.now.xsave;
    for index in 0..16 {
        let value = area.ymm(index);
        shown.vectors.push(VectorRegister {
            name: format!("ymm{index}"),
            value: value.iter().rev().map(|b| format!("{b:02x}")).collect(),
            changed: source.before.is_some_and(|b| b.xsave.ymm(index) != value),
        });
    }
    let word = |area: &XsaveArea, at: usize, length: usize| {
        area.0[at..at + length].iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b))
    };
    for (name, at, length) in [("mxcsr", XsaveArea::MXCSR, 4), ("fcw", XsaveArea::FCW, 2), ("fsw", 2, 2)] {
        let value = word(area, at, length);
        shown.others.push(Register {
            name: name.to_owned(),
            value: Hex(value),
            changed: source.before.is_some_and(|b| word(&b.xsave, at, length) != value),
            meaning: String::new(),
        });
    }
}

const fn mark(changed: bool) -> char {
    if changed { '*' } else { ' ' }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        let (grid, words) = self.general.split_at(self.general.len().min(16));
        for row in grid.chunks(4) {
            let cells = row.iter().map(|r| format!("{:>3} {:016x}{}", r.name, r.value.0, mark(r.changed)));
            lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        }
        for r in words.iter().filter(|r| r.name == "rip") {
            lines.push(
                format!("rip {:016x}{} {}", r.value.0, mark(r.changed), r.meaning).trim_end().to_owned(),
            );
        }
        for r in words.iter().filter(|r| r.name == "rflags") {
            lines.push(format!("rflags     {:08x}{}  {}", r.value.0, mark(r.changed), r.meaning));
        }
        let width = self.others.iter().map(|r| r.name.len()).max().unwrap_or(0);
        let digits = self.others.iter().map(|r| r.value.to_string().len()).max().unwrap_or(0);
        for r in &self.others {
            let value = r.value.to_string();
            let line = format!("{:width$}  {value:>digits$}{} {}", r.name, mark(r.changed), r.meaning);
            lines.push(line.trim_end().to_owned());
        }
        for v in &self.vectors {
            let (high, low) = v.value.split_at(32);
            lines.push(format!("{:>5}  {high} {low}{}", v.name, mark(v.changed)).trim_end().to_owned());
        }
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::state::gpr;
    use crate::debugger::memory::tests::long_mode;
    use crate::debugger::symbols::tests::sample;

    fn text(group: Group) -> String {
        let (_ram, before) = long_mode();
        let mut now = before.clone();
        now.gpr[gpr::RAX] = 0x1234;
        now.rip = 0x20_0098;
        now.rflags |= Rflags::ZF | Rflags::IF;
        now.cr2 = 0x20_26d4;
        now.xsave.0[XsaveArea::XMM] = 0x5a;
        let symbols = sample();
        show(&Source { now: &now, before: Some(&before), cr8: 0, symbols: &symbols }, group).to_string()
    }

    #[test]
    fn general_registers() {
        insta::assert_snapshot!(text(Group::General));
    }

    #[test]
    fn all_registers() {
        insta::assert_snapshot!(text(Group::All));
    }

    #[test]
    fn vector_registers() {
        insta::assert_snapshot!(text(Group::Xmm));
    }

    #[test]
    fn one_register_by_name() {
        let (_ram, now) = long_mode();
        let symbols = sample();
        let source = Source { now: &now, before: None, cr8: 0, symbols: &symbols };
        assert_eq!(show_one(&source, "cr3").unwrap().to_string(), "cr3  0x1000");
        assert_eq!(show_one(&source, "dl").unwrap().to_string(), "dl  0x0");
        assert!(show_one(&source, "xmm15").unwrap().to_string().starts_with("ymm15"));
        assert!(show_one(&source, "xmm16").is_none());
        assert!(show_one(&source, "nonsense").is_none());
    }
}
