//! A stream of words through two arrays of 8 MiB: memory bandwidth.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::memory_stream;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&memory_stream::KERNEL);
}
