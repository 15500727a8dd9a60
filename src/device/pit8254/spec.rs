//! Control words of the Intel 8254 (datasheet 231164-005, "Programming the 8254") and of the PC's port 0x61.
use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Counter modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// 0: interrupt on terminal count.
    TerminalCount,
    /// 1: hardware retriggerable one-shot.
    OneShot,
    /// 2: rate generator.
    Rate,
    /// 3: square wave.
    Square,
    /// 4: software triggered strobe.
    SoftwareStrobe,
    /// 5: hardware triggered strobe.
    HardwareStrobe,
}

impl Mode {
    /// The mode in bits 3–1 of a control word; bit 3 does not matter for modes 2 and 3.
    pub(super) const fn of(control: u8) -> Self {
        match control >> 1 & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::Rate,
            3 | 7 => Self::Square,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    /// Its number in a status byte.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    /// Whether it counts round and round.
    pub(super) const fn is_periodic(self) -> bool {
        matches!(self, Self::Rate | Self::Square)
    }
}

/// Which bytes of a count are read and written (bits 5–4 of a control word).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Access {
    /// The least significant one.
    Low,
    /// The most significant one.
    High,
    /// Both, the least significant first.
    Both,
}

/// What a write to the control port asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    /// Latch the count of a counter.
    Latch { counter: usize },
    /// Read-back: latch counts, status bytes, or both, of the counters whose bits are set.
    ReadBack { counters: u8, count: bool, status: bool },
    /// Program a counter.
    Program { counter: usize, access: Access, mode: Mode, bcd: bool },
}

impl From<u8> for Control {
    fn from(word: u8) -> Self {
        let counter = usize::from(word >> 6);
        if counter == 3 {
            return Self::ReadBack {
                counters: word >> 1 & 7,
                count: word & 0x20 == 0,
                status: word & 0x10 == 0,
            };
        }
        let access = match word >> 4 & 3 {
            0 => return Self::Latch { counter },
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        Self::Program { counter, access, mode: Mode::of(word), bcd: word & 1 != 0 }
    }
}

bitflags! {
    /// Status byte of a counter (read-back command); access, mode and BCD in bits 5–0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u8 {
        /// A count was written and not yet loaded.
        const NULL_COUNT = 1 << 6;
        /// The output pin.
        const OUT = 1 << 7;
    }

    /// Port 0x61 of a PC.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct SystemControl: u8 {
        /// Gate of counter 2.
        const GATE2 = 1 << 0;
        /// The speaker follows counter 2.
        const SPEAKER = 1 << 1;
        /// Kept from the AT: memory parity and channel check are off.
        const CHECKS_OFF = 3 << 2;
        /// Toggles with each refresh; read-only.
        const REFRESH = 1 << 4;
        /// Output of counter 2; read-only.
        const OUT2 = 1 << 5;
        /// What is written and read back.
        const WRITABLE = 0xf;
    }
}

/// Time between two toggles of [`SystemControl::REFRESH`], in nanoseconds.
pub(super) const REFRESH_NANOS: u64 = 15_085;
