//! Saved state of the keyboard controller.
use super::keyboard::Keyboard;
use super::spec::OutputPort;
use super::{I8042, RAM, State};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the keyboard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedKeyboard {
    /// Bytes to be sent.
    pub waiting: Vec<u8>,
    /// It sends keys.
    pub enabled: bool,
    /// The set of scan codes, 1 or 2.
    pub set: u8,
    /// Its lights.
    pub leds: u8,
    /// The command whose data byte is to come.
    pub awaiting: Option<u8>,
    /// What was sent last.
    pub last: u8,
}

/// State of the keyboard controller.
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
    /// The keyboard.
    pub keyboard: SavedKeyboard,
    /// In the translation of set 2: the next code is that of a key which comes up.
    pub breaking: bool,
}

impl I8042 {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedI8042 {
        let Self { irq: _, power: _, driven: _, state } = self;
        let State { ram, output_port, output, awaiting, last_was_command, keyboard, breaking } =
            state.clone();
        SavedI8042 {
            ram,
            output_port: output_port.bits(),
            output,
            awaiting,
            last_was_command,
            keyboard: keyboard.saved(),
            breaking,
        }
    }

    /// Takes on a saved state and drives the line.
    ///
    /// # Errors
    /// [`BadState`], if the keyboard cannot be in that state; the device is unchanged then.
    pub fn restore(&mut self, saved: &SavedI8042) -> Result<(), BadState> {
        let SavedI8042 { ram, output_port, output, awaiting, last_was_command, keyboard, breaking } =
            saved.clone();
        let keyboard = Keyboard::restored(keyboard).ok_or(BadState {
            device: "i8042",
            what: "more bytes of the keyboard than can wait, or a set of scan codes that it does not have",
        })?;
        self.state = State {
            ram,
            output_port: OutputPort::from_bits_retain(output_port),
            output,
            awaiting,
            last_was_command,
            keyboard,
            breaking,
        };
        self.sync();
        self.irq.set(self.driven);
        Ok(())
    }
}

impl Keyboard {
    fn saved(&self) -> SavedKeyboard {
        let Self { waiting, enabled, set, leds, awaiting, last } = self.clone();
        SavedKeyboard { waiting: waiting.into(), enabled, set, leds, awaiting, last }
    }

    fn restored(saved: SavedKeyboard) -> Option<Self> {
        let SavedKeyboard { waiting, enabled, set, leds, awaiting, last } = saved;
        let possible = waiting.len() <= Self::MOST && matches!(set, 1 | 2);
        possible.then(|| Self { waiting: waiting.into(), enabled, set, leds, awaiting, last })
    }
}
