//! Instructions in Intel syntax, with symbols.
use super::Hex;
use crate::arch::LONGEST_INSTRUCTION;
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::Symbols;
use crate::engine::Site;
use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind, SymbolResolver, SymbolResult,
};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// What instructions are shown from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Guest memory.
    pub memory: GuestMemory<'a>,
    /// 16, 32 or 64.
    pub bits: u32,
    /// Which addresses are meant.
    pub space: Space,
    /// The next instruction to be executed.
    pub next: Option<u64>,
    /// Names.
    pub symbols: &'a Arc<Symbols>,
    /// Addresses of breakpoints.
    pub breakpoints: &'a [u64],
    /// What is patched, or was.
    pub sites: &'a [Site],
}

/// One instruction.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its address.
    pub address: Hex,
    /// The symbol that begins here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its bytes in hexadecimal.
    pub bytes: String,
    /// Its text; `None` where the bytes are no instruction or cannot be read.
    pub text: Option<String>,
    /// Whether it is the next one.
    pub next: bool,
    /// Whether a breakpoint stands here.
    pub breakpoint: bool,
    /// What mode pv executes in its place, if it patched it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchNote>,
}

/// What stands in place of an instruction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PatchNote {
    /// `thunk`, `hypercall`, `int3`, `fault`, or `carried` of an ordinary instruction that a neighbour's jump replaced,
    /// too, and whose thunk has a copy of it.
    pub patch: &'static str,
    /// Executions, where they are counted.
    pub count: Option<u64>,
}

/// Instructions in a row.
#[derive(Clone, Debug, Serialize)]
pub struct Disassembly {
    /// One after the other.
    pub lines: Vec<Line>,
    /// Where the first one lies.
    #[serde(skip)]
    within: Option<String>,
}

/// Decodes the instruction at `address`.
#[must_use]
pub fn decode(memory: &GuestMemory<'_>, bits: u32, address: u64) -> Option<Instruction> {
    let bytes = memory.read_prefix(Space::Virtual, address, LONGEST_INSTRUCTION);
    let instruction = Decoder::with_ip(bits, &bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// `count` instructions from `address`. A byte that begins no instruction is a line of its own.
#[must_use]
pub fn lines(source: &Source<'_>, address: u64, count: usize) -> Disassembly {
    let bytes = source.memory.read_prefix(source.space, address, LONGEST_INSTRUCTION.saturating_mul(count));
    let mut decoder = Decoder::with_ip(source.bits, &bytes, address, DecoderOptions::NONE);
    let mut formatter = formatter(source.symbols);
    let mut lines = Vec::with_capacity(count);
    while lines.len() < count {
        let start = decoder.position();
        let at = address.wrapping_add(start as u64);
        let mut line = Line {
            address: Hex(at),
            label: source.symbols.exactly(at).map(|s| s.name.clone()),
            bytes: String::new(),
            text: None,
            next: source.next == Some(at),
            breakpoint: source.breakpoints.contains(&at),
            patch: None,
        };
        if !decoder.can_decode() {
            lines.push(line);
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            // Go on one byte later: the next symbol may be sound.
            line.bytes = format!("{:02x}", bytes[start]);
            let moved = decoder.set_position(start + 1).is_ok();
            decoder.set_ip(at.wrapping_add(1));
            lines.push(line);
            if moved { continue } else { break }
        }
        let used = &bytes[start..decoder.position()];
        line.bytes = used.iter().map(|b| format!("{b:02x}")).collect();
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        line.text = Some(text);
        line.patch = note(source.sites, at, used);
        lines.push(line);
    }
    let within = source.symbols.label(address).filter(|_| source.symbols.exactly(address).is_none());
    Disassembly { lines, within }
}

/// What is known of the instruction at `at` with these bytes.
fn note(sites: &[Site], at: u64, bytes: &[u8]) -> Option<PatchNote> {
    let mut current = sites.iter().filter(|site| !site.taken_back);
    if let Some(site) = current.clone().find(|site| site.address.0 == at && site.bytes == bytes) {
        return Some(PatchNote { patch: site.patch.name(), count: site.count() });
    }
    let carries = |site: &&Site| {
        let into = at.wrapping_sub(site.start.0) as usize;
        site.patch.is_jump() && site.replaced.get(into..into.saturating_add(bytes.len())) == Some(bytes)
    };
    current.find(carries).map(|_| PatchNote { patch: "carried", count: None })
}

/// The text of one instruction, with single spaces.
pub(super) fn text_of(formatter: &mut IntelFormatter, instruction: &Instruction) -> String {
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn formatter(symbols: &Arc<Symbols>) -> IntelFormatter {
    let resolver: Box<dyn SymbolResolver> = Box::new(Names(Arc::clone(symbols)));
    let mut formatter = IntelFormatter::with_options(Some(resolver), None);
    let options = formatter.options_mut();
    options.set_uppercase_hex(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_first_operand_char_index(8);
    formatter
}

/// Names for iced's formatter. Numbers that are surely addresses may lie within a symbol; others must be its start.
struct Names(Arc<Symbols>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let kind = instruction_operand.map(|n| instruction.op_kind(n));
        let branch = matches!(kind, Some(OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64));
        let relative = kind == Some(OpKind::Memory) && instruction.is_ip_rel_memory_operand();
        let label = self.0.at(address)?;
        if label.offset != 0 && !branch && !relative {
            return None;
        }
        Some(SymbolResult::with_str(label.symbol.address, label.symbol.name.as_str()))
    }
}

impl fmt::Display for Disassembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        if let Some(within) = &self.within {
            text.push(format!("{within}:"));
        }
        for line in &self.lines {
            if let Some(label) = &line.label {
                text.push(format!("{label}:"));
            }
            let arrow = if line.next { "=>" } else { "  " };
            let point = if line.breakpoint { '*' } else { ' ' };
            let words = match (&line.text, line.bytes.is_empty()) {
                (Some(words), _) => words.as_str(),
                (None, true) => "?? (not mapped to RAM)",
                (None, false) => "(bad)",
            };
            // Long instructions push their text aside rather than widen every line.
            let mut shown =
                format!("{arrow}{point}{:12}  {:20}  {words}", line.address.to_string(), line.bytes);
            if let Some(note) = &line.patch {
                shown = format!("{shown:76}  ; pv: {}", note.patch);
                if let Some(count) = note.count {
                    shown.push_str(&format!(", {count}×"));
                }
            }
            text.push(shown);
        }
        f.write_str(&text.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::tests::long_mode;
    use crate::debugger::symbols::tests::sample;

    #[test]
    fn instructions_with_symbols_marks_and_holes() {
        let (ram, state) = long_mode();
        // At 0x20_0000 (physical 0x8000): call guest_start; mov rax, [rip+…] into workload_main; jmp +0x10 of it;
        // a byte that is no instruction; at the page's end one instruction that runs into nothing.
        let code = [
            0xe8, 0xcb, 0x26, 0x00, 0x00, 0x48, 0x8b, 0x05, 0x84, 0x00, 0x00, 0x00, 0xe9, 0x8f, 0x00, 0x00,
            0x00, 0x06, 0x90, 0xbc, 0x90, 0x00, 0x20, 0x00,
        ];
        ram.write(Gpa(0x8000), &code).unwrap();
        ram.write(Gpa(0x8ffe), &[0x90, 0xe8]).unwrap();
        let symbols = Arc::new(sample());
        let source = Source {
            memory: GuestMemory::new(&ram, &state),
            bits: 64,
            space: Space::Virtual,
            next: Some(0x20_0005),
            symbols: &symbols,
            breakpoints: &[0x20_000c],
            sites: &[],
        };
        insta::assert_snapshot!(lines(&source, 0x20_0000, 6));
        insta::assert_snapshot!(lines(&source, 0x20_0ffe, 4));
        let serialised = serde_json::to_string(&lines(&source, 0x20_0000, 1)).unwrap();
        assert!(serialised.contains(r#""text":"call    guest_start""#), "{serialised}");
    }

    #[test]
    fn sixteen_bit_code_is_decoded_as_such() {
        let (ram, state) = long_mode();
        ram.write(Gpa(0x8000), &[0xb8, 0x34, 0x12]).unwrap();
        let instruction = decode(&GuestMemory::new(&ram, &state), 16, 0x20_0000).unwrap();
        assert_eq!(instruction.len(), 3);
    }

    #[test]
    fn patched_instructions_are_marked_as_long_as_they_are_there() {
        let (ram, state) = long_mode();
        // At workload_main: mov eax, 7; pushfq, in one thunk; then one that is not patched.
        ram.write(Gpa(0x8090), &[0xb8, 7, 0, 0, 0, 0x9c, 0x9d, 0xc3]).unwrap();
        let sites = crate::debugger::view::sites::tests::sites().list;
        let symbols = Arc::new(sample());
        let source = Source {
            memory: GuestMemory::new(&ram, &state),
            bits: 64,
            space: Space::Virtual,
            next: None,
            symbols: &symbols,
            breakpoints: &[],
            sites: &sites,
        };
        insta::assert_snapshot!(lines(&source, 0x20_0090, 3));
        assert_eq!(lines(&source, 0x20_0000, 1).lines[0].patch, None, "it was taken back");
        ram.write(Gpa(0x8095), &[0xfa]).unwrap();
        assert_eq!(lines(&source, 0x20_0095, 1).lines[0].patch, None, "another instruction is there now");
    }
}
