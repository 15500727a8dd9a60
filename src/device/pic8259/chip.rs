//! One 8259A.
use super::spec::{Icw1, Icw4, Ocw2, Ocw3, POLL_INTERRUPT};

/// Which initialization word is awaited at A0 = 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Awaited {
    /// None: a write goes to the mask.
    Mask,
    /// ICW2.
    Icw2,
    /// ICW3.
    Icw3,
    /// ICW4.
    Icw4,
}

/// The state of one chip. Bit n of each register belongs to input IRn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chip {
    // Configuration.
    /// Whether a slave hangs at IR2.
    pub(super) is_master: bool,
    /// Inputs that the edge/level register may make level-triggered.
    pub(super) elcr_writable: u8,
    // Volatile state.
    /// Levels of the input pins.
    pub(super) inputs: u8,
    /// Interrupt request register; for a level-triggered input its bit follows the pin.
    pub(super) irr: u8,
    /// Interrupt mask register.
    pub(super) imr: u8,
    /// In-service register.
    pub(super) isr: u8,
    /// Edge/level control register: 1 = level.
    pub(super) elcr: u8,
    /// Vector of IR0: a multiple of 8.
    pub(super) base: u8,
    /// The input that has the highest priority now, 0–7.
    pub(super) first: u8,
    pub(super) awaited: Awaited,
    pub(super) icw4_follows: bool,
    pub(super) single: bool,
    pub(super) read_isr: bool,
    pub(super) poll: bool,
    pub(super) special_mask: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_in_aeoi: bool,
    pub(super) special_fully_nested: bool,
}

impl Chip {
    /// A chip that was never programmed. The datasheet leaves that state open; all inputs are masked, so that a guest
    /// that does without the chip hears nothing of it.
    pub(super) fn new(is_master: bool, elcr_writable: u8) -> Self {
        Self {
            is_master,
            elcr_writable,
            inputs: 0,
            irr: 0,
            imr: 0xff,
            isr: 0,
            elcr: 0,
            base: 0,
            first: 0,
            awaited: Awaited::Mask,
            icw4_follows: false,
            single: false,
            read_isr: false,
            poll: false,
            special_mask: false,
            auto_eoi: false,
            rotate_in_aeoi: false,
            special_fully_nested: false,
        }
    }

    /// Drives an input pin. A rising edge is latched until it is acknowledged, even if the pin falls before that: so
    /// QEMU and KVM do it, against the datasheet, which demands that the pin stay high and makes a spurious IR7 else.
    pub(super) fn set_input(&mut self, ir: u8, level: bool) {
        let bit = 1 << (ir & 7);
        if level {
            if self.inputs & bit == 0 || self.elcr & bit != 0 {
                self.irr |= bit;
            }
            self.inputs |= bit;
        } else {
            self.inputs &= !bit;
            if self.elcr & bit != 0 {
                self.irr &= !bit;
            }
        }
    }

    /// The set bit of `bits` that comes first in priority order, and its rank (0 = highest).
    fn first_of(&self, bits: u8) -> Option<(u8, u8)> {
        let rank = bits.rotate_right(self.first.into()).trailing_zeros() as u8;
        (rank < 8).then_some(((rank + self.first) & 7, rank))
    }

    /// The input whose interrupt the chip requests, if any: its INT output is high exactly then.
    pub(super) fn requested(&self) -> Option<u8> {
        let (ir, rank) = self.first_of(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            // Levels masked in special mask mode inhibit nobody.
            in_service &= !self.imr;
        }
        if self.special_fully_nested && self.is_master {
            // A slave in service may interrupt again.
            in_service &= !(1 << 2);
        }
        match self.first_of(in_service) {
            Some((_, busy)) if busy <= rank => None,
            _ => Some(ir),
        }
    }

    /// What an INTA pulse does for `ir`.
    pub(super) fn acknowledge(&mut self, ir: u8) {
        let bit = 1 << ir;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_in_aeoi {
            self.first = (ir + 1) & 7;
        }
    }

    /// Reads at A0 = 0 or 1.
    pub(super) fn read(&mut self, a0: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            return match self.requested() {
                Some(ir) => {
                    self.acknowledge(ir);
                    POLL_INTERRUPT | ir
                }
                None => 0,
            };
        }
        match (a0, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    /// Writes at A0 = 0 or 1.
    pub(super) fn write(&mut self, a0: bool, value: u8) {
        if a0 {
            self.write_a1(value);
        } else if Icw1::from_bits_retain(value).contains(Icw1::IS_ICW1) {
            self.initialize(Icw1::from_bits_retain(value));
        } else if Ocw3::from_bits_retain(value).contains(Ocw3::IS_OCW3) {
            let word = Ocw3::from_bits_retain(value);
            self.poll = word.contains(Ocw3::POLL);
            if word.contains(Ocw3::RR) {
                self.read_isr = word.contains(Ocw3::RIS);
            }
            if word.contains(Ocw3::ESMM) {
                self.special_mask = word.contains(Ocw3::SMM);
            }
        } else {
            self.command(Ocw2::from(value));
        }
    }

    /// ICW1: the edge sense is reset, so a pin that is high must rise anew; mask, service and modes are cleared
    /// (datasheet, "ICW1 and ICW2"). The level bit LTIM gave way to the ELCR in PCs.
    fn initialize(&mut self, word: Icw1) {
        self.irr = self.inputs & self.elcr;
        self.imr = 0;
        self.isr = 0;
        self.first = 0;
        self.read_isr = false;
        self.poll = false;
        self.special_mask = false;
        self.auto_eoi = false;
        self.rotate_in_aeoi = false;
        self.special_fully_nested = false;
        self.icw4_follows = word.contains(Icw1::IC4);
        self.single = word.contains(Icw1::SNGL);
        self.awaited = Awaited::Icw2;
    }

    fn write_a1(&mut self, value: u8) {
        let after_icw3 = if self.icw4_follows { Awaited::Icw4 } else { Awaited::Mask };
        self.awaited = match self.awaited {
            Awaited::Mask => {
                self.imr = value;
                Awaited::Mask
            }
            Awaited::Icw2 => {
                self.base = value & 0xf8;
                if self.single { after_icw3 } else { Awaited::Icw3 }
            }
            // Where the slave hangs is wired: ICW3 says nothing new.
            Awaited::Icw3 => after_icw3,
            Awaited::Icw4 => {
                let word = Icw4::from_bits_retain(value);
                self.auto_eoi = word.contains(Icw4::AEOI);
                self.special_fully_nested = word.contains(Icw4::SFNM);
                Awaited::Mask
            }
        };
    }

    fn command(&mut self, word: Ocw2) {
        match word {
            Ocw2::Nothing => {}
            Ocw2::RotateInAeoi(on) => self.rotate_in_aeoi = on,
            Ocw2::SetPriority { lowest } => self.first = (lowest + 1) & 7,
            Ocw2::Eoi { rotate } => {
                // In special mask mode a masked level is not ended by the non-specific form.
                let mask = if self.special_mask { self.imr } else { 0 };
                if let Some((ir, _)) = self.first_of(self.isr & !mask) {
                    self.end(ir, rotate);
                }
            }
            Ocw2::SpecificEoi { level, rotate } => self.end(level, rotate),
        }
    }

    fn end(&mut self, ir: u8, rotate: bool) {
        self.isr &= !(1 << ir);
        if rotate {
            self.first = (ir + 1) & 7;
        }
    }

    /// Writes the edge/level register.
    pub(super) fn write_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_writable;
        // Level-triggered requests follow their pins; a latched edge of an input that became level is void.
        self.irr = self.irr & !self.elcr | self.inputs & self.elcr;
    }
}
