//! Port 0x402: what firmware prints on its way, as QEMU's and Bochs' debug console takes it.
use super::BytePorts;
use super::uart16550::ConsoleSink;
use crate::arch::{Port, layout};

/// What a read gives, by which firmware finds the port.
const PRESENT: u8 = 0xe9;

/// The port.
pub struct FirmwareLog(Box<dyn ConsoleSink>);

impl std::fmt::Debug for FirmwareLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirmwareLog")
    }
}

impl FirmwareLog {
    /// A port whose bytes go to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn ConsoleSink>) -> Self {
        Self(sink)
    }
}

impl BytePorts for FirmwareLog {
    fn read_byte(&mut self, port: Port) -> u8 {
        if port == *layout::FIRMWARE_LOG.start() { PRESENT } else { 0xff }
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        if port == *layout::FIRMWARE_LOG.start() {
            self.0.transmit(&[value]);
        }
    }
}
