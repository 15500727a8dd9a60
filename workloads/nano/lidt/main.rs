//! LIDT: loading the interrupt descriptor table's address.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::{Checksum, Run, UNROLL, trap};

guest::entry!(main);

fn main(run: &Run) {
    let pointer = trap::idt_pointer();
    let mut seen = [0u16; 5];
    let mut elsewhere = pointer;
    elsewhere[1] ^= 0x1000;
    let mut checksum = Checksum::new();
    for table in [&elsewhere, &pointer] {
        // SAFETY: interrupts are off and nothing traps before the right table is back.
        unsafe {
            asm!("lidt [{}]", "sidt [{}]", in(reg) table.as_ptr(), in(reg) seen.as_mut_ptr(),
                options(nostack, preserves_flags))
        };
        // Where the table lies depends on the linker; that the CPU keeps what it was given does not.
        checksum = checksum.word(u64::from(seen == *table)).word(u64::from(seen[0]));
    }
    run.nano("lidt", checksum, UNROLL, |turns| {
        // SAFETY: the table in use.
        unsafe { guest::unrolled!(turns, ["lidt [{table}]"], table = in(reg) pointer.as_ptr()) }
    });
}
