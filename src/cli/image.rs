//! Finds the guest that a person names: a file, or a built-in workload.
use super::error::CliError;
use crate::bench::workload;
use crate::loader::Image;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Bytes that an image file may have. A pipe has no size to look at beforehand, and may never end.
const MOST: u64 = 1 << 30;

/// The image named `name`: a file if there is one (or the name looks like a path), else the built-in workload.
pub(super) fn open(name: &OsStr, flat: bool) -> Result<Image, CliError> {
    let path = Path::new(name);
    let built_in = name.to_str().and_then(workload::find);
    let bytes = match built_in {
        Some(workload) if !path.exists() => workload.image.to_vec(),
        _ => read(path).map_err(|source| {
            let plain = !name.as_encoded_bytes().contains(&b'/');
            if source.kind() == io::ErrorKind::NotFound && plain {
                CliError::Usage(format!(
                    "there is no file and no built-in workload named '{}'; 'trivisor list' shows the workloads",
                    path.display()
                ))
            } else {
                CliError::Read { path: path.to_owned(), source }
            }
        })?,
    };
    let image = if flat { Image::flat(bytes) } else { Image::parse(&bytes) };
    image.map_err(|source| CliError::Image { name: path.display().to_string(), source })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |why: &str| Err(io::Error::other(why.to_owned()));
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return refused("it is a directory; name the image in it");
    }
    if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        return refused("it is a device or socket; copy the image to a file first");
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return refused("it has more than 1 GiB, which no image needs");
    }
    Ok(bytes)
}
