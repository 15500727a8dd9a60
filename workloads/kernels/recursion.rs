//! Takeuchi's function: almost nothing but calls, returns and compares.

use core::hint::black_box;

use super::{Kernel, always};

/// tak(18, 12, 6).
pub const KERNEL: Kernel =
    Kernel { name: "recursion", scratch: 64, operations: 1, prepare, available: always, unit };

fn prepare(_: &mut [u8]) {}

/// Takeuchi's function; counts its calls in `calls`.
#[inline(never)]
pub fn tak(x: i32, y: i32, z: i32, calls: &mut u64) -> i32 {
    *calls += 1;
    if y >= x {
        return z;
    }
    let (a, b, c) = (tak(x - 1, y, z, calls), tak(y - 1, z, x, calls), tak(z - 1, x, y, calls));
    tak(a, b, c, calls)
}

fn unit(_: &mut [u8]) -> u64 {
    let mut calls = 0;
    let result = tak(black_box(18), black_box(12), black_box(6), &mut calls);
    calls << 32 | result as u64
}
