//! PCI configuration space by mechanism #1: finding functions, their registers' places and their capabilities.
//! Source: PCI Local Bus Specification 3.0, 3.2.2.3.2 and chapter 6.

use crate::cpu::{inl, outl};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const NOBODY: u32 = u32::MAX;

const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0c;
const MANY_FUNCTIONS: u32 = 1 << 23;
const BARS: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// In the status register, beside the command register: there are capabilities.
const HAS_CAPABILITIES: u32 = 1 << 20;

/// Command register: it answers at ports.
pub const DECODES_PORTS: u32 = 1 << 0;
/// Command register: it answers in memory.
pub const DECODES_MEMORY: u32 = 1 << 1;
/// Command register: it may reach memory itself.
pub const MASTER: u32 = 1 << 2;
/// Command register: its interrupt pin stays off.
pub const NO_PIN: u32 = 1 << 10;

/// A function of a device on bus 0.
#[derive(Clone, Copy, Debug)]
pub struct Function(u32);

impl Function {
    /// The first function that `fits`, by its first word (vendor, and device above) and its class (base class, subclass,
    /// interface).
    pub fn find(fits: impl Fn(u32, u32) -> bool) -> Option<Self> {
        for device in 0..32 {
            let first = Self(device << 11);
            if first.read(0) == NOBODY {
                continue;
            }
            let functions = if first.read(HEADER_TYPE) & MANY_FUNCTIONS != 0 { 8 } else { 1 };
            for number in 0..functions {
                let function = Self(device << 11 | number << 8);
                let who = function.read(0);
                if who != NOBODY && fits(who, function.read(CLASS) >> 8) {
                    return Some(function);
                }
            }
        }
        None
    }

    /// Reads the four bytes at `register`, a multiple of 4.
    pub fn read(self, register: u8) -> u32 {
        outl(ADDRESS, ENABLE | self.0 | u32::from(register));
        inl(DATA)
    }

    /// Writes the four bytes at `register`, a multiple of 4.
    pub fn write(self, register: u8, value: u32) {
        outl(ADDRESS, ENABLE | self.0 | u32::from(register));
        outl(DATA, value);
    }

    /// Sets bits of the command register.
    pub fn enable(self, bits: u32) {
        // The status register in the upper half is cleared by ones.
        self.write(COMMAND, self.read(COMMAND) & 0xffff | bits);
    }

    /// What base address register `index` says: the first port, if it is one of ports.
    pub fn ports(self, index: u8) -> Option<u16> {
        let bar = self.read(BARS + 4 * index);
        (bar & 1 != 0 && bar >> 2 != 0).then_some((bar & 0xfffc) as u16)
    }

    /// What base address register `index` says: the physical address, if it is one of memory.
    pub fn memory(self, index: u8) -> Option<u64> {
        let low = self.read(BARS + 4 * index);
        let is_wide = low >> 1 & 3 == 2;
        let high = if is_wide { self.read(BARS + 4 * (index + 1)) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(low & !15);
        (low & 1 == 0 && address != 0).then_some(address)
    }

    /// The place of the first capability that `fits`, by its place. A list that does not end is left at last.
    pub fn capability(self, fits: impl Fn(u8) -> bool) -> Option<u8> {
        if self.read(COMMAND) & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.read(CAPABILITIES) as u8 & !3;
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            if fits(at) {
                return Some(at);
            }
            at = (self.read(at) >> 8) as u8 & !3;
        }
        None
    }
}
