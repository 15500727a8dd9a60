//! 1500 steps of five bodies under gravity: f64 division and square root.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::nbody;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&nbody::KERNEL);
}
