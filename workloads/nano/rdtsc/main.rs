//! RDTSC: reading the clock.
#![no_std]
#![no_main]

use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

fn main(run: &Run) {
    // The clock never goes back, and moves.
    let mut checksum = Checksum::new();
    let first = cpu::rdtsc();
    let mut last = first;
    for _ in 0..16 {
        let now = cpu::rdtsc();
        checksum = checksum.word(u64::from(now >= last));
        last = now;
    }
    run.nano("rdtsc", checksum.word(u64::from(last > first)), UNROLL, |turns| {
        // SAFETY: reads a counter.
        unsafe { guest::unrolled!(turns, ["rdtsc"], out("rax") _, out("rdx") _) }
    });
}
