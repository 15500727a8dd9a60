//! A virtio entropy device (virtio 1.2, 5.4): fills the guest's buffers with random bytes of the host.
//!
//! A buffer is filled with [`MOST`] bytes at most; the standard lets a device give fewer than asked. Where the host has
//! none to give, none are given.
use super::{Broken, CONFIGURATION, Queue, VirtioDevice};
use crate::device::BadState;
use crate::mem::GuestRam;
use std::io;

/// Bytes that one buffer is given.
pub const MOST: usize = 4096;

/// Where random bytes come from: the host's end.
pub trait EntropySource: Send {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// What the host said.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The device.
pub struct Entropy {
    // Runtime glue.
    source: Box<dyn EntropySource>,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

impl Entropy {
    /// A device that gives what `source` gives.
    #[must_use]
    pub fn new(source: Box<dyn EntropySource>) -> Self {
        Self { source }
    }
}

impl VirtioDevice for Entropy {
    type Saved = ();

    fn device_id(&self) -> u32 {
        super::spec::device_id::ENTROPY
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn configuration(&self) -> [u8; CONFIGURATION] {
        [0; CONFIGURATION]
    }

    fn negotiated(&mut self, _: u64) {}

    fn serve(&mut self, _: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        let mut bytes = [0; MOST];
        while let Some(mut chain) = queue.pop(ram)? {
            let length = chain.writable.left().min(MOST as u64) as usize;
            let bytes = &mut bytes[..length];
            let before = chain.writable.left();
            if self.source.fill(bytes).is_ok() {
                // A buffer that is no RAM takes what comes before it.
                let _partly = chain.writable.write(ram, bytes);
            }
            queue.push(ram, &chain, (before - chain.writable.left()) as u32)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn saved(&self) {}

    fn restore(&mut self, (): &()) -> Result<(), BadState> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Driver, READ, WRITE};
    use super::*;

    /// 1, 2, 3 …, until it is dry.
    struct Counting {
        next: u8,
        dry: bool,
    }

    impl EntropySource for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
            if self.dry {
                return Err(io::ErrorKind::Other.into());
            }
            for byte in bytes {
                self.next = self.next.wrapping_add(1);
                *byte = self.next;
            }
            Ok(())
        }
    }

    fn driver(dry: bool) -> Driver<Entropy> {
        Driver::started(Entropy::new(Box::new(Counting { next: 0, dry })))
    }

    #[test]
    fn buffers_are_filled_and_the_driver_is_told_how_far() {
        let mut driver = driver(false);
        driver.offer(0, &[(0x8000, 5, WRITE), (0x9000, 3, WRITE)]);
        driver.offer(0, &[(0xa000, 8192, WRITE)]);
        driver.notify(0);
        assert_eq!(driver.used(0), [(0, 8), (2, MOST as u32)]);
        assert_eq!(
            (driver.bytes(0x8000, 6), driver.bytes(0x9000, 3)),
            (vec![1, 2, 3, 4, 5, 0], vec![6, 7, 8])
        );
        assert!(driver.interrupted());
    }

    #[test]
    fn what_cannot_be_filled_comes_back_empty() {
        let mut dry = driver(true);
        dry.offer(0, &[(0x8000, 5, WRITE)]);
        dry.notify(0);
        assert_eq!(dry.used(0), [(0, 0)]);
        let mut driver = driver(false);
        driver.offer(0, &[(0x8000, 5, READ)]);
        driver.offer(0, &[(0x8000, 5, WRITE), (u64::MAX - 3, u32::MAX, WRITE)]);
        driver.notify(0);
        assert_eq!(driver.used(0), [(0, 0), (1, 5)]);
    }
}
