//! Registers of the I/O APIC (Intel 82093AA datasheet 290566, section 3).
use bitflags::bitflags;

/// Offset of the register select.
pub(super) const IOREGSEL: u64 = 0x00;
/// Offset of the window on the selected register.
pub(super) const IOWIN: u64 = 0x10;
/// Index of the identification register.
pub(super) const ID: u8 = 0;
/// Index of the version register.
pub(super) const VERSION: u8 = 1;
/// Index of the arbitration register.
pub(super) const ARBITRATION: u8 = 2;
/// Index of the low half of the first redirection entry.
pub(super) const REDIRECTION: u8 = 0x10;
/// Number of inputs.
pub(super) const PINS: usize = 24;
/// Version 0x11, highest entry 23.
pub(super) const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;

bitflags! {
    /// A redirection table entry (3.2.4): vector in bits 7–0, delivery mode in 10–8, destination in 63–56.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Entry: u64 {
        /// The destination is logical.
        const LOGICAL = 1 << 11;
        /// Delivery status; read-only, always idle here.
        const DELIVERY_STATUS = 1 << 12;
        /// The input is active low. The lines of this machine carry no polarity: kept, without effect.
        const POLARITY = 1 << 13;
        /// A level-triggered interrupt was accepted and not yet ended; read-only.
        const REMOTE_IRR = 1 << 14;
        /// Level-triggered.
        const LEVEL = 1 << 15;
        /// Masked.
        const MASKED = 1 << 16;
        const _ = !0;
    }
}

/// Bits of an entry that can be written.
pub(super) const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;
