//! The whole machine in a file: CPUs, RAM, devices, pending interrupts, guest time; restored in any mode.
//!
//! What a state is made of says [`crate::machine`], how it lies in the file `format` and `docs/snapshot-format.md`. A
//! snapshot is written beside its place and put there when it is whole; one that cannot be restored is refused with the
//! reason, before anything is changed. Disks are not in it: their images have to be as they were.
mod format;
mod memory;
mod ram;
pub mod recording;

pub use memory::{Memory, Series, kept};

use crate::arch::address::PAGE_SIZE;
use crate::machine::{
    ConsoleSink, Machine, MachineError, MachineSpec, RestoreError, SavedMachine, SavedShape,
};
use crate::mem::GuestRam;
use format::{HEADER, Header, MAGIC, Run, Section, VERSION};
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why there is no snapshot, or none that can be restored: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read the snapshot {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the snapshot {path}: {source}", path = path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another kind of file.
    #[error("{path} is no snapshot of trivisor", path = .0.display())]
    NoSnapshot(PathBuf),
    /// Another trivisor wrote it.
    #[error("the snapshot {path} has version {version}; this trivisor reads version {VERSION}", path = path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The end is missing.
    #[error("the snapshot {path} is cut off: it has {size} bytes{}", whole.map(|whole| format!(" of {whole}")).unwrap_or_default(), path = path.display())]
    CutOff {
        /// Which file.
        path: PathBuf,
        /// Bytes that are there.
        size: u64,
        /// Bytes that were written, if that is known.
        whole: Option<u64>,
    },
    /// Its bytes are not those that were written.
    #[error("the snapshot {path} is damaged: its {what} is not what was written", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
    },
    /// The machine cannot be saved, or refuses the state.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The machine is half restored, and must not go on.
    #[error("the machine was lost on its way into the snapshot: {0}")]
    Lost(String),
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    /// Pages of RAM in it.
    pub pages: u64,
}

/// A file that is removed unless it is kept.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    kept: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // There is nothing more to be done about it.
            let _stays = std::fs::remove_file(&self.path);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a file lies until it is whole: beside its place, under a name that no other process uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    // Two containers may have processes of one number.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    hidden.push(format!(".{}.{now:x}", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Whether a file of ours that begins with `magic` can be put at `path`: in a folder that is there, in place of nothing else
/// than one of its kind. Devices,
/// links, disks and whatever else the name may be are not to be lost.
fn fits(path: &Path, magic: [u8; 8]) -> io::Result<()> {
    if !folder_of(path).metadata()?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    let is_same = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) => there.is_file() && begins_with(path, magic)?,
    };
    let what = if magic == MAGIC { "snapshot" } else { "recording" };
    if is_same {
        Ok(())
    } else {
        Err(io::Error::other(format!("what is there is no {what}; remove it first")))
    }
}

/// Whether the file begins as all of a kind do, of any version; an empty one may become one.
fn begins_with(path: &Path, magic: [u8; 8]) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut first = [0; 8];
    Ok(file.metadata()?.len() == 0 || file.read_exact_at(&mut first, 0).is_ok() && first == magic)
}

/// Looks whether a snapshot can be saved at `path`, before a machine runs for it.
///
/// # Errors
/// [`SnapshotError::Write`].
pub fn can_be_saved(path: &Path) -> Result<(), SnapshotError> {
    fits(path, MAGIC).map_err(|source| SnapshotError::Write { path: path.to_owned(), source })
}

/// Saves a machine that stands to a file, in place of one that is there.
///
/// # Errors
/// [`SnapshotError`]; a file that is there stays as it is.
pub fn save(machine: &mut Machine, path: &Path) -> Result<Written, SnapshotError> {
    let state = machine.save()?;
    let failed = |source| SnapshotError::Write { path: path.to_owned(), source };
    write(machine, &state, path).map_err(failed)
}

fn write(machine: &Machine, state: &SavedMachine, path: &Path) -> io::Result<Written> {
    fits(path, MAGIC)?;
    let temporary = beside(path)?;
    // A guest's memory is nobody else's business.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut unfinished = Unfinished { path: temporary, kept: false };
    let written = write_at(machine, state, &file, 0)?;
    put_in_place(&file, &mut unfinished, path)?;
    Ok(written)
}

/// Gives a file that is whole its name.
fn put_in_place(file: &File, unfinished: &mut Unfinished, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    std::fs::rename(&unfinished.path, path)?;
    unfinished.kept = true;
    // The new name is to outlast a crash, too, where the file system can say so.
    let _unsaid = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Writes a snapshot into `file`, from `base` on, to which its own offsets refer.
fn write_at(machine: &Machine, state: &SavedMachine, file: &File, base: u64) -> io::Result<Written> {
    let begin = HEADER as u64;
    let runs = ram::write(machine.platform().ram(), file, base + begin)?;
    let pages: u64 = runs.iter().map(|run| u64::from(run.pages)).sum();
    let length = runs.iter().map(|run| run.bytes() as u64).sum();
    let mut header = Header { pages: Section { offset: begin, length, checksum: 0 }, ..Header::default() };
    header.size = begin + length;
    let encoded = |result: Result<Vec<u8>, postcard::Error>| result.map_err(io::Error::other);
    let mut add = |bytes: Vec<u8>| -> io::Result<Section> {
        file.write_all_at(&bytes, base + header.size)?;
        let section =
            Section { offset: header.size, length: bytes.len() as u64, checksum: crc32fast::hash(&bytes) };
        header.size += section.length;
        Ok(section)
    };
    let runs = add(format::encode_runs(&runs))?;
    let shape = add(encoded(postcard::to_allocvec(machine.shape()))?)?;
    let state = add(encoded(postcard::to_allocvec(state))?)?;
    header = Header { runs, shape, state, ..header };
    file.write_all_at(&header.encode(), base)?;
    Ok(Written { size: header.size, pages })
}

/// A snapshot file that was opened and looked at.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    file: File,
    /// Where in the file it begins.
    base: u64,
    header: Header,
    shape: SavedShape,
    state: SavedMachine,
    runs: Vec<Run>,
}

/// A file and its size; `None` if it is of another kind, a pipe or a folder.
fn open_file(path: &Path) -> io::Result<Option<(File, u64)>> {
    // Opening a pipe would wait for its other end: look first.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(None);
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok(Some((file, size)))
}

impl Snapshot {
    /// Opens a snapshot and checks all of it but the pages of RAM, which are checked as they are read.
    ///
    /// # Errors
    /// [`SnapshotError`] with the reason why it is none, or none that can be read.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
        let opened = open_file(path).map_err(failed)?;
        let (file, size) = opened.ok_or_else(|| SnapshotError::NoSnapshot(path.to_owned()))?;
        Self::open_at(path, file, 0, size)
    }

    /// As [`Self::open`], of the `size` bytes of `file` from `base` on.
    fn open_at(path: &Path, file: File, base: u64, size: u64) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
        let mut first = vec![0; size.min(HEADER as u64) as usize];
        file.read_exact_at(&mut first, base).map_err(failed)?;
        let header = Header::decode(path, &first, size)?;
        let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
        let section = |what, section: Section| {
            let length = usize::try_from(section.length).map_err(|_| damaged(what))?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, base + section.offset).map_err(failed)?;
            if crc32fast::hash(&bytes) == section.checksum { Ok(bytes) } else { Err(damaged(what)) }
        };
        let shape: SavedShape = decode(&section("shape", header.shape)?).ok_or_else(|| damaged("shape"))?;
        let state = decode(&section("state", header.state)?).ok_or_else(|| damaged("state"))?;
        let what = "list of pages";
        // Before a list of that length is allocated.
        if shape.memory > GuestRam::MOST || header.runs.length > shape.memory / PAGE_SIZE * format::RUN as u64
        {
            return Err(damaged(what));
        }
        let runs = format::decode_runs(&section(what, header.runs)?, shape.memory, header.pages.length);
        let runs = runs.ok_or_else(|| damaged(what))?;
        Ok(Self { path: path.to_owned(), file, base, header, shape, state, runs })
    }

    /// What machine it is of.
    #[must_use]
    pub fn shape(&self) -> &SavedShape {
        &self.shape
    }

    /// Bytes of RAM that it holds.
    #[must_use]
    pub fn filled(&self) -> u64 {
        self.header.pages.length
    }

    fn fill(&self, ram: &GuestRam) -> Result<(), ram::RamError> {
        ram::fill(ram, &self.file, self.base + self.header.pages.offset, &self.runs)
    }

    fn of_ram(&self, error: ram::RamError) -> SnapshotError {
        match error {
            ram::RamError::Io(source) => SnapshotError::Read { path: self.path.clone(), source },
            ram::RamError::Checksum => SnapshotError::Damaged { path: self.path.clone(), what: "RAM" },
        }
    }

    /// Builds a machine of `spec`, which [`MachineSpec::take_shape`] made fit, and puts it where the snapshot was taken.
    /// `rom` is its firmware, if it has one.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing stays behind.
    pub fn build(
        &self,
        spec: &MachineSpec,
        rom: Option<&[u8]>,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Machine, SnapshotError> {
        let mut unread = None;
        let mut fill = |ram: &GuestRam| {
            self.fill(ram).map_err(|error| {
                let sentence = error.to_string();
                unread = Some(error);
                sentence
            })
        };
        let built = Machine::restore(spec, rom, (&self.shape, &self.state), &mut fill, console);
        match unread {
            Some(error) => Err(self.of_ram(error)),
            None => Ok(built?),
        }
    }

    /// Puts a machine where the snapshot was taken.
    ///
    /// # Errors
    /// [`SnapshotError`]; the machine is as it was then, unless it is [`SnapshotError::Lost`].
    pub fn put_into(&self, machine: &mut Machine) -> Result<(), SnapshotError> {
        if let Some(difference) = self.shape.difference(machine.shape()) {
            return Err(MachineError::refused_shape(difference).into());
        }
        // What is wrong with it shows before anything is changed.
        ram::verify(&self.file, self.base + self.header.pages.offset, &self.runs)
            .map_err(|error| self.of_ram(error))?;
        take_on(machine, &self.state, |ram| self.fill(ram).map_err(|error| error.to_string()))
    }
}

/// Puts a machine into `state`, with the RAM that `fill` brings.
fn take_on(
    machine: &mut Machine,
    state: &SavedMachine,
    mut fill: impl FnMut(&GuestRam) -> Result<(), String>,
) -> Result<(), SnapshotError> {
    machine.take_on(state, &mut fill).map_err(|refusal| match refusal {
        // From there on it is neither what it was nor what it was to be.
        RestoreError::Ram(why) => SnapshotError::Lost(why),
        refusal => MachineError::from(refusal).into(),
    })
}

/// A value that takes all of its bytes.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_snapshot_takes_the_place_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("disk"), [0; 512]).unwrap();
        std::fs::write(at("older"), [MAGIC.as_slice(), &[9; 20]].concat()).unwrap();
        std::fs::write(at("empty"), []).unwrap();
        symlink(at("older"), at("link")).unwrap();
        for good in ["new", "older", "empty"] {
            assert!(can_be_saved(&at(good)).is_ok(), "{good}");
        }
        for bad in ["disk", "link", ".", "nowhere/new", "disk/new"] {
            assert!(can_be_saved(&at(bad)).is_err(), "{bad}");
        }
        assert!(can_be_saved(Path::new("/dev/null")).is_err());
    }
}
