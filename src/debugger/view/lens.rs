//! One instruction under the lens: what becomes of it in each technique, side by side.
use super::disassembly::{formatter, text_of};
use super::{Angled, Hex};
use crate::arch::CpuState;
use crate::debugger::symbols::Symbols;
use crate::engine::{Interface, Native, Part, Patch, Patched, Translated, Translation};
use crate::machine::Fates;
use iced_x86::{Decoder, DecoderOptions, Instruction, IntelFormatter, Register};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// One instruction of host or patched code.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its address: of the translator's code the distance from its block's first byte.
    pub at: Hex,
    /// Its bytes.
    pub bytes: String,
    /// Its text.
    pub text: String,
}

/// Code with one purpose.
#[derive(Clone, Debug, Serialize)]
pub struct Piece {
    /// A word for it.
    pub part: &'static str,
    /// In words.
    pub about: String,
    /// Whether it is gone through when nothing is amiss.
    pub on_path: bool,
    /// Its instructions.
    pub lines: Vec<Line>,
}

/// What one technique does.
#[derive(Clone, Debug, Serialize)]
pub struct Fate {
    /// `interpreter`, `translator`, `pv` (or `direct`) and `kvm`.
    pub technique: &'static str,
    /// Whether it is what executes the guest now.
    pub live: bool,
    /// In one line.
    pub summary: String,
    /// More, in words.
    pub about: String,
    /// How often it was executed so, in this run; `None`: not counted.
    pub count: Option<u64>,
    /// What that counts.
    pub counted: Option<String>,
    /// Mean cost of one, in nanoseconds; `None`: not measured.
    pub cost_ns: Option<f64>,
    /// Where count or cost are not known: how to get them.
    pub missing: Option<String>,
    /// Code that stands for it.
    pub pieces: Vec<Piece>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Lens {
    /// Linear address.
    pub address: Hex,
    /// `name+offset`.
    pub symbol: Option<String>,
    /// 16, 32 or 64.
    pub bits: u32,
    /// Privilege level.
    pub ring: u8,
    /// Its bytes.
    pub bytes: String,
    /// Its text.
    pub text: String,
    /// Events of this instruction in the trace, by kind.
    pub events: Vec<(&'static str, usize)>,
    /// One for each technique.
    pub fates: Vec<Fate>,
}

/// What a run has counted at the instruction.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// How often, and what that is.
    pub count: Option<(u64, String)>,
    /// Mean nanoseconds.
    pub cost_ns: Option<f64>,
    /// How to get what is lacking.
    pub missing: Option<String>,
}

/// What is shown is made of this.
#[derive(Debug)]
pub struct Source<'a> {
    /// The CPU.
    pub state: &'a CpuState,
    /// Linear address.
    pub address: u64,
    /// What would become of it.
    pub fates: &'a Fates,
    /// Names.
    pub symbols: &'a Arc<Symbols>,
    /// Events of this instruction, by kind.
    pub events: Vec<(&'static str, usize)>,
    /// Of the techniques, in their order: whether it is what runs the guest, and what was counted.
    pub counted: [(bool, Counted); 4],
}

/// The techniques, in their order.
pub const TECHNIQUES: [&str; 4] = ["interpreter", "translator", "pv", "kvm"];

/// The instruction and its fates.
#[must_use]
pub fn show(source: Source<'_>) -> Lens {
    let Source { state, address, fates, symbols, events, counted } = source;
    let bits = state.code_bits();
    let instruction = Decoder::with_ip(bits, &fates.bytes, address, DecoderOptions::NONE).decode();
    let mut list = [interpreted(fates), translated(fates), native(fates, symbols), kvm(fates)];
    for (fate, (live, counted)) in list.iter_mut().zip(counted) {
        fate.live = live;
        (fate.count, fate.counted) = counted.count.unzip();
        (fate.cost_ns, fate.missing) = (counted.cost_ns, counted.missing);
    }
    Lens {
        address: Hex(address),
        symbol: symbols.label(address),
        bits,
        ring: state.cpl(),
        bytes: hex(&fates.bytes),
        text: text_of(&mut formatter(symbols), &instruction),
        events,
        fates: list.into(),
    }
}

fn fate(technique: &'static str, summary: String, about: String, pieces: Vec<Piece>) -> Fate {
    Fate {
        technique,
        live: false,
        summary,
        about,
        count: None,
        counted: None,
        cost_ns: None,
        missing: None,
        pieces,
    }
}

fn interpreted(fates: &Fates) -> Fate {
    let one = fates.interpreted;
    let summary = match one.family {
        Some(family) => format!("family '{family}'"),
        None if one.offered => "it has no code for it: the run ends with a reason".to_owned(),
        None => "#UD: the guest's CPUID does not offer it".to_owned(),
    };
    let mut about = match one.family {
        Some(family) => format!("a handler in src/emulator/single/{family}.rs executes it"),
        None => String::new(),
    };
    if one.ends_block {
        about.push_str(", and everything is looked at anew behind it");
    }
    fate(TECHNIQUES[0], summary, about, Vec::new())
}

fn translated(fates: &Fates) -> Fate {
    match &fates.translated {
        Translation::Interpreted(reason) => {
            fate(TECHNIQUES[1], "left to the interpreter".to_owned(), (*reason).to_owned(), Vec::new())
        }
        Translation::Code(code) => {
            let pieces = host_pieces(code);
            let count = |path: bool, whole: bool| -> usize {
                let is_whole = |p: &&Piece| {
                    whole == (p.part == Part::BlockChecks.name() || p.part == Part::BlockFlags.name())
                };
                pieces.iter().filter(|p| p.on_path == path).filter(is_whole).map(|p| p.lines.len()).sum()
            };
            let (own, start) = (count(true, false), count(true, true));
            let mut summary = format!("{own} host instruction{}", if own == 1 { "" } else { "s" });
            if start > 0 {
                summary.push_str(&format!(" and {start} at the block's start"));
            }
            let about = format!(
                "as the first of a block of {}, {} bytes of host code; another block may hold it, too, with other neighbours",
                instructions(code.block),
                code.size
            );
            fate(TECHNIQUES[1], summary, about, pieces)
        }
    }
}

fn instructions(count: usize) -> String {
    if count == 1 { "1 instruction".to_owned() } else { format!("{count} instructions") }
}

fn host_pieces(code: &Translated) -> Vec<Piece> {
    // Where addresses are distances from the block, numbers below its size are rarely addresses.
    let names = Arc::new(Symbols::new(code.stubs.iter().map(|(at, name)| (*at, 1, *name))));
    let mut formatter = formatter(&names);
    code.pieces
        .iter()
        .map(|piece| {
            let lines = lines(&piece.code, piece.at, &mut formatter, &code.fields);
            Piece {
                part: piece.part.name(),
                about: piece.part.about().to_owned(),
                on_path: piece.part.is_on_path(),
                lines,
            }
        })
        .collect()
}

fn native(fates: &Fates, symbols: &Arc<Symbols>) -> Fate {
    let technique = TECHNIQUES[2];
    let patched = match &fates.native {
        Native::Interpreted(reason) => {
            let summary = "left to the interpreter".to_owned();
            return fate(technique, summary, (*reason).to_owned(), Vec::new());
        }
        Native::Patched(patched) => patched,
    };
    let carried = patched.patch.is_none() && patched.thunk.is_some();
    let summary = match patched.patch {
        None if carried => "as it is, in a neighbour's thunk".to_owned(),
        None => "as it is".to_owned(),
        Some(Patch::InProcess) => "thunk: done in the guest's process".to_owned(),
        Some(Patch::Hypercall) => "thunk: a call of the engine".to_owned(),
        Some(Patch::Breakpoint) => "INT3: a signal, then the engine".to_owned(),
        Some(Patch::Fault) => "faults by itself: a signal, then the engine".to_owned(),
        Some(Patch::Native) => "as it is: acts on the host's state, and nobody sees it".to_owned(),
    };
    let mut about = patched.about.to_owned();
    if fates.interface == Interface::None {
        about.push_str("; this guest is not patched");
    }
    fate(technique, summary, about, patched_pieces(patched, symbols))
}

fn patched_pieces(patched: &Patched, symbols: &Arc<Symbols>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if patched.replaced.is_empty() {
        return pieces;
    }
    let mut piece = |part, about: String, lines| pieces.push(Piece { part, about, on_path: true, lines });
    let mut guest = formatter(symbols);
    let replaced = lines(&patched.replaced, patched.start, &mut guest, &[]);
    piece("replaced", format!("the guest's bytes that are replaced, from {:#x} on", patched.start), replaced);
    let Some((place, code)) = &patched.thunk else {
        let put = lines(&patched.put[..1], patched.start, &mut guest, &[]);
        piece("put", "in their place".to_owned(), put);
        return pieces;
    };
    // Behind the jump nothing is executed.
    let jump = lines(&patched.put[..5.min(patched.put.len())], patched.start, &mut guest, &[]);
    piece("put", "in their place: the jump to the thunk".to_owned(), jump);
    let names = Arc::new(Symbols::new(patched.words.iter().map(|(at, name)| (*at, 1, *name))));
    let mut thunk = formatter(&names);
    let own = patched.own.clone();
    let own = own.start.min(code.len())..own.end.min(code.len());
    let about = match code.len() - own.len() {
        0 => "the thunk".to_owned(),
        others => format!(
            "of the thunk what stands for this instruction (the other {others} bytes are its neighbours' and the way back)"
        ),
    };
    let at = place.wrapping_add(own.start as u64);
    piece("thunk", about, lines(&code[own], at, &mut thunk, &[]));
    pieces
}

fn kvm(fates: &Fates) -> Fate {
    let one = &fates.kvm;
    let summary = match one.exit {
        Some(exit) => format!("{}: {exit}", one.way.name()),
        None => one.way.name().to_owned(),
    };
    fate(TECHNIQUES[3], summary, format!("{}; KVM here: {}", one.about, one.host), Vec::new())
}

fn lines(code: &[u8], at: u64, formatter: &mut IntelFormatter, fields: &[(u64, &'static str)]) -> Vec<Line> {
    let mut list = Vec::new();
    let mut from = 0;
    for instruction in Decoder::with_ip(64, code, at, DecoderOptions::NONE) {
        let end = from + instruction.len();
        list.push(Line {
            at: Hex(instruction.ip()),
            bytes: hex(&code[from..end]),
            text: with_fields(text_of(formatter, &instruction), &instruction, fields),
        });
        from = end;
    }
    list
}

/// Puts the name of a field in the place of its offset.
fn with_fields(text: String, instruction: &Instruction, fields: &[(u64, &'static str)]) -> String {
    let is_field = instruction.memory_segment() == Register::GS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None;
    let offset = instruction.memory_displacement64();
    let named = fields.iter().find(|(at, _)| is_field && *at == offset);
    match (named, text.find("gs:[")) {
        (Some((_, name)), Some(start)) => {
            let end = text[start..].find(']').map_or(text.len(), |end| start + end);
            format!("{}gs:[{name}{}", &text[..start], &text[end..])
        }
        _ => text,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Fate {
    fn count_text(&self) -> String {
        self.count.map_or("not counted".to_owned(), |count| format!("{count}×"))
    }

    fn cost_text(&self) -> String {
        self.cost_ns.map_or("not measured".to_owned(), |ns| format!("{ns:.0} ns"))
    }
}

impl fmt::Display for Lens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}  {}  {}", self.address, Angled(&self.symbol), self.bytes, self.text)?;
        writeln!(f, "{}-bit code, ring {}", self.bits, self.ring)?;
        for (kind, count) in &self.events {
            writeln!(f, "in the trace: {kind}, {count}×")?;
        }
        let width = self.fates.iter().map(|fate| fate.summary.chars().count()).max().unwrap_or(0);
        write!(f, "\n   {:11}  {:width$}  {:>11}  cost", "technique", "what becomes of it", "count")?;
        for fate in &self.fates {
            let now = if fate.live { "=>" } else { "  " };
            let (count, cost) = (fate.count_text(), fate.cost_text());
            write!(f, "\n{now} {:11}  {:width$}  {count:>11}  {cost}", fate.technique, fate.summary)?;
        }
        for fate in &self.fates {
            write!(f, "\n\n{}: {}", fate.technique, fate.about)?;
            if let Some(counted) = &fate.counted {
                write!(f, "\n  {} {counted}", fate.count_text())?;
            }
            if let Some(missing) = &fate.missing {
                write!(f, "\n  {missing}")?;
            }
            for piece in &fate.pieces {
                write!(f, "\n  {}:", piece.about)?;
                for line in &piece.lines {
                    write!(f, "\n    {:>12}  {:20}  {}", line.at.to_string(), line.bytes, line.text)?;
                }
            }
        }
        Ok(())
    }
}
