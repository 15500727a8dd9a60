//! REP STOS: 4 KiB and 64 KiB filled by bytes, and 4 KiB by eight bytes.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::string_ops;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&string_ops::STOS_4K);
    run.kernel_ring_3(&string_ops::STOS_4K_BY8);
    run.kernel_ring_3(&string_ops::STOS_64K);
}
