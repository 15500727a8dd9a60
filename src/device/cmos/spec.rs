//! Registers of the Motorola MC146818A real-time clock (datasheet ADI1027), and of a PC's CMOS RAM behind them.
use bitflags::bitflags;

/// Register numbers.
pub(super) mod index {
    pub(in super::super) const SECONDS: usize = 0x00;
    pub(in super::super) const SECONDS_ALARM: usize = 0x01;
    pub(in super::super) const MINUTES: usize = 0x02;
    pub(in super::super) const MINUTES_ALARM: usize = 0x03;
    pub(in super::super) const HOURS: usize = 0x04;
    pub(in super::super) const HOURS_ALARM: usize = 0x05;
    pub(in super::super) const WEEKDAY: usize = 0x06;
    pub(in super::super) const DAY: usize = 0x07;
    pub(in super::super) const MONTH: usize = 0x08;
    pub(in super::super) const YEAR: usize = 0x09;
    pub(in super::super) const A: usize = 0x0a;
    pub(in super::super) const B: usize = 0x0b;
    pub(in super::super) const C: usize = 0x0c;
    pub(in super::super) const D: usize = 0x0d;
    /// Century; a place in RAM by common use, not by the datasheet.
    pub(in super::super) const CENTURY: usize = 0x32;
}

/// Registers and RAM, in bytes.
pub(super) const SIZE: usize = 128;

/// Register A: rate select.
pub(super) const RATE: u8 = 0xf;
/// Register A: divider select; 32768 Hz runs, 11x holds the divider in reset.
pub(super) const DIVIDER: u8 = 0x70;
/// Register A: the divider's value for a 32768 Hz crystal.
pub(super) const DIVIDER_32768: u8 = 0x20;
/// Register A: update in progress.
pub(super) const UIP: u8 = 0x80;
/// Register D: RAM and time are valid.
pub(super) const VRT: u8 = 0x80;
/// An alarm byte from here on matches anything.
pub(super) const ANY: u8 = 0xc0;
/// Hours in 12-hour form: afternoon.
pub(super) const PM: u8 = 0x80;

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct B: u8 {
        /// 24-hour form.
        const H24 = 1 << 1;
        /// Binary, not BCD.
        const DM = 1 << 2;
        /// Update-ended interrupt.
        const UIE = 1 << 4;
        /// Alarm interrupt.
        const AIE = 1 << 5;
        /// Periodic interrupt.
        const PIE = 1 << 6;
        /// The time stands, to be set.
        const SET = 1 << 7;
        const _ = !0;
    }

    /// Register C: what happened since it was read; its bits 6–4 match the enables in register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct C: u8 {
        /// Update ended.
        const UF = 1 << 4;
        /// Alarm.
        const AF = 1 << 5;
        /// Periodic.
        const PF = 1 << 6;
        /// One of them, and it is enabled.
        const IRQF = 1 << 7;
    }
}

/// Crystal, in Hz.
pub(super) const CRYSTAL_HZ: u64 = 32_768;
/// For how long before each update UIP is set, in nanoseconds: 244 µs of warning and the update's 1948 µs.
pub(super) const UIP_NANOS: u64 = 2_192_000;
