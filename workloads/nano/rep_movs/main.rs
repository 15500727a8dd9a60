//! REP MOVS: a copy of 4 KiB and of 64 KiB by bytes, and of 4 KiB by eight bytes.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::string_ops;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&string_ops::MOVS_4K);
    run.kernel_ring_3(&string_ops::MOVS_4K_BY8);
    run.kernel_ring_3(&string_ops::MOVS_64K);
}
