//! A keyboard on the controller: keys become scan codes of set 1 or 2, commands are answered.
//!
//! What it has to say waits in a bounded buffer; a key that does not fit whole is not taken. It sends keys only after it
//! was enabled, by its own command or by its reset.
use super::scan_codes::{self, BREAK, EXTENDED, UP};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes that wait at most, as in the keyboard itself. Answers to commands have [`ANSWERS`] more.
const BUFFER: usize = 16;
const ANSWERS: usize = 4;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
/// Who it is.
const IDENTITY: [u8; 2] = [0xab, 0x83];

/// Commands of the keyboard.
mod command {
    pub(super) const LEDS: u8 = 0xed;
    pub(super) const ECHO: u8 = 0xee;
    pub(super) const SCAN_CODES: u8 = 0xf0;
    pub(super) const IDENTIFY: u8 = 0xf2;
    pub(super) const RATE: u8 = 0xf3;
    pub(super) const ENABLE: u8 = 0xf4;
    pub(super) const DISABLE: u8 = 0xf5;
    pub(super) const DEFAULTS: u8 = 0xf6;
    pub(super) const RESEND: u8 = 0xfe;
    pub(super) const RESET: u8 = 0xff;
}

/// A key goes down or comes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyStroke {
    /// The key, by its code in set 1: 1–0x7f.
    pub code: u8,
    /// It is one of those that are told by 0xe0: arrows, and others that the first keyboards did not have.
    pub extended: bool,
    /// It goes down.
    pub down: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Keyboard {
    pub(super) waiting: VecDeque<u8>,
    pub(super) enabled: bool,
    /// 1 or 2.
    pub(super) set: u8,
    pub(super) leds: u8,
    /// The command whose data byte is to come.
    pub(super) awaiting: Option<u8>,
    /// What was sent last.
    pub(super) last: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), enabled: false, set: 2, leds: 0, awaiting: None, last: 0 }
    }
}

impl Keyboard {
    /// Most bytes that can wait.
    pub(super) const MOST: usize = BUFFER + ANSWERS;

    /// Takes all of these strokes, one after the other, or none of them.
    pub(super) fn strike(&mut self, strokes: &[KeyStroke]) -> bool {
        let mut bytes = vec![];
        for stroke in strokes {
            let code = stroke.code & 0x7f;
            if stroke.extended {
                bytes.push(EXTENDED);
            }
            if self.set == 1 {
                bytes.push(if stroke.down { code } else { code | UP });
            } else {
                if !stroke.down {
                    bytes.push(BREAK);
                }
                bytes.push(scan_codes::to_set_2(code));
            }
        }
        let fits = self.enabled && self.waiting.len() + bytes.len() <= BUFFER;
        if fits {
            self.waiting.extend(bytes);
        }
        fits
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = self.waiting.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.waiting.len() < Self::MOST {
                self.waiting.push_back(byte);
            }
        }
    }

    fn defaults(&mut self) {
        (self.set, self.leds) = (2, 0);
    }

    /// The host sends a byte.
    pub(super) fn receive(&mut self, byte: u8) {
        // A command stops what was being sent.
        if byte != command::RESEND {
            self.waiting.clear();
        }
        match (self.awaiting.take(), byte) {
            (Some(command::LEDS), 0..=7) => {
                self.leds = byte;
                self.answer(&[ACKNOWLEDGE]);
            }
            (Some(command::RATE), 0..=0x7f) => self.answer(&[ACKNOWLEDGE]),
            (Some(command::SCAN_CODES), 0) => self.answer(&[ACKNOWLEDGE, self.set]),
            (Some(command::SCAN_CODES), 1 | 2) => {
                self.set = byte;
                self.answer(&[ACKNOWLEDGE]);
            }
            // Data that the command does not have, or a new command in its stead.
            _ => self.command(byte),
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            command::LEDS | command::RATE | command::SCAN_CODES => {
                self.awaiting = Some(byte);
                self.answer(&[ACKNOWLEDGE]);
            }
            command::ECHO => self.answer(&[ECHO]),
            command::IDENTIFY => {
                self.answer(&[ACKNOWLEDGE]);
                self.answer(&IDENTITY);
            }
            command::ENABLE => {
                self.enabled = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            command::DISABLE => {
                self.enabled = false;
                self.defaults();
                self.answer(&[ACKNOWLEDGE]);
            }
            command::DEFAULTS => {
                self.defaults();
                self.answer(&[ACKNOWLEDGE]);
            }
            // Which keys repeat and release, in a set that is not here: all do.
            0xf7..=0xfa => self.answer(&[ACKNOWLEDGE]),
            command::RESEND => {
                if self.waiting.len() < Self::MOST {
                    self.waiting.push_front(self.last);
                }
            }
            command::RESET => {
                self.defaults();
                self.enabled = true;
                self.answer(&[ACKNOWLEDGE, TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}
