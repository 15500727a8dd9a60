//! Saved state of the UART.
use super::spec::{FIFO_DEPTH, Ier, Lcr, Lsr, Mcr, Msr};
use super::{Received, State, Uart16550};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the UART.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the datasheet")]
pub struct SavedUart {
    pub ier: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub msr: u8,
    pub scr: u8,
    pub divisor: u16,
    pub fifos_on: bool,
    /// Trigger level of the receive FIFO: 1, 4, 8 or 14.
    pub trigger: u8,
    /// Characters in the receiver, each with its error bits of the LSR.
    pub received: Vec<(u8, u8)>,
    pub overrun: bool,
    pub thre_pending: bool,
    pub timeout_pending: bool,
    /// Characters from the host that wait for room.
    pub backlog: Vec<u8>,
}

impl Uart16550 {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedUart {
        let Self { base: _, irq: _, sink: _, driven: _, state } = self;
        let State {
            ier,
            lcr,
            mcr,
            msr,
            scr,
            divisor,
            fifos_on,
            trigger,
            received,
            overrun,
            thre_pending,
            timeout_pending,
            backlog,
        } = state.clone();
        SavedUart {
            ier: ier.bits(),
            lcr: lcr.bits(),
            mcr: mcr.bits(),
            msr: msr.bits(),
            scr,
            divisor,
            fifos_on,
            trigger,
            received: received.iter().map(|r| (r.byte, r.errors.bits())).collect(),
            overrun,
            thre_pending,
            timeout_pending,
            backlog: backlog.into(),
        }
    }

    /// Takes on a saved state and drives the line accordingly.
    ///
    /// # Errors
    /// [`BadState`], if the UART cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedUart) -> Result<(), BadState> {
        let SavedUart {
            ier,
            lcr,
            mcr,
            msr,
            scr,
            divisor,
            fifos_on,
            trigger,
            received,
            overrun,
            thre_pending,
            timeout_pending,
            backlog,
        } = saved.clone();
        let bad = |what| BadState { device: "uart16550", what };
        let depth = if fifos_on { FIFO_DEPTH } else { 1 };
        if received.len() > depth || backlog.len() > Self::BACKLOG {
            return Err(bad("more characters than fit"));
        }
        if ![1, 4, 8, 14].contains(&trigger) {
            return Err(bad("no such trigger level"));
        }
        let (Some(ier), Some(mcr)) = (Ier::from_bits(ier), Mcr::from_bits(mcr)) else {
            return Err(bad("a reserved bit is set"));
        };
        self.state = State {
            ier,
            lcr: Lcr::from_bits_retain(lcr),
            mcr,
            msr: Msr::from_bits_retain(msr),
            scr,
            divisor,
            fifos_on,
            trigger,
            received: received
                .into_iter()
                .map(|(byte, errors)| Received {
                    byte,
                    errors: Lsr::from_bits_truncate(errors) & Lsr::ERRORS,
                })
                .collect(),
            overrun,
            thre_pending,
            timeout_pending,
            backlog: backlog.into(),
        };
        // The controller restores its pins itself; whatever they are, they get the level that holds now.
        self.sync();
        self.irq.set(self.driven);
        Ok(())
    }
}
