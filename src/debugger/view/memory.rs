//! Guest memory in GDB's ways of examining it, and as a dump.
use super::{Angled, Hex};
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::Symbols;
use serde::Serialize;
use std::fmt;

/// Bytes that one command shows at most.
pub const MOST: u64 = 64 << 10;
/// A string is cut after so many bytes.
const STRING: usize = 200;

/// Bytes of one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// 1.
    Byte = 1,
    /// 2.
    Half = 2,
    /// 4.
    Word = 4,
    /// 8.
    Giant = 8,
}

impl Unit {
    /// The unit that GDB gives this letter.
    #[must_use]
    pub const fn lettered(letter: char) -> Option<Self> {
        Some(match letter {
            'b' => Self::Byte,
            'h' => Self::Half,
            'w' => Self::Word,
            'g' => Self::Giant,
            _ => return None,
        })
    }
}

/// How a unit is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Hexadecimal.
    Hex,
    /// Decimal with sign.
    Signed,
    /// Decimal without sign.
    Unsigned,
    /// Octal.
    Octal,
    /// Binary.
    Binary,
    /// Hexadecimal with the symbol it points to.
    Address,
    /// Number and character.
    Character,
    /// Text up to a zero.
    String,
    /// An instruction.
    Instruction,
}

impl Format {
    /// The format that GDB gives this letter.
    #[must_use]
    pub const fn lettered(letter: char) -> Option<Self> {
        Some(match letter {
            'x' => Self::Hex,
            'd' => Self::Signed,
            'u' => Self::Unsigned,
            'o' => Self::Octal,
            't' => Self::Binary,
            'a' => Self::Address,
            'c' => Self::Character,
            's' => Self::String,
            'i' => Self::Instruction,
            _ => return None,
        })
    }

    /// The unit that is meant where none is written.
    #[must_use]
    pub const fn natural_unit(self) -> Unit {
        match self {
            Self::Address => Unit::Giant,
            Self::Character | Self::String | Self::Instruction => Unit::Byte,
            _ => Unit::Word,
        }
    }
}

/// What `x` is to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// How many units.
    pub count: u64,
    /// How they are written.
    pub format: Format,
    /// How large they are.
    pub unit: Unit,
}

impl Default for Shape {
    fn default() -> Self {
        Self { count: 1, format: Format::Hex, unit: Unit::Word }
    }
}

/// A line of units.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Address of the first.
    pub address: Hex,
    /// Its symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// The units as written; `??` for what cannot be read.
    pub units: Vec<String>,
}

/// Examined memory.
#[derive(Clone, Debug, Serialize)]
pub struct Examined {
    /// Line by line.
    pub rows: Vec<Row>,
    /// The address after the last byte shown.
    #[serde(skip)]
    pub end: u64,
}

/// Examines memory in a format other than [`Format::Instruction`]. The caller bounds `shape.count` by [`MOST`].
#[must_use]
pub fn examine(memory: &GuestMemory<'_>, symbols: &Symbols, space: Space, at: u64, shape: Shape) -> Examined {
    let label = |at| if space == Space::Virtual { symbols.label(at) } else { None };
    if shape.format == Format::String {
        return strings(memory, space, at, shape.count, label);
    }
    let size = shape.unit as usize;
    let bytes = memory.read(space, at, size * shape.count as usize);
    let per_row = match shape.format {
        Format::Address => 1,
        Format::Binary => (8 / size).clamp(1, 4),
        Format::Character => 8,
        _ => (16 / size).min(8),
    };
    let rows = bytes
        .chunks(size * per_row)
        .enumerate()
        .map(|(i, row)| {
            let address = at.wrapping_add((i * size * per_row) as u64);
            let units = row.chunks(size).map(|unit| write_unit(unit, shape, symbols)).collect();
            Row { address: Hex(address), symbol: label(address), units }
        })
        .collect();
    Examined { rows, end: at.wrapping_add(bytes.len() as u64) }
}

fn write_unit(bytes: &[Option<u8>], shape: Shape, symbols: &Symbols) -> String {
    let value = bytes.iter().rev().try_fold(0_u64, |sum, b| b.map(|b| sum << 8 | u64::from(b)));
    let Some(value) = value else {
        return "??".to_owned();
    };
    let bits = 8 * bytes.len();
    let signed = (value << (64 - bits)) as i64 >> (64 - bits);
    match shape.format {
        Format::Hex | Format::String | Format::Instruction => format!("0x{value:0width$x}", width = bits / 4),
        Format::Signed => signed.to_string(),
        Format::Unsigned => value.to_string(),
        Format::Octal => format!("0{value:o}"),
        Format::Binary => format!("{value:0bits$b}"),
        Format::Address => format!("{value:#x}{}", Angled(&symbols.label(value))),
        Format::Character => {
            let character = u8::try_from(value & 0xff).unwrap_or(0);
            format!("{} '{}'", signed as i8, character.escape_ascii())
        }
    }
}

fn strings(
    memory: &GuestMemory<'_>,
    space: Space,
    mut at: u64,
    count: u64,
    label: impl Fn(u64) -> Option<String>,
) -> Examined {
    let mut rows = Vec::new();
    for _ in 0..count {
        let bytes = memory.read_prefix(space, at, STRING);
        let end = bytes.iter().position(|&b| b == 0);
        let shown = &bytes[..end.unwrap_or(bytes.len())];
        let text = match (end, bytes.len()) {
            (Some(_), _) => format!("\"{}\"", shown.escape_ascii()),
            (None, 0) => "??".to_owned(),
            (None, _) => format!("\"{}\"...", shown.escape_ascii()),
        };
        rows.push(Row { address: Hex(at), symbol: label(at), units: vec![text] });
        if bytes.is_empty() {
            break;
        }
        at = at.wrapping_add(shown.len() as u64 + u64::from(end.is_some()));
    }
    Examined { rows, end: at }
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().flat_map(|r| &r.units).map(String::len).max().unwrap_or(0);
        let lines = self.rows.iter().map(|row| {
            let units: Vec<String> = row.units.iter().map(|unit| format!("{unit:width$}")).collect();
            format!("{}{}:  {}", row.address, Angled(&row.symbol), units.join("  ").trim_end())
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// A dump.
#[derive(Clone, Debug, Serialize)]
pub struct Dump {
    /// Where it begins.
    pub address: Hex,
    /// Two hexadecimal digits or `??` a byte.
    #[serde(serialize_with = "digits")]
    pub bytes: Vec<Option<u8>>,
}

fn digits<S: serde::Serializer>(bytes: &[Option<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    let text: String = bytes.iter().map(|&b| two_digits(b)).collect();
    serializer.serialize_str(&text)
}

fn two_digits(byte: Option<u8>) -> String {
    byte.map_or_else(|| "??".to_owned(), |b| format!("{b:02x}"))
}

/// Dumps `length` bytes; the caller bounds it by [`MOST`].
#[must_use]
pub fn dump(memory: &GuestMemory<'_>, space: Space, at: u64, length: usize) -> Dump {
    Dump { address: Hex(at), bytes: memory.read(space, at, length) }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        // Lines begin at multiples of 16, as in every other dump of the same memory.
        let skip = (self.address.0 % 16) as usize;
        let padded: Vec<Option<Option<u8>>> =
            std::iter::repeat_n(None, skip).chain(self.bytes.iter().map(|&b| Some(b))).collect();
        for (i, row) in padded.chunks(16).enumerate() {
            let address = (self.address.0 - skip as u64).wrapping_add(16 * i as u64);
            let mut hex = String::new();
            let mut text = String::new();
            for (n, byte) in row.iter().enumerate() {
                if n == 8 {
                    hex.push(' ');
                }
                match byte {
                    None => hex.push_str("   "),
                    Some(byte) => hex.push_str(&format!("{} ", two_digits(*byte))),
                }
                text.push(match byte {
                    None => ' ',
                    Some(Some(b @ 0x20..0x7f)) => char::from(*b),
                    Some(Some(_)) => '.',
                    Some(None) => '?',
                });
            }
            lines.push(format!("{address:016x}  {hex:49} |{text}|"));
        }
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::tests::long_mode;
    use crate::debugger::symbols::tests::sample;

    #[test]
    fn every_format_and_size() {
        let (ram, state) = long_mode();
        let mut bytes = vec![0xff, 0x41, 0x00, 0x80];
        bytes.extend(0x0020_0094_u64.to_le_bytes());
        bytes.extend(b"Hello\n\0world\0");
        ram.write(Gpa(0x8000), &bytes).unwrap();
        let memory = GuestMemory::new(&ram, &state);
        let symbols = sample();
        let mut text = String::new();
        for (count, format, unit, at) in [
            (4, Format::Hex, Unit::Byte, 0x20_0000),
            (2, Format::Hex, Unit::Half, 0x20_0000),
            (2, Format::Signed, Unit::Byte, 0x20_0000),
            (1, Format::Signed, Unit::Word, 0x20_0000),
            (1, Format::Unsigned, Unit::Word, 0x20_0000),
            (2, Format::Octal, Unit::Byte, 0x20_0000),
            (2, Format::Binary, Unit::Byte, 0x20_0000),
            (2, Format::Address, Unit::Giant, 0x20_0004),
            (3, Format::Character, Unit::Byte, 0x20_0000),
            (2, Format::String, Unit::Byte, 0x20_000c),
            (3, Format::Hex, Unit::Giant, 0x20_0ff0),
        ] {
            let shown = examine(&memory, &symbols, Space::Virtual, at, Shape { count, format, unit });
            text.push_str(&format!("{format:?} {unit:?}\n{shown}\n"));
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn going_on_begins_after_what_was_shown() {
        let (ram, state) = long_mode();
        let memory = GuestMemory::new(&ram, &state);
        let shape = Shape { count: 3, format: Format::Hex, unit: Unit::Half };
        assert_eq!(examine(&memory, &sample(), Space::Physical, 0x8000, shape).end, 0x8006);
        ram.write(Gpa(0x8000), b"ab\0c").unwrap();
        let shape = Shape { count: 1, format: Format::String, unit: Unit::Byte };
        assert_eq!(examine(&memory, &sample(), Space::Physical, 0x8000, shape).end, 0x8003);
    }

    #[test]
    fn dumps_are_aligned_and_show_holes() {
        let (ram, state) = long_mode();
        ram.write(Gpa(0x8fe6), b"guest memory\x00\xff").unwrap();
        let memory = GuestMemory::new(&ram, &state);
        let shown = dump(&memory, Space::Virtual, 0x20_0fe6, 0x24);
        insta::assert_snapshot!(shown);
        let serialised = serde_json::to_value(&shown).unwrap();
        assert!(serialised["bytes"].as_str().unwrap().ends_with("??"));
    }
}
