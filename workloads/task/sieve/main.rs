//! Sieve of Eratosthenes up to 131,072: strided byte stores.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::sieve;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&sieve::KERNEL);
}
