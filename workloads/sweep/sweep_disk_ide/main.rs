//! One read from an IDE disk, of 512 bytes to 128 KiB, by PIO and by bus-master DMA.
//! Disk: ide
#![no_std]
#![no_main]

use guest::disk::{self, NO_SCRATCH};
use guest::ide::{Dma, Pio};
use guest::{Run, absent};

guest::entry!(main);

fn main(run: &Run) {
    let Some(mut pio) = Pio::find() else { absent("there is no IDE disk") };
    let dma = Dma::find(&pio);
    if !disk::sweep(run, &mut pio, "ide_pio_read") {
        absent(NO_SCRATCH);
    }
    let Some(mut dma) = dma else { absent("the IDE controller has no bus master") };
    disk::sweep(run, &mut dma, "ide_dma_read");
}
