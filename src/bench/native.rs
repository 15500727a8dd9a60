//! Running the guests' compute kernels in this process, for the *native* column.
//!
//! A guest's metric that has a kernel's name has the same checksum as that kernel here.

use super::kernels::{ALL, Kernel};

/// The kernel that gives the metric of this name.
pub fn find(metric: &str) -> Option<&'static Kernel> {
    ALL.iter().find(|kernel| kernel.name == metric)
}

/// Scratch memory for one kernel, aligned to a cache line as in the guests.
#[derive(Debug)]
pub struct Scratch {
    lines: Vec<[u8; 64]>,
    length: usize,
}

impl Scratch {
    /// Memory for `kernel`, with its input prepared.
    pub fn prepared(kernel: &Kernel) -> Self {
        // One line more than needed: a vector of arrays of bytes is aligned to a byte only.
        let mut scratch = Self { lines: vec![[0; 64]; kernel.scratch / 64 + 2], length: kernel.scratch };
        (kernel.prepare)(scratch.bytes());
        scratch
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        let bytes = self.lines.as_flattened_mut();
        let start = bytes.as_ptr().align_offset(64);
        &mut bytes[start..start + self.length]
    }
}
