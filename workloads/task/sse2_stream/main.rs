//! Eight passes over three arrays of 128-bit integer vectors (SSE2).
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::sse2_stream;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&sse2_stream::KERNEL);
}
