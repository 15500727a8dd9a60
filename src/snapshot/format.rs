//! The bytes of a snapshot file; `docs/snapshot-format.md` says the same in words.
//!
//! All numbers are little-endian. A page of header names the sections; the pages of RAM come right behind it, so that they
//! lie at multiples of the page size.
use super::SnapshotError;
use crate::arch::address::PAGE_SIZE;
use std::path::Path;

/// What every snapshot begins with.
pub(super) const MAGIC: [u8; 8] = *b"trivisor";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 2;
/// Bytes of the header: one page.
pub(super) const HEADER: usize = PAGE_SIZE as usize;
/// Where the header's own checksum is.
const CHECKSUM: usize = HEADER - 4;
/// Where the sections are named, and bytes of a name.
const NAMES: usize = 32;
const NAME: usize = 24;
/// Bytes of a run in the list of runs.
pub(super) const RUN: usize = 16;
/// The most pages in one run: it is read, checked and written in one piece.
pub(super) const MOST_PAGES: u32 = 64;
/// No shape or state is larger.
const MOST_STATE: u64 = 64 << 20;

/// Where a section is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// CRC-32 of its bytes. The pages of RAM have one for each run instead.
    pub(super) checksum: u32,
}

/// The sections, in the order of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Header {
    /// Bytes of the whole file.
    pub(super) size: u64,
    pub(super) pages: Section,
    pub(super) runs: Section,
    pub(super) shape: Section,
    pub(super) state: Section,
}

/// Pages of RAM that follow each other, in RAM and in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Number of the first page, in the memory object.
    pub(super) first: u64,
    /// At least one, at most [`MOST_PAGES`].
    pub(super) pages: u32,
    /// CRC-32 of their bytes.
    pub(super) checksum: u32,
}

impl Run {
    pub(super) fn bytes(self) -> usize {
        self.pages as usize * PAGE_SIZE as usize
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    const TAGS: [[u8; 4]; 4] = [*b"PAGE", *b"RUNS", *b"SHAP", *b"STAT"];

    /// The header's page.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        let sections = [self.pages, self.runs, self.shape, self.state];
        for (i, (tag, section)) in Self::TAGS.iter().zip(sections).enumerate() {
            let at = NAMES + NAME * i;
            bytes[at..at + 4].copy_from_slice(tag);
            bytes[at + 4..at + 8].copy_from_slice(&section.checksum.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&section.offset.to_le_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&section.length.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of a file of `size` bytes, of which `bytes` are the first: a page, or all.
    pub(super) fn decode(path: &Path, bytes: &[u8], size: u64) -> Result<Self, SnapshotError> {
        let damaged = || SnapshotError::Damaged { path: path.to_owned(), what: "header" };
        if bytes.len() < 12 || bytes[..8] != MAGIC {
            return Err(SnapshotError::NoSnapshot(path.to_owned()));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(SnapshotError::Version { path: path.to_owned(), version });
        }
        if bytes.len() < HEADER {
            return Err(SnapshotError::CutOff { path: path.to_owned(), size, whole: None });
        }
        if u32_at(bytes, CHECKSUM) != crc32fast::hash(&bytes[..CHECKSUM]) {
            return Err(damaged());
        }
        let whole = u64_at(bytes, 16);
        if size < whole {
            return Err(SnapshotError::CutOff { path: path.to_owned(), size, whole: Some(whole) });
        }
        let mut sections = [Section::default(); 4];
        for (i, (tag, section)) in Self::TAGS.iter().zip(&mut sections).enumerate() {
            let at = NAMES + NAME * i;
            *section = Section {
                checksum: u32_at(bytes, at + 4),
                offset: u64_at(bytes, at + 8),
                length: u64_at(bytes, at + 16),
            };
            let end = section.offset.checked_add(section.length).filter(|end| *end <= whole);
            if bytes[at..at + 4] != *tag || section.offset < HEADER as u64 || end.is_none() {
                return Err(damaged());
            }
        }
        let [pages, runs, shape, state] = sections;
        let ram_fits = pages.length.is_multiple_of(PAGE_SIZE)
            && runs.length.is_multiple_of(RUN as u64)
            && runs.length / RUN as u64 <= pages.length / PAGE_SIZE;
        if size != whole || !ram_fits || shape.length.max(state.length) > MOST_STATE {
            return Err(damaged());
        }
        Ok(Self { size, pages, runs, shape, state })
    }
}

/// The list of runs as bytes.
pub(super) fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let one = |run: &Run| {
        let mut bytes = [0; RUN];
        bytes[..8].copy_from_slice(&run.first.to_le_bytes());
        bytes[8..12].copy_from_slice(&run.pages.to_le_bytes());
        bytes[12..].copy_from_slice(&run.checksum.to_le_bytes());
        bytes
    };
    runs.iter().flat_map(one).collect()
}

/// The list of runs of a RAM of so many bytes, whose pages take `length` bytes in the file; `None` if it makes no sense.
pub(super) fn decode_runs(bytes: &[u8], ram: u64, length: u64) -> Option<Vec<Run>> {
    let (mut runs, mut next, mut total) = (vec![], 0_u64, 0_u64);
    for bytes in bytes.chunks_exact(RUN) {
        let run = Run { first: u64_at(bytes, 0), pages: u32_at(bytes, 8), checksum: u32_at(bytes, 12) };
        let end = run.first.checked_add(run.pages.into()).filter(|end| *end <= ram / PAGE_SIZE)?;
        if run.first < next || !(1..=MOST_PAGES).contains(&run.pages) {
            return None;
        }
        next = end;
        total += run.bytes() as u64;
        runs.push(run);
    }
    (total == length).then_some(runs)
}
