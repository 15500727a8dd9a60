//! Registers of the local APIC (Intel SDM vol. 3A, chapter 11 "Advanced Programmable Interrupt Controller", 2023).
use crate::arch::msr;
use bitflags::bitflags;

/// Offsets of the registers in the APIC's page (table 11-1).
pub(super) mod offset {
    pub(in super::super) const ID: u64 = 0x20;
    pub(in super::super) const VERSION: u64 = 0x30;
    pub(in super::super) const TPR: u64 = 0x80;
    pub(in super::super) const APR: u64 = 0x90;
    pub(in super::super) const PPR: u64 = 0xa0;
    pub(in super::super) const EOI: u64 = 0xb0;
    pub(in super::super) const LDR: u64 = 0xd0;
    pub(in super::super) const DFR: u64 = 0xe0;
    pub(in super::super) const SVR: u64 = 0xf0;
    pub(in super::super) const ISR: u64 = 0x100;
    pub(in super::super) const TMR: u64 = 0x180;
    pub(in super::super) const IRR: u64 = 0x200;
    pub(in super::super) const ESR: u64 = 0x280;
    pub(in super::super) const ICR_LOW: u64 = 0x300;
    pub(in super::super) const ICR_HIGH: u64 = 0x310;
    pub(in super::super) const LVT_TIMER: u64 = 0x320;
    pub(in super::super) const LVT_ERROR: u64 = 0x370;
    pub(in super::super) const INITIAL_COUNT: u64 = 0x380;
    pub(in super::super) const CURRENT_COUNT: u64 = 0x390;
    pub(in super::super) const DIVIDE: u64 = 0x3e0;
}

/// Version 0x14 (integrated APIC), 6 local vector table entries, no suppression of EOI broadcasts: QEMU's figures.
pub(super) const VERSION: u32 = 0x14 | 5 << 16;

/// Entries of the local vector table, in the order of their registers.
pub(super) const LVT_COUNT: usize = 6;
/// Index of the timer's entry.
pub(super) const TIMER: usize = 0;
/// Index of LINT0's entry: the 8259's INTR.
pub(super) const LINT0: usize = 3;
/// Index of the error entry.
pub(super) const ERROR: usize = 5;

bitflags! {
    /// An entry of the local vector table (figure 11-8); the vector is in bits 7–0, the delivery mode in 10–8.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Lvt: u32 {
        /// Delivery is pending; read-only, always idle here.
        const DELIVERY_STATUS = 1 << 12;
        /// Input pin polarity: 1 = active low.
        const POLARITY = 1 << 13;
        /// Remote IRR: a level-triggered interrupt was accepted and not yet ended; read-only.
        const REMOTE_IRR = 1 << 14;
        /// Level-triggered.
        const LEVEL = 1 << 15;
        /// Masked.
        const MASKED = 1 << 16;
        /// Timer mode: periodic.
        const PERIODIC = 1 << 17;
        /// Timer mode: the deadline that an MSR holds. With the bit of [`Self::PERIODIC`], reserved.
        const DEADLINE = 1 << 18;
        const _ = !0;
    }
}

/// Writable bits of each entry of the local vector table.
pub(super) const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

impl Lvt {
    pub(super) fn vector(self) -> u8 {
        self.bits() as u8
    }

    pub(super) fn mode(self) -> DeliveryMode {
        DeliveryMode::from_bits(self.bits() >> 8)
    }
}

/// How an interrupt message is delivered (SDM 11.5.1, 11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryMode {
    /// The vector of the message.
    Fixed,
    /// The vector of the message, to one of the CPUs addressed.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up of an application processor.
    StartUp,
    /// The vector comes from the 8259.
    ExtInt,
    /// Reserved.
    Reserved,
}

impl DeliveryMode {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::LowestPriority => "lowest priority",
            Self::Smi => "SMI",
            Self::Nmi => "NMI",
            Self::Init => "INIT",
            Self::StartUp => "start-up",
            Self::ExtInt => "ExtINT",
            Self::Reserved => "reserved mode",
        }
    }

    /// The mode in the low three bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

bitflags! {
    /// Spurious-interrupt vector register (11.9); the vector is in bits 7–0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Svr: u32 {
        /// Software enable.
        const ENABLE = 1 << 8;
        const _ = !0;
    }

    /// Error status register (11.5.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Esr: u32 {
        /// A message with a vector below 16 was to be sent.
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// A message with a vector below 16 came in, or the vector table holds one.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// A register that does not exist was accessed.
        const ILLEGAL_ADDRESS = 1 << 7;
        const _ = !0;
    }

    /// IA32_APIC_BASE (11.4.4).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct ApicBase: u64 {
        /// This is the boot processor.
        const BSP = 1 << 8;
        /// x2APIC mode.
        const EXTD = msr::APIC_BASE_X2APIC;
        /// Global enable.
        const ENABLE = msr::APIC_BASE_ENABLE;
        const _ = !0;
    }
}

/// Bits of IA32_APIC_BASE that may be written: base (52-bit addresses), enable, x2APIC, BSP.
pub(super) const APIC_BASE_WRITABLE: u64 = 0x000f_ffff_ffff_fd00;
/// Writable bits of the interrupt command register's low half.
pub(super) const ICR_LOW_WRITABLE: u32 = 0x000c_cfff;
/// In that half: assert, not de-assert.
pub(super) const ICR_ASSERT: u32 = 1 << 14;
/// In that half: level-triggered.
pub(super) const ICR_LEVEL: u32 = 1 << 15;
/// The lowest vector that may be delivered; those below are reserved for exceptions.
pub(super) const FIRST_VECTOR: u8 = 16;

/// Which CPUs an interrupt command means (bits 19–18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shorthand {
    /// Those that the destination field addresses.
    None,
    /// The sender.
    OnlySelf,
    /// All, the sender too.
    All,
    /// All but the sender.
    AllOthers,
}

impl Shorthand {
    pub(super) fn from_icr(low: u32) -> Self {
        match low >> 18 & 3 {
            0 => Self::None,
            1 => Self::OnlySelf,
            2 => Self::All,
            _ => Self::AllOthers,
        }
    }
}
