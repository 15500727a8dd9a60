//! The two 8259A interrupt controllers. Source: Intel 8259A data sheet (231468).

use crate::cpu::{inb, outb};
use crate::trap::IRQ_BASE;

const MASTER: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE: u16 = 0xa0;
const SLAVE_DATA: u16 = 0xa1;

/// Port of the master's command register, where `END_OF_INTERRUPT` goes.
pub const COMMAND: u16 = MASTER;
/// Non-specific end of interrupt.
pub const END_OF_INTERRUPT: u8 = 0x20;

/// Puts the lines at vectors 0x20 to 0x2f and masks them all.
pub fn init() {
    for (port, value) in [
        (MASTER, 0x11),
        (SLAVE, 0x11),
        (MASTER_DATA, IRQ_BASE),
        (SLAVE_DATA, IRQ_BASE + 8),
        (MASTER_DATA, 4),
        (SLAVE_DATA, 2),
        (MASTER_DATA, 1),
        (SLAVE_DATA, 1),
        (MASTER_DATA, 0xff),
        (SLAVE_DATA, 0xff),
    ] {
        outb(port, value);
    }
}

/// Lets one of the lines 0 to 7 through.
pub fn unmask(line: u8) {
    outb(MASTER_DATA, inb(MASTER_DATA) & !(1 << line));
}

/// Masks one of the lines 0 to 7.
pub fn mask(line: u8) {
    outb(MASTER_DATA, inb(MASTER_DATA) | 1 << line);
}

/// Acknowledges an interrupt, unless it was spurious: then only the master is told about its cascade line.
pub fn end_of_interrupt(line: u8) {
    let in_service = |port: u16, bit: u8| {
        outb(port, 0x0b);
        inb(port) & 1 << bit != 0
    };
    match line {
        7 if !in_service(MASTER, 7) => {}
        15 if !in_service(SLAVE, 7) => outb(MASTER, END_OF_INTERRUPT),
        8.. => {
            outb(SLAVE, END_OF_INTERRUPT);
            outb(MASTER, END_OF_INTERRUPT);
        }
        _ => outb(MASTER, END_OF_INTERRUPT),
    }
}
