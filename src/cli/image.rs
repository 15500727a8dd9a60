//! Finds the guest that a person names: a built-in workload, or a file.
//!
//! A name of a workload means the workload, whatever lies in the current directory, so that a command means the same
//! everywhere; `./NAME` means the file.
use super::error::CliError;
use crate::bench::workload;
use crate::loader::{Image, LoadError};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that an image file may have.
const MOST: u64 = 1 << 30;

/// Likeness (0 to 1, Jaro and Winkler's) from which on a wrong name is taken for a slip.
const ALIKE: f64 = 0.85;

/// The image named `name`: the built-in workload if there is one, else a file.
pub(super) fn open(name: &OsStr, flat: bool) -> Result<Image, CliError> {
    let path = Path::new(name);
    let built_in = name.to_str().and_then(workload::find);
    let bytes = match built_in {
        Some(workload) => workload.image.to_vec(),
        None => read(path).map_err(|source| {
            let plain = !name.as_encoded_bytes().contains(&b'/');
            if source.kind() == io::ErrorKind::NotFound && plain {
                CliError::Usage(format!(
                    "there is no file and no built-in workload named '{}'{}; 'trivisor list' shows the workloads",
                    path.display(),
                    meant(&path.to_string_lossy())
                ))
            } else {
                CliError::Read { path: path.to_owned(), source }
            }
        })?,
    };
    let image = if flat { Image::flat(bytes) } else { Image::parse(&bytes) };
    image.map_err(|source| CliError::Image { name: path.display().to_string(), source })
}

/// The image in the file `name`, even if a workload has that name.
pub(super) fn open_file(name: &OsStr) -> Result<Image, CliError> {
    let bytes = read_file(name)?;
    Image::parse(&bytes).map_err(|source| of_file(name, source))
}

/// The firmware in the file `name`.
pub(super) fn open_firmware(name: &OsStr) -> Result<Image, CliError> {
    Image::firmware(read_file(name)?).map_err(|source| of_file(name, source))
}

/// `image` with the initial RAM disk in the file `name`.
pub(super) fn add_initrd(image: Image, name: &OsStr) -> Result<Image, CliError> {
    image.with_initrd(read_file(name)?).map_err(|source| of_file(name, source))
}

/// The bytes of the file `name`.
pub(super) fn read_file(name: &OsStr) -> Result<Vec<u8>, CliError> {
    if name.is_empty() {
        return Err(CliError::Usage("a file without a name is asked for; is a variable empty?".to_owned()));
    }
    let path = Path::new(name);
    read(path).map_err(|source| CliError::Read { path: path.to_owned(), source })
}

fn of_file(name: &OsStr, source: LoadError) -> CliError {
    CliError::Image { name: name.display().to_string(), source }
}

/// `; did you mean 'crc32'?` if a workload has a name like this, else nothing.
pub(super) fn meant(name: &str) -> String {
    let likeness = |w: &workload::Workload| strsim::jaro_winkler(name, w.name);
    workload::all()
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|w| likeness(w) > ALIKE)
        .map(|w| format!("; did you mean '{}'?", w.name))
        .unwrap_or_default()
}

/// The bytes of an image file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |why: &str| Err(io::Error::other(why.to_owned()));
    let metadata = std::fs::metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return refused("it is a directory; name the image in it");
    }
    if !kind.is_file() {
        // Opening a pipe waits for a writer, who may never come.
        return refused("it is a device, pipe or socket; copy the image to a file first");
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MOST)).unwrap_or(0) + 1);
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return refused("it has more than 1 GiB, which no image needs");
    }
    Ok(bytes)
}
