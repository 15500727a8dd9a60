//! Saved state of ACPI's fixed hardware.
use super::spec::{Control, Event};
use super::{AcpiPm, State};
use serde::{Deserialize, Serialize};

/// State of the fixed hardware. The timer is the machine's clock. Bits that no register has are dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedAcpiPm {
    /// PM1 status.
    pub status: u16,
    /// PM1 enable.
    pub enable: u16,
    /// PM1 control.
    pub control: u16,
    /// Changes of the timer's top bit up to which the status is computed.
    pub seen: u64,
}

impl AcpiPm {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedAcpiPm {
        let Self { base: _, irq: _, clock: _, timer: _, armed: _, power: _, driven: _, state } = self;
        let State { status, enable, control, seen } = state.clone();
        SavedAcpiPm { status: status.bits(), enable: enable.bits(), control: control.bits(), seen }
    }

    /// Takes on a saved state and drives the line. The clock has been restored before.
    pub fn restore(&mut self, saved: &SavedAcpiPm) {
        let &SavedAcpiPm { status, enable, control, seen } = saved;
        self.state = State {
            status: Event::from_bits_truncate(status),
            enable: Event::from_bits_truncate(enable),
            control: (Control::from_bits_truncate(control) - Control::SLEEP) | Control::SCI,
            seen,
        };
        self.sync();
        self.irq.set(self.driven);
    }
}
