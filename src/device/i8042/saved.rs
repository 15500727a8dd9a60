//! Saved state of the keyboard controller.
use super::spec::OutputPort;
use super::{I8042, RAM, State};
use serde::{Deserialize, Serialize};

/// State of the keyboard controller. Each value of it is possible.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedI8042 {
    /// The controller's RAM; byte 0 is the command byte.
    pub ram: [u8; RAM],
    /// The output port.
    pub output_port: u8,
    /// The output buffer.
    pub output: Option<u8>,
    /// The command whose data byte is to come.
    pub awaiting: Option<u8>,
    /// The last write was to the command port.
    pub last_was_command: bool,
}

impl I8042 {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedI8042 {
        let Self { irq: _, power: _, driven: _, state } = self;
        let State { ram, output_port, output, awaiting, last_was_command } = state.clone();
        SavedI8042 { ram, output_port: output_port.bits(), output, awaiting, last_was_command }
    }

    /// Takes on a saved state and drives the line.
    pub fn restore(&mut self, saved: &SavedI8042) {
        let SavedI8042 { ram, output_port, output, awaiting, last_was_command } = saved.clone();
        self.state = State {
            ram,
            output_port: OutputPort::from_bits_retain(output_port),
            output,
            awaiting,
            last_was_command,
        };
        self.sync();
        self.irq.set(self.driven);
    }
}
