//! Memory that a debugger watches from outside of the guest.
use crate::arch::Gva;

/// Which accesses stop the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    /// Writes, whatever they write.
    Write,
    /// Reads.
    Read,
    /// Both.
    Access,
}

impl WatchKind {
    /// Whether a write, or else a read, is such an access.
    #[inline]
    #[must_use]
    pub const fn counts(self, write: bool) -> bool {
        match self {
            Self::Write => write,
            Self::Read => !write,
            Self::Access => true,
        }
    }
}

/// Linear addresses that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The first one.
    pub at: Gva,
    /// How many.
    pub length: u64,
    /// For what.
    pub kind: WatchKind,
}

impl Watch {
    /// Whether some of `length` bytes at `at` are watched.
    #[inline]
    #[must_use]
    pub const fn overlaps(&self, at: u64, length: u64) -> bool {
        at < self.at.0.saturating_add(self.length) && self.at.0 < at.saturating_add(length)
    }
}

/// An access to what is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchHit {
    /// The first byte of it that is watched, or, where the mode does not tell, that of what is watched.
    pub at: Gva,
    /// What it was watched for.
    pub kind: WatchKind,
    /// The linear address of the instruction that made it, where the mode tells; the delivery of an interrupt has none.
    pub by: Option<Gva>,
}
