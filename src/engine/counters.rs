//! The ledger: how often a vCPU left guest code, and why, named alike in every mode.
use super::Ledger;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why time was spent or guest code was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(usize)]
pub enum Cause {
    /// Instructions retired by the interpreter, and by the translator where it is told to count (the CPU does not).
    Instruction,
    /// Instructions decoded or translated.
    Translate,
    /// Soft-MMU misses: page walks of an engine.
    SoftMmuFill,
    /// Hypercalls: patched sites that reached the engine, and those that the guest made itself.
    Hypercall,
    /// Privileged or sensitive instructions that an engine emulated and that did not come as hypercalls.
    Privileged,
    /// Exceptions entered in the guest.
    GuestException,
    /// Guest page-table changes brought to the host's mappings.
    PageTableSync,
    /// Port accesses.
    PortIo,
    /// Device-memory accesses.
    Mmio,
    /// External interrupts entered in the guest.
    Interrupt,
    /// HLTs that waited.
    Idle,
    /// Instructions that the host could not execute and `single` did.
    Rescue,
    /// Returns of the host's own mechanism (KVM_RUN, a child's message), whatever for.
    HostExit,
    /// Blocks of host code that the translator made.
    Block,
    /// Ticks of the host's TSC that making blocks took.
    TranslateCycles,
    /// Jumps of translated code that were patched to go straight to another block.
    Link,
    /// Instructions that translated code left to the interpreter.
    HelpSingle,
    /// Ends of blocks at which translated code asked for the way to a fixed address.
    HelpLink,
    /// Ends of blocks at which translated code asked for the way to a computed address.
    HelpJump,
    /// Ends of blocks at which translated code found that attention is asked for.
    HelpKick,
    /// Calls of translated code for a window to be moved.
    HelpWindow,
    /// Ways from block to block that the jump cache did not know.
    JumpMiss,
    /// Accesses of translated code that missed their window. Not exact while translated code runs.
    WindowMiss,
    /// Pages of translated code dropped because the guest's code was written.
    CodeWrite,
    /// Times at which all translated code was forgotten.
    Flush,
}

impl Cause {
    /// All causes, in the order of the ledger.
    pub const ALL: [Self; 25] = [
        Self::Instruction,
        Self::Translate,
        Self::SoftMmuFill,
        Self::Hypercall,
        Self::Privileged,
        Self::GuestException,
        Self::PageTableSync,
        Self::PortIo,
        Self::Mmio,
        Self::Interrupt,
        Self::Idle,
        Self::Rescue,
        Self::HostExit,
        Self::Block,
        Self::TranslateCycles,
        Self::Link,
        Self::HelpSingle,
        Self::HelpLink,
        Self::HelpJump,
        Self::HelpKick,
        Self::HelpWindow,
        Self::JumpMiss,
        Self::WindowMiss,
        Self::CodeWrite,
        Self::Flush,
    ];

    /// The word for it in CSV and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instruction => "instruction",
            Self::Translate => "translate",
            Self::SoftMmuFill => "soft-mmu-fill",
            Self::Hypercall => "hypercall",
            Self::Privileged => "privileged",
            Self::GuestException => "guest-exception",
            Self::PageTableSync => "page-table-sync",
            Self::PortIo => "port-io",
            Self::Mmio => "mmio",
            Self::Interrupt => "interrupt",
            Self::Idle => "idle",
            Self::Rescue => "rescue",
            Self::HostExit => "host-exit",
            Self::Block => "block",
            Self::TranslateCycles => "translate-cycles",
            Self::Link => "link",
            Self::HelpSingle => "help-single",
            Self::HelpLink => "help-link",
            Self::HelpJump => "help-jump",
            Self::HelpKick => "help-kick",
            Self::HelpWindow => "help-window",
            Self::JumpMiss => "jump-miss",
            Self::WindowMiss => "window-miss",
            Self::CodeWrite => "code-write",
            Self::Flush => "flush",
        }
    }

    /// Whether it is a cause of leaving the guest. The others are no events of the guest's, but an engine's own affairs;
    /// they would be counted twice (each return of a host's mechanism, each call of translated code for help has a cause
    /// of its own) or dwarf all else (instructions).
    #[must_use]
    pub const fn is_exit(self) -> bool {
        !matches!(self, Self::Instruction | Self::Translate | Self::HostExit)
            && (self as usize) < Self::Block as usize
    }

    /// When one is counted, for readers of figures; `docs/exits.md` says it of each mode.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Instruction => {
                "a guest instruction was completed by the interpreter, or by a translator that was told to count"
            }
            Self::Translate => "an instruction was decoded or translated",
            Self::SoftMmuFill => {
                "the engine walked guest page tables, because an address was not in its own cache"
            }
            Self::Hypercall => "a patched place in guest code called the engine",
            Self::Privileged => {
                "the engine executed a privileged or sensitive instruction that did not come as a hypercall"
            }
            Self::GuestException => "an exception was entered in the guest",
            Self::PageTableSync => {
                "the guest's page tables, or a register that rules them, were brought to the host's mappings"
            }
            Self::PortIo => "a device port was read or written",
            Self::Mmio => "device memory was read or written",
            Self::Interrupt => "an external interrupt was entered in the guest",
            Self::Idle => "HLT waited, because no interrupt was there",
            Self::Rescue => "the host could not execute an instruction, and the interpreter did",
            Self::HostExit => "the host's own mechanism came back; the other causes say what for",
            Self::Block => "the translator made a block",
            Self::TranslateCycles => "the host's TSC ticked once while a block was made",
            Self::Link => "a jump between blocks was patched to go straight to its target",
            Self::HelpSingle => "translated code had the interpreter execute an instruction",
            Self::HelpLink => "translated code asked for the way to a fixed address",
            Self::HelpJump => "translated code asked for the way to a computed address",
            Self::HelpKick => "translated code stopped because attention was asked for",
            Self::HelpWindow => "translated code asked for a window to be moved",
            Self::JumpMiss => "a block was looked for that the jump cache did not know",
            Self::WindowMiss => "an access of translated code missed its window",
            Self::CodeWrite => "translated code of a page was dropped because the guest's code was written",
            Self::Flush => "all translated code was forgotten",
        }
    }
}

/// One vCPU's counts, and its times. Written by its thread, read by anyone.
#[derive(Debug, Default)]
pub struct Counters {
    counts: [AtomicU64; Cause::ALL.len()],
    ledger: Ledger,
}

impl Counters {
    /// Nothing counted yet; with times kept, or not.
    #[must_use]
    pub fn new(keeps_times: bool) -> Self {
        Self { ledger: Ledger::new(keeps_times), ..Self::default() }
    }

    /// Where time goes.
    #[inline]
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Counts one, on which what is being done goes to the ledger.
    #[inline]
    pub fn count(&self, cause: Cause) {
        self.add(cause, 1);
        self.ledger.note(cause);
    }

    /// Counts `n`. Only the vCPU's own thread calls this, so that no locked instruction is needed.
    #[inline]
    pub fn add(&self, cause: Cause, n: u64) {
        let cell = &self.counts[cause as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self, cause: Cause) -> u64 {
        self.counts[cause as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_listed_in_their_own_order() {
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, i);
        }
        let explained = include_str!("../../docs/exits.md");
        assert!(Cause::ALL.iter().all(|cause| explained.contains(&format!("| `{}` |", cause.name()))));
        let counters = Counters::default();
        counters.add(Cause::HostExit, 3);
        assert_eq!((counters.get(Cause::HostExit), counters.get(Cause::Idle)), (3, 0));
    }
}
