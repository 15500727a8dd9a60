//! One REP OUTSB of 1 to 4096 bytes to a device register without side effects (the UART's scratch register).
#![no_std]
#![no_main]

use guest::abi::PORT_COM1;
use guest::{Checksum, Run, Size, cpu, user};

guest::entry!(main);

const SCRATCH: u16 = PORT_COM1 + 7;
const SIZES: [usize; 5] = [1, 8, 64, 512, 4096];
const MOST: usize = 4096;

fn main(run: &Run) {
    // SAFETY: nothing else uses the arena.
    let text = unsafe { user::arena(0, MOST) };
    for (byte, number) in text.iter_mut().zip(0_u32..) {
        // Volatile: ring 0 keeps to plain integer instructions.
        // SAFETY: a reference.
        unsafe { (&raw mut *byte).write_volatile((number.wrapping_mul(0x9e37) >> 8) as u8 ^ 0x5a) };
    }
    for bytes in SIZES {
        let text = &text[..bytes];
        let last = text[bytes - 1];
        cpu::outb(SCRATCH, !last);
        cpu::outs_bytes(SCRATCH, text);
        let checksum = Checksum::new().word(bytes as u64).word(u64::from(cpu::inb(SCRATCH)));
        run.point("rep_outs", Size { what: "bytes", count: bytes as u64 }, checksum, 1, |turns| {
            for _ in 0..turns {
                cpu::outs_bytes(SCRATCH, text);
            }
        });
        assert!(cpu::inb(SCRATCH) == last, "the scratch register does not hold the last byte");
    }
}
