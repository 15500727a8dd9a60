//! Configuration space (PCI Local Bus Specification 3.0, chapter 6) and configuration mechanism #1 (3.2.2.3.2).
use bitflags::bitflags;

/// CONFIG_ADDRESS.
pub(super) const ADDRESS: u16 = 0xcf8;
/// CONFIG_DATA: four byte-wide ports.
pub(super) const DATA: u16 = 0xcfc;
/// CONFIG_ADDRESS: accesses to CONFIG_DATA are configuration accesses.
pub(super) const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: bits that can be written (enable, bus, device, function, register).
pub(super) const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// Bytes of a function's configuration space.
pub(super) const SIZE: usize = 256;
/// Base address registers of an ordinary function.
pub(super) const BARS: usize = 6;

/// Offsets in a header of type 0.
pub(super) mod at {
    pub(in super::super) const VENDOR: usize = 0x00;
    pub(in super::super) const DEVICE: usize = 0x02;
    pub(in super::super) const COMMAND: usize = 0x04;
    pub(in super::super) const STATUS: usize = 0x06;
    pub(in super::super) const REVISION: usize = 0x08;
    pub(in super::super) const CLASS: usize = 0x09;
    pub(in super::super) const CACHE_LINE: usize = 0x0c;
    pub(in super::super) const LATENCY: usize = 0x0d;
    pub(in super::super) const BAR: usize = 0x10;
    pub(in super::super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(in super::super) const SUBSYSTEM: usize = 0x2e;
    pub(in super::super) const CAPABILITIES: usize = 0x34;
    pub(in super::super) const INTERRUPT_LINE: usize = 0x3c;
    pub(in super::super) const INTERRUPT_PIN: usize = 0x3d;
    /// First byte behind the header.
    pub(in super::super) const FREE: usize = 0x40;
}

bitflags! {
    /// Command register (6.2.2): the bits that a function here has.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Command: u16 {
        /// Ports are decoded.
        const IO = 1 << 0;
        /// Memory is decoded.
        const MEMORY = 1 << 1;
        /// The function may reach guest RAM, and send message-signalled interrupts.
        const MASTER = 1 << 2;
        /// The interrupt pin is silent.
        const INTX_OFF = 1 << 10;
    }
}

/// Status register: the function's interrupt is asserted, whether the pin is silent or not.
pub(super) const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status register: there is a list of capabilities.
pub(super) const STATUS_CAPABILITIES: u16 = 1 << 4;
/// BAR: in port space.
pub(super) const BAR_IO: u32 = 1;
/// BAR: 64-bit memory.
pub(super) const BAR_64: u32 = 2 << 1;
/// BAR: prefetchable memory.
pub(super) const BAR_PREFETCHABLE: u32 = 1 << 3;

/// First of the host bridge's registers for shadow RAM.
pub(super) const PAM0: usize = 0x59;
