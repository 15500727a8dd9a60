//! A CD image: ISO 9660 (ECMA-119) with one file, and a boot catalogue (El Torito 1.0) that starts a boot sector as it
//! is.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 2048;
/// Block of the one file.
pub(crate) const FILE_AT: u32 = 22;

const CATALOGUE: u32 = 19;
const BOOT: u32 = 20;
const ROOT: u32 = 21;

/// A number as the standard has it: little-endian, then big-endian.
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// A directory's record (9.1).
fn record(name: &[u8], at: u32, size: usize, is_folder: bool) -> Vec<u8> {
    let mut record = vec![0; 33];
    record[2..10].copy_from_slice(&both(at));
    record[10..18].copy_from_slice(&both(size as u32));
    // 1 January 2000.
    record[18..21].copy_from_slice(&[100, 1, 1]);
    record[25] = u8::from(is_folder) << 1;
    record[28..32].copy_from_slice(&both16(1));
    record[32] = name.len() as u8;
    record.extend(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

/// An image whose boot sector is `boot`, 2 KiB at most, and whose file `name` (as `NAME.TXT`) contains `contents`.
pub(crate) fn image(boot: &[u8], name: &str, contents: &[u8]) -> Vec<u8> {
    let blocks = FILE_AT as usize + contents.len().div_ceil(BLOCK);
    let mut image = vec![0; blocks * BLOCK];
    let mut put = |block: u32, at: usize, bytes: &[u8]| {
        let start = block as usize * BLOCK + at;
        image[start..start + bytes.len()].copy_from_slice(bytes);
    };
    let root = record(&[0], ROOT, BLOCK, true);
    // The primary volume descriptor (8.4).
    put(16, 0, b"\x01CD001\x01");
    put(16, 40, b"TRIVISOR                        ");
    put(16, 80, &both(blocks as u32));
    put(16, 120, &both16(1));
    put(16, 124, &both16(1));
    put(16, 128, &both16(BLOCK as u16));
    put(16, 156, &root);
    put(16, 881, &[1]);
    // The boot record, and the end of the descriptors.
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &CATALOGUE.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    // Validation entry, whose words add up to zero, and the entry of an image that is loaded as it is.
    let mut validation = [0_u8; 32];
    validation[0] = 1;
    validation[30..].copy_from_slice(&[0x55, 0xaa]);
    let sum = validation.chunks(2).fold(0_u16, |sum, w| sum.wrapping_sub(u16::from_le_bytes([w[0], w[1]])));
    validation[28..30].copy_from_slice(&sum.to_le_bytes());
    put(CATALOGUE, 0, &validation);
    put(CATALOGUE, 32, &[0x88, 0, 0, 0, 0, 0, 4, 0]);
    put(CATALOGUE, 40, &BOOT.to_le_bytes());
    put(BOOT, 0, boot);
    let file = record(format!("{name};1").as_bytes(), FILE_AT, contents.len(), false);
    put(ROOT, 0, &[record(&[0], ROOT, BLOCK, true), record(&[1], ROOT, BLOCK, true), file].concat());
    put(FILE_AT, 0, contents);
    image
}
