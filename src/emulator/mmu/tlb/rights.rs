//! Rights that change without the tables: those of protection keys (SDM 4.6.2).
//!
//! They are those of data in all address spaces, and none of code: what was made of that stays, and so do its stamps.
use super::space::SPACES;
use super::{EMPTY, ENTRIES, Tlb};

impl Tlb {
    /// Forgets all of the supervisor's bank.
    pub(super) fn forget_supervisor_bank(&mut self) {
        if self.local.len() + self.global.len() > ENTRIES / 2 {
            self.entries[..ENTRIES].fill(EMPTY);
            self.local.clear();
            self.global.clear();
        }
        for at in self.local.drain(..).chain(self.global.drain(..)) {
            self.entries[usize::from(at)] = EMPTY;
        }
    }

    /// Forgets data in user pages: PKRU was changed. With `smap` the supervisor reaches these only through a bank of its own.
    ///
    /// Windows over user pages are told to depend on the space, whoever's they are, and so are dropped.
    pub(crate) fn forget_user_data(&mut self, smap: bool) {
        (0..SPACES).for_each(|number| self.forget_banks(number));
        if !smap {
            self.forget_supervisor_bank();
        }
        self.local_generation += 1;
    }

    /// Forgets all data: IA32_PKRS was changed, which is about pages that are mostly global.
    pub(crate) fn forget_data(&mut self) {
        (0..SPACES).for_each(|number| self.forget_banks(number));
        self.forget_supervisor_bank();
        self.begin_generation();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bank, Fill};
    use super::*;
    use crate::arch::address::PAGE_SIZE;

    /// Data in each bank, of two spaces and global, and code.
    fn filled() -> Tlb {
        let mut tlb = Tlb::default();
        let page = |page: u64, global| Fill {
            page,
            gpa: page + 0x10_0000,
            host: 0x7000_0000_0000 + page as usize,
            write: true,
            code: false,
            global,
            size: PAGE_SIZE,
        };
        for pcid in [1, 2] {
            tlb.load_space(pcid, true);
            tlb.fill(Bank::User, &page(0x5000, false));
            tlb.fill(Bank::User, &page(0x6000, true));
            tlb.fill(Bank::SupervisorAc, &page(0x5000, false));
        }
        tlb.fill(Bank::Supervisor, &page(0x7000, false));
        tlb.fill(Bank::Supervisor, &page(0x8000, true));
        tlb.fill_code(Bank::User, 0x9000, 0x9000, false, PAGE_SIZE);
        tlb.fill_device(Bank::Supervisor, 0xa000, 0xfee0_0000, true);
        tlb
    }

    /// Which data is known: user's own and global of the current space, the same of the other one; the supervisor's.
    fn known(tlb: &mut Tlb) -> ([bool; 6], [bool; 3]) {
        let supervisor = [
            tlb.read(Bank::Supervisor, 0x7000, 1).is_some(),
            tlb.read(Bank::Supervisor, 0x8000, 1).is_some(),
            tlb.device(Bank::Supervisor, 0xa000, false).is_some(),
        ];
        let mut user = [false; 6];
        for (pcid, known) in [2, 1].into_iter().zip(user.chunks_mut(3)) {
            tlb.load_space(pcid, true);
            let places = [(Bank::User, 0x5000), (Bank::User, 0x6000), (Bank::SupervisorAc, 0x5000)];
            for (known, (bank, at)) in known.iter_mut().zip(places) {
                *known = tlb.write(bank, at, 1).is_some();
            }
        }
        (user, supervisor)
    }

    #[test]
    fn rights_that_change_are_those_of_data_in_all_spaces() {
        let after = |change: fn(&mut Tlb)| {
            let mut tlb = filled();
            let (generations, code) = ((tlb.generation, tlb.local_generation), tlb.local_code());
            change(&mut tlb);
            let windows = (tlb.generation != generations.0, tlb.local_generation != generations.1);
            assert_eq!((tlb.local_code(), tlb.fetch(Bank::User, 0x9000)), (code, Some((0x9000, false))));
            (known(&mut tlb), windows)
        };
        assert_eq!(after(|_| ()), (([true; 6], [true; 3]), (false, false)));
        assert_eq!(
            after(|tlb| tlb.forget_user_data(true)),
            (([false; 6], [true, true, false]), (false, true))
        );
        assert_eq!(after(|tlb| tlb.forget_user_data(false)), (([false; 6], [false; 3]), (false, true)));
        assert_eq!(after(Tlb::forget_data), (([false; 6], [false; 3]), (true, true)));
    }
}
