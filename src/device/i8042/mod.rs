//! An 8042 keyboard controller with a keyboard and without a mouse; it also resets the machine and keeps the A20 gate.
//!
//! The gate's state can be read back; memory does not follow it, address line 20 is always on. What is sent to a mouse
//! goes nowhere and is not answered. Bytes of the keyboard come to the output buffer one at a time, as scan codes of set
//! 1 where the command byte asks for that. Every access ends in [`I8042::sync`].
mod keyboard;
mod registers;
mod saved;
mod scan_codes;
mod spec;
#[cfg(test)]
mod tests;

pub use keyboard::KeyStroke;
pub use saved::{SavedI8042, SavedKeyboard};

use super::BytePorts;
use crate::arch::Port;
use crate::bus::{IrqLine, PowerSwitch};
use keyboard::Keyboard;
use spec::{CommandByte, OutputPort, Status, command};
use std::sync::Arc;

/// Bytes of the controller's RAM.
const RAM: usize = 32;

/// The controller. It claims the ports 0x60 and 0x64.
#[derive(Debug)]
pub struct I8042 {
    // Runtime glue.
    irq: IrqLine,
    power: Arc<PowerSwitch>,
    /// The level last given to `irq`.
    driven: bool,
    // Volatile state.
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    /// Byte 0 is the command byte.
    ram: [u8; RAM],
    output_port: OutputPort,
    /// The output buffer.
    output: Option<u8>,
    /// The command whose data byte is to come.
    awaiting: Option<u8>,
    last_was_command: bool,
    keyboard: Keyboard,
    /// In the translation of set 2: the next code is that of a key which comes up.
    breaking: bool,
}

impl Default for State {
    fn default() -> Self {
        let mut ram = [0; RAM];
        ram[0] = (CommandByte::KEYBOARD_OFF | CommandByte::AUX_OFF).bits();
        Self {
            ram,
            output_port: OutputPort::NOT_RESET | OutputPort::A20,
            output: None,
            awaiting: None,
            last_was_command: true,
            keyboard: Keyboard::default(),
            breaking: false,
        }
    }
}

impl State {
    fn command_byte(&self) -> CommandByte {
        CommandByte::from_bits_retain(self.ram[0])
    }

    fn change(&mut self, bit: CommandByte, on: bool) {
        let mut byte = self.command_byte();
        byte.set(bit, on);
        self.ram[0] = byte.bits();
    }

    /// The next byte of the keyboard, as the output buffer is to have it.
    fn keyboard_byte(&mut self) -> Option<u8> {
        loop {
            let byte = self.keyboard.next()?;
            if !self.command_byte().contains(CommandByte::TRANSLATE) {
                return Some(byte);
            }
            if byte == scan_codes::BREAK {
                self.breaking = true;
                continue;
            }
            let up = if std::mem::take(&mut self.breaking) { scan_codes::UP } else { 0 };
            return Some(scan_codes::to_set_1(byte) | up);
        }
    }

    fn status(&self) -> Status {
        let mut status = Status::UNLOCKED;
        status.set(Status::OBF, self.output.is_some());
        status.set(Status::SYS, self.command_byte().contains(CommandByte::SYS));
        status.set(Status::COMMAND, self.last_was_command);
        status
    }
}

impl I8042 {
    /// A controller after power-on, on line `irq`, that resets by `power`.
    #[must_use]
    pub fn new(irq: IrqLine, power: Arc<PowerSwitch>) -> Self {
        Self { irq, power, driven: false, state: State::default() }
    }

    /// Whether the gate of address line 20 is open.
    #[must_use]
    pub fn a20(&self) -> bool {
        self.state.output_port.contains(OutputPort::A20)
    }

    /// Someone strikes keys, one after the other. Whether the keyboard took them: it does not before a guest enabled
    /// it, nor while it waits for the guest to read.
    pub fn strike(&mut self, strokes: &[KeyStroke]) -> bool {
        let taken = self.state.keyboard.strike(strokes);
        self.sync();
        taken
    }

    fn sync(&mut self) {
        let off = self.state.command_byte().contains(CommandByte::KEYBOARD_OFF);
        if self.state.output.is_none() && !off {
            // Each byte makes an edge of its own.
            if std::mem::take(&mut self.driven) {
                self.irq.set(false);
            }
            self.state.output = self.state.keyboard_byte();
        }
        let level = self.state.output.is_some() && self.state.command_byte().contains(CommandByte::INTERRUPT);
        if level != std::mem::replace(&mut self.driven, level) {
            self.irq.set(level);
        }
    }

    fn command(&mut self, value: u8) {
        let s = &mut self.state;
        s.last_was_command = true;
        s.awaiting = None;
        match value {
            0x20..=0x3f => s.output = Some(s.ram[usize::from(value & 0x1f)]),
            0x60..=0x7f | command::WRITE_OUTPUT_PORT | command::WRITE_OUTPUT_BUFFER | command::WRITE_AUX => {
                s.awaiting = Some(value);
            }
            command::AUX_DISABLE => s.change(CommandByte::AUX_OFF, true),
            command::AUX_ENABLE => s.change(CommandByte::AUX_OFF, false),
            command::KEYBOARD_DISABLE => s.change(CommandByte::KEYBOARD_OFF, true),
            command::KEYBOARD_ENABLE => s.change(CommandByte::KEYBOARD_OFF, false),
            command::SELF_TEST => {
                s.change(CommandByte::SYS, true);
                s.output = Some(spec::SELF_TEST_PASSED);
            }
            command::KEYBOARD_TEST | command::AUX_TEST => s.output = Some(spec::INTERFACE_GOOD),
            command::READ_INPUT_PORT => s.output = Some(spec::INPUT_PORT),
            command::READ_OUTPUT_PORT => {
                let full = if s.output.is_some() { 0x10 } else { 0 };
                s.output = Some(s.output_port.bits() | full);
            }
            command::DISABLE_A20 => s.output_port -= OutputPort::A20,
            command::ENABLE_A20 => s.output_port |= OutputPort::A20,
            // Pulses low those of the output port's bits 3–0 that are zero here; bit 0 is the reset line.
            0xf0..=0xff if value & 1 == 0 => self.power.reset(),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        let s = &mut self.state;
        s.last_was_command = false;
        match s.awaiting.take() {
            Some(to @ 0x60..=0x7f) => s.ram[usize::from(to & 0x1f)] = value,
            Some(command::WRITE_OUTPUT_PORT) => {
                let port = OutputPort::from_bits_retain(value);
                s.output_port = port | OutputPort::NOT_RESET;
                if !port.contains(OutputPort::NOT_RESET) {
                    self.power.reset();
                }
            }
            Some(command::WRITE_OUTPUT_BUFFER) => s.output = Some(value),
            // To a mouse that is not there.
            Some(command::WRITE_AUX) => {}
            // To the keyboard, whose clock this starts.
            _ => {
                s.change(CommandByte::KEYBOARD_OFF, false);
                s.keyboard.receive(value);
            }
        }
    }
}

impl BytePorts for I8042 {
    fn read_byte(&mut self, port: Port) -> u8 {
        let value = match port.0 {
            spec::DATA => self.state.output.take().unwrap_or(0),
            spec::COMMAND => self.state.status().bits(),
            _ => 0xff,
        };
        self.sync();
        value
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        match port.0 {
            spec::DATA => self.data(value),
            spec::COMMAND => self.command(value),
            _ => {}
        }
        self.sync();
    }
}
