//! Two cascaded Intel 8259A interrupt controllers, as a PC has them (datasheet 231468-003).
//!
//! A state machine without glue: the interrupt complex owns it, drives its inputs and asks for its output. Every access
//! ends in [`PicPair::sync`], which passes the slave's output on to the master's IR2.
mod chip;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use chip::Awaited;
pub use saved::{SavedChip, SavedPicPair};

use crate::arch::Port;
use crate::arch::layout::{IRQ_CASCADE, PIC_ELCR, PIC_MASTER, PIC_SLAVE};
use chip::Chip;

/// Input that a chip names when an interrupt vanished before it was acknowledged.
const SPURIOUS: u8 = 7;

/// Master and slave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self { master: Chip::new(true, spec::ELCR_MASTER), slave: Chip::new(false, spec::ELCR_SLAVE) }
    }
}

impl PicPair {
    /// Drives interrupt line 0–15. Line 2 is the cascade and leads nowhere, as lines above 15 do.
    pub fn set_line(&mut self, line: u8, level: bool) {
        match line {
            IRQ_CASCADE => {}
            0..=7 => self.master.set_input(line, level),
            8..=15 => self.slave.set_input(line - 8, level),
            _ => {}
        }
        self.sync();
    }

    /// The INTR output.
    #[must_use]
    pub fn output(&self) -> bool {
        self.master.requested().is_some()
    }

    /// Runs the INTA cycle and returns the vector. Without a request it is the spurious one, IR7, and nothing is in
    /// service.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.requested() {
            None => self.master.base | SPURIOUS,
            Some(IRQ_CASCADE) => {
                self.master.acknowledge(IRQ_CASCADE);
                // INTA takes the slave's output down; if more waits there, `sync` makes a new edge of it.
                self.master.set_input(IRQ_CASCADE, false);
                match self.slave.requested() {
                    None => self.slave.base | SPURIOUS,
                    Some(ir) => {
                        self.slave.acknowledge(ir);
                        self.slave.base | ir
                    }
                }
            }
            Some(ir) => {
                self.master.acknowledge(ir);
                self.master.base | ir
            }
        };
        self.sync();
        vector
    }

    /// Reads one of the six ports.
    pub fn read(&mut self, port: Port) -> u8 {
        let value = match port {
            p if PIC_MASTER.contains(&p) => self.master.read(p.0 & 1 != 0),
            p if PIC_SLAVE.contains(&p) => {
                let polled = self.slave.poll;
                let value = self.slave.read(p.0 & 1 != 0);
                if polled {
                    // A poll is an acknowledge: it takes the output down as INTA does.
                    self.master.set_input(IRQ_CASCADE, false);
                }
                value
            }
            p if p == *PIC_ELCR.start() => self.master.elcr,
            p if p == *PIC_ELCR.end() => self.slave.elcr,
            _ => 0xff,
        };
        self.sync();
        value
    }

    /// Writes one of the six ports.
    pub fn write(&mut self, port: Port, value: u8) {
        match port {
            p if PIC_MASTER.contains(&p) => self.master.write(p.0 & 1 != 0, value),
            p if PIC_SLAVE.contains(&p) => self.slave.write(p.0 & 1 != 0, value),
            p if p == *PIC_ELCR.start() => self.master.write_elcr(value),
            p if p == *PIC_ELCR.end() => self.slave.write_elcr(value),
            _ => {}
        }
        self.sync();
    }

    fn sync(&mut self) {
        self.master.set_input(IRQ_CASCADE, self.slave.requested().is_some());
    }
}
