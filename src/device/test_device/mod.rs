//! A device for test suites, where QEMU's `pc-testdev` is and with what it has: ports that drive the interrupt lines, a
//! register, a port that takes a page from the host's page tables, and memory that is reached access by access.
//!
//! It is in a machine only where somebody asks for it: a guest that drives others' lines confuses itself.
mod registers;
mod saved;
#[cfg(test)]
mod tests;

pub use saved::SavedTestDevice;

use crate::arch::layout::{TEST_LINES, TEST_MEMORY_SIZE, TEST_PAGE, TEST_REGISTER, TEST_REGISTER_AGAIN};
use crate::arch::{Gpa, Port, Width};
use crate::bus::{IrqSink, MmioDevice, PortDevice, VcpuId};
use crate::device::{gather, read_bytes, write_bytes};
use crate::mem::GuestRam;
use std::sync::Arc;

/// The device.
pub struct TestDevice {
    // Runtime glue.
    lines: Arc<dyn IrqSink>,
    ram: Arc<GuestRam>,
    // Volatile state.
    register: [u8; 4],
    memory: Box<[u8; TEST_MEMORY_SIZE]>,
}

impl std::fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDevice").field("register", &self.register).finish_non_exhaustive()
    }
}

impl TestDevice {
    /// A device that drives `lines` and gives up pages of `ram`; register and memory are zero.
    #[must_use]
    pub fn new(lines: Arc<dyn IrqSink>, ram: Arc<GuestRam>) -> Self {
        Self { lines, ram, register: [0; 4], memory: Box::new([0; TEST_MEMORY_SIZE]) }
    }

    /// The byte of the register at a port, if the port is one of its.
    fn register_byte(&mut self, port: Port) -> Option<&mut u8> {
        let is_register = TEST_REGISTER.contains(&port) || TEST_REGISTER_AGAIN.contains(&port);
        is_register.then_some(&mut self.register[usize::from(port.0 & 3)])
    }
}

impl PortDevice for TestDevice {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        read_bytes(port, width, |port| self.register_byte(port).map_or(0xff, |byte| *byte))
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        if TEST_LINES.contains(&port) {
            // An access of any width drives one line: suites use all of them.
            self.lines.set_line((port.0 - TEST_LINES.start().0) as u8, value != 0);
        } else if port == *TEST_PAGE.start() {
            if width == Width::B4 {
                self.ram.release_page(Gpa(value.into()));
            }
        } else {
            write_bytes(port, width, value, |port, value| {
                if let Some(byte) = self.register_byte(port) {
                    *byte = value;
                }
            });
        }
    }
}

impl MmioDevice for TestDevice {
    fn mmio_read(&mut self, _: VcpuId, offset: u64, width: Width) -> u64 {
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| self.memory.get(at)).copied();
        gather(width.bytes(), |i| byte(offset.saturating_add(i)).unwrap_or(0xff))
    }

    fn mmio_write(&mut self, _: VcpuId, offset: u64, width: Width, value: u64) {
        for (i, byte) in (0..).zip(value.to_le_bytes()).take(width.bytes()) {
            let at = usize::try_from(offset.saturating_add(i));
            if let Some(place) = at.ok().and_then(|at| self.memory.get_mut(at)) {
                *place = byte;
            }
        }
    }
}
