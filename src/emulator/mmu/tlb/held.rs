//! The soft TLB's entries, for somebody who looks.
use super::space::SPACES;
use super::{Bank, CODE, CODE_ENTRIES, CodeEntry, ENTRIES, Entry, NONE, PAGE_MASK, Tlb};
use crate::arch::address::PAGE_SIZE;
use crate::arch::{Gpa, Gva};
use crate::engine::{Held, HeldSpace, Store, Whose};

const fn whose(bank: Bank) -> Whose {
    match bank {
        Bank::Supervisor => Whose::Supervisor,
        Bank::SupervisorAc => Whose::SupervisorAc,
        Bank::User | Bank::UserAligned => Whose::User,
    }
}

/// The banks in their own order.
const BANK_ORDER: [Bank; 4] = [Bank::Supervisor, Bank::User, Bank::SupervisorAc, Bank::UserAligned];

fn data(entry: &Entry, bank: Bank, space: usize) -> Option<Held> {
    if entry.read == NONE {
        return None;
    }
    Some(Held {
        linear: Gva(entry.read),
        physical: Gpa(entry.gpa & PAGE_MASK),
        length: PAGE_SIZE,
        store: Store::Data,
        whose: whose(bank),
        rights: [true, entry.write != NONE, false],
        global: entry.gpa & 1 != 0,
        has_code: entry.write != NONE && entry.write & CODE != 0,
        space,
    })
}

impl Tlb {
    /// The address spaces that are told apart, of which translations may be remembered.
    pub(crate) fn held_spaces(&self) -> Vec<HeldSpace> {
        let space = |(number, space): (usize, &super::Space)| HeldSpace {
            name: if space.is_used() { format!("PCID {}", space.pcid()) } else { "unused".to_owned() },
            current: number == self.current,
        };
        self.spaces.iter().enumerate().map(space).collect()
    }

    /// Number of the space that CR3 names, in [`Self::held_spaces`].
    pub(crate) fn held_current(&self) -> usize {
        self.current
    }

    fn held_code(&self, place: usize, entry: &CodeEntry) -> Option<Held> {
        let space = if entry.global {
            (entry.stamp == self.global_code).then_some(self.current)
        } else {
            self.spaces.iter().position(|space| space.code == entry.stamp)
        };
        let space = space.filter(|_| entry.tag != NONE)?;
        Some(Held {
            linear: Gva(entry.tag),
            physical: Gpa(entry.gpa),
            length: PAGE_SIZE,
            store: Store::Code,
            whose: whose(BANK_ORDER[place / CODE_ENTRIES]),
            rights: [false, false, true],
            global: entry.global,
            has_code: false,
            space,
        })
    }

    /// What is remembered. Nothing is looked up, and nothing moved.
    pub(crate) fn held(&self) -> Vec<Held> {
        let supervisors = self.entries[..ENTRIES].iter().map(|entry| (entry, Bank::Supervisor, self.current));
        let of_spaces = (0..SPACES).flat_map(|number| {
            let first = (2 + 2 * number) * ENTRIES;
            let (user, ac) = self.entries[first..first + 2 * ENTRIES].split_at(ENTRIES);
            let with = move |bank| move |entry| (entry, bank, number);
            user.iter().map(with(Bank::User)).chain(ac.iter().map(with(Bank::SupervisorAc)))
        });
        let mut held: Vec<Held> = supervisors
            .chain(of_spaces)
            .filter_map(|(entry, bank, space)| data(entry, bank, space))
            .collect();
        held.extend(self.code.iter().enumerate().filter_map(|(place, entry)| self.held_code(place, entry)));
        let devices = BANK_ORDER.into_iter().zip(&self.device).filter(|(_, entry)| {
            entry.tag != NONE && entry.generation == (self.generation, self.local_generation)
        });
        held.extend(devices.map(|(bank, entry)| Held {
            linear: Gva(entry.tag),
            physical: Gpa(entry.gpa),
            length: PAGE_SIZE,
            store: Store::Device,
            whose: whose(bank),
            rights: [true, entry.write, false],
            global: false,
            has_code: false,
            space: self.current,
        }));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fill;
    use super::*;

    #[test]
    fn each_entry_is_told_with_what_it_holds_for_and_none_that_was_forgotten() {
        let mut tlb = Tlb::default();
        let page = |page: u64, write, code, global| Fill {
            page,
            gpa: page + 0x10_0000,
            host: 0x7000_0000_0000,
            write,
            code,
            global,
            size: PAGE_SIZE,
        };
        tlb.load_space(1, true);
        tlb.fill(Bank::User, &page(0x5000, true, false, false));
        tlb.fill_code(Bank::User, 0x6000, 0x16_0000, false, PAGE_SIZE);
        tlb.load_space(2, true);
        tlb.fill(Bank::Supervisor, &page(0x7000, true, true, true));
        tlb.fill(Bank::SupervisorAc, &page(0x5000, false, false, false));
        tlb.fill_device(Bank::Supervisor, 0xa000, 0xfee0_0000, false);
        let held = tlb.held();
        let spaces = tlb.held_spaces();
        let find = |store, whose| {
            let mut found = held.iter().filter(|h| (h.store, h.whose) == (store, whose));
            let only = *found.next().unwrap();
            assert!(found.next().is_none(), "{held:?}");
            (only, spaces[only.space].name.clone())
        };
        assert_eq!(held.len(), 5);
        let (user, name) = find(Store::Data, Whose::User);
        assert_eq!(
            (user.linear, user.physical, user.rights),
            (Gva(0x5000), Gpa(0x10_5000), [true, true, false])
        );
        assert_eq!((name.as_str(), user.global), ("PCID 1", false));
        let (kernel, name) = find(Store::Data, Whose::Supervisor);
        assert!(kernel.global && kernel.has_code && name == "PCID 2");
        let (ac, name) = find(Store::Data, Whose::SupervisorAc);
        assert_eq!((ac.rights, name.as_str()), ([true, false, false], "PCID 2"));
        let (code, name) = find(Store::Code, Whose::User);
        assert_eq!(
            (code.physical, code.rights, name.as_str()),
            (Gpa(0x16_0000), [false, false, true], "PCID 1")
        );
        assert_eq!(find(Store::Device, Whose::Supervisor).0.rights, [true, false, false]);
        assert!(spaces[tlb.held_current()].current);
        tlb.flush_space(1);
        assert_eq!(tlb.held().len(), 3, "user's data and code of the first space are gone");
        tlb.flush_all();
        assert!(tlb.held().is_empty());
    }
}
