//! Disk images on the host: a raw file, read-only or not, and an overlay that takes the writes in its stead.
//!
//! An image is locked while it is open (advisory, by flock): two machines that write one image destroy it. What happens
//! to the files of an open disk meanwhile ends in errors of single accesses, which the guest sees; the first is kept for
//! the person ([`Failures`]).
mod overlay;
mod raw;
#[cfg(test)]
mod tests;

use crate::device::disk::DiskStore;
use overlay::Overlay;
use raw::RawImage;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes of a sector; an image's last sector is left out if it is not whole.
const SECTOR: u64 = 512;

/// Which disk is wanted: plain data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// The image: a raw file or block device.
    pub image: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// Takes the guest's writes, so that the image stays as it is. Made where it does not exist.
    pub overlay: Option<PathBuf>,
}

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host refuses.
    #[error("cannot open the disk image {path}: {source}", path = path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It may be read, and not written.
    #[error("the disk image {path} may not be written ({source}); ',ro' or ',overlay=FILE' behind its name let it as it is", path = path.display())]
    Denied {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be a disk, or not this one.
    #[error("{path} {why}", path = path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The first failure of a disk, if there was one. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<OnceLock<String>>);

impl Failures {
    /// What went wrong first, for a person.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn note<T>(&self, doing: &str, path: &Path, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let _later_ones_are_not_kept =
                self.0.set(format!("{path} could not be {doing}: {error}", path = path.display()));
        }
        result
    }
}

/// Opens a disk, whose failures are told to `failures`.
///
/// # Errors
/// [`DiskError`], for files that are no disks, cannot be opened or are in use.
pub fn open(spec: &DiskSpec, failures: &Failures) -> Result<Box<dyn DiskStore>, DiskError> {
    let Some(overlay) = &spec.overlay else {
        return Ok(Box::new(RawImage::open(&spec.image, spec.read_only, failures.clone())?));
    };
    let base = RawImage::open(&spec.image, true, failures.clone())?;
    Ok(Box::new(Overlay::open(overlay, base, spec.read_only, failures.clone())?))
}

/// Opens a file that is to be a disk or part of one, and locks it: for us alone if it is written.
fn open_file(path: &Path, options: &OpenOptions, writes: bool) -> Result<(File, bool), DiskError> {
    let failed = |source| DiskError::Open { path: path.to_owned(), source };
    let unfit = |why: &str| DiskError::Unfit { path: path.to_owned(), why: why.to_owned() };
    // Opening a pipe would wait for its other end: look first.
    if let Ok(metadata) = path.metadata() {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(unfit("is a directory; name a disk image in it"));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(unfit("is neither a file nor a block device, and so no disk image"));
        }
    }
    let denied = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            if writes && File::open(path).is_ok() =>
        {
            DiskError::Denied { path: path.to_owned(), source }
        }
        _ => failed(source),
    };
    let file = options.open(path).map_err(denied)?;
    let regular = file.metadata().map_err(failed)?.is_file();
    let locked = if writes { file.try_lock() } else { file.try_lock_shared() };
    match locked {
        Ok(()) => Ok((file, regular)),
        Err(TryLockError::WouldBlock) if writes => {
            Err(unfit("is in use by another machine; a disk that is written belongs to one alone"))
        }
        Err(TryLockError::WouldBlock) => Err(unfit("is being written by another machine")),
        // A file system without locks: the person has to see to it.
        Err(TryLockError::Error(_)) => Ok((file, regular)),
    }
}

/// Bytes of a file or block device.
fn size_of(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
