//! Intel's PIIX3 IDE function: two channels with two disks or CD-ROM drives each, at the ports that PCs always had, and a bus master.
//!
//! Data moves through the data register (single sectors and blocks, addresses of 28 and 48 bits, cylinders and heads) or
//! by DMA into what a table of regions names. All work is done within the access that starts it, so a disk is never busy;
//! each access ends in a `sync` of the channel's line. What the host cannot do, what lies outside the disk, and memory
//! that is none end in an error that the guest sees; a command moves at most 65536 sectors.
mod cd;
mod channel;
mod command;
mod drive;
mod identify;
mod packet;
mod regions;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::{SavedCd, SavedChannel, SavedDrive, SavedIde, SavedUnit};

use super::disk::DiskStore;
use super::pci::{BarKind, Command, ConfigSpace, Identity, PciDevice};
use super::{gather, read_bytes, write_bytes};
use crate::arch::layout::{IDE_PRIMARY, IDE_PRIMARY_CONTROL, IDE_SECONDARY, IDE_SECONDARY_CONTROL};
use crate::arch::{Port, Width};
use crate::bus::{IrqLine, PortDevice};
use crate::mem::GuestRam;
use cd::Cd;
use channel::{Channel, Unit};
use drive::Drive;
use spec::{Control, MasterStatus, Status};
use std::sync::Arc;

/// Disks and CD-ROM drives that fit.
pub const DISKS: usize = 4;

/// The base address register of the bus master, and its bytes.
const MASTER_BAR: usize = 4;
const MASTER_SIZE: u64 = 16;
/// IDETIM of both channels: they decode their ports.
const TIMING: usize = 0x40;
const DECODES: [u8; 4] = [0, 0x80, 0, 0x80];

/// The function. It claims the four ranges of ports of its channels, beside its PCI slot.
pub struct Ide {
    // Runtime glue.
    ram: Arc<GuestRam>,
    // Volatile state.
    config: ConfigSpace,
    channels: [Channel; 2],
}

impl std::fmt::Debug for Ide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states = [&self.channels[0].state, &self.channels[1].state];
        f.debug_struct("Ide").field("channels", &states).finish_non_exhaustive()
    }
}

impl Ide {
    /// Channels without disks, on these lines, with DMA to `ram`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>, irqs: [IrqLine; 2]) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            // IDE, both channels at the old ports, with a bus master.
            class: 0x01_0180,
            subsystem_vendor: 0,
            subsystem: 0,
        };
        let config = ConfigSpace::new(identity)
            .with_bar(MASTER_BAR, BarKind::Io, MASTER_SIZE)
            .with_register(TIMING, &DECODES, &[0xff; 4])
            .without_pin();
        Self { ram, config, channels: irqs.map(Channel::new) }
    }

    /// Attaches a disk to place `number` (0–3: first and second of the first channel, then of the second).
    ///
    /// # Errors
    /// The disk, if there is no such place or it is taken.
    pub fn attach(
        &mut self,
        number: usize,
        store: Box<dyn DiskStore>,
        serial: &str,
    ) -> Result<(), Box<dyn DiskStore>> {
        self.put(number, store, |store| Unit::Disk(Drive::new(store, serial)))
    }

    /// Attaches a CD-ROM drive, with its medium, as [`Self::attach`] does a disk.
    ///
    /// # Errors
    /// The medium, if there is no such place or it is taken.
    pub fn attach_cd(
        &mut self,
        number: usize,
        store: Box<dyn DiskStore>,
        serial: &str,
    ) -> Result<(), Box<dyn DiskStore>> {
        self.put(number, store, |store| Unit::Cd(Cd::new(store, serial)))
    }

    /// Puts what is made of `store` into a place, if nothing is there.
    fn put(
        &mut self,
        number: usize,
        store: Box<dyn DiskStore>,
        unit: impl FnOnce(Box<dyn DiskStore>) -> Unit,
    ) -> Result<(), Box<dyn DiskStore>> {
        let free = |channel: &&mut Channel| channel.units[number % 2].is_none();
        let Some(channel) = self.channels.get_mut(number / 2).filter(free) else { return Err(store) };
        channel.units[number % 2] = Some(unit(store));
        // Power-on is a reset.
        channel.sign();
        Ok(())
    }

    /// The channel that a port belongs to, and the register's number: 0–7, 8 for the control block.
    fn find(&mut self, port: Port) -> Option<(&mut Channel, u16)> {
        let [first, second] = &mut self.channels;
        if IDE_PRIMARY.contains(&port) {
            return Some((first, port.0 - IDE_PRIMARY.start().0));
        }
        if IDE_SECONDARY.contains(&port) {
            return Some((second, port.0 - IDE_SECONDARY.start().0));
        }
        if IDE_PRIMARY_CONTROL.contains(&port) {
            return Some((first, CONTROL));
        }
        IDE_SECONDARY_CONTROL.contains(&port).then_some((second, CONTROL))
    }

    /// Carries out what DMA waits for on a channel.
    fn transfer(&mut self, channel: usize) {
        let ram = self.config.command().contains(Command::MASTER).then_some(&*self.ram);
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.transfer(ram);
            channel.sync();
        }
    }

    fn read_byte(&mut self, port: Port) -> u8 {
        let Some((channel, register)) = self.find(port) else { return 0xff };
        let value = channel.read_register(register);
        channel.sync();
        value
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        let Some((channel, register)) = self.find(port) else { return };
        channel.write_register(register, value);
        channel.sync();
        // A command for DMA may find the bus master running already.
        let channel = usize::from(IDE_SECONDARY.contains(&port));
        self.transfer(channel);
    }

    /// The bus master's registers of a channel, byte by byte.
    fn read_master(&mut self, offset: u64) -> u8 {
        let channel = &self.channels[(offset >> 3 & 1) as usize];
        let master = &channel.master;
        match offset & 7 {
            0 => master.command.bits(),
            2 => master.status.bits(),
            at @ 4..=7 => (master.table >> (8 * (at - 4))) as u8,
            _ => 0,
        }
    }

    fn write_master(&mut self, offset: u64, value: u8) {
        let number = (offset >> 3 & 1) as usize;
        let channel = &mut self.channels[number];
        match offset & 7 {
            0 => {
                channel.command_master(value);
                self.transfer(number);
            }
            2 => {
                let value = MasterStatus::from_bits_truncate(value);
                // Two bits are kept as written, two are cleared by ones.
                let status = &mut channel.master.status;
                *status -= value & (MasterStatus::ERROR | MasterStatus::INTERRUPT) | MasterStatus::CAPABLE;
                *status |= value & MasterStatus::CAPABLE;
            }
            at @ 4..=7 => {
                let shift = 8 * (at - 4);
                let table = &mut channel.master.table;
                *table = (*table & !(0xff << shift) | u32::from(value) << shift) & !3;
            }
            _ => {}
        }
    }
}

/// The register of the control block.
const CONTROL: u16 = 8;

impl Channel {
    fn read_register(&mut self, register: u16) -> u8 {
        if self.is_empty() {
            return 0xff;
        }
        let is_there = self.is_there();
        let s = &mut self.state;
        let before = usize::from(s.control.contains(Control::HOB));
        // The other disk answers for one that is not there, without being ready.
        let status = if is_there { s.status.bits() } else { 0 };
        match register {
            1 => s.error,
            2 => s.count[before],
            3..=5 => s.address[usize::from(register - 3)][before],
            6 => s.device | spec::DEVICE_ONES,
            7 => {
                s.interrupt = false;
                status
            }
            CONTROL => status,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, register: u16, value: u8) {
        if register == CONTROL {
            let (old, new) = (self.state.control, Control::from_bits_retain(value));
            if old.contains(Control::SRST) && !new.contains(Control::SRST) {
                self.reset();
            }
            self.state.control = new;
            if new.contains(Control::SRST) {
                self.work = channel::Work::Nothing;
                self.state.interrupt = false;
                self.state.status = Status::BSY;
            }
            return;
        }
        let s = &mut self.state;
        s.control -= Control::HOB;
        s.signed &= register == 6;
        let push = |place: &mut [u8; 2]| *place = [value, place[0]];
        match register {
            1 => s.feature = value,
            2 => push(&mut s.count),
            3..=5 => push(&mut s.address[usize::from(register - 3)]),
            6 => {
                s.device = value;
                if s.signed {
                    self.sign();
                }
            }
            7 if !s.control.contains(Control::SRST) => self.command(value),
            _ => {}
        }
    }
}

impl PortDevice for Ide {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        match self.find(port) {
            Some((channel, 0)) => {
                let value = channel.read_data(width.bytes().min(4));
                channel.sync();
                value
            }
            _ => read_bytes(port, width, |port| self.read_byte(port)),
        }
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        match self.find(port) {
            Some((channel, 0)) => {
                channel.write_data(value, width.bytes().min(4));
                channel.sync();
                // A packet for DMA may find the bus master running already, as a command does.
                self.transfer(usize::from(IDE_SECONDARY.contains(&port)));
            }
            _ => write_bytes(port, width, value, |port, value| self.write_byte(port, value)),
        }
    }
}

impl PciDevice for Ide {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, _: usize, offset: u64, width: Width) -> u64 {
        gather(width.bytes(), |i| self.read_master(offset + i))
    }

    fn bar_write(&mut self, _: usize, offset: u64, width: Width, value: u64) {
        for i in 0..width.bytes() as u64 {
            self.write_master(offset + i, (value >> (8 * i)) as u8);
        }
    }
}
