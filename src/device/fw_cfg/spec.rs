//! Registers and items of QEMU's firmware configuration device (QEMU, `docs/specs/fw_cfg.rst`).
use bitflags::bitflags;

/// Selector, 16 bits, little-endian.
pub(super) const SELECTOR: u16 = 0x510;
/// Data, byte by byte.
pub(super) const DATA: u16 = 0x511;
/// Address of a transfer, high half; big-endian.
pub(super) const DMA_HIGH: u16 = 0x514;
/// Low half; starts the transfer.
pub(super) const DMA_LOW: u16 = 0x518;
/// What the address reads as: the device can do transfers.
pub(super) const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

/// Numbers of items.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// What the device can do.
    pub const ID: u16 = 0x01;
    /// Bytes of RAM, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// CPUs that are there, 16 bits.
    pub const CPUS: u16 = 0x05;
    /// Whether to offer a menu of what to boot, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// CPUs that there can be, 16 bits.
    pub const MOST_CPUS: u16 = 0x0f;
    /// The names of files.
    pub(in super::super) const FILE_DIRECTORY: u16 = 0x19;
    /// The first file's.
    pub(in super::super) const FIRST_FILE: u16 = 0x20;
}

/// [`key::ID`]: selector and data, and transfers.
pub(super) const FEATURES: u32 = 1 << 0 | 1 << 1;
/// Bytes of a file's name, with its zero.
pub(super) const NAME: usize = 56;

bitflags! {
    /// What a transfer is to do; the item to select is in the upper half.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u32 {
        /// It failed.
        const ERROR = 1 << 0;
        /// Item to RAM.
        const READ = 1 << 1;
        /// Pass over.
        const SKIP = 1 << 2;
        /// Select the item first.
        const SELECT = 1 << 3;
        /// RAM to item.
        const WRITE = 1 << 4;
        const _ = !0;
    }
}

/// Commands of the file by which firmware places ACPI tables (QEMU, `hw/acpi/bios-linker-loader.c`): 128 bytes each.
pub mod loader {
    /// Bytes of a command.
    pub const SIZE: usize = 128;
    /// Get memory for a file: name, alignment, zone.
    pub const ALLOCATE: u32 = 1;
    /// Add a file's place to a pointer in another: names, offset, size.
    pub const ADD_POINTER: u32 = 2;
    /// Mend a checksum: name, its offset, first byte and length of what it is over.
    pub const ADD_CHECKSUM: u32 = 3;
    /// Zone of memory: anywhere.
    pub const ZONE_HIGH: u8 = 1;
    /// Zone of memory: where the RSDP is looked for.
    pub const ZONE_F_SEGMENT: u8 = 2;
}
