//! One read from a virtio disk, of 512 bytes to 128 KiB.
//! Disk: virtio
#![no_std]
#![no_main]

use guest::disk::{self, NO_SCRATCH};
use guest::virtio::Block;
use guest::{Run, absent};

guest::entry!(main);

fn main(run: &Run) {
    let Some(mut block) = Block::find() else { absent("there is no virtio disk") };
    if !disk::sweep(run, &mut block, "virtio_read") {
        absent(NO_SCRATCH);
    }
}
