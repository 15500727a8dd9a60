//! The memory that a person watches, and what was seen in it last.
use crate::arch::Gva;
use crate::engine::{Watch, WatchHit, WatchKind};
use serde::{Serialize, Serializer};
use std::ops::Range;

/// One watchpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Watchpoint {
    /// As a breakpoint's.
    pub number: u32,
    /// Linear address.
    #[serde(serialize_with = "super::view::hex_address")]
    pub at: Gva,
    /// Bytes, at least one and at most [`Watchpoint::MOST`].
    pub length: u64,
    /// Which accesses stop the guest.
    #[serde(serialize_with = "kind")]
    pub kind: WatchKind,
    /// As it was written.
    pub written: String,
    /// How often it was met.
    pub hits: u64,
    /// What was there when the guest was last resumed, as far as it could be read.
    #[serde(skip)]
    pub seen: Vec<u8>,
}

fn kind<S: Serializer>(kind: &WatchKind, to: S) -> Result<S::Ok, S::Error> {
    verb(*kind).serialize(to)
}

/// The command that sets such a watchpoint.
#[must_use]
pub const fn verb(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Write => "watch",
        WatchKind::Read => "rwatch",
        WatchKind::Access => "awatch",
    }
}

impl Watchpoint {
    /// Bytes that are watched if nothing else is said.
    pub const USUAL: u64 = 8;
    /// Bytes that one watches at most.
    pub const MOST: u64 = 1 << 16;
    /// Bytes of a longer range that are shown.
    const SHOWN: usize = 16;

    /// What an engine is told.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { at: self.at, length: self.length, kind: self.kind }
    }

    /// Whether this access may be one of those that it stops at; `now` is what is there now.
    #[must_use]
    pub fn is_met_by(&self, hit: &WatchHit, now: &[u8]) -> bool {
        let here = self.watch().overlaps(hit.at.0, 1);
        here && (self.kind == hit.kind || self.kind == WatchKind::Access)
            || self.kind != WatchKind::Read && self.seen != now
    }

    /// Which of the bytes to show to somebody who knows where the access was: all of a value, or of a longer range those
    /// that have changed, or else those that were accessed.
    #[must_use]
    pub fn shown(&self, hit: &WatchHit, now: &[u8]) -> Range<usize> {
        let length = now.len().min(self.seen.len());
        if length <= Self::SHOWN {
            return 0..length;
        }
        let differs = |i: &usize| self.seen[*i] != now[*i];
        let accessed = hit.at.0.saturating_sub(self.at.0).min(length as u64 - 1) as usize;
        let first = (0..length).find(differs).unwrap_or(accessed) & !7;
        let last = (0..length).rfind(differs).unwrap_or(accessed);
        first..(last + 1).next_multiple_of(8).min(first + Self::SHOWN).min(length)
    }
}

/// A value as a person reads it: a number if it has the size of one, or else its bytes.
#[must_use]
pub fn value(bytes: &[u8]) -> String {
    match bytes.len() {
        1 | 2 | 4 | 8 => {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            format!("{:#x}", u64::from_le_bytes(all))
        }
        0 => "??".to_owned(),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(length: u64, kind: WatchKind) -> Watchpoint {
        let seen = vec![0; length as usize];
        Watchpoint { number: 1, at: Gva(0x1000), length, kind, written: "x".into(), hits: 0, seen }
    }

    fn hit(at: u64, kind: WatchKind) -> WatchHit {
        WatchHit { at: Gva(at), kind, by: None }
    }

    #[test]
    fn an_access_is_told_to_those_it_concerns() {
        let write = point(8, WatchKind::Write);
        assert!(write.is_met_by(&hit(0x1007, WatchKind::Write), &[0; 8]));
        assert!(!write.is_met_by(&hit(0x1008, WatchKind::Write), &[0; 8]));
        assert!(!write.is_met_by(&hit(0x1000, WatchKind::Read), &[0; 8]));
        // The same instruction made another access, which was told.
        assert!(write.is_met_by(&hit(0x2000, WatchKind::Read), &[1; 8]));
        assert!(point(8, WatchKind::Access).is_met_by(&hit(0x1000, WatchKind::Write), &[0; 8]));
        assert!(!point(8, WatchKind::Read).is_met_by(&hit(0x2000, WatchKind::Read), &[1; 8]));
    }

    #[test]
    fn of_long_ranges_what_changed_is_shown() {
        assert_eq!(point(16, WatchKind::Write).shown(&hit(0x1000, WatchKind::Write), &[0; 16]), 0..16);
        let long = point(100, WatchKind::Write);
        let mut now = [0; 100];
        assert_eq!(long.shown(&hit(0x1062, WatchKind::Write), &now), 96..100);
        now[21] = 1;
        assert_eq!(long.shown(&hit(0x1015, WatchKind::Write), &now), 16..24);
        now[90] = 1;
        assert_eq!(long.shown(&hit(0x1015, WatchKind::Write), &now), 16..32);
        assert_eq!(value(&[0x34, 0x12]), "0x1234");
        assert_eq!(value(&[1, 2, 3]), "01 02 03");
    }
}
