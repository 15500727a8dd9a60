//! A virtio disk (virtio 1.2, 5.2) over whatever keeps its bytes ([`DiskStore`]).
//!
//! Every request gets an outcome that the guest can read, if its chain has a byte for it: what the host cannot do, what
//! lies outside the disk, and buffers that are no RAM end in an I/O error. Requests are carried out one after the other
//! within the notification, at most [`MOST_DATA`] bytes each, through a buffer of [`CHUNK`] bytes. Where the driver does
//! not know of flushing, each write is flushed.
mod spec;
#[cfg(test)]
pub(in crate::device) mod tests;

use super::{Broken, Buffer, BufferError, CONFIGURATION, Chain, Queue, VirtioDevice};
use crate::device::BadState;
use crate::device::disk::DiskStore;
use crate::mem::GuestRam;
use spec::{BlockFeatures, HEADER, ID, Outcome, SECTOR, at, request};
use std::io;

/// Bytes that one request may move. Linux asks for 1.25 MiB at most.
pub const MOST_DATA: u64 = 16 << 20;
/// Bytes that are moved at a time.
pub const CHUNK: usize = 64 << 10;
/// Entries of the queue.
const QUEUE: u16 = 128;
/// Buffers of data that a driver may put into one request: all descriptors but those of header and status.
const SEGMENTS: u32 = QUEUE as u32 - 2;

/// A disk.
pub struct Block {
    // Configuration.
    id: [u8; ID],
    // Runtime glue.
    store: Box<dyn DiskStore>,
    chunk: Box<[u8]>,
    // Volatile state: follows from what was negotiated.
    flushes: bool,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("sectors", &self.sectors()).finish_non_exhaustive()
    }
}

/// Why a request was not carried out.
enum Failure {
    Io,
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<BufferError> for Failure {
    fn from(_: BufferError) -> Self {
        Self::Io
    }
}

impl Block {
    /// A disk that says its name is `id`, of which 20 bytes are told.
    #[must_use]
    pub fn new(store: Box<dyn DiskStore>, id: &str) -> Self {
        let mut name = [0; ID];
        name.iter_mut().zip(id.bytes()).for_each(|(place, byte)| *place = byte);
        Self { id: name, store, chunk: vec![0; CHUNK].into(), flushes: false }
    }

    /// Whole sectors of the disk.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.store.size() / SECTOR
    }

    /// Carries out one request; the bytes that were written to the guest's buffer.
    fn carry_out(&mut self, ram: &GuestRam, chain: &mut Chain) -> u32 {
        // Without a place for the outcome nothing is done: the driver could not learn of it.
        let Some(outcome_at) = chain.writable.take_last() else { return 0 };
        let room = chain.writable.left();
        let outcome = match self.transfer(ram, &mut chain.readable, &mut chain.writable) {
            Ok(()) => Outcome::Ok,
            Err(Failure::Io) => Outcome::IoError,
            Err(Failure::Unsupported) => Outcome::Unsupported,
        };
        let written = room - chain.writable.left();
        let told = ram.write(outcome_at, &[outcome as u8]).is_ok();
        // The outcome counts only if all before it was written, too.
        let written = written + u64::from(told && written == room);
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    fn transfer(
        &mut self,
        ram: &GuestRam,
        readable: &mut Buffer,
        writable: &mut Buffer,
    ) -> Result<(), Failure> {
        let mut header = [0; HEADER];
        readable.read(ram, &mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        match u32::from_le_bytes([a, b, c, d]) {
            request::READ => {
                let (mut at, mut left) = self.place(u64::from_le_bytes(sector), writable.left())?;
                while left > 0 {
                    let chunk = chunk_of(&mut self.chunk, left);
                    self.store.read(at, chunk)?;
                    writable.write(ram, chunk)?;
                    (at, left) = (at + chunk.len() as u64, left - chunk.len() as u64);
                }
                Ok(())
            }
            request::WRITE => {
                let (mut at, mut left) = self.place(u64::from_le_bytes(sector), readable.left())?;
                if self.store.is_read_only() {
                    return Err(Failure::Io);
                }
                while left > 0 {
                    let chunk = chunk_of(&mut self.chunk, left);
                    readable.read(ram, chunk)?;
                    self.store.write(at, chunk)?;
                    (at, left) = (at + chunk.len() as u64, left - chunk.len() as u64);
                }
                if !self.flushes {
                    self.store.flush()?;
                }
                Ok(())
            }
            request::FLUSH => Ok(self.store.flush()?),
            request::GET_ID => {
                let length = writable.left().min(ID as u64) as usize;
                Ok(writable.write(ram, &self.id[..length])?)
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// Where `length` bytes from `sector` on begin, if they are whole sectors of the disk and not too many.
    fn place(&self, sector: u64, length: u64) -> Result<(u64, u64), Failure> {
        let sectors = length / SECTOR;
        let end = sector.checked_add(sectors).ok_or(Failure::Io)?;
        if !length.is_multiple_of(SECTOR) || length > MOST_DATA || end > self.sectors() {
            return Err(Failure::Io);
        }
        Ok((sector * SECTOR, length))
    }
}

fn chunk_of(chunk: &mut [u8], left: u64) -> &mut [u8] {
    let length = left.min(chunk.len() as u64) as usize;
    &mut chunk[..length]
}

impl VirtioDevice for Block {
    type Saved = ();

    fn device_id(&self) -> u32 {
        super::spec::device_id::BLOCK
    }

    fn features(&self) -> u64 {
        let read_only =
            if self.store.is_read_only() { BlockFeatures::READ_ONLY } else { BlockFeatures::empty() };
        let always = BlockFeatures::SIZE_MAX
            | BlockFeatures::SEG_MAX
            | BlockFeatures::BLOCK_SIZE
            | BlockFeatures::FLUSH;
        (always | read_only).bits()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE]
    }

    fn configuration(&self) -> [u8; CONFIGURATION] {
        let mut bytes = [0; CONFIGURATION];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(at::CAPACITY, &self.sectors().to_le_bytes());
        // So that a driver that fills every segment stays below what a request may move.
        put(at::SIZE_MAX, &((MOST_DATA / u64::from(SEGMENTS)) as u32 & !0xfff).to_le_bytes());
        put(at::SEG_MAX, &SEGMENTS.to_le_bytes());
        put(at::BLOCK_SIZE, &(SECTOR as u32).to_le_bytes());
        bytes
    }

    fn negotiated(&mut self, features: u64) {
        self.flushes = features & BlockFeatures::FLUSH.bits() != 0;
    }

    fn serve(&mut self, _: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        while let Some(mut chain) = queue.pop(ram)? {
            let written = self.carry_out(ram, &mut chain);
            queue.push(ram, &chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.flushes = false;
    }

    fn saved(&self) {}

    fn restore(&mut self, (): &()) -> Result<(), BadState> {
        Ok(())
    }
}
