//! Eight passes over three arrays of 256-bit integer vectors (AVX2).
#![no_std]
#![no_main]

use guest::kernels::avx2_stream::KERNEL;
use guest::{Run, cpu, user};

guest::entry!(main);

/// Asked in ring 3, because emulated supervisors do not know XGETBV.
extern "C" fn available(_: u64) -> u64 {
    u64::from((KERNEL.available)())
}

fn main(run: &Run) {
    assert!(cpu::enable_avx() && user::run(available, 0) == 1, "this machine's CPU has no AVX2");
    run.kernel_ring_3(&KERNEL);
}
