//! The string instructions on blocks: REP MOVS and REP STOS, by bytes and by eight bytes.
//!
//! Each operation moves or fills one whole block. The checksum takes a word of each result, at another place and with
//! another value each time, so that none can be left out or cut short there unseen.
#![expect(unsafe_code, reason = "the string instructions are measured, which no language construct promises")]

use core::arch::asm;

use super::scratch::as_numbers;
use super::{Kernel, always, fold};

/// A page, and sixteen.
const SMALL: usize = 4096;
const LARGE: usize = 65_536;

/// REP MOVSB of 4 KiB.
pub const MOVS_4K: Kernel = Kernel {
    name: "rep_movs_4k",
    scratch: 2 * SMALL,
    operations: 64,
    prepare,
    available: always,
    unit: |scratch| copy(scratch, 64, 1, move_bytes),
};

/// REP MOVSB of 64 KiB.
pub const MOVS_64K: Kernel = Kernel {
    name: "rep_movs_64k",
    scratch: 2 * LARGE,
    operations: 8,
    prepare,
    available: always,
    unit: |scratch| copy(scratch, 8, 1, move_bytes),
};

/// REP MOVSQ of 4 KiB.
pub const MOVS_4K_BY8: Kernel = Kernel {
    name: "rep_movs_4k_by8",
    scratch: 2 * SMALL,
    operations: 64,
    prepare,
    available: always,
    unit: |scratch| copy(scratch, 64, 8, move_words),
};

/// REP STOSB of 4 KiB.
pub const STOS_4K: Kernel = Kernel {
    name: "rep_stos_4k",
    scratch: SMALL,
    operations: 64,
    prepare,
    available: always,
    unit: |scratch| fill(scratch, 64, store_bytes),
};

/// REP STOSB of 64 KiB.
pub const STOS_64K: Kernel = Kernel {
    name: "rep_stos_64k",
    scratch: LARGE,
    operations: 8,
    prepare,
    available: always,
    unit: |scratch| fill(scratch, 8, store_bytes),
};

/// REP STOSQ of 4 KiB.
pub const STOS_4K_BY8: Kernel = Kernel {
    name: "rep_stos_4k_by8",
    scratch: SMALL,
    operations: 64,
    prepare,
    available: always,
    unit: |scratch| fill(scratch, 64, store_words),
};

fn prepare(scratch: &mut [u8]) {
    for (index, word) in as_numbers::<u64>(scratch).iter_mut().enumerate() {
        *word = (index as u64).wrapping_mul(0x0001_0203_0405_0607);
    }
}

#[inline(always)]
fn move_bytes(to: &mut [u64], from: &[u64]) {
    let length = to.len().min(from.len()) * 8;
    // SAFETY: both blocks have so many bytes and do not overlap; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags))
    };
}

#[inline(always)]
fn move_words(to: &mut [u64], from: &[u64]) {
    let length = to.len().min(from.len());
    // SAFETY: as in `move_bytes`.
    unsafe {
        asm!("rep movsq", inout("rcx") length => _, inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags))
    };
}

#[inline(always)]
fn store_bytes(to: &mut [u64], value: u64) {
    // SAFETY: the block has so many bytes; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!("rep stosb", inout("rcx") to.len() * 8 => _, inout("rdi") to.as_mut_ptr() => _, in("al") value as u8,
            options(nostack, preserves_flags))
    };
}

#[inline(always)]
fn store_words(to: &mut [u64], value: u64) {
    // SAFETY: as in `store_bytes`.
    unsafe {
        asm!("rep stosq", inout("rcx") to.len() => _, inout("rdi") to.as_mut_ptr() => _, in("rax") value,
            options(nostack, preserves_flags))
    };
}

/// A word of the block for the operation of this number: spread over it, its first and last word among them.
const fn place(words: usize, number: usize, operations: usize) -> usize {
    number * (words - 1) / (operations - 1)
}

/// Copies the first half of the scratch memory to the second, each time with another word changed. The checksum begins
/// with the bytes that an instruction moves at a time, so that kernels that do the same in two ways are told apart.
#[inline(always)]
fn copy(scratch: &mut [u8], operations: usize, unit: u64, block: impl Fn(&mut [u64], &[u64])) -> u64 {
    let words = as_numbers::<u64>(scratch);
    let (from, to) = words.split_at_mut(words.len() / 2);
    let mut checksum = unit;
    for number in 0..operations {
        let at = place(from.len(), number, operations);
        // The word is another one before and after, in the copy too: only this operation brings it there.
        let before = from[at];
        from[at] = !before ^ number as u64;
        block(to, from);
        checksum = fold(checksum, to[at]);
        from[at] = before;
    }
    checksum
}

/// Fills the scratch memory, each time with another byte or word.
#[inline(always)]
fn fill(scratch: &mut [u8], operations: usize, block: impl Fn(&mut [u64], u64)) -> u64 {
    let words = as_numbers::<u64>(scratch);
    let mut checksum = 0;
    for number in 0..operations {
        block(words, (number as u64 + 1).wrapping_mul(0x0102_0304_0506_0709));
        checksum = fold(checksum, words[place(words.len(), number, operations)]);
    }
    checksum
}
