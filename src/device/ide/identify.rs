//! What IDENTIFY DEVICE and IDENTIFY PACKET DEVICE say (ATA/ATAPI-6, 8.15 and 8.16).
use super::cd::Cd;
use super::drive::Drive;
use super::spec::{HEADS, MOST_MULTIPLE, SECTOR, TRACK};

/// The most sectors that an address of 28 bits has, with one to spare.
const MOST_28: u64 = 0x0fff_ffff;

/// Text in the order that words of text have: the first character in the upper half.
fn text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
    for word in words {
        let (high, low) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
        *word = u16::from_be_bytes([high, low]);
    }
}

/// The sector that describes `drive`.
pub(super) fn sector(drive: &Drive) -> [u8; SECTOR] {
    let mut words = [0_u16; SECTOR / 2];
    let sectors = drive.sectors();
    let cylinders = (sectors / (u64::from(HEADS) * u64::from(TRACK))).clamp(1, 16383) as u16;
    // Not removable.
    words[0] = 1 << 6;
    (words[1], words[3], words[6]) = (cylinders, HEADS.into(), TRACK.into());
    text(&mut words[10..20], &drive.serial);
    text(&mut words[23..27], env!("CARGO_PKG_VERSION"));
    text(&mut words[27..47], "trivisor disk");
    words[47] = 0x8000 | u16::from(MOST_MULTIPLE);
    // LBA and DMA.
    words[49] = 1 << 9 | 1 << 8;
    words[50] = 1 << 14;
    // PIO mode 2 and DMA mode 2 by their old numbers; words 54–58, 64–70 and 88 are valid.
    (words[51], words[52], words[53]) = (0x200, 0x200, 7);
    let (heads, track) = drive.translation();
    let current = (sectors / (u64::from(heads) * u64::from(track))).clamp(1, 65535);
    (words[54], words[55], words[56]) = (current as u16, heads.into(), track.into());
    let current = current * u64::from(heads) * u64::from(track);
    (words[57], words[58]) = (current as u16, (current >> 16) as u16);
    if drive.multiple > 0 {
        words[59] = 0x100 | u16::from(drive.multiple);
    }
    let short = sectors.min(MOST_28);
    (words[60], words[61]) = (short as u16, (short >> 16) as u16);
    words[63] = 7 | chosen(drive.mode, 0x20);
    // PIO modes 3 and 4, and the cycle times of the fastest modes in nanoseconds.
    words[64] = 3;
    words[65..69].fill(120);
    // ATA-4 to ATA-6.
    words[80] = 1 << 6 | 1 << 5 | 1 << 4;
    // Write cache, look-ahead; flush, flush ext, 48-bit addresses.
    words[82] = 1 << 5 | 1 << 6;
    words[83] = 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10;
    words[84] = 1 << 14;
    words[85] = if drive.caches { 1 << 5 } else { 0 } | 1 << 6;
    words[86] = 1 << 13 | 1 << 12 | 1 << 10;
    words[87] = 1 << 14;
    // Ultra DMA modes 0–5.
    words[88] = 0x3f | chosen(drive.mode, 0x40);
    // Reset: which device this is, found by a jumper.
    words[93] = 1 << 14 | 1 << 13 | 1;
    for (i, word) in words[100..104].iter_mut().enumerate() {
        *word = (sectors >> (16 * i)) as u16;
    }
    bytes_of(&words)
}

/// The bit of the mode of transfer that is set, if it is of this kind.
fn chosen(mode: u8, kind: u8) -> u16 {
    if mode & 0xf8 == kind { 0x100 << (mode & 7) } else { 0 }
}

/// The sector that describes a CD-ROM drive.
pub(super) fn packet_sector(cd: &Cd) -> [u8; SECTOR] {
    let mut words = [0_u16; SECTOR / 2];
    // Takes packets of 12 bytes, within 50 µs and without an interrupt; a CD-ROM drive with a removable medium.
    words[0] = 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5;
    text(&mut words[10..20], &cd.serial);
    text(&mut words[23..27], env!("CARGO_PKG_VERSION"));
    text(&mut words[27..47], "trivisor CD-ROM");
    // LBA and DMA; words 64–70 and 88 are valid.
    words[49] = 1 << 9 | 1 << 8;
    words[53] = 6;
    words[63] = 7 | chosen(cd.state.mode, 0x20);
    // PIO modes 3 and 4, and the cycle times of the fastest modes in nanoseconds.
    words[64] = 3;
    words[65..69].fill(120);
    // ATA-4 to ATA-6.
    words[80] = 1 << 6 | 1 << 5 | 1 << 4;
    // Packets, DEVICE RESET.
    words[82] = 1 << 4 | 1 << 9;
    (words[83], words[84], words[87]) = (1 << 14, 1 << 14, 1 << 14);
    words[85] = words[82];
    // Ultra DMA modes 0–2.
    words[88] = 7 | chosen(cd.state.mode, 0x40);
    words[93] = 1 << 14 | 1;
    bytes_of(&words)
}

fn bytes_of(words: &[u16; SECTOR / 2]) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for (place, word) in bytes.chunks_exact_mut(2).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
