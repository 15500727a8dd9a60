//! Scratch memory seen as numbers.
#![expect(unsafe_code, reason = "bytes are viewed as plain numbers, for which every bit pattern is a value")]

use core::arch::x86_64::{__m128i, __m256i};

mod sealed {
    pub trait Plain: Copy {}
    impl Plain for u32 {}
    impl Plain for u64 {}
    impl Plain for f64 {}
    impl Plain for super::__m128i {}
    impl Plain for super::__m256i {}
}

/// The bytes as numbers of type `T`; what does not fill a number, or is not aligned, is left out.
pub fn as_numbers<T: sealed::Plain>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: `Plain` types accept every bit pattern.
    unsafe { bytes.align_to_mut::<T>().1 }
}
