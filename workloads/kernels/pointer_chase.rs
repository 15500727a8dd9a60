//! Pointer chase: each load's address is the last load's value. Latency of the first-level cache and of memory.
//!
//! Each node is a cache line. The order is a full-period linear congruence over the node numbers (Hull and Dobell
//! 1962: odd increment, multiplier ≡ 1 mod 4), so it visits every node once a round and no prefetcher follows it.

use super::scratch::as_numbers;
use super::{Kernel, always, fold};

/// 16 KiB.
pub const IN_CACHE: Kernel = Kernel {
    name: "pointer_chase_l1",
    scratch: 16 * 1024,
    operations: 1,
    prepare,
    available: always,
    unit: |scratch| unit(scratch, 200_000),
};

/// 16 MiB: beyond most second-level caches, and beyond the reach of any TLB with small pages.
pub const IN_MEMORY: Kernel = Kernel {
    name: "pointer_chase_memory",
    scratch: 16 << 20,
    operations: 1,
    prepare,
    available: always,
    unit: |scratch| unit(scratch, 20_000),
};

/// Words in a cache line.
const LINE: usize = 16;
const MULTIPLIER: usize = 0x2c9_2d0d;
const INCREMENT: usize = 0x3_4a3b;

fn prepare(scratch: &mut [u8]) {
    let words = as_numbers::<u32>(scratch);
    let nodes = words.len() / LINE;
    debug_assert!(nodes.is_power_of_two() && MULTIPLIER % 4 == 1 && INCREMENT % 2 == 1);
    for node in 0..nodes {
        let next = node.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT) & (nodes - 1);
        words[node * LINE] = (next * LINE) as u32;
    }
}

/// Index of the word reached after `steps` steps from word 0.
pub fn chase(words: &[u32], steps: usize) -> u32 {
    (0..steps).fold(0, |at, _| words[at as usize])
}

fn unit(scratch: &mut [u8], steps: usize) -> u64 {
    let words = as_numbers::<u32>(scratch);
    fold(steps as u64, u64::from(chase(words, steps)))
}
