//! The serial console: a 16550A at 0x3f8, polled.
//!
//! Text gathers in a line and goes out 16 bytes (the FIFO's depth) per status read, because each port access may cost
//! an exit. Source: National Semiconductor PC16550D data sheet.

use core::fmt;

use crate::abi::PORT_COM1;
use crate::cpu::{inb, outb, outs_bytes};

/// Bytes that the transmit FIFO holds.
pub const FIFO_DEPTH: usize = 16;

const INTERRUPT_ENABLE: u16 = PORT_COM1 + 1;
const FIFO_CONTROL: u16 = PORT_COM1 + 2;
const LINE_CONTROL: u16 = PORT_COM1 + 3;
const MODEM_CONTROL: u16 = PORT_COM1 + 4;
const LINE_STATUS: u16 = PORT_COM1 + 5;
const TRANSMIT_EMPTY: u8 = 1 << 5;

/// Sets 115200 baud, 8N1, FIFOs on, interrupts off.
pub fn init() {
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, 0x80);
    outb(PORT_COM1, 1);
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, 0x03);
    outb(FIFO_CONTROL, 0x07);
    outb(MODEM_CONTROL, 0x03);
}

fn wait() {
    while inb(LINE_STATUS) & TRANSMIT_EMPTY == 0 {}
}

/// Sends one byte: one status read (or more) and one write.
pub fn byte(value: u8) {
    wait();
    outb(PORT_COM1, value);
}

/// Sends bytes, a FIFO full per status read.
pub fn bytes(text: &[u8]) {
    for chunk in text.chunks(FIFO_DEPTH) {
        wait();
        for &value in chunk {
            outb(PORT_COM1, value);
        }
    }
}

/// Sends bytes, a FIFO full per status read and by one string instruction.
pub fn string(text: &[u8]) {
    for chunk in text.chunks(FIFO_DEPTH) {
        wait();
        outs_bytes(PORT_COM1, chunk);
    }
}

/// A line being put together; what does not fit is dropped. Formats without `core::fmt` where speed counts.
pub struct Line {
    text: [core::mem::MaybeUninit<u8>; Self::CAPACITY],
    length: usize,
}

impl Line {
    /// Bytes that fit, the line feed included.
    pub const CAPACITY: usize = 320;

    /// An empty line.
    #[expect(clippy::new_without_default, reason = "nobody asks for a default")]
    pub fn new() -> Self {
        Self { text: [const { core::mem::MaybeUninit::uninit() }; Self::CAPACITY], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.text.get_mut(self.length) {
            slot.write(byte);
            self.length += 1;
        }
    }

    /// Appends text; line feeds become blanks, so that a record stays one line.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for &byte in text.as_bytes() {
            self.push(if byte == b'\n' { b' ' } else { byte });
        }
        self
    }

    /// Appends a decimal number.
    pub fn decimal(&mut self, mut value: u64) -> &mut Self {
        // Uninitialised: compilers clear arrays with SSE, which some monitors do not run in ring 0.
        let mut digits = [const { core::mem::MaybeUninit::<u8>::uninit() }; 20];
        let mut start = digits.len();
        while start > 0 {
            start -= 1;
            digits[start].write(b'0' + (value % 10) as u8);
            value /= 10;
            if value == 0 {
                break;
            }
        }
        for digit in &digits[start..] {
            // SAFETY: those from `start` on were written.
            self.push(unsafe { digit.assume_init() });
        }
        self
    }

    /// Appends 16 hexadecimal digits.
    pub fn hexadecimal(&mut self, value: u64) -> &mut Self {
        for position in (0..16).rev() {
            self.push(b"0123456789abcdef"[(value >> (position * 4) & 15) as usize]);
        }
        self
    }

    /// What has been put in.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the first `length` bytes were written.
        unsafe { core::slice::from_raw_parts(self.text.as_ptr().cast(), self.length) }
    }

    /// Prints the line with a line feed.
    pub fn print(&mut self) {
        if self.length == Self::CAPACITY {
            self.length -= 1;
        }
        self.push(b'\n');
        bytes(self.as_bytes());
        self.length = 0;
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}
