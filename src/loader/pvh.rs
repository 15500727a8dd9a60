//! Start information of the PVH boot ABI (Xen, `xen/include/public/arch-x86/hvm/start_info.h`).
//!
//! One block: the structure, then the memory map, the list of modules, and the command line. An initial RAM disk is the
//! only module.
use super::memory_map::{self, Region};
use super::{LoadError, Placed};
use crate::arch::layout;
use crate::mem::GuestRam;

const MAGIC: u32 = 0x336e_c578;
const MAP_OFFSET: usize = 64;
const MAP_ENTRY: usize = 24;
const MODULE_OFFSET: usize = 0x3c0;
const COMMAND_LINE_OFFSET: usize = 0x400;
/// Bytes of the block.
pub(super) const SIZE: u64 = 0x1000;
/// Bytes that a command line may have, without its final zero.
const COMMAND_LINE_MOST: usize = SIZE as usize - COMMAND_LINE_OFFSET - 1;
/// The block to be put at [`layout::PVH_START_INFO`].
pub(super) fn start_info(
    ram: &GuestRam,
    command_line: &str,
    initrd: Option<Placed>,
) -> Result<Vec<u8>, LoadError> {
    if command_line.len() > COMMAND_LINE_MOST {
        return Err(LoadError::CommandLine(command_line.len(), COMMAND_LINE_MOST));
    }
    let base = layout::PVH_START_INFO.0;
    let map = memory_map::regions(ram);

    let mut block = vec![0; SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(4, &1_u32.to_le_bytes()); // version: has a memory map
    if let Some(initrd) = initrd {
        put(12, &1_u32.to_le_bytes());
        put(16, &(base + MODULE_OFFSET as u64).to_le_bytes());
        put(MODULE_OFFSET, &initrd.at.0.to_le_bytes());
        put(MODULE_OFFSET + 8, &initrd.size.to_le_bytes());
    }
    put(24, &(base + COMMAND_LINE_OFFSET as u64).to_le_bytes());
    put(32, &layout::FIRMWARE_TABLES.0.to_le_bytes()); // RSDP
    put(40, &(base + MAP_OFFSET as u64).to_le_bytes());
    put(48, &(map.len() as u32).to_le_bytes());
    for (i, Region { start, size, kind }) in map.into_iter().enumerate() {
        let at = MAP_OFFSET + i * MAP_ENTRY;
        put(at, &start.to_le_bytes());
        put(at + 8, &size.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    put(COMMAND_LINE_OFFSET, command_line.as_bytes());
    Ok(block)
}
