//! 64 KiB read from and written to an IDE disk, by PIO and by bus-master DMA.
//! Disk: ide
#![no_std]
#![no_main]

use guest::disk::{self, Metrics, NO_SCRATCH};
use guest::ide::{Dma, Pio};
use guest::{Run, absent};

guest::entry!(main);

fn main(run: &Run) {
    let Some(mut pio) = Pio::find() else { absent("there is no IDE disk") };
    let dma = Dma::find(&pio);
    if !disk::task(run, &mut pio, Metrics { read: "ide_pio_read", write: "ide_pio_write" }) {
        absent(NO_SCRATCH);
    }
    let Some(mut dma) = dma else { absent("the IDE controller has no bus master") };
    disk::task(run, &mut dma, Metrics { read: "ide_dma_read", write: "ide_dma_write" });
}
