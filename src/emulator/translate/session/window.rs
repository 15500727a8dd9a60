//! Moves the windows through which translated code reaches memory, and drops them when they do not hold any more.
#![expect(unsafe_code, reason = "writes the context that translated code works on")]
use super::Session;
use crate::arch::address::PAGE_SIZE;
use crate::emulator::mmu::window::{CLASSES, Depends, WIDE, Window};
use crate::emulator::mmu::{Bank, Tlb};
use crate::engine::Cause;

/// Misses of windows between two attempts to move one.
const MISSES: u32 = 64;
/// As [`MISSES`], after an attempt that changed nothing.
const MISSES_IN_VAIN: u32 = 4096;
/// As [`MISSES`], after an attempt that failed.
const MISSES_AFTER_FAILURE: u32 = 16;
/// Bytes that a window of the supervisor has at least to be a wide one.
const LEAST_WIDE: u64 = 64 << 10;
/// Stretches that are remembered.
const STRETCHES: usize = 8;

/// What is known of the windows in the context. Translated code moves them, too: those that it opens it lists there. It
/// opens windows of the user for the current address space, and windows of the supervisor that hold in all.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Known {
    under: Conditions,
    /// A bit for each window of the supervisor, in the order of the context: those that may hold in the current address
    /// space only.
    local: u128,
    /// Those of them that may hold for the supervisor with RFLAGS.AC set only.
    of_ac: u128,
    /// Stretches of the supervisor's memory, for reading and for writing.
    stretches: [[(Window, Depends); STRETCHES]; 2],
    /// Which of them gives way next.
    next_stretch: usize,
    /// There are wide windows.
    wide: bool,
    /// Which wide window gives way next, for the supervisor and the user, for reading and for writing.
    next_wide: [[usize; 2]; 2],
}

/// What windows were found under.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Conditions {
    generation: u32,
    local_generation: u64,
    protections: u32,
    /// For the supervisor and for the user.
    banks: [Option<Bank>; 2],
}

const _: () = assert!(2 * CLASSES <= 128);

/// Which window one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Which {
    user: bool,
    write: bool,
    /// The bit of one of the supervisor's, if it is no wide one.
    bit: u128,
}

impl Which {
    /// The `number`-th of the windows in the context.
    fn of(number: usize) -> Self {
        let user = number >= 2 * CLASSES;
        let bit = if user { 0 } else { 1 << number };
        Self { user, write: number / CLASSES % 2 == 1, bit }
    }
}

impl Known {
    /// Of the `number`-th window in the context: whether it is the user's, whether it is for writing, and its bit.
    pub(super) fn which(number: usize) -> (bool, bool, u128) {
        let Which { user, write, bit } = Which::of(number);
        (user, write, bit)
    }

    /// Whether a window in the context would be there still when translated code is entered next.
    pub(super) fn holds(&self, user: bool, write: bool, bit: u128, window: &Window, tlb: &Tlb) -> bool {
        let (found, space) = (&self.under, tlb.local_generation == self.under.local_generation);
        !window.is_empty()
            && tlb.generation == found.generation
            && (space || !user && bit & self.local == 0)
            && (!write || tlb.protections == found.protections)
            && !tlb.forgotten.iter().any(|&page| window.holds(page))
    }
}

impl Session<'_, '_> {
    /// Drops open windows.
    fn drop_open(&mut self, which: impl Fn(Which, &Window) -> bool) {
        // SAFETY: as in `write_context`.
        let context = unsafe { &mut *self.context };
        let windows = context.windows.as_flattened_mut().as_flattened_mut();
        let base = windows.as_ptr() as u64;
        let mut number = context.opened_count as usize;
        while number > 0 {
            number -= 1;
            let place = (context.opened[number].wrapping_sub(base) / size_of::<Window>() as u64) as usize;
            let Some(window) = windows.get_mut(place) else { continue };
            if which(Which::of(place), window) {
                *window = Window::default();
                context.opened_count -= 1;
                context.opened[number] = context.opened[context.opened_count as usize];
            }
        }
        if !self.known.wide {
            return;
        }
        self.known.wide = false;
        for (set, both) in context.wide.iter_mut().enumerate() {
            for (write, wide) in both.iter_mut().enumerate() {
                for window in wide {
                    if which(Which { user: set == 1, write: write == 1, bit: 0 }, window) {
                        *window = Window::default();
                    }
                    self.known.wide |= !window.is_empty();
                }
            }
        }
    }

    /// Drops windows of the supervisor by their bits. Of those that hold with RFLAGS.AC only there are few, and each CLAC
    /// drops them.
    fn drop_supervisors(&mut self, mut bits: u128) {
        // SAFETY: as in `write_context`.
        let context = unsafe { &mut *self.context };
        let windows = context.windows.as_flattened_mut().as_flattened_mut();
        while bits != 0 {
            let Some(window) = windows.get_mut(bits.trailing_zeros() as usize) else { return };
            bits &= bits - 1;
            if window.is_empty() {
                continue;
            }
            *window = Window::default();
            let (place, count) = (&raw const *window as u64, context.opened_count as usize);
            if let Some(number) = context.opened[..count].iter().rposition(|&opened| opened == place) {
                context.opened_count -= 1;
                context.opened[number] = context.opened[count - 1];
            }
        }
    }

    /// Drops windows that do not hold any more.
    pub(super) fn drop_windows(&mut self) {
        for number in 0..self.cx.mmu.tlb.forgotten.len() {
            let page = self.cx.mmu.tlb.forgotten[number];
            self.drop_open(|_, window| window.holds(page));
            self.drop_stretches(|stretch, _| stretch.holds(page));
        }
        let (tlb, bank) = (&mut *self.cx.mmu.tlb, self.cx.mmu.bank);
        tlb.forgotten.clear();
        let set = usize::from(matches!(bank, Bank::User | Bank::UserAligned));
        let before = self.known.under;
        let mut now = Conditions {
            generation: tlb.generation,
            local_generation: tlb.local_generation,
            protections: tlb.protections,
            banks: before.banks,
        };
        now.banks[set] = Some(bank);
        // Translated code changes to the other privilege by itself, with RFLAGS.AC clear.
        let other = [Bank::Supervisor, Bank::User][1 - set];
        now.banks[1 - set] = now.banks[1 - set].map(|_| other);
        // With RFLAGS.AC the supervisor may do more, not less. Translated code changes it by itself, too.
        let ac = self.known.of_ac != 0 && now.banks[0] != Some(Bank::SupervisorAc);
        if before == now && !ac {
            return;
        }
        self.known.under = now;
        let (local, of_ac) = (self.known.local, self.known.of_ac);
        let all = before.generation != now.generation;
        let space = all || before.local_generation != now.local_generation;
        let users = space || before.banks[1] != now.banks[1];
        let code = before.protections != now.protections;
        let gone = if space { local } else { 0 } | if ac { of_ac } else { 0 };
        (self.known.local, self.known.of_ac) = (local & !gone, of_ac & !gone);
        if users || code {
            self.drop_open(|which, _| {
                all || users && which.user || code && which.write || which.bit & gone != 0
            });
        } else {
            self.drop_supervisors(gone);
        }
        if space {
            self.drop_stretches(|_, depends| all || depends.on_space);
        }
        if users {
            self.cx.mmu.tlb.aliases.forget_if_full();
        }
    }

    /// A window of the supervisor around `at`, of a stretch that is known or found now.
    fn stretch(&mut self, at: u64, write: bool) -> Option<(Window, Depends)> {
        let with_ac = self.cx.mmu.bank == Bank::SupervisorAc;
        let stretches = &mut self.known.stretches[usize::from(write)];
        let (stretch, depends) = match stretches.iter().find(|(stretch, depends)| {
            !stretch.is_empty() && stretch.holds(at) && (with_ac || !depends.on_ac)
        }) {
            Some(&known) => known,
            None => {
                let found = self.cx.mmu.stretch(at, write)?;
                let next = &mut self.known.next_stretch;
                *next = (*next + 1) % STRETCHES;
                stretches[*next] = found;
                found
            }
        };
        let window = if write { self.cx.mmu.without_code(&stretch, at)? } else { stretch };
        Some((window, depends))
    }

    /// Drops stretches.
    fn drop_stretches(&mut self, which: impl Fn(&Window, Depends) -> bool) {
        for (stretch, depends) in self.known.stretches.as_flattened_mut() {
            if which(stretch, *depends) {
                *stretch = Window::default();
            }
        }
    }

    /// Moves the window that an access missed to where the access goes; says whether there was none before.
    pub(super) fn move_window(&mut self, link: u32) -> bool {
        let Some(miss) = self.store.links.get(link as usize).and_then(|link| link.miss) else { return false };
        let at = miss.address.value(self.cx.regs);
        let set = usize::from(self.cx.state.cpl() == 3);
        let found = if set == 0 {
            self.stretch(at, miss.write)
        } else {
            let found = self.cx.mmu.user_window(at, miss.write);
            if self.cx.mmu.tlb.aliases.take_changed() {
                self.drop_open(|which, _| which.user);
            }
            found.map(|window| (window, Depends::ON_SPACE))
        };
        self.count_window_misses();
        // SAFETY: as in `write_context`.
        let context = unsafe { &mut *self.context };
        let (misses, counted, windows) =
            (&mut context.misses, &mut context.misses_counted, &mut context.windows);
        let Some((found, depends)) = found else {
            (*misses, *counted) = (MISSES_AFTER_FAILURE, MISSES_AFTER_FAILURE);
            return false;
        };
        let window = &mut windows[set][usize::from(miss.write)][miss.class];
        // Two accesses that want one window could go on taking it from each other, and one that still misses could go
        // on for ever; a window that was not there yet is taken from nobody, and once.
        let before = *window;
        let empty = before.is_empty();
        window.replace(found);
        let moved = *window;
        if empty {
            context.opened[context.opened_count as usize] = (&raw const *window) as u64;
            context.opened_count += 1;
        }
        let place = (&raw const *window) as u64;
        let of_ac = &mut context.opened_ac;
        if depends.on_ac && !of_ac[..context.opened_ac_count as usize].contains(&place) {
            of_ac[context.opened_ac_count as usize] = place;
            context.opened_ac_count += 1;
        }
        let least = if set == 0 {
            let bit = 1 << (usize::from(miss.write) * CLASSES + miss.class);
            let known = &mut self.known;
            if moved == found {
                (known.local, known.of_ac) = (known.local & !bit, known.of_ac & !bit);
            }
            known.local |= if depends.on_space { bit } else { 0 };
            known.of_ac |= if depends.on_ac { bit } else { 0 };
            if depends == Depends::default() { LEAST_WIDE } else { u64::MAX }
        } else {
            if !empty {
                self.cx.mmu.tlb.aliases.earn();
            }
            2 * PAGE_SIZE
        };
        if found.length >= least {
            let wide = &mut context.wide[set][usize::from(miss.write)];
            let next = &mut self.known.next_wide[set][usize::from(miss.write)];
            // Translated code looks through them from the first on.
            let (touching, empty) = (|one: &Window| one.touches(&found), Window::is_empty);
            let place = wide.iter().position(touching).or_else(|| wide.iter().position(empty));
            let place = place.unwrap_or_else(|| {
                *next = (*next + 1) % WIDE;
                *next
            });
            wide[place].replace(found);
            self.known.wide = true;
        }
        *misses = match () {
            // Those of the user are opened by translated code, if they can be.
            () if empty && set == 0 => 0,
            // It was in its place, and the access reaches beyond its end.
            () if before == moved => MISSES_IN_VAIN,
            () => MISSES,
        };
        *counted = *misses;
        empty
    }

    /// Brings misses that translated code has counted to the ledger.
    pub(super) fn count_window_misses(&mut self) {
        // SAFETY: as in `write_context`.
        let (misses, counted) = unsafe { ((*self.context).misses, &mut (*self.context).misses_counted) };
        self.counters.add(Cause::WindowMiss, counted.wrapping_sub(misses).into());
        *counted = misses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_apart_by_their_numbers() {
        let all: Vec<_> = (0..4 * CLASSES).map(Which::of).collect();
        let count = |user, write| all.iter().filter(|one| (one.user, one.write) == (user, write)).count();
        assert_eq!(
            [count(false, false), count(false, true), count(true, false), count(true, true)],
            [CLASSES; 4]
        );
        assert_eq!(all.iter().fold(0, |bits, one| bits | one.bit), u128::MAX >> (128 - 2 * CLASSES));
    }
}
