//! A driver for the first disk of the first IDE channel, by PIO and by bus-master DMA, polled.
//!
//! PIO moves each sector through the data register by one string instruction, as BIOSes do. DMA names the buffer in a table
//! and waits until the bus master stands.
//! Source: ATA/ATAPI-6 (T13/1410D); "Programming Interface for Bus Master IDE Controller" 1.0.

use crate::cpu::{inb, ins_words, outb, outl, outs_words};
use crate::disk::{Disk, SECTOR};
use crate::pci::{self, Function};
use crate::single::Single;

const DATA: u16 = 0x1f0;
const COUNT: u16 = 0x1f2;
const ADDRESS: u16 = 0x1f3;
const DEVICE: u16 = 0x1f6;
const STATUS: u16 = 0x1f7;
const COMMAND: u16 = 0x1f7;
const CONTROL: u16 = 0x3f6;

const NO_INTERRUPTS: u8 = 1 << 1;
/// Device register: the first disk, addressed by sector.
const FIRST: u8 = 0xe0;

const FAILED: u8 = 1 << 0;
const WANTS_DATA: u8 = 1 << 3;
const FAULT: u8 = 1 << 5;
const BUSY: u8 = 1 << 7;
const FLOATS: u8 = 0xff;

const IDENTIFY: u8 = 0xec;
const READ: u8 = 0x20;
const WRITE: u8 = 0x30;
const READ_DMA: u8 = 0xc8;
const WRITE_DMA: u8 = 0xca;

/// Base class, subclass and interface of an IDE controller with a bus master, whatever its channels' modes.
const IDE_CLASS: u32 = 0x01_01;
const HAS_MASTER: u32 = 1 << 7;
/// Its base address register, and the registers there.
const MASTER_BAR: u8 = 4;
const MASTER_COMMAND: u16 = 0;
const MASTER_STATUS: u16 = 2;
const MASTER_TABLE: u16 = 4;
const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;
const ACTIVE: u8 = 1 << 0;
const MASTER_FAILED: u8 = 1 << 1;
const INTERRUPTED: u8 = 1 << 2;

/// What one region of the table may hold, and does not cross a multiple of.
const REGION: u64 = 64 << 10;
/// In a region's second word: the last one.
const LAST: u64 = 1 << 63;
/// Most sectors of one command with an address of 28 bits.
const MOST: usize = 256;

/// A table for [`MOST`] sectors, in a place that crosses no multiple of 64 KiB.
#[repr(C, align(64))]
struct Table([u64; 4]);

static TABLE: Single<Table> = Single::new(Table([0; 4]));

/// Waits for the end of what the disk does; its status then.
fn settled() -> u8 {
    loop {
        let status = inb(STATUS);
        if status & BUSY == 0 {
            return status;
        }
        core::hint::spin_loop();
    }
}

fn well(status: u8) {
    assert!(status & (FAILED | FAULT) == 0, "the IDE disk's status is {status:#x}");
}

/// Gives a command for `sectors`, at most [`MOST`], from `at` on.
fn command(code: u8, at: u64, sectors: usize) {
    assert!(sectors <= MOST && at + sectors as u64 <= 1 << 28, "no request for an IDE disk");
    outb(DEVICE, FIRST | (at >> 24) as u8);
    // 0 stands for 256.
    outb(COUNT, sectors as u8);
    for (register, shift) in [(ADDRESS, 0), (ADDRESS + 1, 8), (ADDRESS + 2, 16)] {
        outb(register, (at >> shift) as u8);
    }
    outb(COMMAND, code);
}

/// The disk, by PIO.
#[derive(Debug)]
pub struct Pio {
    sectors: u64,
}

impl Pio {
    /// The disk, if there is one.
    pub fn find() -> Option<Self> {
        outb(CONTROL, NO_INTERRUPTS);
        outb(DEVICE, FIRST);
        if inb(STATUS) == FLOATS {
            return None;
        }
        outb(COMMAND, IDENTIFY);
        if inb(STATUS) == 0 {
            return None;
        }
        // What takes packets refuses, and says so in the address.
        if settled() & (WANTS_DATA | FAILED) != WANTS_DATA {
            return None;
        }
        let mut words = core::mem::MaybeUninit::<[u16; 256]>::uninit();
        // SAFETY: 256 words are written, and any bits make words.
        let words = unsafe {
            ins_words(DATA, words.as_mut_ptr().cast(), 256);
            words.assume_init()
        };
        Some(Self { sectors: u64::from(words[61]) << 16 | u64::from(words[60]) })
    }
}

impl Disk for Pio {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, at: u64, into: &mut [u8]) {
        command(READ, at, into.len() / SECTOR);
        for sector in into.chunks_exact_mut(SECTOR) {
            let status = settled();
            well(status);
            assert!(status & WANTS_DATA != 0, "the IDE disk has no data");
            // SAFETY: a sector is 256 words.
            unsafe { ins_words(DATA, sector.as_mut_ptr(), SECTOR / 2) };
        }
    }

    fn write(&mut self, at: u64, from: &[u8]) {
        command(WRITE, at, from.len() / SECTOR);
        for sector in from.chunks_exact(SECTOR) {
            let status = settled();
            well(status);
            assert!(status & WANTS_DATA != 0, "the IDE disk wants no data");
            // SAFETY: a sector is 256 words.
            unsafe { outs_words(DATA, sector.as_ptr(), SECTOR / 2) };
        }
        well(settled());
    }
}

/// The disk, by DMA.
#[derive(Debug)]
pub struct Dma {
    sectors: u64,
    master: u16,
}

impl Dma {
    /// The disk by the controller's bus master, if there is one.
    pub fn find(disk: &Pio) -> Option<Self> {
        let function = Function::find(|_, class| class >> 8 == IDE_CLASS && class & HAS_MASTER != 0)?;
        let master = function.ports(MASTER_BAR)?;
        function.enable(pci::DECODES_PORTS | pci::MASTER);
        Some(Self { sectors: disk.sectors, master })
    }

    fn transfer(&mut self, code: u8, direction: u8, at: u64, buffer: *const u8, length: usize) {
        let (mut from, end) = (buffer as u64, buffer as u64 + length as u64);
        // SAFETY: the bus master stands, and nothing else uses the table.
        let table = unsafe { TABLE.get() };
        for entry in &mut table.0 {
            let to = (from / REGION + 1) * REGION;
            let to = if to < end { to } else { end };
            // 64 KiB are written as 0.
            let bytes = (to - from) & (REGION - 1);
            let last = if to == end { LAST } else { 0 };
            // SAFETY: the entry is one of the table; the bus master reads it behind the compiler's back.
            unsafe { (&raw mut *entry).write_volatile(from | bytes << 32 | last) };
            from = to;
            if from == end {
                break;
            }
        }
        assert!(from == end, "no request for an IDE disk");
        outl(self.master + MASTER_TABLE, TABLE.pointer() as u32);
        outb(self.master + MASTER_STATUS, MASTER_FAILED | INTERRUPTED);
        outb(self.master + MASTER_COMMAND, direction);
        command(code, at, length / SECTOR);
        outb(self.master + MASTER_COMMAND, direction | START);
        let status = loop {
            let status = inb(self.master + MASTER_STATUS);
            if status & ACTIVE == 0 {
                break status;
            }
            core::hint::spin_loop();
        };
        outb(self.master + MASTER_COMMAND, 0);
        assert!(status & MASTER_FAILED == 0, "the bus master could not reach memory");
        well(settled());
    }
}

impl Disk for Dma {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, at: u64, into: &mut [u8]) {
        self.transfer(READ_DMA, TO_MEMORY, at, into.as_mut_ptr(), into.len());
    }

    fn write(&mut self, at: u64, from: &[u8]) {
        self.transfer(WRITE_DMA, 0, at, from.as_ptr(), from.len());
    }
}
