//! Console output: a status read before every byte, a FIFO full of bytes per status read, and that by one REP OUTSB.
#![no_std]
#![no_main]

use guest::{Checksum, Run, console, measure};

guest::entry!(main);

/// What is printed, over and over.
const LINE: &[u8; 64] = b"the quick brown fox jumps over the lazy dog 0123456789 !#$%&*+-\n";

fn main(run: &Run) {
    let checksum = Checksum::new().bytes(LINE).value();
    let bytes = LINE.len() as u64;
    let single = measure::calibrate(run.budget, bytes, |lines| {
        for _ in 0..lines {
            for &byte in LINE {
                console::byte(byte);
            }
        }
    });
    let batched = measure::calibrate(run.budget, bytes, |lines| {
        for _ in 0..lines {
            console::bytes(LINE);
        }
    });
    let string = measure::calibrate(run.budget, bytes, |lines| {
        for _ in 0..lines {
            console::string(LINE);
        }
    });
    run.report("console_byte", 0, single, checksum);
    run.report("console_batched", 0, batched, checksum);
    run.report("console_string", 0, string, checksum);
}
