//! Disks, as the command line names them: `FILE[,ide|,cdrom][,ro][,overlay=FILE]`.
use crate::host::disk::DiskSpec;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// How a disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attachment {
    Virtio,
    /// To an IDE channel.
    Ide,
    /// To an IDE channel, as a medium that is only read.
    CdRom,
}

/// A disk, and how it is attached.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) spec: DiskSpec,
    pub(super) attachment: Attachment,
}

/// The disk that `value` names.
pub(super) fn parse(value: &OsStr) -> Result<Disk, String> {
    let name = |bytes: &[u8]| OsString::from_vec(bytes.to_vec()).into();
    let mut parts = value.as_bytes().split(|&b| b == b',');
    let image = parts.next().unwrap_or_default();
    if image.is_empty() {
        return Err("no file is named; write FILE[,ide|,cdrom][,ro][,overlay=FILE]".into());
    }
    let mut disk = DiskSpec { image: name(image), read_only: false, overlay: None };
    let mut attachment = Attachment::Virtio;
    for part in parts {
        match (part, part.strip_prefix(b"overlay=")) {
            (b"ro", _) => disk.read_only = true,
            (b"ide" | b"cdrom", _) if attachment != Attachment::Virtio => {
                return Err("a disk is attached once: ide or cdrom".into());
            }
            (b"ide", _) => attachment = Attachment::Ide,
            (b"cdrom", _) => (attachment, disk.read_only) = (Attachment::CdRom, true),
            (_, Some(b"")) => return Err("overlay= names no file".into()),
            (_, Some(_)) if disk.overlay.is_some() => return Err("a disk has one overlay".into()),
            (_, Some(file)) => disk.overlay = Some(name(file)),
            _ => {
                let part = OsStr::from_bytes(part);
                return Err(format!(
                    "'{}' is neither ide nor cdrom nor ro nor overlay=FILE (names of files have no comma here)",
                    part.display()
                ));
            }
        }
    }
    if attachment == Attachment::CdRom && disk.overlay.is_some() {
        return Err("nothing is written to a CD-ROM, so it takes no overlay".into());
    }
    Ok(Disk { spec: disk, attachment })
}

/// The first image that two of `disks` have and that one of them writes.
pub(super) fn named_twice(disks: &[Disk]) -> Option<&Path> {
    let file = |disk: &Disk| disk.spec.image.canonicalize().unwrap_or_else(|_| disk.spec.image.clone());
    let writes = |disk: &Disk| !disk.spec.read_only && disk.spec.overlay.is_none();
    disks.iter().enumerate().find_map(|(i, disk)| {
        let other = disks[..i].iter().find(|other| file(other) == file(disk))?;
        (writes(disk) || writes(other)).then_some(disk.spec.image.as_path())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_written_is_named_once() {
        let twice = |words: [&str; 2]| {
            let disks = words.map(|word| parse(OsStr::new(word)).unwrap());
            named_twice(&disks).is_some()
        };
        assert!(twice(["/a", "/a"]) && twice(["/a,ro", "/a"]) && twice(["/", "/./"]));
        assert!(!twice(["/a", "/b"]) && !twice(["/a,ro", "/a,ro"]));
        assert!(!twice(["/a,overlay=/b", "/a,overlay=/c"]));
    }

    #[test]
    fn a_disk_is_a_file_and_what_is_said_of_it() {
        let plain = parse(OsStr::new("a.img")).unwrap().spec;
        assert_eq!(
            (plain.image.as_path(), plain.read_only, plain.overlay),
            (Path::new("a.img"), false, None)
        );
        let disk = parse(OsStr::new("b,overlay=c.cow,ro,ide")).unwrap();
        assert!(disk.attachment == Attachment::Ide && disk.spec.read_only);
        let disk = disk.spec;
        assert_eq!(disk.overlay.as_deref(), Some(Path::new("c.cow")));
        let cd = parse(OsStr::new("b.iso,cdrom")).unwrap();
        assert!(cd.attachment == Attachment::CdRom && cd.spec.read_only);
        let odd = OsStr::from_bytes(b"\xff,ro");
        assert_eq!(parse(odd).unwrap().spec.image.as_os_str().as_bytes(), b"\xff");
        for wrong in [
            "",
            ",ro",
            "a,rw",
            "a,",
            "a,overlay=",
            "a,overlay=b,overlay=c",
            "a,ide,cdrom",
            "a,cdrom,overlay=b",
        ] {
            assert!(parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
