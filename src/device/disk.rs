//! What every kind of disk stands on: a store of bytes, which the host's end provides.
use std::io;

/// Where a disk's bytes are kept: the host's end. Called on the vCPU's thread, under the device's lock.
pub trait DiskStore: Send {
    /// Bytes of the disk. They stay the same, whatever happens to what is behind.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;
    /// Reads all of `into` from the byte `at` on.
    ///
    /// # Errors
    /// What the host said; the guest sees an I/O error.
    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of `from` from the byte `at` on.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn write(&mut self, at: u64, from: &[u8]) -> io::Result<()>;
    /// What was written before survives a failure of the host's power.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn flush(&mut self) -> io::Result<()>;
}
