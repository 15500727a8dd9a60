//! A 16550A UART (National Semiconductor PC16550D) whose transmitter is infinitely fast.
//!
//! A character written goes to the [`ConsoleSink`] at once, so the holding register is always empty; the interrupt for
//! that comes and goes as the datasheet says, with an edge for each character. Characters from the host wait in a
//! bounded queue and move into the receiver as the guest makes room, as on a line with flow control: they never
//! overrun. In loopback characters do overrun. The receive timeout, four character times of silence on a real line,
//! has passed as soon as the characters below the trigger level are there.
//!
//! Every access ends in [`Uart16550::sync`], which recomputes the interrupt line; it touches the line only when its
//! level changes. Where the real chip would drop the line for a moment (a read or write of data that at once gives
//! cause for the next interrupt), it is called in between, so that an edge-triggered controller sees an edge.
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::SavedUart;

use super::BytePorts;
use crate::arch::Port;
use crate::bus::IrqLine;
use spec::{FIFO_DEPTH, Fcr, IIR_FIFOS_ON, Ier, Iir, Lcr, Lsr, Mcr, Msr, offset};
use std::collections::VecDeque;

/// Where the characters go that the guest sends. Called under the UART's lock: it should return soon.
pub trait ConsoleSink: Send {
    /// Takes characters.
    fn transmit(&mut self, bytes: &[u8]);
}

/// A character in the receiver and what went wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Received {
    byte: u8,
    errors: Lsr,
}

/// The UART.
pub struct Uart16550 {
    // Configuration.
    base: Port,
    // Runtime glue.
    irq: IrqLine,
    sink: Box<dyn ConsoleSink>,
    /// The level last given to `irq`.
    driven: bool,
    // Volatile state.
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    ier: Ier,
    lcr: Lcr,
    mcr: Mcr,
    msr: Msr,
    scr: u8,
    divisor: u16,
    fifos_on: bool,
    /// Trigger level of the receive FIFO.
    trigger: u8,
    /// The one character, or the FIFO.
    received: VecDeque<Received>,
    overrun: bool,
    /// The transmitter-empty interrupt is pending, if enabled.
    thre_pending: bool,
    /// The receive timeout is pending, if enabled.
    timeout_pending: bool,
    /// From the host, not yet in the receiver.
    backlog: VecDeque<u8>,
}

/// The other end is there and ready.
const CONNECTED: Msr = Msr::CTS.union(Msr::DSR).union(Msr::DCD);

impl Default for State {
    fn default() -> Self {
        Self {
            ier: Ier::empty(),
            lcr: Lcr::empty(),
            mcr: Mcr::empty(),
            msr: CONNECTED,
            scr: 0,
            // The datasheet leaves it open; QEMU's 9600 baud.
            divisor: 12,
            fifos_on: false,
            trigger: 1,
            received: VecDeque::new(),
            overrun: false,
            thre_pending: false,
            timeout_pending: false,
            backlog: VecDeque::new(),
        }
    }
}

impl std::fmt::Debug for Uart16550 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uart16550")
            .field("base", &self.base)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl State {
    fn depth(&self) -> usize {
        if self.fifos_on { FIFO_DEPTH } else { 1 }
    }

    fn lsr(&self) -> Lsr {
        let mut lsr = Lsr::THRE | Lsr::TEMT;
        if let Some(first) = self.received.front() {
            lsr |= Lsr::DR | first.errors;
        }
        if self.overrun {
            lsr |= Lsr::OE;
        }
        if self.fifos_on && self.received.iter().any(|r| !r.errors.is_empty()) {
            lsr |= Lsr::FIFO_ERROR;
        }
        lsr
    }

    /// The cause of the interrupt, highest priority first (table IV).
    fn cause(&self) -> Iir {
        if self.ier.contains(Ier::ELSI) && self.lsr().intersects(Lsr::ERRORS) {
            return Iir::LineStatus;
        }
        if self.ier.contains(Ier::ERBFI) {
            let level = if self.fifos_on { usize::from(self.trigger) } else { 1 };
            if self.received.len() >= level {
                return Iir::DataAvailable;
            }
            if self.timeout_pending {
                return Iir::Timeout;
            }
        }
        if self.ier.contains(Ier::ETBEI) && self.thre_pending {
            return Iir::TransmitterEmpty;
        }
        if self.ier.contains(Ier::EDSSI) && self.msr.intersects(Msr::DELTAS) {
            return Iir::ModemStatus;
        }
        Iir::None
    }

    /// A character comes in from the line or the loop.
    fn take_in(&mut self, byte: u8, errors: Lsr) {
        if self.received.len() >= self.depth() {
            self.overrun = true;
            if self.fifos_on {
                // The FIFO keeps what it has; the character in the shift register is lost.
                return;
            }
            self.received.clear();
        }
        self.received.push_back(Received { byte, errors });
    }

    /// Moves characters from the host into the room there is, unless the loop cuts the line off.
    fn refill(&mut self) {
        while !self.mcr.contains(Mcr::LOOP) && self.received.len() < self.depth() {
            let Some(byte) = self.backlog.pop_front() else {
                break;
            };
            self.take_in(byte, Lsr::empty());
        }
        let waiting = self.received.len();
        self.timeout_pending = self.fifos_on && waiting > 0 && waiting < usize::from(self.trigger);
    }

    /// Recomputes the modem inputs after a change of the control register.
    fn update_modem(&mut self) {
        let inputs = if self.mcr.contains(Mcr::LOOP) {
            [(Mcr::RTS, Msr::CTS), (Mcr::DTR, Msr::DSR), (Mcr::OUT1, Msr::RI), (Mcr::OUT2, Msr::DCD)]
                .into_iter()
                .filter(|(output, _)| self.mcr.contains(*output))
                .fold(Msr::empty(), |inputs, (_, input)| inputs | input)
        } else {
            CONNECTED
        };
        let changed = (self.msr ^ inputs) - Msr::DELTAS;
        let mut deltas = Msr::from_bits_truncate(changed.bits() >> 4);
        if inputs.contains(Msr::RI) {
            // Only the trailing edge of RI counts.
            deltas -= Msr::TERI;
        }
        self.msr = inputs | self.msr & Msr::DELTAS | deltas;
    }
}

impl Uart16550 {
    /// How many characters from the host wait at most.
    pub const BACKLOG: usize = 4096;

    /// A UART whose eight registers begin at port `base`, on line `irq`, after reset.
    #[must_use]
    pub fn new(base: Port, irq: IrqLine, sink: Box<dyn ConsoleSink>) -> Self {
        Self { base, irq, sink, driven: false, state: State::default() }
    }

    /// Takes characters from the host and returns how many: no more than the queue has room for.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = Self::BACKLOG.saturating_sub(self.state.backlog.len());
        let taken = bytes.len().min(room);
        self.state.backlog.extend(&bytes[..taken]);
        self.state.refill();
        self.sync();
        taken
    }

    /// Sends characters to the console past the registers, in order with those that the guest sends through them.
    pub fn print(&mut self, bytes: &[u8]) {
        self.sink.transmit(bytes);
    }

    /// Recomputes the interrupt line. Loopback leaves OUT2's gate alone, as in QEMU and against the datasheet, which
    /// parks the outputs: guests test the interrupt that way.
    fn sync(&mut self) {
        let level = self.state.cause() != Iir::None && self.state.mcr.contains(Mcr::OUT2);
        if level != self.driven {
            self.driven = level;
            self.irq.set(level);
        }
    }

    fn read_data(&mut self) -> u8 {
        let Some(Received { byte, .. }) = self.state.received.pop_front() else {
            return 0;
        };
        self.state.timeout_pending = false;
        self.sync();
        self.state.refill();
        byte
    }

    fn write_data(&mut self, byte: u8) {
        if self.state.ier.contains(Ier::ETBEI) {
            self.state.thre_pending = false;
            self.sync();
        }
        if self.state.mcr.contains(Mcr::LOOP) {
            let unused = 3 - (self.state.lcr & Lcr::WLS).bits();
            self.state.take_in(byte & 0xff >> unused, Lsr::empty());
            self.state.refill();
        } else if !self.state.lcr.contains(Lcr::BREAK) {
            self.sink.transmit(&[byte]);
        }
        self.state.thre_pending = true;
    }

    fn read_iir(&mut self) -> u8 {
        let cause = self.state.cause();
        if cause == Iir::TransmitterEmpty {
            self.state.thre_pending = false;
        }
        let fifos = if self.state.fifos_on { IIR_FIFOS_ON } else { 0 };
        cause as u8 | fifos
    }

    fn write_fcr(&mut self, value: u8) {
        let fcr = Fcr::from_bits_retain(value);
        let on = fcr.contains(Fcr::ENABLE);
        if on != self.state.fifos_on || on && fcr.contains(Fcr::RESET_RX) {
            self.state.received.clear();
            self.state.timeout_pending = false;
            self.sync();
        }
        self.state.fifos_on = on;
        if on {
            self.state.trigger = spec::trigger_level(value);
        }
        self.state.refill();
    }

    fn read_lsr(&mut self) -> u8 {
        let lsr = self.state.lsr();
        self.state.overrun = false;
        if let Some(first) = self.state.received.front_mut() {
            first.errors = Lsr::empty();
        }
        lsr.bits()
    }

    fn write_lcr(&mut self, value: u8) {
        let began = !self.state.lcr.contains(Lcr::BREAK) && value & Lcr::BREAK.bits() != 0;
        self.state.lcr = Lcr::from_bits_retain(value);
        if began && self.state.mcr.contains(Mcr::LOOP) {
            // A break arrives as one zero character.
            self.state.take_in(0, Lsr::BI | Lsr::FE);
            self.state.refill();
        }
    }
}

impl BytePorts for Uart16550 {
    fn read_byte(&mut self, port: Port) -> u8 {
        let latch = self.state.lcr.contains(Lcr::DLAB);
        let [low, high] = self.state.divisor.to_le_bytes();
        let value = match port.0.wrapping_sub(self.base.0) {
            offset::DATA if latch => low,
            offset::DATA => self.read_data(),
            offset::IER if latch => high,
            offset::IER => self.state.ier.bits(),
            offset::IIR_FCR => self.read_iir(),
            offset::LCR => self.state.lcr.bits(),
            offset::MCR => self.state.mcr.bits(),
            offset::LSR => self.read_lsr(),
            offset::MSR => {
                let msr = self.state.msr;
                self.state.msr -= Msr::DELTAS;
                msr.bits()
            }
            offset::SCR => self.state.scr,
            _ => 0xff,
        };
        self.sync();
        value
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        let latch = self.state.lcr.contains(Lcr::DLAB);
        let [low, high] = self.state.divisor.to_le_bytes();
        match port.0.wrapping_sub(self.base.0) {
            offset::DATA if latch => self.state.divisor = u16::from_le_bytes([value, high]),
            offset::DATA => self.write_data(value),
            offset::IER if latch => self.state.divisor = u16::from_le_bytes([low, value]),
            offset::IER => {
                let ier = Ier::from_bits_truncate(value);
                if (ier - self.state.ier).contains(Ier::ETBEI) {
                    self.state.thre_pending = true;
                }
                self.state.ier = ier;
            }
            offset::IIR_FCR => self.write_fcr(value),
            offset::LCR => self.write_lcr(value),
            offset::MCR => {
                self.state.mcr = Mcr::from_bits_truncate(value);
                self.state.update_modem();
                self.state.refill();
            }
            offset::SCR => self.state.scr = value,
            // The status registers are read-only; the datasheet keeps writes for factory tests.
            _ => {}
        }
        self.sync();
    }
}
