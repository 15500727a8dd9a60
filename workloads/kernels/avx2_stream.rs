//! A stream of 256-bit integer vectors (AVX2): `a = b + (c ^ s)`, eight passes over three arrays of 64 KiB.
#![expect(unsafe_code, reason = "intrinsics ask for a CPU feature, for which `available` looks")]

use core::arch::x86_64::{
    __cpuid, __cpuid_count, __m256i, _mm256_add_epi32, _mm256_set1_epi32, _mm256_slli_epi32,
    _mm256_xor_si256, _xgetbv,
};

use super::scratch::as_numbers;
use super::{Kernel, Sequence, fold};

/// Three arrays.
pub const KERNEL: Kernel =
    Kernel { name: "avx2_stream", scratch: 3 * 32 * VECTORS, operations: 1, prepare, available, unit };

const VECTORS: usize = 2048;
const PASSES: i32 = 8;

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0x8877_6655_4433_2211);
    for number in as_numbers::<u64>(scratch) {
        *number = sequence.draw();
    }
}

#[target_feature(enable = "avx2")]
fn pass(target: &mut [__m256i], left: &[__m256i], right: &[__m256i], number: i32) {
    let key = _mm256_set1_epi32(number.wrapping_mul(0x0101_0101));
    for ((target, &left), &right) in target.iter_mut().zip(left).zip(right) {
        *target = _mm256_add_epi32(
            *target,
            _mm256_add_epi32(left, _mm256_slli_epi32::<1>(_mm256_xor_si256(right, key))),
        );
    }
}

/// CPUID says that the CPU has AVX2 and that the system saves its registers. (SDM volume 1, 14.7.1.)
#[allow(unused_unsafe, reason = "CPUID is a safe function in later compilers")]
fn available() -> bool {
    const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
    const AVX2: u32 = 1 << 5;
    // SAFETY: every x86-64 CPU has CPUID; XGETBV is there where OSXSAVE says so.
    unsafe {
        __cpuid(0).eax >= 7
            && __cpuid(1).ecx & OSXSAVE_AND_AVX == OSXSAVE_AND_AVX
            && _xgetbv(0) & 6 == 6
            && __cpuid_count(7, 0).ebx & AVX2 != 0
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    as_numbers::<u64>(scratch)[..4 * VECTORS].fill(0);
    let vectors = as_numbers::<__m256i>(scratch);
    let (target, rest) = vectors.split_at_mut(VECTORS);
    let (left, right) = rest.split_at_mut(VECTORS);
    for number in 0..PASSES {
        // SAFETY: the unit runs only where `available` said so.
        unsafe { pass(target, left, right, number) };
    }
    let target = &mut as_numbers::<u64>(scratch)[..4 * VECTORS];
    target.iter().step_by(17).fold(0, |sum, &word| fold(sum, word))
}
