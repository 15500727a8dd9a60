//! Anonymous memory objects that several mappings and processes share (memfd_create(2)).
#![expect(unsafe_code, reason = "memfd_create has no safe wrapper in std")]
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_object_has_its_size_and_keeps_it() {
        let file = super::create(c"test", 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert!(file.set_len(4096).is_err());
    }
}
