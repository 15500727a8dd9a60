//! Registers and commands of ATA disks (ATA/ATAPI-6, T13/1410D, clauses 7–9) and of the PIIX3's bus master (Intel
//! 290550; "Programming Interface for Bus Master IDE Controller").
use bitflags::bitflags;

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;
/// Sectors of the largest block of READ MULTIPLE and WRITE MULTIPLE.
pub(super) const MOST_MULTIPLE: u8 = 16;
/// Heads and sectors of a track that a disk begins with; cylinders follow from its size.
pub(super) const HEADS: u8 = 16;
pub(super) const TRACK: u8 = 63;

bitflags! {
    /// Status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u8 {
        /// An error occurred: see the error register.
        const ERR = 1 << 0;
        /// Data can be moved.
        const DRQ = 1 << 3;
        /// Seek complete.
        const DSC = 1 << 4;
        /// Device fault.
        const DF = 1 << 5;
        /// Ready.
        const DRDY = 1 << 6;
        /// Busy.
        const BSY = 1 << 7;
        const _ = !0;
    }

    /// Device control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u8 {
        /// No interrupts.
        const NIEN = 1 << 1;
        /// Software reset.
        const SRST = 1 << 2;
        /// Reads are of what was written before last.
        const HOB = 1 << 7;
        const _ = !0;
    }

    /// Bus master command register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct MasterCommand: u8 {
        /// Runs.
        const START = 1 << 0;
        /// To memory.
        const READ = 1 << 3;
    }

    /// Bus master status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct MasterStatus: u8 {
        /// A transfer is going on.
        const ACTIVE = 1 << 0;
        /// Memory could not be accessed.
        const ERROR = 1 << 1;
        /// The device has interrupted.
        const INTERRUPT = 1 << 2;
        /// The first and the second device can do DMA: said by firmware.
        const CAPABLE = 3 << 5;
    }
}

/// Error register: the command was aborted.
pub(super) const ABORTED: u8 = 1 << 2;
/// Error register: the sector is not there.
pub(super) const ID_NOT_FOUND: u8 = 1 << 4;
/// Error register: the data cannot be had.
pub(super) const UNCORRECTABLE: u8 = 1 << 6;
/// Error register, after a diagnosis: all is well.
pub(super) const DIAGNOSED: u8 = 1;

/// Device register: addresses are of sectors, not of cylinders and heads.
pub(super) const LBA: u8 = 1 << 6;
/// Device register: the second device.
pub(super) const SECOND: u8 = 1 << 4;
/// Device register: bits that always read as ones.
pub(super) const DEVICE_ONES: u8 = 0xa0;

/// Commands.
pub(super) mod command {
    pub(in super::super) const READ: u8 = 0x20;
    pub(in super::super) const READ_NO_RETRY: u8 = 0x21;
    pub(in super::super) const READ_EXT: u8 = 0x24;
    pub(in super::super) const READ_DMA_EXT: u8 = 0x25;
    pub(in super::super) const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub(in super::super) const READ_MULTIPLE_EXT: u8 = 0x29;
    pub(in super::super) const WRITE: u8 = 0x30;
    pub(in super::super) const WRITE_NO_RETRY: u8 = 0x31;
    pub(in super::super) const WRITE_EXT: u8 = 0x34;
    pub(in super::super) const WRITE_DMA_EXT: u8 = 0x35;
    pub(in super::super) const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub(in super::super) const VERIFY: u8 = 0x40;
    pub(in super::super) const VERIFY_NO_RETRY: u8 = 0x41;
    pub(in super::super) const VERIFY_EXT: u8 = 0x42;
    pub(in super::super) const DEVICE_RESET: u8 = 0x08;
    pub(in super::super) const DIAGNOSE: u8 = 0x90;
    pub(in super::super) const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub(in super::super) const PACKET: u8 = 0xa0;
    pub(in super::super) const IDENTIFY_PACKET: u8 = 0xa1;
    pub(in super::super) const READ_MULTIPLE: u8 = 0xc4;
    pub(in super::super) const WRITE_MULTIPLE: u8 = 0xc5;
    pub(in super::super) const SET_MULTIPLE: u8 = 0xc6;
    pub(in super::super) const READ_DMA: u8 = 0xc8;
    pub(in super::super) const READ_DMA_NO_RETRY: u8 = 0xc9;
    pub(in super::super) const WRITE_DMA: u8 = 0xca;
    pub(in super::super) const WRITE_DMA_NO_RETRY: u8 = 0xcb;
    /// The first of four that save power, or do not any more.
    pub(in super::super) const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub(in super::super) const IDLE: u8 = 0xe3;
    pub(in super::super) const CHECK_POWER: u8 = 0xe5;
    pub(in super::super) const SLEEP: u8 = 0xe6;
    pub(in super::super) const FLUSH: u8 = 0xe7;
    pub(in super::super) const FLUSH_EXT: u8 = 0xea;
    pub(in super::super) const IDENTIFY: u8 = 0xec;
    pub(in super::super) const SET_FEATURES: u8 = 0xef;
    pub(in super::super) const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Subcommands of SET FEATURES that do something here, or are harmless.
pub(super) mod feature {
    pub(in super::super) const WRITE_CACHE: u8 = 0x02;
    pub(in super::super) const TRANSFER_MODE: u8 = 0x03;
    pub(in super::super) const NO_LOOK_AHEAD: u8 = 0x55;
    pub(in super::super) const KEEP_ON_RESET: u8 = 0x66;
    pub(in super::super) const NO_WRITE_CACHE: u8 = 0x82;
    pub(in super::super) const LOOK_AHEAD: u8 = 0xaa;
    pub(in super::super) const DEFAULTS_ON_RESET: u8 = 0xcc;
}

/// Bytes of a CD's block.
pub(super) const BLOCK: u64 = 2048;

/// What follows a reset in the registers of the address's upper bytes: a disk, or a device that takes packets.
pub(super) const DISK_SIGNATURE: [u8; 2] = [0, 0];
pub(super) const PACKET_SIGNATURE: [u8; 2] = [0x14, 0xeb];

/// Packets (SPC-2, MMC-3), and what goes with them in the registers.
pub(super) mod packet {
    /// Bytes of a packet.
    pub(in super::super) const SIZE: usize = 12;
    /// Feature register: data goes by DMA.
    pub(in super::super) const DMA: u8 = 1 << 0;
    /// Feature register: the packet may be released.
    pub(in super::super) const OVERLAP: u8 = 1 << 1;
    pub(in super::super) const TEST_UNIT_READY: u8 = 0x00;
    pub(in super::super) const REQUEST_SENSE: u8 = 0x03;
    pub(in super::super) const INQUIRY: u8 = 0x12;
    pub(in super::super) const MODE_SENSE_6: u8 = 0x1a;
    pub(in super::super) const START_STOP: u8 = 0x1b;
    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub(in super::super) const LOCK: u8 = 0x1e;
    pub(in super::super) const READ_CAPACITY: u8 = 0x25;
    pub(in super::super) const READ_10: u8 = 0x28;
    pub(in super::super) const SEEK: u8 = 0x2b;
    pub(in super::super) const READ_TOC: u8 = 0x43;
    pub(in super::super) const MODE_SENSE_10: u8 = 0x5a;
    pub(in super::super) const READ_12: u8 = 0xa8;
}

/// What the count register says while a packet is carried out: the interrupt reason.
pub(super) mod reason {
    /// The packet is to be written.
    pub(in super::super) const COMMAND: u8 = 1;
    /// Data is to be read.
    pub(in super::super) const TO_HOST: u8 = 2;
    /// It has ended.
    pub(in super::super) const END: u8 = 3;
}

/// Entries of a table of physical regions: it does not cross 64 KiB.
pub(super) const REGIONS: usize = (64 << 10) / 8;
/// In the last word of an entry: the last one.
pub(super) const LAST_REGION: u32 = 1 << 31;
