//! What an engine remembers of the guest's page tables: plain data for people who look.
use crate::arch::{Gpa, Gva};

/// Where an engine remembers a translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Store {
    /// The soft TLB's entries for data in RAM.
    Data,
    /// Its entries for instructions.
    Code,
    /// The page of device memory that was used last.
    Device,
    /// A window of translated code: a stretch that needs no look-up.
    Window,
    /// The address space of a guest's own process: a mirror of the guest's tables.
    Mirror,
}

impl Store {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Code => "code",
            Self::Device => "device",
            Self::Window => "window",
            Self::Mirror => "mirror",
        }
    }
}

/// With whose rights a translation is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whose {
    /// Rings 0 to 2.
    Supervisor,
    /// Rings 0 to 2 with RFLAGS.AC set, where SMAP keeps them from user pages else.
    SupervisorAc,
    /// Ring 3.
    User,
}

impl Whose {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::SupervisorAc => "supervisor, AC",
            Self::User => "user",
        }
    }
}

/// A stretch of linear addresses whose translation is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// First linear address.
    pub linear: Gva,
    /// Where it lies, and all behind it likewise.
    pub physical: Gpa,
    /// Bytes.
    pub length: u64,
    /// Where it is remembered.
    pub store: Store,
    /// For whom.
    pub whose: Whose,
    /// It may be read, written, executed without another look at the tables.
    pub rights: [bool; 3],
    /// It outlives a write of CR3.
    pub global: bool,
    /// Writes are allowed, but take the long way: somebody remembers code that lies there.
    pub has_code: bool,
    /// Which of [`Translations::spaces`] it belongs to.
    pub space: usize,
}

/// An address space that translations are remembered of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldSpace {
    /// What it is called: by its PCID, or by the process that it is.
    pub name: String,
    /// The CPU is in it.
    pub current: bool,
}

/// All that a vCPU's engine remembers, as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Translations {
    /// What it is, in a few words.
    pub what: &'static str,
    /// The address spaces.
    pub spaces: Vec<HeldSpace>,
    /// In no order.
    pub list: Vec<Held>,
}
