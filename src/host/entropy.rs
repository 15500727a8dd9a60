//! Random bytes of the host, from its kernel.
use crate::device::virtio::entropy::EntropySource;
use std::fs::File;
use std::io::{self, Read};

/// The kernel's generator.
#[derive(Debug)]
pub struct HostEntropy(File);

impl HostEntropy {
    /// Opens the generator.
    ///
    /// # Errors
    /// Where the host has no `/dev/urandom`.
    pub fn open() -> io::Result<Self> {
        File::open("/dev/urandom").map(Self)
    }
}

impl EntropySource for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fills_are_alike() {
        let mut source = HostEntropy::open().unwrap();
        let (mut one, mut other) = ([0; 32], [0; 32]);
        source.fill(&mut one).unwrap();
        source.fill(&mut other).unwrap();
        assert_ne!(one, other);
    }
}
