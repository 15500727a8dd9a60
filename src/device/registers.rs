//! What a device shows of itself to a person who looks: its registers by name, and in words what is in them.
//!
//! Looking has no effect: nothing is acknowledged, consumed or brought up to date, unlike with the guest's reads. Each
//! device says it beside its own registers, with what has passed in guest time reckoned in.
use bitflags::Flags;
use std::borrow::Cow;

/// One register, or what stands for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// Its name, as the datasheet or the standard has it.
    pub name: Cow<'static, str>,
    /// What is in it; `None` for what is no number, as a set of vectors or a table.
    pub value: Option<u64>,
    /// Its width in bits; 0 without a value.
    pub bits: u8,
    /// The same in words: flags that are set, fields.
    pub words: Vec<Cow<'static, str>>,
}

/// The registers that belong together: of a device, or of a part of one that there are several of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// What it is called, beginning with the device's name.
    pub name: String,
    /// Its registers, in the order of the datasheet.
    pub registers: Vec<Register>,
}

/// A device that shows its registers.
pub trait Described {
    /// The registers of the device that is `called` so in its machine, at the present guest time.
    fn describe(&self, called: &str) -> Vec<Block>;
}

impl Block {
    /// A block without registers.
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), registers: Vec::new() }
    }

    /// Adds a register of `bits`.
    pub(super) fn put(
        mut self,
        name: impl Into<Cow<'static, str>>,
        bits: u8,
        value: impl Into<u64>,
        words: Vec<Cow<'static, str>>,
    ) -> Self {
        self.registers.push(Register { name: name.into(), value: Some(value.into()), bits, words });
        self
    }

    /// Adds a register whose value says all.
    pub(super) fn plain(self, name: impl Into<Cow<'static, str>>, bits: u8, value: impl Into<u64>) -> Self {
        self.put(name, bits, value, Vec::new())
    }

    /// Adds a register that one sentence explains.
    pub(super) fn said(
        self,
        name: impl Into<Cow<'static, str>>,
        bits: u8,
        value: impl Into<u64>,
        words: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.put(name, bits, value, vec![words.into()])
    }

    /// Adds a register of flags, told by their names.
    pub(super) fn flags<F: Flags<Bits: Into<u64>>>(self, name: impl Into<Cow<'static, str>>, set: F) -> Self {
        let bits = (8 * size_of::<F::Bits>()) as u8;
        let words = names(&set);
        self.put(name, bits, set.bits(), words)
    }

    /// Adds what is no number.
    pub(super) fn words(mut self, name: impl Into<Cow<'static, str>>, words: Vec<Cow<'static, str>>) -> Self {
        self.registers.push(Register { name: name.into(), value: None, bits: 0, words });
        self
    }

    /// Adds bytes, as hexadecimal text.
    pub(super) fn bytes(self, name: impl Into<Cow<'static, str>>, bytes: &[u8]) -> Self {
        let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        self.words(name, vec![text.into()])
    }
}

/// The names of the flags that are set.
pub(super) fn names<F: Flags>(set: &F) -> Vec<Cow<'static, str>> {
    set.iter_names().map(|(name, _)| Cow::Borrowed(name)).collect()
}

/// A byte of a text, as a person reads it.
pub(super) fn character(byte: u8) -> String {
    match byte {
        0x20..0x7f => format!("'{}'", char::from(byte)),
        _ => format!("{byte:#04x}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bus::{IrqLine, IrqSink};
    use std::sync::Arc;

    struct Nowhere;

    impl IrqSink for Nowhere {
        fn set_line(&self, _: u8, _: bool) {}
    }

    /// A line that leads nowhere.
    pub(in crate::device) fn line() -> IrqLine {
        IrqLine::new(Arc::new(Nowhere), 0)
    }

    /// The register of this name in a block.
    pub(in crate::device) fn find<'a>(blocks: &'a [Block], block: &str, name: &str) -> &'a Register {
        let found = blocks.iter().find(|b| b.name == block);
        let found = found.and_then(|b| b.registers.iter().find(|r| r.name == name));
        found.unwrap_or_else(|| panic!("no {name} in {block}: {blocks:?}"))
    }

    bitflags::bitflags! {
        struct Two: u8 {
            const ONE = 1;
            const HIGH = 0x80;
        }
    }

    #[test]
    fn a_block_is_built_register_by_register() {
        let block = Block::new("chip").flags("F", Two::HIGH).plain("P", 16, 7_u16).bytes("T", &[1, 0xab]);
        let [f, p, t] = block.registers.as_slice() else { panic!("{block:?}") };
        assert_eq!((f.value, f.bits, f.words.as_slice()), (Some(0x80), 8, &["HIGH".into()][..]));
        assert_eq!((p.value, p.bits, p.words.len()), (Some(7), 16, 0));
        assert_eq!((t.value, t.words[0].as_ref()), (None, "01 ab"));
        assert_eq!((character(b'a').as_str(), character(10).as_str()), ("'a'", "0x0a"));
    }
}
