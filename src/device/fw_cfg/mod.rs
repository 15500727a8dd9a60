//! QEMU's firmware configuration device: what firmware asks about the machine, and files for it.
//!
//! An item is selected and then read from its beginning, byte by byte at the data port, or by a transfer into RAM; behind
//! its end are zeros. Nothing can be written. A transfer is done within the access that starts it, at most
//! [`MOST_TRANSFER`] bytes; one that meets no RAM ends in an error, which the guest sees.
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::SavedFwCfg;
pub use spec::{key, loader};

use crate::arch::{Gpa, Port, Width};
use crate::bus::PortDevice;
use crate::mem::{GuestRam, NotRam};
use spec::Control;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one transfer at most.
pub const MOST_TRANSFER: u32 = 64 << 20;
/// Bytes that are moved at a time.
const CHUNK: usize = 4096;
/// Bytes of the structure that describes a transfer.
const DESCRIPTION: usize = 16;

/// The device. It claims both its ranges of ports.
pub struct FwCfg {
    // Runtime glue.
    ram: Arc<GuestRam>,
    // Configuration.
    items: BTreeMap<u16, Vec<u8>>,
    names: Vec<String>,
    // Volatile state.
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct State {
    selected: u16,
    offset: u32,
    dma_high: u32,
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FwCfg")
            .field("files", &self.names)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl FwCfg {
    /// A device without files, whose transfers go to `ram`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>) -> Self {
        let size = ram.size();
        let mut new = Self { ram, items: BTreeMap::new(), names: vec![], state: State::default() };
        new.set_item(key::SIGNATURE, b"QEMU".to_vec());
        new.set_item(key::ID, spec::FEATURES.to_le_bytes().to_vec());
        new.set_item(key::RAM_SIZE, size.to_le_bytes().to_vec());
        new.set_item(key::FILE_DIRECTORY, 0_u32.to_be_bytes().to_vec());
        new
    }

    /// Sets an item of the numbers in [`key`].
    pub fn set_item(&mut self, key: u16, bytes: Vec<u8>) {
        self.items.insert(key, bytes);
    }

    /// Adds a file. A name is cut to 55 bytes; what comes after the 1000th file is left out.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        const MOST: usize = 1000;
        if self.names.len() >= MOST {
            return;
        }
        self.items.insert(key::FIRST_FILE + self.names.len() as u16, bytes);
        self.names.push(name.to_owned());
        let mut directory = (self.names.len() as u32).to_be_bytes().to_vec();
        for (key, name) in (key::FIRST_FILE..).zip(&self.names) {
            let size = self.items.get(&key).map_or(0, Vec::len);
            directory.extend((size as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0, 0]);
            directory.extend(padded_name(name));
        }
        self.items.insert(key::FILE_DIRECTORY, directory);
    }

    fn select(&mut self, key: u16) {
        self.state.selected = key;
        self.state.offset = 0;
    }

    /// Takes the next bytes of the selected item.
    fn next(&mut self, into: &mut [u8]) {
        let item = self.items.get(&self.state.selected).map_or(&[][..], Vec::as_slice);
        let rest = item.get(self.state.offset as usize..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        into[length..].fill(0);
        self.state.offset = self.state.offset.saturating_add(into.len() as u32);
    }

    /// Carries out the transfer described at `at`. Where its outcome cannot be told there is nobody to tell.
    fn transfer(&mut self, at: Gpa) {
        let mut description = [0; DESCRIPTION];
        if self.ram.read(at, &mut description).is_err() {
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, to @ ..] = description;
        let control = Control::from_bits_retain(u32::from_be_bytes([c0, c1, c2, c3]));
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if control.contains(Control::SELECT) {
            self.select((control.bits() >> 16) as u16);
        }
        let done = if control.contains(Control::READ) {
            self.copy(Gpa(u64::from_be_bytes(to)), length).is_ok()
        } else {
            if control.contains(Control::SKIP) {
                self.state.offset = self.state.offset.saturating_add(length);
            }
            !control.contains(Control::WRITE)
        };
        let outcome = if done { Control::empty() } else { Control::ERROR };
        let _nobody = self.ram.write(at, &outcome.bits().to_be_bytes());
    }

    fn copy(&mut self, mut to: Gpa, length: u32) -> Result<(), NotRam> {
        if length > MOST_TRANSFER {
            return Err(NotRam { at: to, length: length.into() });
        }
        let mut chunk = [0; CHUNK];
        let mut left = length as usize;
        while left > 0 {
            let piece = &mut chunk[..left.min(CHUNK)];
            self.next(piece);
            self.ram.write(to, piece)?;
            to = to.offset(piece.len() as u64);
            left -= piece.len();
        }
        Ok(())
    }
}

/// A file's name as the directory and the loader's commands hold it, ended by a zero.
#[must_use]
pub fn padded_name(name: &str) -> [u8; spec::NAME] {
    let mut padded = [0; spec::NAME];
    padded[..spec::NAME - 1].iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    padded
}

impl PortDevice for FwCfg {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        match port.0 {
            spec::DATA if width == Width::B1 => {
                let mut byte = [0];
                self.next(&mut byte);
                byte[0].into()
            }
            // Big-endian: the first port has the most significant byte.
            spec::DMA_HIGH if width == Width::B4 => ((spec::DMA_SIGNATURE >> 32) as u32).swap_bytes(),
            spec::DMA_LOW if width == Width::B4 => (spec::DMA_SIGNATURE as u32).swap_bytes(),
            _ => 0,
        }
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        match (port.0, width) {
            (spec::SELECTOR, Width::B2) => self.select(value as u16),
            (spec::DMA_HIGH, Width::B4) => self.state.dma_high = value.swap_bytes(),
            (spec::DMA_LOW, Width::B4) => {
                let high = std::mem::take(&mut self.state.dma_high);
                self.transfer(Gpa(u64::from(high) << 32 | u64::from(value.swap_bytes())));
            }
            _ => {}
        }
    }
}
