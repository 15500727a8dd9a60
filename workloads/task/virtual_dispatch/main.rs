//! 65,536 calls through method tables: indirect branches.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::virtual_dispatch;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&virtual_dispatch::KERNEL);
}
