//! A raw image: the disk's bytes are the file's.
use super::{DiskError, Failures, SECTOR, open_file, size_of};
use crate::device::disk::DiskStore;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The image.
#[derive(Debug)]
pub(super) struct RawImage {
    file: File,
    path: PathBuf,
    size: u64,
    read_only: bool,
    /// A file, and no device: it can shrink.
    regular: bool,
    failures: Failures,
}

impl RawImage {
    pub(super) fn open(path: &Path, read_only: bool, failures: Failures) -> Result<Self, DiskError> {
        let (mut file, regular) =
            open_file(path, OpenOptions::new().read(true).write(!read_only), !read_only)?;
        let size = size_of(&mut file).map_err(|source| DiskError::Open { path: path.to_owned(), source })?
            / SECTOR
            * SECTOR;
        if size == 0 {
            let why = "is shorter than one sector of 512 bytes, and so no disk image".to_owned();
            return Err(DiskError::Unfit { path: path.to_owned(), why });
        }
        Ok(Self { file, path: path.to_owned(), size, read_only, regular, failures })
    }

    /// What the file system knows of the image, if it is a file.
    pub(super) fn file_metadata(&self) -> io::Result<Option<Metadata>> {
        if self.regular { self.file.metadata().map(Some) } else { Ok(None) }
    }

    /// A file that has become shorter is not made longer again by a write: the guest is told that its disk is broken.
    fn still_has(&self, end: u64) -> io::Result<()> {
        if self.regular && self.file.metadata()?.len() < end {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
        }
        Ok(())
    }
}

impl DiskStore for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.failures.note("read", &self.path, self.file.read_exact_at(into, at))
    }

    fn write(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        let end = at.saturating_add(from.len() as u64);
        let result = self.still_has(end).and_then(|()| self.file.write_all_at(from, at));
        self.failures.note("written", &self.path, result)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.failures.note("flushed", &self.path, self.file.sync_data())
    }
}
