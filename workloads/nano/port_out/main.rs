//! OUT to a device register without side effects (the UART's scratch register), and IN from it.
#![no_std]
#![no_main]

use guest::abi::PORT_COM1;
use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

const SCRATCH: u16 = PORT_COM1 + 7;

fn main(run: &Run) {
    let mut checksum = Checksum::new();
    for number in 0..16u8 {
        cpu::outb(SCRATCH, number.wrapping_mul(29) ^ 0x5a);
        checksum = checksum.word(u64::from(cpu::inb(SCRATCH)));
    }
    run.nano("port_out", checksum, UNROLL, |turns| {
        // SAFETY: the device does not touch memory.
        unsafe { guest::unrolled!(turns, ["out dx, al"], in("dx") SCRATCH, in("al") 0x33u8) }
    });
    assert!(cpu::inb(SCRATCH) == 0x33, "the scratch register lost what was written");
    run.nano("port_in", checksum, UNROLL, |turns| {
        // SAFETY: as above.
        unsafe { guest::unrolled!(turns, ["in al, dx"], in("dx") SCRATCH, out("al") _) }
    });
}
