//! Device models of a PC, written once for all modes. A device never learns who executes the guest.
//!
//! Form of a device: its fields are grouped into configuration, runtime glue and volatile state; every access ends in
//! one `sync`, which recomputes the interrupt line, so that no path forgets to lower it; `spec.rs` holds the registers
//! after the datasheet; `saved.rs` holds the state to be saved, taken apart field by field in both directions, so that
//! a new field does not compile until someone decides about it.
//!
//! Lock order: device, then interrupt complex, then kick. Guest input is hostile: any sequence of accesses of any width
//! leaves a device in a state from which it goes on, with bounded memory.
pub mod acpi_pm;
pub mod bench_port;
pub mod cmos;
pub mod debug_exit;
pub mod disk;
pub mod firmware_log;
pub mod fw_cfg;
pub mod i8042;
pub mod ide;
pub mod interrupts;
pub mod ioapic;
pub mod lapic;
pub mod pci;
pub mod pic8259;
pub mod pit8254;
pub mod post;
pub mod registers;
pub mod rom;
pub mod test_device;
pub mod uart16550;
pub mod vga;
pub mod virtio;

use crate::arch::{Port, Width};
use crate::bus::PortDevice;

/// A device of byte-wide registers. A wider access becomes one access for each byte, the lowest port first, as the ISA
/// bus does it.
pub trait BytePorts: Send {
    /// Reads the register at `port`. May be asked for the ports just behind the claim; nothing there reads as ones.
    fn read_byte(&mut self, port: Port) -> u8;
    /// Writes the register at `port`. May be told of the ports just behind the claim; nothing happens there.
    fn write_byte(&mut self, port: Port, value: u8);
}

impl<T: BytePorts> PortDevice for T {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        read_bytes(port, width, |port| self.read_byte(port))
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        write_bytes(port, width, value, |port, value| self.write_byte(port, value));
    }
}

/// A value of `count` bytes, at most eight, the lowest first.
#[inline]
fn gather(count: usize, mut byte: impl FnMut(u64) -> u8) -> u64 {
    (0..count as u64).fold(0, |value, i| value | u64::from(byte(i)) << (8 * i))
}

/// A read of `width` as reads of bytes, the lowest port first.
#[inline]
fn read_bytes(port: Port, width: Width, mut read: impl FnMut(Port) -> u8) -> u32 {
    gather(width.bytes().min(4), |i| read(Port(port.0.wrapping_add(i as u16)))) as u32
}

/// A write of `width` as writes of bytes, the lowest port first.
#[inline]
fn write_bytes(port: Port, width: Width, value: u32, mut write: impl FnMut(Port, u8)) {
    for i in 0..width.bytes().min(4) as u16 {
        write(Port(port.0.wrapping_add(i)), (value >> (8 * i)) as u8);
    }
}

/// A saved state that no run of the device can have produced: a damaged or foreign snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved state of {device} is not possible: {what}")]
pub struct BadState {
    /// Which device.
    pub device: &'static str,
    /// What is wrong.
    pub what: &'static str,
}

/// The shortest period of a periodic timer interrupt, in nanoseconds. A guest may program less; its ticks are then
/// merged into interrupts this far apart, so that it cannot bury the host under timer interrupts.
const SHORTEST_PERIOD: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u16, u8)>);

    impl BytePorts for Echo {
        fn read_byte(&mut self, port: Port) -> u8 {
            port.0 as u8
        }
        fn write_byte(&mut self, port: Port, value: u8) {
            self.0.push((port.0, value));
        }
    }

    #[test]
    fn wide_accesses_become_bytes_lowest_port_first() {
        let mut echo = Echo(vec![]);
        assert_eq!(echo.port_read(Port(0x10), Width::B4), 0x1312_1110);
        assert_eq!(echo.port_read(Port(0x10), Width::B2), 0x1110);
        echo.port_write(Port(0xffff), Width::B2, 0xbbaa);
        assert_eq!(echo.0, [(0xffff, 0xaa), (0, 0xbb)]);
    }
}
