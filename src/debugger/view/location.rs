//! Where the guest stands: the next instruction with its place.
use super::disassembly::{Line, Source, lines};
use super::{Angled, Hex};
use serde::Serialize;
use std::fmt;

/// The next instruction.
#[derive(Clone, Debug, Serialize)]
pub struct Location {
    /// Linear address.
    pub address: Hex,
    /// `name+offset`.
    pub symbol: Option<String>,
    /// Its text, if it can be read.
    pub instruction: Option<String>,
    /// Whether the CPU waits for an interrupt instead of executing it.
    pub halted: bool,
}

/// The instruction at `address`.
#[must_use]
pub fn show(source: &Source<'_>, address: u64, halted: bool) -> Location {
    let line: Option<Line> = lines(source, address, 1).lines.pop();
    Location {
        address: Hex(address),
        symbol: source.symbols.label(address),
        instruction: line.and_then(|l| l.text),
        halted,
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "=> {}{}: ", self.address, Angled(&self.symbol))?;
        f.write_str(self.instruction.as_deref().unwrap_or("?? (the address is not mapped to RAM)"))?;
        if self.halted { f.write_str("\n   the CPU is halted and waits for an interrupt") } else { Ok(()) }
    }
}
