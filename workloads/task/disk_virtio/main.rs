//! 64 KiB read from and written to a virtio disk.
//! Disk: virtio
#![no_std]
#![no_main]

use guest::disk::{self, Metrics, NO_SCRATCH};
use guest::virtio::Block;
use guest::{Run, absent};

guest::entry!(main);

fn main(run: &Run) {
    let Some(mut block) = Block::find() else { absent("there is no virtio disk") };
    if !disk::task(run, &mut block, Metrics { read: "virtio_read", write: "virtio_write" }) {
        absent(NO_SCRATCH);
    }
}
