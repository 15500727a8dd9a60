//! Places for thunks, such that the jump to a thunk is a trap wherever else control may land in it.
//!
//! A five-byte jump replaces instructions that may be shorter, and a branch that the scan does not know may lead to one
//! of them. So the displacement is chosen: each of its bytes at which an instruction used to begin must be an
//! opcode that traps at ring 3 (#UD or #GP, one byte long). The place of the thunk follows from the displacement. The
//! technique is known as instruction punning (Chamith et al., PLDI 2017).
use crate::pv::layout::{COUNTERS, ZONE, ZONE_CODE, ZONE_SIZE};
use std::collections::{BTreeMap, HashMap};

/// One-byte opcodes that trap at ring 3 in 64-bit mode: undefined ones, INS/OUTS, IN/OUT through DX, HLT, CLI, STI, INT3.
const TRAPS: [u8; 28] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x6c, 0x6d, 0x6e, 0x6f,
    0x9a, 0xcc, 0xce, 0xd4, 0xd6, 0xec, 0xed, 0xee, 0xef, 0xfa, 0xfb,
];
/// Where thunks without demands begin: away from the others.
const FREE: u64 = ZONE + ZONE_SIZE / 2;

/// Thunks without demands come in multiples of this many bytes, so that one fits where another was.
const GRAIN: u64 = 16;

/// What jumps ask of a displacement, and from where: the trapping bytes, and the top of the address.
type Demand = (u8, u64);

/// A place that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    end: u64,
    /// The demand it was searched for and the upper part of the displacement, or nothing if there was none.
    demand: Option<(Demand, u32)>,
}

/// Which parts of the zone are taken.
#[derive(Debug)]
pub(super) struct Zone {
    taken: BTreeMap<u64, Taken>,
    /// End of what thunks without demands have taken at any time.
    next_free: u64,
    /// Places given back by those, by length.
    given_back: BTreeMap<u64, Vec<u64>>,
    /// No place is free below this for a demand.
    hints: HashMap<Demand, u32>,
}

impl Default for Zone {
    fn default() -> Self {
        Self { taken: BTreeMap::new(), next_free: FREE, given_back: BTreeMap::new(), hints: HashMap::new() }
    }
}

impl Zone {
    /// Gives the place of a thunk back, which nothing jumps to any more.
    pub(super) fn release(&mut self, at: u64) {
        let Some(taken) = self.taken.remove(&at) else { return };
        match taken.demand {
            Some((demand, upper)) => {
                if let Some(hint) = self.hints.get_mut(&demand) {
                    *hint = upper.min(*hint);
                }
            }
            None => self.given_back.entry(taken.end - at).or_default().push(at),
        }
    }

    fn allocate_anywhere(&mut self, next: u64, length: u64) -> Option<u64> {
        let length = length.next_multiple_of(GRAIN);
        let used = self.given_back.get(&length).and_then(|places| places.last()).copied();
        let at = used.unwrap_or(self.next_free);
        let reachable = i32::try_from(at.wrapping_sub(next) as i64).is_ok();
        if at + length > COUNTERS || !reachable {
            return None;
        }
        if used.is_some() {
            self.given_back.get_mut(&length)?.pop();
        } else {
            self.next_free = at + length;
        }
        self.taken.insert(at, Taken { end: at + length, demand: None });
        Some(at)
    }

    /// How many bytes of the zone were ever taken by thunks without demands, and how many thunks there are.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (u64, usize) {
        (self.next_free - FREE, self.taken.len())
    }

    /// A place of `length` bytes for the thunk of a jump whose next instruction is at `next`. `starts` has bit `n` set
    /// when byte `n` of the displacement is to be a trap.
    pub(super) fn allocate(&mut self, next: u64, length: u64, starts: u8) -> Option<u64> {
        if starts == 0 {
            return self.allocate_anywhere(next, length);
        }
        let demand = (starts, next >> 24);
        let all: Vec<u8> = (0..=255).collect();
        let coarse: Vec<u8> = (0..16).map(|i| i * 16).collect();
        let choice = |n: u8, any: &[u8]| if starts & 1 << n == 0 { any.to_vec() } else { TRAPS.to_vec() };
        let high = if starts & 8 == 0 { vec![0x5f, 0x60, 0x61] } else { vec![0x60, 0x61] };
        let (b2, b1, b0) = (choice(2, &all), choice(1, &all), choice(0, &coarse));
        let hint = self.hints.get(&demand).copied().unwrap_or(0);
        let mut tries = 0;
        for &h in &high {
            for &two in &b2 {
                for &one in &b1 {
                    let upper = u32::from_be_bytes([h, two, one, 0]);
                    if upper < hint {
                        continue;
                    }
                    for &zero in &b0 {
                        let at = next.wrapping_add(u64::from(upper | u32::from(zero)));
                        if at < ZONE_CODE || at + length > FREE {
                            continue;
                        }
                        tries += 1;
                        if self.is_free(at, length) {
                            let end = at + length;
                            self.taken.insert(at, Taken { end, demand: Some((demand, upper)) });
                            self.hints.insert(demand, upper);
                            return Some(at);
                        }
                        if tries > 100_000 {
                            return None;
                        }
                    }
                }
            }
        }
        None
    }

    fn is_free(&self, at: u64, length: u64) -> bool {
        self.taken.range(..at + length).next_back().is_none_or(|(_, taken)| taken.end <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_start_in_a_jump_is_a_trap_and_no_two_thunks_overlap(
            sites in proptest::collection::vec(
                (0x20_0000_u64..0x40_0000, 10_u64..120, 0_u8..16, any::<prop::sample::Index>()),
                1..200,
            )
        ) {
            let mut zone = Zone::default();
            let mut places: Vec<(u64, u64)> = Vec::new();
            for (next, length, starts, gone) in sites {
                let at = zone.allocate(next, length, starts).expect("there is room");
                let displacement = u32::try_from(at - next).unwrap().to_le_bytes();
                for (n, byte) in displacement.iter().enumerate() {
                    prop_assert!(starts & 1 << n == 0 || TRAPS.contains(byte));
                }
                prop_assert!(at >= ZONE_CODE && at + length <= COUNTERS);
                prop_assert!(places.iter().all(|&(a, b)| at + length <= a || b <= at));
                places.push((at, at + length));
                // Every other thunk goes again, in any order.
                if places.len().is_multiple_of(2) {
                    let (place, _) = places.swap_remove(gone.index(places.len()));
                    zone.release(place);
                }
            }
            prop_assert_eq!(zone.extent().1, places.len());
            for (at, _) in places {
                zone.release(at);
            }
            prop_assert_eq!(zone.extent().1, 0);
        }
    }

    #[test]
    fn places_that_were_given_back_are_used_again() {
        let mut zone = Zone::default();
        let mut most = 0;
        for turn in 0..100_000_u64 {
            let starts = (turn % 16) as u8;
            let at = zone.allocate(0x20_0000 + turn, 60 + turn % 60, starts).expect("there is room");
            most = most.max(at);
            zone.release(at);
        }
        assert!(zone.extent().0 <= 120 * 4, "{:?}", zone.extent());
        assert!(most < FREE + 120 * 4);
    }
}
