//! Jumps into the local APIC's registers: there is no code to fetch.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::Run;
use guest::console::Line;
use guest::layout::{LAPIC, TEST_WINDOW};
use guest::paging::{self, WRITABLE};

guest::entry!(main);

fn main(_: &Run) {
    Line::new().text("About to jump into device memory.").print();
    // A small page that may be executed; where a machine runs on through the registers, it ends in a page fault.
    paging::map(TEST_WINDOW, LAPIC, WRITABLE);
    // SAFETY: never comes back.
    unsafe { asm!("jmp rax", in("rax") TEST_WINDOW, options(noreturn)) }
}
