//! Places for thunks, such that the jump to a thunk is a trap wherever else control may land in it.
//!
//! A five-byte jump replaces instructions that may be shorter, and a branch that the scan does not know may lead to one
//! of them. So the displacement is chosen: each of its bytes at which an instruction used to begin must be an
//! opcode that traps at ring 3 (#UD or #GP, one byte long). The place of the thunk follows from the displacement. The
//! technique is known as instruction punning (Chamith et al., PLDI 2017).
use crate::pv::layout::{ZONE, ZONE_CODE, ZONE_SIZE};
use std::collections::{BTreeMap, HashMap};

/// One-byte opcodes that trap at ring 3 in 64-bit mode: undefined ones, INS/OUTS, IN/OUT through DX, HLT, CLI, STI, INT3.
const TRAPS: [u8; 28] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x6c, 0x6d, 0x6e, 0x6f,
    0x9a, 0xcc, 0xce, 0xd4, 0xd6, 0xec, 0xed, 0xee, 0xef, 0xfa, 0xfb,
];
/// Where thunks without demands begin: away from the others.
const FREE: u64 = ZONE + ZONE_SIZE / 2;

/// Which parts of the zone are taken.
#[derive(Debug)]
pub(super) struct Zone {
    taken: BTreeMap<u64, u64>,
    next_free: u64,
    /// Where the last thunk with the same demands was placed.
    hints: HashMap<(u8, u64), u32>,
}

impl Default for Zone {
    fn default() -> Self {
        Self { taken: BTreeMap::new(), next_free: FREE, hints: HashMap::new() }
    }
}

impl Zone {
    /// A place of `length` bytes for the thunk of a jump whose next instruction is at `next`. `starts` has bit `n` set
    /// when byte `n` of the displacement is to be a trap.
    pub(super) fn allocate(&mut self, next: u64, length: u64, starts: u8) -> Option<u64> {
        if starts == 0 {
            let at = self.next_free;
            let reachable = i32::try_from(at.wrapping_sub(next) as i64).is_ok();
            if at + length > ZONE + ZONE_SIZE || !reachable {
                return None;
            }
            self.next_free = (at + length + 15) & !15;
            return Some(at);
        }
        let all: Vec<u8> = (0..=255).collect();
        let coarse: Vec<u8> = (0..16).map(|i| i * 16).collect();
        let choice = |n: u8, any: &[u8]| if starts & 1 << n == 0 { any.to_vec() } else { TRAPS.to_vec() };
        let high = if starts & 8 == 0 { vec![0x5f, 0x60, 0x61] } else { vec![0x60, 0x61] };
        let (b2, b1, b0) = (choice(2, &all), choice(1, &all), choice(0, &coarse));
        let hint = self.hints.get(&(starts, next >> 24)).copied().unwrap_or(0);
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
                            self.taken.insert(at, at + length);
                            self.hints.insert((starts, next >> 24), upper);
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
        self.taken.range(..at + length).next_back().is_none_or(|(_, &end)| end <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_start_in_a_jump_is_a_trap_and_no_two_thunks_overlap(
            sites in proptest::collection::vec((0x20_0000_u64..0x40_0000, 10_u64..120, 0_u8..16), 1..200)
        ) {
            let mut zone = Zone::default();
            let mut places: Vec<(u64, u64)> = Vec::new();
            for (next, length, starts) in sites {
                let at = zone.allocate(next, length, starts).expect("there is room");
                let displacement = u32::try_from(at - next).unwrap().to_le_bytes();
                for (n, byte) in displacement.iter().enumerate() {
                    prop_assert!(starts & 1 << n == 0 || TRAPS.contains(byte));
                }
                prop_assert!(at >= ZONE_CODE && at + length <= ZONE + ZONE_SIZE);
                prop_assert!(places.iter().all(|&(a, b)| at + length <= a || b <= at));
                places.push((at, at + length));
            }
        }
    }
}
