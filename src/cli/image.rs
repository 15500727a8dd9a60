//! Finds the guest that a person names: a file, or a built-in workload.
use super::error::CliError;
use crate::bench::workload;
use crate::loader::Image;
use std::path::Path;

/// The image named `name`: a file if there is one (or the name looks like a path), else the built-in workload.
pub(super) fn open(name: &str, flat: bool) -> Result<Image, CliError> {
    let path = Path::new(name);
    let built_in = workload::find(name);
    let bytes = match built_in {
        Some(workload) if !path.exists() => workload.image.to_vec(),
        _ => std::fs::read(path).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound && !name.contains('/') {
                CliError::Usage(format!(
                    "there is no file and no built-in workload named '{name}'; 'trivisor list' shows the workloads"
                ))
            } else {
                CliError::Read { path: path.to_owned(), source }
            }
        })?,
    };
    let image = if flat { Image::flat(bytes) } else { Image::parse(&bytes) };
    image.map_err(|source| CliError::Image { name: name.to_owned(), source })
}
