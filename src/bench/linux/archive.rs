//! The archive that a kernel unpacks as its first file system: cpio in the "new ASCII" form
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), not compressed, so that no mode spends its time on that.

use std::fmt::Write as _;

/// File type and permissions of a folder, as in `st_mode`.
const FOLDER: u32 = 0o040_755;
/// Those of a program.
const PROGRAM: u32 = 0o100_755;
/// Those of a file of data.
const FILE: u32 = 0o100_644;

/// An archive that is being made. The same calls give the same bytes: there are no times in it.
#[derive(Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    /// Adds a folder; those above it must be there.
    pub(super) fn folder(&mut self, name: &str) {
        self.add(name, FOLDER, &[]);
    }

    /// Adds a program.
    pub(super) fn program(&mut self, name: &str, contents: &[u8]) {
        self.add(name, PROGRAM, contents);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, name: &str, contents: &[u8]) {
        self.add(name, FILE, contents);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.0
    }

    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        // The name's length counts the zero at its end. No file comes near 4 GiB: what is added is read into memory first.
        let (size, name_size) = (contents.len() as u32, name.len() as u32 + 1);
        let (inode, links) = (0, 1);
        let mut header = String::from("070701");
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            // Writing to a string cannot fail.
            let _ = write!(header, "{field:08x}");
        }
        self.0.extend([header.as_bytes(), name.as_bytes(), &[0]].concat());
        self.pad();
        self.0.extend(contents);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in an archive: names, modes, contents. Reads it by the fields' own lengths.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut at = 0;
        let mut entries = Vec::new();
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = &archive[at + 110..at + 110 + name_size - 1];
            let start = (at + 110 + name_size).next_multiple_of(4);
            let contents = archive[start..start + size].to_vec();
            entries.push((String::from_utf8(name.to_vec()).unwrap(), mode, contents));
            at = (start + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn what_is_put_in_is_in_it() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.program("bin/a", b"12345");
        archive.file("b", b"");
        let (name, mode) = (|n: &str| n.to_owned(), 0);
        assert_eq!(
            entries(&archive.finish()),
            [
                (name("bin"), 0o040_755, vec![]),
                (name("bin/a"), 0o100_755, b"12345".to_vec()),
                (name("b"), 0o100_644, vec![]),
                (name("TRAILER!!!"), mode, vec![]),
            ]
        );
    }
}
