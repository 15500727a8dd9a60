//! Command words of the Intel 8259A (datasheet 231468-003, "Programming the 8259A").
use bitflags::bitflags;

bitflags! {
    /// Initialization command word 1, written at A0 = 0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Icw1: u8 {
        /// ICW4 follows.
        const IC4 = 1 << 0;
        /// Single: no cascade, so no ICW3.
        const SNGL = 1 << 1;
        /// Marks the word as ICW1.
        const IS_ICW1 = 1 << 4;
        const _ = !0;
    }

    /// Initialization command word 4.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Icw4: u8 {
        /// Automatic end of interrupt.
        const AEOI = 1 << 1;
        /// Special fully nested mode.
        const SFNM = 1 << 4;
        const _ = !0;
    }

    /// Operation command word 3, written at A0 = 0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Ocw3: u8 {
        /// Read the in-service register instead of the request register, if `RR`.
        const RIS = 1 << 0;
        /// `RIS` counts.
        const RR = 1 << 1;
        /// The next read polls.
        const POLL = 1 << 2;
        /// Marks the word as OCW3.
        const IS_OCW3 = 1 << 3;
        /// Special mask mode, if `ESMM`.
        const SMM = 1 << 5;
        /// `SMM` counts.
        const ESMM = 1 << 6;
        const _ = !0;
    }
}

/// Operation command word 2: bits 7–5 (R, SL, EOI) say what, bits 2–0 say at which level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ocw2 {
    RotateInAeoi(bool),
    Nothing,
    Eoi { rotate: bool },
    SpecificEoi { level: u8, rotate: bool },
    SetPriority { lowest: u8 },
}

impl From<u8> for Ocw2 {
    fn from(word: u8) -> Self {
        let level = word & 7;
        match word >> 5 {
            0 => Self::RotateInAeoi(false),
            1 => Self::Eoi { rotate: false },
            3 => Self::SpecificEoi { level, rotate: false },
            4 => Self::RotateInAeoi(true),
            5 => Self::Eoi { rotate: true },
            6 => Self::SetPriority { lowest: level },
            7 => Self::SpecificEoi { level, rotate: true },
            _ => Self::Nothing,
        }
    }
}

/// Bit of a poll read that says that there was an interrupt.
pub(super) const POLL_INTERRUPT: u8 = 0x80;
/// Inputs of the master that may be level-triggered: not the timer, keyboard and cascade (Intel ICH, ELCR1).
pub(super) const ELCR_MASTER: u8 = 0xf8;
/// Inputs of the slave that may be level-triggered: not the clock and the coprocessor (Intel ICH, ELCR2).
pub(super) const ELCR_SLAVE: u8 = 0xde;
