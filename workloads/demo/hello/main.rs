//! Prints one line and ends: the smallest whole guest.
#![no_std]
#![no_main]

use guest::Run;
use guest::console::Line;

guest::entry!(main);

fn main(_: &Run) {
    Line::new().text("Hello from a guest: 64-bit, ring 0, paging on.").print();
}
