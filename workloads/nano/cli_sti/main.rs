//! CLI and STI: closing and opening the interrupt window.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

const IF: u64 = 1 << 9;

fn flags() -> u64 {
    let flags: u64;
    // SAFETY: reads the flags by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

fn main(run: &Run) {
    let mut checksum = Checksum::new();
    for _ in 0..8 {
        cpu::cli();
        checksum = checksum.word(flags() & IF);
        cpu::sti();
        checksum = checksum.word(flags() & IF);
    }
    run.nano("cli_sti", checksum, UNROLL, |turns| {
        // SAFETY: all lines of the PIC are masked; a stray interrupt finds its handler.
        unsafe { guest::unrolled!(turns, ["cli", "sti"]) }
    });
    cpu::cli();
}
