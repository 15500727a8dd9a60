//! Moves the windows through which translated code reaches memory, and drops them when they do not hold any more.
#![expect(unsafe_code, reason = "writes the context that translated code works on")]
use super::Session;
use crate::emulator::mmu::Bank;
use crate::emulator::mmu::window::{CLASSES, Window};
use crate::engine::Cause;

/// Misses of windows between two attempts to move one.
const MISSES: u32 = 64;
/// As [`MISSES`], after an attempt that changed nothing.
const MISSES_IN_VAIN: u32 = 4096;
/// As [`MISSES`], after an attempt that failed.
const MISSES_AFTER_FAILURE: u32 = 16;
/// What is known of the windows in the context.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Known {
    under: Conditions,
    /// A bit for each window, in the order of the context: all that may be open.
    open: u32,
    /// Those of them that hold in the current address space only.
    local: u32,
    /// Those of them that hold for the supervisor with RFLAGS.AC set only.
    of_ac: u32,
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

const _: () = assert!(4 * CLASSES <= 32);

/// Number of the first window for a privilege and for reading or writing.
const fn first(set: usize, write: usize) -> usize {
    (set * 2 + write) * CLASSES
}

/// The bits of the windows for a privilege, for reading or writing or both.
const fn bits(set: usize, writes: std::ops::RangeInclusive<usize>) -> u32 {
    ((1 << first(set, *writes.end() + 1)) - (1_u64 << first(set, *writes.start()))) as u32
}

impl Session<'_, '_> {
    /// Drops open windows of those with `bits`.
    fn drop_open(&mut self, bits: u32, which: impl Fn(&Window) -> bool) {
        // SAFETY: as in `write_context`.
        let windows = unsafe { &mut (*self.context).windows };
        let windows = windows.as_flattened_mut().as_flattened_mut();
        let mut left = self.known.open & bits;
        while left != 0 {
            let number = left.trailing_zeros();
            left &= left - 1;
            let window = &mut windows[number as usize];
            if which(window) {
                *window = Window::default();
                self.known.open &= !(1 << number);
            }
        }
    }

    /// Drops windows that do not hold any more.
    pub(super) fn drop_windows(&mut self) {
        for number in 0..self.cx.mmu.tlb.forgotten.len() {
            let page = self.cx.mmu.tlb.forgotten[number];
            self.drop_open(u32::MAX, |window| window.holds(page));
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
        if before == now {
            return;
        }
        self.known.under = now;
        if before.generation != now.generation {
            return self.drop_open(u32::MAX, |_| true);
        }
        if before.local_generation != now.local_generation {
            self.drop_open(self.known.local, |_| true);
        }
        // With RFLAGS.AC the supervisor may do more, not less.
        if before.banks[0] == Some(Bank::SupervisorAc) && now.banks[0] != before.banks[0] {
            self.drop_open(self.known.of_ac, |_| true);
        }
        if before.banks[1] != now.banks[1] {
            self.drop_open(bits(1, 0..=1), |_| true);
        }
        if before.protections != now.protections {
            self.drop_open(bits(0, 1..=1) | bits(1, 1..=1), |_| true);
        }
    }

    /// Moves the window that an access missed to where the access goes; says whether there was none before.
    pub(super) fn move_window(&mut self, link: u32) -> bool {
        let Some(miss) = self.store.links.get(link as usize).and_then(|link| link.miss) else { return false };
        let at = miss.address.value(self.cx.regs);
        let found = self.cx.mmu.window(at, miss.write);
        let set = usize::from(self.cx.state.cpl() == 3);
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
        let bit = 1 << (first(set, miss.write.into()) + miss.class);
        self.known.open |= bit;
        // Two accesses that want one window could go on taking it from each other, and one that still misses could go
        // on for ever; a window that was not there yet is taken from nobody, and once.
        let before = *window;
        let empty = before.is_empty();
        window.replace(found);
        let known = &mut self.known;
        if *window == found {
            (known.local, known.of_ac) = (known.local & !bit, known.of_ac & !bit);
        }
        // Those of the user are moved by translated code, which knows only the soft TLB.
        known.local |= if depends.on_space || set == 1 { bit } else { 0 };
        known.of_ac |= if depends.on_ac { bit } else { 0 };
        *misses = match () {
            () if empty => 0,
            // It was in its place, and the access reaches beyond its end.
            () if before == *window => MISSES_IN_VAIN,
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
    fn the_bits_of_the_windows_are_apart_and_all() {
        let parts = [bits(0, 0..=0), bits(0, 1..=1), bits(1, 0..=0), bits(1, 1..=1)];
        assert!(parts.iter().all(|part| part.count_ones() as usize == CLASSES));
        assert_eq!(parts.iter().fold(0, |all, part| all | part), u32::MAX >> (32 - 4 * CLASSES));
        assert_eq!(bits(1, 0..=1), parts[2] | parts[3]);
    }
}
