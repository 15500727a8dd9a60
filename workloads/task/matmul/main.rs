//! Product of two 64×64 matrices of f64: floating-point multiply and add.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::matmul;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&matmul::KERNEL);
}
