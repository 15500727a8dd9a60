//! Takeuchi's function tak(18, 12, 6): 63,609 nested calls and returns.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::recursion;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&recursion::KERNEL);
}
