//! The block device of virtio 1.2, section 5.2.
use bitflags::bitflags;

bitflags! {
    /// Feature bits (5.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct BlockFeatures: u64 {
        /// `size_max` is valid.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` is valid.
        const SEG_MAX = 1 << 2;
        /// The disk cannot be written.
        const READ_ONLY = 1 << 5;
        /// `blk_size` is valid.
        const BLOCK_SIZE = 1 << 6;
        /// There is a cache, and a request that empties it.
        const FLUSH = 1 << 9;
    }
}

/// Bytes of a sector, in which the standard counts.
pub(super) const SECTOR: u64 = 512;
/// Bytes of the header of each request: type, reserved, sector.
pub(super) const HEADER: usize = 16;
/// Bytes of the disk's name.
pub(super) const ID: usize = 20;

/// Types of requests (5.2.6).
pub(super) mod request {
    pub(in super::super) const READ: u32 = 0;
    pub(in super::super) const WRITE: u32 = 1;
    pub(in super::super) const FLUSH: u32 = 4;
    pub(in super::super) const GET_ID: u32 = 8;
}

/// How a request ended: its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Offsets in the configuration space (5.2.4).
pub(super) mod at {
    /// 64 bits, in sectors.
    pub(in super::super) const CAPACITY: usize = 0;
    pub(in super::super) const SIZE_MAX: usize = 8;
    pub(in super::super) const SEG_MAX: usize = 12;
    pub(in super::super) const BLOCK_SIZE: usize = 20;
}
