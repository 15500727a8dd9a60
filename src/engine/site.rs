//! What an engine patched in the guest's code, instruction by instruction: plain data for reports.
use crate::arch::Gva;

/// What stands in place of a sensitive instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patch {
    /// A jump to a thunk that does the work in the guest's own process.
    InProcess,
    /// A jump to a thunk that calls the engine.
    Hypercall,
    /// INT3: a signal, then the engine.
    Breakpoint,
    /// Nothing: the instruction faults by itself; a signal, then the engine.
    Fault,
    /// Nothing, and it need not fault: the guest is not patched ([`super::Interface::None`]). Where it does not fault it
    /// acts on the host's state, and nobody sees it.
    Native,
}

impl Patch {
    /// The word for it in tables and CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InProcess => "thunk",
            Self::Hypercall => "hypercall",
            Self::Breakpoint => "int3",
            Self::Fault => "fault",
            Self::Native => "native",
        }
    }

    /// Whether a jump replaced the instruction.
    #[must_use]
    pub const fn is_jump(self) -> bool {
        matches!(self, Self::InProcess | Self::Hypercall)
    }
}

/// What led the engine to make a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// The scan of its page, before anything of that was executed.
    Scan,
    /// A trap, here or in code that leads here: patched while the guest ran.
    Trap,
    /// The engine led the guest to code that was not known: a handler, a return, a system call.
    Entry,
}

impl Occasion {
    /// The word for it in tables and CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Trap => "trap",
            Self::Entry => "entry",
        }
    }
}

/// One sensitive instruction that is patched, or was.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// Where it is.
    pub address: Gva,
    /// The instruction's own bytes, as the guest wrote them.
    pub bytes: Vec<u8>,
    /// What stands in its place.
    pub patch: Patch,
    /// What made it so.
    pub occasion: Occasion,
    /// First byte of what the patch replaced. Neighbours that went into the same thunk make that more than the
    /// instruction.
    pub start: Gva,
    /// The guest's bytes from `start` on that were replaced. (Of [`Patch::Breakpoint`] only the first is another in fact,
    /// of [`Patch::Fault`] and [`Patch::Native`] none.)
    pub replaced: Vec<u8>,
    /// The patch was undone: the guest changed its code, or these bytes turned out to be no instruction.
    pub taken_back: bool,
    /// How often the thunk did the work in the guest's process; `None` if it had no counter left.
    pub in_process: Option<u64>,
    /// How often the engine executed it.
    pub by_engine: u64,
    /// What the engine's executions took.
    pub cost: Option<Cost>,
}

/// Host time from the moment in which the engine saw the call or trap to that in which it let the guest go on. The way
/// to the engine and back is not in it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Mean, in nanoseconds. A busy host that took the CPU away meanwhile is in it.
    pub mean: f64,
    /// The least, in nanoseconds.
    pub least: u64,
    /// How many executions were timed: those that were all that the engine did before the guest went on.
    pub timed: u64,
}

impl Site {
    /// How often it was executed in all; `None` if that was not counted.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.in_process.map(|inside| inside.saturating_add(self.by_engine))
    }
}

/// All sites of a vCPU.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sites {
    /// By address; at one address those taken back first.
    pub list: Vec<Site>,
    /// How many that were taken back are no longer in the list, because there were too many.
    pub dropped: u64,
}
