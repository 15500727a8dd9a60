//! Anonymous memory objects that several mappings and processes share (memfd_create(2)).
#![expect(unsafe_code, reason = "memfd_create has no safe wrapper in std")]
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};

/// Creates a memory object of `size` bytes, all zero, that can not shrink: a mapping of it never gets SIGBUS.
///
/// # Errors
/// What the kernel reports, for instance that the size exceeds a limit.
pub fn create(name: &CStr, size: u64) -> io::Result<File> {
    // SAFETY: `name` is a valid C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // SAFETY: plain system call on an owned descriptor.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// The stretches of an object of `size` bytes that have memory; all else is zero.
///
/// # Errors
/// What the kernel reports.
pub fn touched(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let seek = |from: u64, whence| {
        let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
        // SAFETY: plain system call on a descriptor that is open. Nothing here uses the file's own position.
        match unsafe { libc::lseek(file.as_raw_fd(), from, whence) } {
            at @ 0.. => Ok(Some(at as u64)),
            _ => match io::Error::last_os_error() {
                // There is nothing behind.
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    };
    let (mut all, mut at) = (vec![], 0);
    while at < size {
        let Some(start) = seek(at, libc::SEEK_DATA)?.filter(|start| *start < size) else { break };
        let end = seek(start, libc::SEEK_HOLE)?.unwrap_or(size).min(size);
        all.push(start..end);
        at = end.max(start + 1);
    }
    Ok(all)
}

/// Makes all `size` bytes of an object zero, in every mapping of it, and frees its memory.
///
/// # Errors
/// What the kernel reports.
pub fn clear(file: &File, size: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: plain system call on a descriptor that is open.
    let done = unsafe {
        libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_written_is_found_and_cleared() {
        let file = super::create(c"test", 1 << 20).unwrap();
        assert_eq!(super::touched(&file, 1 << 20).unwrap(), []);
        file.write_all_at(b"x", 5 * 4096 + 7).unwrap();
        file.write_all_at(b"x", (1 << 20) - 1).unwrap();
        let touched = super::touched(&file, 1 << 20).unwrap();
        let covers = |at: u64| touched.iter().any(|range| range.contains(&at));
        assert!(covers(5 * 4096 + 7) && covers((1 << 20) - 1));
        super::clear(&file, 1 << 20).unwrap();
        assert_eq!(super::touched(&file, 1 << 20).unwrap(), []);
        let mut byte = [1];
        file.read_exact_at(&mut byte, 5 * 4096 + 7).unwrap();
        assert_eq!((byte, file.metadata().unwrap().len()), ([0], 1 << 20));
    }

    #[test]
    fn the_object_has_its_size_and_keeps_it() {
        let file = super::create(c"test", 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert!(file.set_len(4096).is_err());
    }
}
