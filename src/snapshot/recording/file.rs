//! The bytes of a recording; `docs/recording-format.md` says the same in words.
use super::{Log, RecordingError};
use crate::clock::ClockSource;
use crate::engine::{Engine, Interface, Pair};
use crate::machine::{ConsoleSink, Machine, MachineSpec};
use crate::snapshot::{Snapshot, Unfinished, beside, decode, fits, open_file, put_in_place, write_at};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What every recording begins with.
const MAGIC: [u8; 8] = *b"trivirec";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// Bytes of the header: one page, so that the pages of RAM lie at multiples of the page size.
const HEADER: u64 = 4096;
const CHECKSUM: usize = HEADER as usize - 4;
/// No log is larger.
const MOST_LOG: u64 = 256 << 20;

/// Where the parts are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    /// Bytes of the snapshot, which lies behind the header.
    snapshot: u64,
    /// Bytes of the log, which lies behind the snapshot, and their CRC-32.
    log: u64,
    checksum: u32,
}

impl Header {
    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.snapshot.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.log.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of a file of `size` bytes that begins with `bytes`.
    fn decode(path: &Path, bytes: &[u8], size: u64) -> Result<Self, RecordingError> {
        let path = || path.to_owned();
        let u32_at =
            |at| bytes.get(at..at + 4).and_then(|b: &[u8]| b.try_into().ok()).map(u32::from_le_bytes);
        let u64_at =
            |at| bytes.get(at..at + 8).and_then(|b: &[u8]| b.try_into().ok()).map(u64::from_le_bytes);
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err(RecordingError::NoRecording(path()));
        }
        let version = u32_at(8).ok_or_else(|| RecordingError::NoRecording(path()))?;
        if version != VERSION {
            return Err(RecordingError::Version { path: path(), version });
        }
        let whole = |whole| RecordingError::CutOff { path: path(), size, whole };
        if bytes.len() < HEADER as usize {
            return Err(whole(HEADER));
        }
        let damaged = || RecordingError::Damaged { path: path(), what: "header" };
        if u32_at(CHECKSUM) != Some(crc32fast::hash(&bytes[..CHECKSUM])) {
            return Err(damaged());
        }
        let (Some(checksum), Some(snapshot), Some(log)) = (u32_at(12), u64_at(16), u64_at(24)) else {
            return Err(damaged());
        };
        let all =
            HEADER.checked_add(snapshot).and_then(|bytes| bytes.checked_add(log)).ok_or_else(damaged)?;
        if size < all {
            return Err(whole(all));
        }
        if size != all || log > MOST_LOG {
            return Err(damaged());
        }
        Ok(Self { snapshot, log, checksum })
    }
}

/// Looks whether a recording can be put at `path`, before a machine runs for it.
///
/// # Errors
/// [`RecordingError::Write`].
pub fn can_be_recorded(path: &Path) -> Result<(), RecordingError> {
    fits(path, MAGIC).map_err(|source| RecordingError::Write { path: path.to_owned(), source })
}

/// A recording whose beginning is written, beside its place.
#[derive(Debug)]
pub(super) struct Unwritten {
    path: PathBuf,
    file: File,
    unfinished: Unfinished,
    snapshot: u64,
}

impl Unwritten {
    /// Writes where the machine stands.
    pub(super) fn begin(machine: &mut Machine, path: &Path) -> Result<Self, RecordingError> {
        can_be_recorded(path)?;
        let state = machine.save()?;
        let failed = |source| RecordingError::Write { path: path.to_owned(), source };
        let begin = || -> io::Result<Self> {
            let temporary = beside(path)?;
            // A guest's memory is nobody else's business.
            let options = &mut OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
            let unfinished = Unfinished { path: temporary, kept: false };
            let snapshot = write_at(machine, &state, &file, HEADER)?.size;
            Ok(Self { path: path.to_owned(), file, unfinished, snapshot })
        };
        begin().map_err(failed)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the rest, and gives the file its name.
    pub(super) fn finish(mut self, log: &Log) -> Result<(), RecordingError> {
        let finish = |this: &mut Self| -> io::Result<()> {
            let bytes = postcard::to_allocvec(log).map_err(io::Error::other)?;
            this.file.write_all_at(&bytes, HEADER + this.snapshot)?;
            let header = Header {
                snapshot: this.snapshot,
                log: bytes.len() as u64,
                checksum: crc32fast::hash(&bytes),
            };
            this.file.write_all_at(&header.encode(), 0)?;
            put_in_place(&this.file, &mut this.unfinished, &this.path)
        };
        finish(&mut self).map_err(|source| RecordingError::Write { path: self.path.clone(), source })
    }
}

/// A recording that was opened and looked at.
#[derive(Debug)]
pub struct Recording {
    snapshot: Snapshot,
    pub(super) log: Log,
}

impl Recording {
    /// Opens a recording and checks all of it but the pages of RAM, which are checked as they are read.
    ///
    /// # Errors
    /// [`RecordingError`] with the reason why it is none, or none that can be read.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let failed = |source| RecordingError::Read { path: path.to_owned(), source };
        let opened = open_file(path).map_err(failed)?;
        let (file, size) = opened.ok_or_else(|| RecordingError::NoRecording(path.to_owned()))?;
        let mut first = vec![0; size.min(HEADER) as usize];
        file.read_exact_at(&mut first, 0).map_err(failed)?;
        let header = Header::decode(path, &first, size)?;
        let mut bytes = vec![0; header.log as usize];
        file.read_exact_at(&mut bytes, HEADER + header.snapshot).map_err(failed)?;
        let whole = crc32fast::hash(&bytes) == header.checksum;
        let log = decode(&bytes).filter(|log: &Log| whole && log.makes_sense());
        let log = log.ok_or_else(|| RecordingError::Damaged { path: path.to_owned(), what: "log" })?;
        let snapshot = Snapshot::open_at(path, file, HEADER, header.snapshot)?;
        Ok(Self { snapshot, log })
    }

    /// What the guest was called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.log.name
    }

    /// The machine that it is of.
    #[must_use]
    pub fn spec(&self) -> MachineSpec {
        let shape = self.snapshot.shape();
        let interface = if shape.hypercalls { Interface::Pv } else { Interface::None };
        let mut spec = MachineSpec::new(Pair { engine: Engine::Emu, interface });
        spec.take_shape(shape);
        spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
        spec
    }

    /// A machine where the recorded run began.
    ///
    /// # Errors
    /// [`RecordingError`]; nothing stays behind.
    pub fn build(&self, console: Box<dyn ConsoleSink>) -> Result<Machine, RecordingError> {
        Ok(self.snapshot.build(&self.spec(), None, console)?)
    }
}
