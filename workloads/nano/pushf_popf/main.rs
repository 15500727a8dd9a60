//! PUSHF and POPF: sensitive, but without a trap at ring 3, where POPF leaves IF alone in silence.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

/// CF, PF, AF, ZF, SF, IF, DF, OF.
const CHANGED: u64 = 0xed5;

/// Loads flags and says what PUSHF then shows of them.
fn exchange(flags: u64) -> u64 {
    let seen: u64;
    // SAFETY: the direction flag is cleared again, all lines of the PIC are masked.
    unsafe { asm!("push {}", "popfq", "pushfq", "pop {}", "cld", in(reg) flags | 2, lateout(reg) seen) };
    seen & CHANGED
}

fn main(run: &Run) {
    let mut checksum = Checksum::new();
    for bit in 0..12 {
        checksum = checksum.word(exchange(1 << bit & CHANGED));
    }
    checksum = checksum.word(exchange(CHANGED));
    cpu::sti();
    run.nano("pushf_popf", checksum, UNROLL, |turns| {
        // SAFETY: balanced.
        unsafe { guest::unrolled!(turns, ["pushfq", "popfq"]) }
    });
    cpu::cli();
}
