//! LZ77 compression of 40 KiB of text: byte compares and unpredictable branches.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::lz;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&lz::KERNEL);
}
