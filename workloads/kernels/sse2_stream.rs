//! A stream of 128-bit integer vectors (SSE2): `a = b + (c ^ s)`, eight passes over three arrays of 32 KiB.
#![expect(unsafe_code, reason = "intrinsics ask for a CPU feature, which x86-64 always has")]

use core::arch::x86_64::{__m128i, _mm_add_epi32, _mm_set1_epi32, _mm_slli_epi32, _mm_xor_si128};

use super::scratch::as_numbers;
use super::{Kernel, Sequence, always, fold};

/// Three arrays.
pub const KERNEL: Kernel = Kernel {
    name: "sse2_stream",
    scratch: 3 * 16 * VECTORS,
    operations: 1,
    prepare,
    available: always,
    unit,
};

const VECTORS: usize = 2048;
const PASSES: i32 = 8;

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0x8877_6655_4433_2211);
    for number in as_numbers::<u64>(scratch) {
        *number = sequence.draw();
    }
}

#[target_feature(enable = "sse2")]
fn pass(target: &mut [__m128i], left: &[__m128i], right: &[__m128i], number: i32) {
    let key = _mm_set1_epi32(number.wrapping_mul(0x0101_0101));
    for ((target, &left), &right) in target.iter_mut().zip(left).zip(right) {
        *target = _mm_add_epi32(*target, _mm_add_epi32(left, _mm_slli_epi32::<1>(_mm_xor_si128(right, key))));
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    as_numbers::<u64>(scratch)[..2 * VECTORS].fill(0);
    let vectors = as_numbers::<__m128i>(scratch);
    let (target, rest) = vectors.split_at_mut(VECTORS);
    let (left, right) = rest.split_at_mut(VECTORS);
    for number in 0..PASSES {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { pass(target, left, right, number) };
    }
    let target = &mut as_numbers::<u64>(scratch)[..2 * VECTORS];
    target.iter().step_by(17).fold(0, |sum, &word| fold(sum, word))
}
