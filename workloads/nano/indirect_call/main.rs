//! A call through a register and its return: to one function from each place, and to four in turn.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::calls;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&calls::INDIRECT);
    run.kernel_ring_3(&calls::INDIRECT_4);
}
