//! SHA-256 of 32 KiB: rotations and additions in registers.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::sha256;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&sha256::KERNEL);
}
