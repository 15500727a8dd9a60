//! Registers of the 16550A UART (National Semiconductor PC16550D datasheet, June 1995, section 8).
use bitflags::bitflags;

/// Depth of the receive FIFO, in characters.
pub(super) const FIFO_DEPTH: usize = 16;

/// Register offsets from the base port.
pub(super) mod offset {
    /// Receiver buffer, transmitter holding; divisor latch low while [`super::Lcr::DLAB`].
    pub(in super::super) const DATA: u16 = 0;
    /// Interrupt enable; divisor latch high while [`super::Lcr::DLAB`].
    pub(in super::super) const IER: u16 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub(in super::super) const IIR_FCR: u16 = 2;
    pub(in super::super) const LCR: u16 = 3;
    pub(in super::super) const MCR: u16 = 4;
    pub(in super::super) const LSR: u16 = 5;
    pub(in super::super) const MSR: u16 = 6;
    /// Scratch.
    pub(in super::super) const SCR: u16 = 7;
}

bitflags! {
    /// Interrupt enable register (8.7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Ier: u8 {
        /// Received data available, and timeout.
        const ERBFI = 1 << 0;
        /// Transmitter holding register empty.
        const ETBEI = 1 << 1;
        /// Receiver line status.
        const ELSI = 1 << 2;
        /// Modem status.
        const EDSSI = 1 << 3;
    }

    /// FIFO control register (8.4); the trigger level is in bits 7–6.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Fcr: u8 {
        /// Both FIFOs on.
        const ENABLE = 1 << 0;
        /// Empty the receive FIFO.
        const RESET_RX = 1 << 1;
        const _ = !0;
    }

    /// Line control register (8.1). Word length, stop bits and parity are kept; characters take no time here.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Lcr: u8 {
        /// Word length minus five.
        const WLS = 3;
        /// Send break.
        const BREAK = 1 << 6;
        /// Divisor latch access.
        const DLAB = 1 << 7;
        const _ = !0;
    }

    /// Modem control register (8.8).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Mcr: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send.
        const RTS = 1 << 1;
        /// Output 1, not connected in a PC.
        const OUT1 = 1 << 2;
        /// Output 2: opens the way of the interrupt to the PC's line.
        const OUT2 = 1 << 3;
        /// Loopback.
        const LOOP = 1 << 4;
    }

    /// Line status register (8.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Lsr: u8 {
        /// Data ready.
        const DR = 1 << 0;
        /// Overrun error.
        const OE = 1 << 1;
        /// Parity error.
        const PE = 1 << 2;
        /// Framing error.
        const FE = 1 << 3;
        /// Break interrupt.
        const BI = 1 << 4;
        /// Transmitter holding register empty.
        const THRE = 1 << 5;
        /// Transmitter empty.
        const TEMT = 1 << 6;
        /// A character with an error is in the FIFO.
        const FIFO_ERROR = 1 << 7;
        /// The bits that make a receiver line status interrupt.
        const ERRORS = Self::OE.bits() | Self::PE.bits() | Self::FE.bits() | Self::BI.bits();
    }

    /// Modem status register (8.9).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Msr: u8 {
        /// CTS changed.
        const DCTS = 1 << 0;
        /// DSR changed.
        const DDSR = 1 << 1;
        /// RI fell.
        const TERI = 1 << 2;
        /// DCD changed.
        const DDCD = 1 << 3;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
        /// The bits that a read clears.
        const DELTAS = 0xf;
    }
}

/// Interrupt identification register (8.6, table IV), highest priority first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Iir {
    LineStatus = 6,
    DataAvailable = 4,
    Timeout = 0xc,
    TransmitterEmpty = 2,
    ModemStatus = 0,
    None = 1,
}

/// Bits 7–6 of the identification register while the FIFOs are on.
pub(super) const IIR_FIFOS_ON: u8 = 0xc0;

/// Trigger level of the receive FIFO that FCR bits 7–6 select.
pub(super) const fn trigger_level(fcr: u8) -> u8 {
    match fcr >> 6 {
        0 => 1,
        1 => 4,
        2 => 8,
        _ => 14,
    }
}
