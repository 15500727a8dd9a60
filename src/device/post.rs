//! Port 0x80: power-on self-test codes. Firmware and kernels write it, the latter as a short delay; nobody listens.
use super::BytePorts;
use super::registers::{Block, Described};
use crate::arch::Port;

/// The latch behind the display of a diagnostic card: it can be read back.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Post {
    code: u8,
}

impl Post {
    /// The last code written.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl Described for Post {
    fn describe(&self, called: &str) -> Vec<Block> {
        vec![Block::new(called).plain("CODE", 8, self.code)]
    }
}

impl BytePorts for Post {
    fn read_byte(&mut self, port: Port) -> u8 {
        if port.0 == 0x80 { self.code } else { 0xff }
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        if port.0 == 0x80 {
            self.code = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Width;
    use crate::bus::PortDevice;

    #[test]
    fn the_last_code_is_kept() {
        let mut post = Post::default();
        post.port_write(Port(0x80), Width::B2, 0x1234);
        assert_eq!(post.code(), 0x34);
        assert_eq!(post.port_read(Port(0x80), Width::B2), 0xff34);
    }
}
