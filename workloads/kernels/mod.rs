//! The compute kernels: the same source in the guests and, for the *native* column, in the host binary.
//!
//! A kernel touches nothing but its scratch memory, so it needs no system and gives the same checksum everywhere. A
//! unit of work is a few hundred microseconds natively and at most about two million instructions.

pub mod avx2_stream;
pub mod calls;
pub mod crc32;
pub mod lz;
pub mod matmul;
pub mod memory_stream;
pub mod nbody;
pub mod pointer_chase;
pub mod quicksort;
pub mod recursion;
pub mod scratch;
pub mod sha256;
pub mod sieve;
pub mod sse2_stream;
pub mod string_ops;
pub mod virtual_dispatch;

#[cfg(test)]
mod tests;

/// A compute kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The metric's name.
    pub name: &'static str,
    /// Bytes of scratch memory, which must be aligned to 64.
    pub scratch: usize,
    /// Operations in a unit of work where one operation is what is measured; 1 where it is the whole unit.
    pub operations: u64,
    /// Writes the input into the scratch memory, whatever it held. Once before any number of units.
    pub prepare: fn(&mut [u8]),
    /// Whether this CPU, as the system set it up, has the instructions for it.
    pub available: fn() -> bool,
    /// Does one unit of work and gives its checksum, the same each time.
    pub unit: fn(&mut [u8]) -> u64,
}

/// All kernels. A guest names the one it wants instead, so that the others are not linked in.
pub static ALL: &[Kernel] = &[
    crc32::KERNEL,
    sha256::KERNEL,
    quicksort::KERNEL,
    sieve::KERNEL,
    pointer_chase::IN_CACHE,
    pointer_chase::IN_MEMORY,
    matmul::KERNEL,
    sse2_stream::KERNEL,
    avx2_stream::KERNEL,
    memory_stream::KERNEL,
    lz::KERNEL,
    recursion::KERNEL,
    virtual_dispatch::KERNEL,
    nbody::KERNEL,
    calls::DIRECT,
    calls::INDIRECT,
    calls::INDIRECT_4,
    string_ops::MOVS_4K,
    string_ops::MOVS_4K_BY8,
    string_ops::MOVS_64K,
    string_ops::STOS_4K,
    string_ops::STOS_4K_BY8,
    string_ops::STOS_64K,
];

/// For kernels that need no more than x86-64.
const fn always() -> bool {
    true
}

/// A reproducible sequence of numbers (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of this seed, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Folds a word into a checksum.
#[inline]
pub const fn fold(checksum: u64, word: u64) -> u64 {
    (checksum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
