//! Channel 0 of the 8254 timer, which drives PIC line 0. Source: Intel 8254 data sheet (231164).

use crate::cpu::{inb, outb};

/// Input clock, in Hz.
pub const FREQUENCY: u64 = 1_193_182;
/// The PIC line of channel 0.
pub const LINE: u8 = 0;

const CHANNEL_0: u16 = 0x40;
const CONTROL: u16 = 0x43;

fn load(mode: u8, count: u16) {
    outb(CONTROL, 0x30 | mode << 1);
    outb(CHANNEL_0, count as u8);
    outb(CHANNEL_0, (count >> 8) as u8);
}

/// One interrupt each `count` input clocks (mode 2, rate generator); 0 means 65536.
pub fn periodic(count: u16) {
    load(2, count);
}

/// One interrupt after `count` input clocks (mode 0, terminal count).
pub fn one_shot(count: u16) {
    load(0, count);
}

/// The current count.
pub fn count() -> u16 {
    outb(CONTROL, 0);
    let low = inb(CHANNEL_0);
    u16::from(low) | u16::from(inb(CHANNEL_0)) << 8
}

/// Stops the interrupts: mode 0 waits for a count that is never given.
pub fn stop() {
    outb(CONTROL, 0x30);
}
