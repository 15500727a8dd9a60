//! Disks, as the command line names them: `FILE[,ro][,overlay=FILE]`.
use crate::host::disk::DiskSpec;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The disk that `value` names.
pub(super) fn parse(value: &OsStr) -> Result<DiskSpec, String> {
    let name = |bytes: &[u8]| OsString::from_vec(bytes.to_vec()).into();
    let mut parts = value.as_bytes().split(|&b| b == b',');
    let image = parts.next().unwrap_or_default();
    if image.is_empty() {
        return Err("no file is named; write FILE[,ro][,overlay=FILE]".into());
    }
    let mut disk = DiskSpec { image: name(image), read_only: false, overlay: None };
    for part in parts {
        match (part, part.strip_prefix(b"overlay=")) {
            (b"ro", _) => disk.read_only = true,
            (_, Some(b"")) => return Err("overlay= names no file".into()),
            (_, Some(_)) if disk.overlay.is_some() => return Err("a disk has one overlay".into()),
            (_, Some(file)) => disk.overlay = Some(name(file)),
            _ => {
                let part = OsStr::from_bytes(part);
                return Err(format!(
                    "'{}' is neither ro nor overlay=FILE (names of files have no comma here)",
                    part.display()
                ));
            }
        }
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_disk_is_a_file_and_what_is_said_of_it() {
        let plain = parse(OsStr::new("a.img")).unwrap();
        assert_eq!(
            (plain.image.as_path(), plain.read_only, plain.overlay),
            (Path::new("a.img"), false, None)
        );
        let disk = parse(OsStr::new("b,overlay=c.cow,ro")).unwrap();
        assert!(disk.read_only);
        assert_eq!(disk.overlay.as_deref(), Some(Path::new("c.cow")));
        let odd = OsStr::from_bytes(b"\xff,ro");
        assert_eq!(parse(odd).unwrap().image.as_os_str().as_bytes(), b"\xff");
        for wrong in ["", ",ro", "a,rw", "a,", "a,overlay=", "a,overlay=b,overlay=c"] {
            assert!(parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
