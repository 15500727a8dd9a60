//! The TLB: what the engine remembers of the guest's page tables, and for one address beside what they say now.
use super::Hex;
use super::paging::Walk;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{Held, Translations};
use serde::Serialize;
use std::fmt;

/// Entries that are listed at most.
const MOST: usize = 64;

/// A stretch that is remembered: pages that follow each other, in linear and in physical addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Entry {
    /// First linear address.
    pub linear: Hex,
    /// Where it lies, guest-physical.
    pub physical: Hex,
    /// Bytes.
    pub length: u64,
    /// Where it is remembered: data, code, device, window, mirror.
    pub store: &'static str,
    /// For whom: supervisor, user.
    pub whose: &'static str,
    /// `rwx`, with a `-` for what is not allowed.
    pub rights: String,
    /// It outlives a write of CR3.
    pub global: bool,
    /// Code was made of what lies there: in the soft TLB writes take the long way, in the mirror it is a patched copy.
    pub has_code: bool,
    /// The address space.
    pub space: String,
}

/// An address space and how much is remembered of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// The CPU is in it.
    pub current: bool,
    /// Entries: pages, windows or mappings.
    pub entries: usize,
}

/// What is remembered, as much of it as was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Tlb {
    /// What it is, or why nothing can be seen.
    pub what: String,
    /// Whether it can be seen.
    pub visible: bool,
    /// Spaces of which something is remembered, and the current one.
    pub spaces: Vec<Space>,
    /// Stretches in the range that was asked for.
    pub stretches: usize,
    /// The first of them, by address.
    pub entries: Vec<Entry>,
    /// What the tables say of the one address that was asked for.
    pub walk: Option<Walk>,
    /// For that address: whether both agree.
    pub verdict: Option<String>,
}

/// Bytes that lie in both.
fn meets(held: &Held, (first, last): (u64, u64)) -> bool {
    held.linear.0 <= last && first <= held.linear.0.saturating_add(held.length - 1)
}

/// Joins pages that follow each other.
fn joined(mut list: Vec<Held>) -> Vec<Held> {
    list.sort_by_key(|h| (h.space, h.store, h.whose, h.linear.0));
    let mut all: Vec<Held> = Vec::new();
    for held in list {
        match all.last_mut() {
            Some(last)
                if last.linear.0.checked_add(last.length) == Some(held.linear.0)
                    && last.physical.0 + last.length == held.physical.0
                    && (last.space, last.store, last.whose) == (held.space, held.store, held.whose)
                    && (last.rights, last.global, last.has_code)
                        == (held.rights, held.global, held.has_code) =>
            {
                last.length += held.length;
            }
            _ => all.push(held),
        }
    }
    all.sort_by_key(|h| (h.linear.0, h.store, h.whose, h.space));
    all
}

/// What a mode whose TLB cannot be seen has to say.
#[must_use]
pub fn unseen(what: String, walk: Option<Walk>) -> Tlb {
    Tlb { what, visible: false, spaces: vec![], stretches: 0, entries: vec![], walk, verdict: None }
}

/// What is remembered in a range of linear addresses, first and last; with the walk of the first if it was asked for alone.
#[must_use]
pub fn show(known: Translations, range: (u64, u64), walk: Option<Walk>) -> Tlb {
    let Translations { what, spaces, list } = known;
    let count = |number: usize| list.iter().filter(|held| held.space == number).count();
    let shown = spaces.iter().enumerate().filter(|(number, space)| space.current || count(*number) > 0);
    let shown = shown
        .map(|(number, space)| Space {
            name: space.name.clone(),
            current: space.current,
            entries: count(number),
        })
        .collect();
    let inside: Vec<Held> = list.into_iter().filter(|held| meets(held, range)).collect();
    let is_current = |held: &Held| spaces.get(held.space).is_some_and(|space| space.current);
    let verdict = walk.as_ref().map(|walk| verdict(walk, &inside, range.0, is_current));
    let stretches = joined(inside);
    let letter = |(on, letter): (bool, char)| if on { letter } else { '-' };
    let entry = |held: &Held| Entry {
        linear: Hex(held.linear.0),
        physical: Hex(held.physical.0),
        length: held.length,
        store: held.store.name(),
        whose: held.whose.name(),
        rights: held.rights.into_iter().zip("rwx".chars()).map(letter).collect(),
        global: held.global,
        has_code: held.has_code,
        space: spaces.get(held.space).map(|space| space.name.clone()).unwrap_or_default(),
    };
    Tlb {
        what: what.to_owned(),
        visible: true,
        spaces: shown,
        stretches: stretches.len(),
        entries: stretches.iter().take(MOST).map(entry).collect(),
        walk,
        verdict,
    }
}

/// Whether what is remembered of an address in the current space is what the tables say.
fn verdict(walk: &Walk, held: &[Held], address: u64, is_current: impl Fn(&Held) -> bool) -> String {
    let mut places: Vec<u64> = held
        .iter()
        .filter(|held| is_current(held) || held.global)
        .map(|held| held.physical.0 + (address - held.linear.0))
        .collect();
    places.sort_unstable();
    places.dedup();
    match (places.as_slice(), walk.physical) {
        ([], _) if !held.is_empty() => {
            "held for another address space; here the next access walks the tables".to_owned()
        }
        ([], _) => "not held: the next access walks the tables".to_owned(),
        ([place], Some(says)) if *place == says.0 => "held, and the tables say the same".to_owned(),
        (places, says) => {
            let places: Vec<_> = places.iter().map(|place| Hex(*place).to_string()).collect();
            let says = says.map_or("nothing".to_owned(), |says| says.to_string());
            format!(
                "stale: {} is held, and the tables say {says}; until INVLPG or a write of CR3 either may be used",
                places.join(" and ")
            )
        }
    }
}

/// Bytes in the unit that fits.
fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", (bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE) >> 10),
    }
}

impl fmt::Display for Tlb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for space in &self.spaces {
            let mark = if space.current { '*' } else { ' ' };
            write!(f, "\n{mark} {}: {} entries", space.name, space.entries)?;
        }
        if !self.entries.is_empty() {
            write!(
                f,
                "\n{:18} {:>8}  {:14} {:3} {:6} {:14} space",
                "linear", "bytes", "physical", "may", "held", "for"
            )?;
        }
        for entry in &self.entries {
            let Entry { linear, physical, length, store, whose, rights, global, has_code, space } = entry;
            let mut notes = space.clone();
            notes.push_str(if *global { ", global" } else { "" });
            notes.push_str(if *has_code { ", code" } else { "" });
            let (linear, physical) = (linear.to_string(), physical.to_string());
            write!(
                f,
                "\n{linear:18} {:>8}  {physical:14} {rights:3} {store:6} {whose:14} {notes}",
                size(*length)
            )?;
        }
        if self.stretches > self.entries.len() {
            let left = self.stretches - self.entries.len();
            write!(f, "\nand {left} more; 'tlb ADDR LENGTH' shows those of a range")?;
        }
        if self.visible && self.stretches == 0 && self.verdict.is_none() {
            f.write_str("\nnothing is held there")?;
        }
        if let Some(verdict) = &self.verdict {
            write!(f, "\n{verdict}")?;
        }
        if let Some(walk) = &self.walk {
            write!(f, "\n{walk}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Gpa, Gva};
    use crate::debugger::memory::{GuestMemory, tests::long_mode};
    use crate::debugger::symbols::Symbols;
    use crate::debugger::view::paging;
    use crate::engine::{HeldSpace, Store, Whose};

    fn page(linear: u64, physical: u64, space: usize) -> Held {
        Held {
            linear: Gva(linear),
            physical: Gpa(physical),
            length: PAGE_SIZE,
            store: Store::Data,
            whose: Whose::Supervisor,
            rights: [true, false, false],
            global: false,
            has_code: false,
            space,
        }
    }

    fn known(list: Vec<Held>) -> Translations {
        let space = |name: &str, current| HeldSpace { name: name.to_owned(), current };
        let spaces = vec![space("PCID 0", true), space("PCID 1", false), space("unused", false)];
        Translations { what: "soft TLB", spaces, list }
    }

    #[test]
    fn pages_side_by_side_are_one_stretch_and_the_count_tells_of_the_rest() {
        let list = vec![
            page(0x2000, 0x12000, 0),
            page(0x1000, 0x11000, 0),
            page(0x3000, 0x1000, 0),
            Held { rights: [true, true, false], global: true, has_code: true, ..page(0x4000, 0x2000, 1) },
        ];
        insta::assert_snapshot!(show(known(list.clone()), (0, u64::MAX), None), @r"
        soft TLB
        * PCID 0: 3 entries
          PCID 1: 1 entries
        linear                bytes  physical       may held   for            space
        0x1000                8 KiB  0x11000        r-- data   supervisor     PCID 0
        0x3000                4 KiB  0x1000         r-- data   supervisor     PCID 0
        0x4000                4 KiB  0x2000         rw- data   supervisor     PCID 1, global, code
        ");
        assert_eq!(show(known(list.clone()), (0x3000, 0x3fff), None).entries.len(), 1);
        let none = show(known(list), (0x9000, 0x9fff), None).to_string();
        assert!(none.ends_with("\nnothing is held there"), "{none}");
        let many = (0..200).map(|n| page(n * 0x2000, 0, 0)).collect();
        let shown = show(known(many), (0, u64::MAX), None);
        assert_eq!((shown.stretches, shown.entries.len()), (200, MOST));
        assert!(shown.to_string().contains("\nand 136 more; "));
    }

    #[test]
    fn an_address_is_told_beside_what_the_tables_say() {
        let (ram, state) = long_mode();
        let verdict = |list: Vec<Held>| {
            let walk = paging::walk(&GuestMemory::new(&ram, &state), &Symbols::default(), 0x20_0094);
            let says = walk.physical.unwrap().0;
            (show(known(list), (0x20_0094, 0x20_0094), Some(walk)).verdict.unwrap(), says & !0xfff)
        };
        let (none, page_at) = verdict(vec![]);
        assert!(none.starts_with("not held: "));
        assert_eq!(verdict(vec![page(0x20_0000, page_at, 0)]).0, "held, and the tables say the same");
        assert!(verdict(vec![page(0x20_0000, page_at, 1)]).0.starts_with("held for another"));
        let stale = verdict(vec![page(0x20_0000, 0x5000, 0)]).0;
        assert!(stale.starts_with("stale: 0x5094 is held, and the tables say 0x8094"), "{stale}");
    }
}
