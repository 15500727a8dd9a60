//! Moves the windows through which translated code reaches memory, and drops them when they do not hold any more.
#![expect(unsafe_code, reason = "writes the context that translated code works on")]
use super::Session;
use crate::emulator::mmu::Bank;
use crate::engine::Cause;

/// Misses of windows between two attempts to move one.
const MISSES: u32 = 64;
/// As [`MISSES`], after an attempt that changed nothing.
const MISSES_IN_VAIN: u32 = 4096;
/// As [`MISSES`], after an attempt that failed.
const MISSES_AFTER_FAILURE: u32 = 16;
/// What the windows in the context were found under.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Known {
    generation: u32,
    protections: u32,
    /// For the supervisor and for the user.
    banks: [Option<Bank>; 2],
}

impl Session<'_, '_> {
    /// Drops windows that do not hold any more.
    pub(super) fn drop_windows(&mut self) {
        let (tlb, bank) = (&mut *self.cx.mmu.tlb, self.cx.mmu.bank);
        if !tlb.forgotten.is_empty() {
            // SAFETY: as in `write_context`.
            let windows = unsafe { &mut (*self.context).windows };
            for page in tlb.forgotten.drain(..) {
                for window in windows.as_flattened_mut().as_flattened_mut() {
                    if window.holds(page) {
                        *window = Default::default();
                    }
                }
            }
        }
        let set = usize::from(matches!(bank, Bank::User | Bank::UserAligned));
        let mut now =
            Known { generation: tlb.generation, protections: tlb.protections, banks: self.known.banks };
        now.banks[set] = Some(bank);
        // Translated code changes to the other privilege by itself, with RFLAGS.AC clear.
        let other = [Bank::Supervisor, Bank::User][1 - set];
        now.banks[1 - set] = now.banks[1 - set].map(|_| other);
        if *self.known == now {
            return;
        }
        // SAFETY: as in `write_context`.
        let windows = unsafe { &mut (*self.context).windows };
        if self.known.generation != now.generation {
            *windows = Default::default();
        }
        for (set, windows) in windows.iter_mut().enumerate() {
            if self.known.banks[set] != now.banks[set] {
                *windows = Default::default();
            }
        }
        if self.known.protections != now.protections {
            windows[0][1] = Default::default();
            windows[1][1] = Default::default();
        }
        *self.known = now;
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
        let Some(found) = found else {
            (*misses, *counted) = (MISSES_AFTER_FAILURE, MISSES_AFTER_FAILURE);
            return false;
        };
        let window = &mut windows[set][usize::from(miss.write)][miss.class];
        // Two accesses that want one window could go on taking it from each other, and one that still misses could go
        // on for ever; a window that was not there yet is taken from nobody, and once.
        let before = *window;
        let empty = before.is_empty();
        window.replace(found);
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
