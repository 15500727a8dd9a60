//! The local APIC in xAPIC mode, at its reset address. Source: Intel SDM volume 3, chapter 12.

use crate::layout::LAPIC;
use crate::trap::LAPIC_SPURIOUS;

/// Local APIC identifier in bits 31 to 24.
pub const ID: u64 = 0x20;
/// Version and number of local vectors.
pub const VERSION: u64 = 0x30;
/// Task priority.
pub const TASK_PRIORITY: u64 = 0x80;
/// End of interrupt.
pub const END_OF_INTERRUPT: u64 = 0xb0;
/// Spurious vector and the software enable bit.
pub const SPURIOUS: u64 = 0xf0;
/// Interrupt command, low half: a write sends.
pub const COMMAND: u64 = 0x300;
/// Timer entry of the local vector table.
pub const LVT_TIMER: u64 = 0x320;
/// LINT0 entry, where the 8259 is wired.
pub const LVT_LINT0: u64 = 0x350;
/// Error entry.
pub const LVT_ERROR: u64 = 0x370;
/// Timer: a write starts it.
pub const INITIAL_COUNT: u64 = 0x380;
/// Timer: what is left.
pub const CURRENT_COUNT: u64 = 0x390;
/// Timer: divisor.
pub const DIVIDE: u64 = 0x3e0;

/// Local vector table: masked.
pub const MASKED: u32 = 1 << 16;
/// Timer entry: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// Command: to this CPU, whichever it is, asserted.
pub const COMMAND_SELF: u32 = 1 << 18 | 1 << 14;

/// Reads a register.
#[inline(always)]
pub fn read(register: u64) -> u32 {
    // SAFETY: the page is mapped and no memory of Rust's.
    unsafe { ((LAPIC + register) as *const u32).read_volatile() }
}

/// Writes a register.
#[inline(always)]
pub fn write(register: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { ((LAPIC + register) as *mut u32).write_volatile(value) }
}

/// Enables it with the 8259 behind LINT0 ("virtual wire"), timer masked.
pub fn init() {
    write(SPURIOUS, 0x100 | u32::from(LAPIC_SPURIOUS));
    write(TASK_PRIORITY, 0);
    write(LVT_TIMER, MASKED);
    write(LVT_LINT0, 0x700);
    write(DIVIDE, 0b1011);
}

/// Acknowledges the interrupt in service.
#[inline(always)]
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends `vector` to this CPU.
#[inline(always)]
pub fn send_self(vector: u8) {
    write(COMMAND, COMMAND_SELF | u32::from(vector));
}
