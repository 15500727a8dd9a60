//! Sieve of Eratosthenes over bytes: strided stores.

use super::{Kernel, always, fold};

/// Primes below 131072.
pub const KERNEL: Kernel =
    Kernel { name: "sieve", scratch: 128 * 1024, operations: 1, prepare, available: always, unit };

/// How many primes there are below `composite.len()`, and their sum. Leaves 1 at composite indices.
pub fn sieve(composite: &mut [u8]) -> (u64, u64) {
    composite.fill(0);
    let limit = composite.len();
    let (mut count, mut sum) = (0, 0);
    for number in 2..limit {
        if composite[number] == 0 {
            count += 1;
            sum += number as u64;
            let mut multiple = number * number;
            while multiple < limit {
                composite[multiple] = 1;
                multiple += number;
            }
        }
    }
    (count, sum)
}

fn prepare(_: &mut [u8]) {}

fn unit(scratch: &mut [u8]) -> u64 {
    let (count, sum) = sieve(scratch);
    fold(count, sum)
}
