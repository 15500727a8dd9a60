//! CRC-32 of 192 KiB, byte by byte through a table; in ring 3 and in ring 0.
#![no_std]
#![no_main]

use guest::Run;
use guest::kernels::crc32;

guest::entry!(main);

fn main(run: &Run) {
    run.kernel_ring_3(&crc32::KERNEL);
    run.kernel_ring_0(&crc32::KERNEL);
}
