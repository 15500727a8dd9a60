//! Fixed hardware registers of ACPI (ACPI 6.5, 4.8.3 "Fixed Hardware Registers"), at the offsets of Intel's PIIX4.
use bitflags::bitflags;

/// PM1 status, 16 bits.
pub(super) const STATUS: u16 = 0;
/// PM1 enable, 16 bits.
pub(super) const ENABLE: u16 = 2;
/// PM1 control, 16 bits.
pub(super) const CONTROL: u16 = 4;
/// Power management timer, 32 bits.
pub(super) const TIMER: u16 = 8;
/// Bytes from the first register to the last.
pub(super) const SIZE: u16 = 12;

/// Frequency of the timer.
pub(super) const TIMER_HZ: u64 = 3_579_545;

bitflags! {
    /// PM1 status and enable (tables 4.11 and 4.12): what this machine has.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Event: u16 {
        /// The timer's most significant bit has changed.
        const TIMER = 1 << 0;
        /// The other side of the global lock was released; nobody is there to do so.
        const GLOBAL = 1 << 5;
        /// The power button was pressed.
        const POWER_BUTTON = 1 << 8;
        /// The real-time clock's alarm wakes the machine. It never sleeps: the event can be enabled, as guests do, and does
        /// not happen.
        const CLOCK = 1 << 10;
    }

    /// PM1 control (table 4.13).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u16 {
        /// Events make system control interrupts. Always set: there is no other mode.
        const SCI = 1 << 0;
        /// Bus masters wake the CPU from C3.
        const BUS_MASTER = 1 << 1;
        /// The sleep type, three bits.
        const SLEEP_TYPE = 7 << 10;
        /// Enter the sleep type; reads as zero.
        const SLEEP = 1 << 13;
    }
}

/// The sleep type of S5, soft off.
pub(super) const SOFT_OFF: u16 = 0;
