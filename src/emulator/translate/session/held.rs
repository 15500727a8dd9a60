//! The windows of translated code, for somebody who looks.
use super::{Known, Translator};
use crate::arch::{Gpa, Gva};
use crate::emulator::mmu::Tlb;
use crate::emulator::mmu::window::Window;
use crate::engine::{Held, Store, Translations, Whose};
use crate::mem::GuestRam;

fn physical(ram: &GuestRam, host: u64) -> Option<Gpa> {
    let slot = ram.slots().iter().find(|s| host.wrapping_sub(s.host as u64) < s.size)?;
    Some(Gpa(slot.gpa.0 + (host - slot.host as u64)))
}

impl Translator {
    /// What the vCPU remembers of the guest's page tables.
    pub(crate) fn held(&self) -> Translations {
        let mut held = self.single.held();
        held.what = "soft TLB and windows of translated code";
        let (tlb, ram) = (self.single.tlb(), self.single.ram());
        let windows = open(&self.known, &self.frame.context.windows, tlb);
        let wide = self.frame.context.wide.iter().enumerate().flat_map(|(set, both)| {
            let both = both.iter().enumerate();
            both.flat_map(move |(write, list)| list.iter().map(move |window| (set == 1, write == 1, *window)))
        });
        let wide = wide.filter(|(user, write, window)| self.known.holds(*user, *write, 0, window, tlb));
        let mut list: Vec<Held> = windows
            .chain(wide)
            .filter_map(|(user, write, window)| {
                Some(Held {
                    linear: Gva(window.start),
                    physical: physical(ram, window.start.wrapping_add(window.addend))?,
                    length: window.length,
                    store: Store::Window,
                    whose: if user { Whose::User } else { Whose::Supervisor },
                    rights: [true, write, false],
                    global: false,
                    has_code: false,
                    space: tlb.held_current(),
                })
            })
            .collect();
        // Many classes of accesses have the same window.
        list.sort_by_key(|held| (held.linear.0, held.length, held.whose, held.rights));
        list.dedup();
        held.list.append(&mut list);
        held
    }
}

/// The windows that still hold: of the user or not, for writing or not.
fn open<'a>(
    known: &'a Known,
    windows: &'a [[[Window; crate::emulator::mmu::window::CLASSES]; 2]; 2],
    tlb: &'a Tlb,
) -> impl Iterator<Item = (bool, bool, Window)> + 'a {
    let flat = windows.as_flattened().as_flattened().iter().enumerate();
    flat.filter_map(|(number, window)| {
        let (user, write, bit) = Known::which(number);
        known.holds(user, write, bit, window, tlb).then_some((user, write, *window))
    })
}
