//! Loops for ever with interrupts off: only the monitor can end it.
#![no_std]
#![no_main]

use guest::{Run, cpu};

guest::entry!(main);

fn main(_: &Run) {
    cpu::cli();
    loop {
        // SAFETY: does nothing.
        unsafe { core::arch::asm!("pause") };
    }
}
