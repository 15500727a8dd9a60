//! What the debugger shows: each view is plain data, made from the machine's state, that prints itself for people and
//! serialises for programs. Numbers of the guest are hexadecimal text in the serialised form, since not every reader
//! of JSON has 64-bit integers.
pub mod chips;
pub mod cpus;
pub mod devices;
pub mod disassembly;
pub mod lens;
pub mod location;
pub mod memory;
pub mod paging;
pub mod registers;
pub mod segment;
pub mod sites;
pub mod stats;
pub mod tables;
pub mod trace;
pub mod translations;

use crate::arch::{Gpa, Gva};
use serde::{Serialize, Serializer};
use std::fmt;

/// A number of the guest: `0x…` wherever it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<Gpa> for Hex {
    fn from(at: Gpa) -> Self {
        Self(at.0)
    }
}

/// Serialises a linear address as [`Hex`].
pub(super) fn hex_address<S: Serializer>(at: &Gva, serializer: S) -> Result<S::Ok, S::Error> {
    Hex(at.0).serialize(serializer)
}

/// ` <name+0x10>`, or nothing.
struct Angled<'a>(&'a Option<String>);

impl fmt::Display for Angled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(label) => write!(f, " <{label}>"),
            None => Ok(()),
        }
    }
}
