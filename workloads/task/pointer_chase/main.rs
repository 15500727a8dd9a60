//! A chain of dependent loads, through 16 KiB (first-level cache) and through 16 MiB (memory).
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::pointer_chase;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&pointer_chase::IN_CACHE);
    run.kernel_ring_3(&pointer_chase::IN_MEMORY);
}
