//! Devices: where each is reached, and what stands in its registers.
use super::Hex;
use crate::machine;
use serde::Serialize;
use std::fmt;

/// Columns that a register's name takes at least.
const NAME: usize = 10;

/// One register, or several in a row that hold the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Register {
    /// Its name.
    pub name: String,
    /// What is in it, if that is a number.
    pub value: Option<Hex>,
    /// Its width in bits; 0 without a value.
    pub bits: u8,
    /// The same in words.
    pub words: Vec<String>,
}

/// The registers of a device, or of one of its like parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Block {
    /// What it is called.
    pub name: String,
    /// Its registers.
    pub registers: Vec<Register>,
}

impl From<machine::Block> for Block {
    fn from(block: machine::Block) -> Self {
        let register = |r: machine::Register| Register {
            name: r.name.into_owned(),
            value: r.value.map(Hex),
            bits: r.bits,
            words: r.words.into_iter().map(std::borrow::Cow::into_owned).collect(),
        };
        Self { name: block.name, registers: block.registers.into_iter().map(register).collect() }
    }
}

/// `name[5]` as `name` and 5.
fn numbered(name: &str) -> Option<(&str, u32)> {
    let (name, number) = name.strip_suffix(']')?.split_once('[')?;
    Some((name, number.parse().ok()?))
}

impl Block {
    /// The registers, those of a table that follow each other and hold the same as one: `REDTBL[5-23]`.
    fn rows(&self) -> Vec<(String, &Register)> {
        let mut rows: Vec<(String, &Register)> = Vec::new();
        let mut first = 0;
        for (place, register) in self.registers.iter().enumerate() {
            let before = &self.registers[place.saturating_sub(1)];
            let same = place > 0
                && matches!(
                    (numbered(&before.name), numbered(&register.name)),
                    (Some((a, n)), Some((b, m))) if a == b && n + 1 == m
                )
                && (before.value, &before.words) == (register.value, &register.words);
            match (same, rows.last_mut(), numbered(&register.name)) {
                (true, Some(row), Some((name, last))) => row.0 = format!("{name}[{first}-{last}]"),
                (_, _, numbered) => {
                    first = numbered.map_or(0, |(_, number)| number);
                    rows.push((register.name.clone(), register));
                }
            }
        }
        rows
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let name = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(NAME);
        let digits = |r: &Register| usize::from(r.bits).div_ceil(4);
        let value = rows.iter().map(|(_, r)| r.value.map_or(0, |_| 2 + digits(r))).max().unwrap_or(0);
        f.write_str(&self.name)?;
        for (named, register) in rows {
            let number = register.value.map(|v| format!("0x{:0digits$x}", v.0, digits = digits(register)));
            let line = format!(
                "  {named:name$}  {:value$}  {}",
                number.unwrap_or_default(),
                register.words.join(", ")
            );
            write!(f, "\n{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Devices that were asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Devices {
    /// Their blocks of registers.
    pub blocks: Vec<Block>,
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, block) in self.blocks.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{block}")?;
        }
        Ok(())
    }
}

/// One device of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// First and last of each range of its ports.
    pub ports: Vec<[Hex; 2]>,
    /// First and last of each range of its memory.
    pub memory: Vec<[Hex; 2]>,
    /// What its registers are called, if it shows any.
    pub blocks: Vec<String>,
}

/// All devices.
#[derive(Clone, Debug, Serialize)]
pub struct Places {
    /// By name.
    pub devices: Vec<Place>,
}

/// A range as text.
fn range(what: &str, [first, last]: &[Hex; 2]) -> String {
    if first == last { format!("{what} {first}") } else { format!("{what} {first}-{last}") }
}

/// Parts that are listed by name; more are counted.
const LISTED: usize = 4;

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.devices.iter().map(|device| device.name.len()).max().unwrap_or(0);
        for (number, device) in self.devices.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            let ports = device.ports.iter().map(|r| range("port", r));
            let mut parts: Vec<_> = ports.chain(device.memory.iter().map(|r| range("memory", r))).collect();
            let names: Vec<&str> =
                device.blocks.iter().map(String::as_str).filter(|name| *name != device.name).collect();
            match names.len() {
                0 if device.blocks.is_empty() => parts.push("keeps nothing in registers".to_owned()),
                0 => {}
                1..=LISTED => parts.push(names.join(", ")),
                count => parts.push(format!("{} … {}, {count} parts", names[0], names[count - 1])),
            }
            write!(f, "{}", format!("{:width$}  {}", device.name, parts.join("; ")).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(name: &str, value: Option<u64>, bits: u8, words: &[&str]) -> Register {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Register { name: name.to_owned(), value: value.map(Hex), bits, words }
    }

    #[test]
    fn registers_stand_in_columns_and_like_rows_of_a_table_are_one() {
        let block = Block {
            name: "chip".to_owned(),
            registers: vec![
                register("IER", Some(3), 8, &["ERBFI", "ETBEI"]),
                register("T[0]", Some(0x1_0000), 24, &["masked"]),
                register("T[1]", Some(0x1_0000), 24, &["masked"]),
                register("T[2]", Some(0x1_0000), 24, &["masked"]),
                register("T[3]", Some(0x31), 24, &["edge"]),
                register("T[5]", Some(0x31), 24, &["edge"]),
                register("IRR", None, 0, &["none"]),
                register("SCR", Some(0), 8, &[]),
            ],
        };
        insta::assert_snapshot!(block, @r"
        chip
          IER         0x03      ERBFI, ETBEI
          T[0-2]      0x010000  masked
          T[3]        0x000031  edge
          T[5]        0x000031  edge
          IRR                   none
          SCR         0x00
        ");
    }

    #[test]
    fn devices_are_listed_with_their_places() {
        let place = |name: &str, ports: &[[u64; 2]], blocks: &[&str]| Place {
            name: name.to_owned(),
            ports: ports.iter().map(|r| r.map(Hex)).collect(),
            memory: vec![],
            blocks: blocks.iter().map(|&b| b.to_owned()).collect(),
        };
        let places = Places {
            devices: vec![
                place("uart16550", &[[0x3f8, 0x3ff]], &["uart16550"]),
                place("exit", &[[0xf4, 0xf4]], &[]),
                place("pic", &[[0x20, 0x21], [0xa0, 0xa1]], &["pic master", "pic slave"]),
                place("pci", &[], &["pci", "pci 1", "pci 2", "pci 3", "pci 4", "pci 5"]),
            ],
        };
        insta::assert_snapshot!(places, @r"
        uart16550  port 0x3f8-0x3ff
        exit       port 0xf4; keeps nothing in registers
        pic        port 0x20-0x21; port 0xa0-0xa1; pic master, pic slave
        pci        pci 1 … pci 5, 5 parts
        ");
    }
}
