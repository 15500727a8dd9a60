//! The flags register (SDM vol. 1, 3.4.3).
use bitflags::bitflags;

bitflags! {
    /// RFLAGS. Unknown bits are kept (`from_bits_retain`): a guest's reserved bits are masked where they are written.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Bit 1 always reads as one.
        const FIXED = 1 << 1;
        /// Parity of the low byte.
        const PF = 1 << 2;
        /// Auxiliary carry out of bit 3.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap (single step).
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction of string instructions.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, low bit.
        const IOPL_LOW = 1 << 12;
        /// I/O privilege level, high bit.
        const IOPL_HIGH = 1 << 13;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume (suppresses instruction breakpoints once).
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and the override of SMAP.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID is available.
        const ID = 1 << 21;
        /// The six flags that arithmetic sets.
        const STATUS = Self::CF.bits() | Self::PF.bits() | Self::AF.bits() | Self::ZF.bits() | Self::SF.bits()
            | Self::OF.bits();
        /// Both bits of the I/O privilege level.
        const IOPL = Self::IOPL_LOW.bits() | Self::IOPL_HIGH.bits();
    }
}

impl Rflags {
    /// The I/O privilege level, 0–3.
    #[inline]
    #[must_use]
    pub const fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}

impl Default for Rflags {
    /// The value after reset.
    fn default() -> Self {
        Self::FIXED
    }
}
