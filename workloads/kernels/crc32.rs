//! CRC-32 (IEEE 802.3, reflected) with one table of 256 entries: table look-ups in a chain of dependences.

use super::{Kernel, Sequence, always};

/// 192 KiB of pseudo-random bytes.
pub const KERNEL: Kernel =
    Kernel { name: "crc32", scratch: 192 * 1024, operations: 1, prepare, available: always, unit };

const POLYNOMIAL: u32 = 0xedb8_8320;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// CRC-32 of some bytes.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0x1357_9bdf_0246_8ace);
    for bytes in scratch.chunks_exact_mut(8) {
        bytes.copy_from_slice(&sequence.draw().to_le_bytes());
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    u64::from(crc32(scratch))
}
