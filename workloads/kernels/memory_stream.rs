//! A stream through memory: each word of one 8 MiB array, changed, goes to another. Bandwidth, not latency.

use super::scratch::as_numbers;
use super::{Kernel, always, fold};

/// Two arrays.
pub const KERNEL: Kernel =
    Kernel { name: "memory_stream", scratch: 2 * 8 * WORDS, operations: 1, prepare, available: always, unit };

/// Words of one array.
const WORDS: usize = 1 << 20;

fn prepare(scratch: &mut [u8]) {
    for (index, word) in as_numbers::<u64>(scratch).iter_mut().enumerate() {
        *word = index as u64;
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    let (source, target) = as_numbers::<u64>(scratch).split_at_mut(WORDS);
    for (target, &word) in target.iter_mut().zip(&*source) {
        *target = word ^ 0x5555_5555_5555_5555;
    }
    target.iter().step_by(WORDS / 64 + 1).fold(0, |sum, &word| fold(sum, word))
}
