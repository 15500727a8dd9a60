//! Instructions in Intel syntax, with symbols.
use super::Hex;
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::Symbols;
use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind, SymbolResolver, SymbolResult,
};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// The longest instruction, in bytes.
const LONGEST: usize = 15;

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
    let bytes = memory.read_prefix(Space::Virtual, address, LONGEST);
    let instruction = Decoder::with_ip(bits, &bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// `count` instructions from `address`. A byte that begins no instruction is a line of its own.
#[must_use]
pub fn lines(source: &Source<'_>, address: u64, count: usize) -> Disassembly {
    let bytes = source.memory.read_prefix(source.space, address, LONGEST.saturating_mul(count));
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
        lines.push(line);
    }
    let within = source.symbols.label(address).filter(|_| source.symbols.exactly(address).is_none());
    Disassembly { lines, within }
}

fn formatter(symbols: &Arc<Symbols>) -> IntelFormatter {
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
            text.push(format!("{arrow}{point}{:12}  {:20}  {words}", line.address.to_string(), line.bytes));
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
}
