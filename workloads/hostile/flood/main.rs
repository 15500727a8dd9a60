//! Prints a gibibyte.
#![no_std]
#![no_main]

use guest::{Run, console};

guest::entry!(main);

const LINE: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

fn main(_: &Run) {
    for _ in 0..(1 << 30) / LINE.len() {
        console::bytes(LINE);
    }
}
