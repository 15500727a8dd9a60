//! A copy-on-write overlay: what the guest writes goes here, and the image beneath stays as it is.
//!
//! The file: a header of one block, a map with a bit for each block of the disk, and the blocks, each at its own place; it
//! is sparse, so that only what was written takes room. Numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `trivisor` |
//! | 8–11 | version of this form, 1 |
//! | 12–15 | bytes of a block, 4096 |
//! | 16–23 | bytes of the disk |
//! | 24–31 | when the image was last changed, in nanoseconds since 1970, if it is a file |
//!
//! A block's bytes are written before its bit. So a run that was killed leaves an overlay in which each block is either
//! the image's or has been written; as on a disk, what was not flushed may be lost when the host's power fails.
use super::{DiskError, Failures, open_file, raw::RawImage};
use crate::device::disk::DiskStore;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const MAGIC: [u8; 8] = *b"trivisor";
const VERSION: u32 = 1;
/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of the largest disk: the map is kept in memory, a byte for 32 KiB.
const MOST: u64 = 1 << 40;
/// Bytes of the header that mean something.
const HEADER: usize = 32;

/// The overlay over an image.
#[derive(Debug)]
pub(super) struct Overlay {
    base: RawImage,
    file: File,
    path: PathBuf,
    read_only: bool,
    failures: Failures,
    /// A bit for each block that is here.
    map: Vec<u8>,
}

impl Overlay {
    /// Opens the overlay at `path`, or makes it if there is none or an empty file.
    pub(super) fn open(
        path: &Path,
        base: RawImage,
        read_only: bool,
        failures: Failures,
    ) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let unfit = |why: String| DiskError::Unfit { path: path.to_owned(), why };
        let size = base.size();
        if size > MOST {
            return Err(unfit("cannot be the overlay of a disk of more than 1 TiB".into()));
        }
        let options = &mut OpenOptions::new();
        let (file, regular) =
            open_file(path, options.read(true).write(true).create(true).truncate(false), true)?;
        if !regular {
            return Err(unfit("is a block device; an overlay is a file".into()));
        }
        let blocks = size.div_ceil(BLOCK);
        let mut map = vec![0; blocks.div_ceil(8) as usize];
        let header = header(size, base.changed().map_err(failed)?);
        let length = file.metadata().map_err(failed)?.len();
        if length == 0 {
            // Its whole length at once: a map that is not there yet reads as zeros, as an empty one.
            file.set_len(data_start(size)).and_then(|()| file.write_all_at(&header, 0)).map_err(failed)?;
        } else {
            let mut found = [0; HEADER];
            // Of a shorter file the rest stays zero, which is no header.
            let _short = file.read_exact_at(&mut found, 0);
            if found[..12] != header[..12] && found[..8] == MAGIC {
                return Err(unfit("is an overlay of another version".into()));
            }
            if found[..16] != header[..16] {
                return Err(unfit("is no overlay; name a new file, or one that was made as overlay".into()));
            }
            if found != header {
                return Err(unfit(
                    "is the overlay of another image, or of this one before it was changed".into(),
                ));
            }
            if length < data_start(size) {
                return Err(unfit("is an overlay that was cut off".into()));
            }
            file.read_exact_at(&mut map, BLOCK).map_err(failed)?;
        }
        Ok(Self { base, file, path: path.to_owned(), read_only, failures, map })
    }

    fn has(&self, block: u64) -> bool {
        self.map.get((block / 8) as usize).is_some_and(|bits| bits & 1 << (block % 8) != 0)
    }

    /// Bytes from `at` on that lie on the same side, here or in the image, of `length`; and whether here.
    fn run(&self, at: u64, length: u64) -> (u64, bool) {
        let here = self.has(at / BLOCK);
        let mut end = (at / BLOCK + 1) * BLOCK;
        while end < at + length && self.has(end / BLOCK) == here {
            end += BLOCK;
        }
        ((end - at).min(length), here)
    }

    /// Where a byte of the disk is in the file.
    fn place(&self, at: u64) -> u64 {
        data_start(self.base.size()) + at
    }

    /// Brings a block over, of which only a part is about to be written.
    fn copy_up(&mut self, block: u64) -> io::Result<()> {
        let at = block * BLOCK;
        let mut bytes = [0; BLOCK as usize];
        let bytes = &mut bytes[..(self.base.size() - at).min(BLOCK) as usize];
        self.base.read(at, bytes)?;
        self.file.write_all_at(bytes, self.place(at))
    }

    fn write_blocks(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        let end = at + from.len() as u64;
        let (first, last) = (at / BLOCK, end.saturating_sub(1) / BLOCK);
        let size = self.base.size();
        let partial = |block: u64| at > block * BLOCK || end < ((block + 1) * BLOCK).min(size);
        for block in [Some(first), (last != first).then_some(last)].into_iter().flatten() {
            if partial(block) && !self.has(block) {
                self.copy_up(block)?;
            }
        }
        self.file.write_all_at(from, self.place(at))?;
        let bytes = (first / 8) as usize..=(last / 8) as usize;
        let mut changed = self.map.get(bytes.clone()).unwrap_or_default().to_vec();
        for block in first..=last {
            changed[(block / 8 - first / 8) as usize] |= 1 << (block % 8);
        }
        if self.map.get(bytes.clone()) != Some(&changed[..]) {
            self.file.write_all_at(&changed, BLOCK + first / 8)?;
            self.map[bytes].copy_from_slice(&changed);
        }
        Ok(())
    }
}

/// Where the blocks begin.
fn data_start(size: u64) -> u64 {
    BLOCK + size.div_ceil(BLOCK).div_ceil(8).next_multiple_of(BLOCK)
}

fn header(size: u64, changed: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    header[16..24].copy_from_slice(&size.to_le_bytes());
    header[24..].copy_from_slice(&changed.to_le_bytes());
    header
}

impl RawImage {
    /// When the image's file was last changed, in nanoseconds since 1970; 0 for a device.
    fn changed(&self) -> io::Result<u64> {
        let Some(metadata) = self.file_metadata()? else { return Ok(0) };
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl DiskStore for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let from = at + done as u64;
            let (length, here) = self.run(from, (into.len() - done) as u64);
            let part = &mut into[done..done + length as usize];
            if here {
                let result = self.file.read_exact_at(part, self.place(from));
                self.failures.note("read", &self.path, result)?;
            } else {
                self.base.read(from, part)?;
            }
            done += length as usize;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let result = self.write_blocks(at, from);
        self.failures.note("written", &self.path, result)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.failures.note("flushed", &self.path, self.file.sync_data())
    }
}
