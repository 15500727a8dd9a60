//! Faults with an empty interrupt table, so that the double fault faults too: the CPU shuts down.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::Run;
use guest::console::Line;

guest::entry!(main);

fn main(_: &Run) {
    Line::new().text("About to triple-fault.").print();
    let empty = [0u16; 5];
    // SAFETY: never comes back.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) empty.as_ptr(), options(noreturn)) }
}
