//! Quicksort of 8192 numbers; in ring 3 and in ring 0.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::quicksort;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&quicksort::KERNEL);
    run.kernel_ring_0(&quicksort::KERNEL);
}
