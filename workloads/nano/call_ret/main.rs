//! A near call and its return, in ring 3 and in ring 0: the floor that the other costs stand on.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::calls;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&calls::DIRECT);
    run.kernel_ring_0(&calls::DIRECT);
}
