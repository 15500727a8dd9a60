//! What becomes of one guest instruction in each technique, from its bytes and the CPU's state alone: plain data for people
//! who want to see it side by side. No engine has to run for it.
use super::Patch;

/// What a piece of host code is there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// At the start of the block, once for all of its instructions: the guest's flags are saved.
    BlockFlags,
    /// The same: groups of memory accesses are compared with their windows.
    BlockChecks,
    /// The instruction's work.
    Work,
    /// The guest's status flags are moved between the host's and the context.
    Flags,
    /// The address is compared with its window.
    Window,
    /// The address is looked up in the soft TLB.
    Lookup,
    /// The end of the block, behind its last instruction: the way to the next one.
    Leave,
    /// Off the path: the interpreter executes the instruction, then the block goes on.
    Interpret,
    /// Off the path: the way to another block is asked for, until it is patched to go there.
    Link,
    /// Off the path: a branch that is taken.
    Away,
    /// Off the path: the address lies outside of its window, which is moved, or the soft TLB is asked.
    Missed,
    /// Off the path: the jump cache, the stack of returns or a link's mark does not know the way.
    Astray,
    /// Off the path: the guest's vector registers are brought into the host's.
    Vectors,
    /// Off the path: the entry for who comes with saved flags.
    SavedEntry,
}

impl Part {
    /// Whether the block goes through it when nothing is amiss.
    #[must_use]
    pub const fn is_on_path(self) -> bool {
        matches!(
            self,
            Self::BlockFlags
                | Self::BlockChecks
                | Self::Work
                | Self::Flags
                | Self::Window
                | Self::Lookup
                | Self::Leave
        )
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlockFlags => "block-flags",
            Self::BlockChecks => "block-checks",
            Self::Work => "work",
            Self::Flags => "flags",
            Self::Window => "window-check",
            Self::Lookup => "soft-tlb",
            Self::Leave => "leave",
            Self::Interpret => "interpret",
            Self::Link => "link",
            Self::Away => "taken",
            Self::Missed => "missed",
            Self::Astray => "astray",
            Self::Vectors => "vectors",
            Self::SavedEntry => "saved-entry",
        }
    }

    /// What it does, in words.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::BlockFlags => "start of the block: the guest's flags are saved",
            Self::BlockChecks => "start of the block: its memory accesses are compared with their windows",
            Self::Work => "the instruction",
            Self::Flags => "the guest's flags are saved or loaded",
            Self::Window => "its address is compared with a window",
            Self::Lookup => "its address is looked up in the soft TLB",
            Self::Leave => "end of the block",
            Self::Interpret => "off the path: the interpreter executes it instead",
            Self::Link => "off the path: asks for the next block, until it is linked",
            Self::Away => "off the path: the branch is taken",
            Self::Missed => "off the path: the window is missed",
            Self::Astray => "off the path: the way is looked for",
            Self::Vectors => "off the path: the guest's vector registers are loaded",
            Self::SavedEntry => "the way in for who comes with saved flags",
        }
    }
}

/// A piece of host code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPiece {
    /// What for.
    pub part: Part,
    /// Distance from the block's first byte.
    pub at: u64,
    /// The code, as it would be executed at that place.
    pub code: Vec<u8>,
}

/// Host code that the translator makes for an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Translated {
    /// Instructions in the block that begins with it. (A loop that is unrolled has its own again.)
    pub block: usize,
    /// Host bytes of that block.
    pub size: usize,
    /// What belongs to this instruction, and the start of the block, in the order of the code.
    pub pieces: Vec<HostPiece>,
    /// Where code outside of the block begins that pieces lead to: distances from the block's first byte.
    pub stubs: Vec<(u64, &'static str)>,
    /// Fields of the vCPU that code reaches by GS: offsets.
    pub fields: Vec<(u64, &'static str)>,
}

/// What the translator does with an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Translation {
    /// It makes this.
    Code(Translated),
    /// It leaves it to the interpreter, for this reason.
    Interpreted(&'static str),
}

/// What the interpreter does with an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interpretation {
    /// Its family: the file of handlers in `src/emulator/single`. `None`: #UD, or we lack it.
    pub family: Option<&'static str>,
    /// CPUID offers it; else it is #UD.
    pub offered: bool,
    /// After it all is looked at anew.
    pub ends_block: bool,
}

/// What stands for an instruction in a guest that is patched and runs natively.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patched {
    /// How it is caught; `None`: it is innocuous, and executed as it is.
    pub patch: Option<Patch>,
    /// Why that, in words.
    pub about: &'static str,
    /// First byte of what is replaced.
    pub start: u64,
    /// The guest's bytes from there on, and what is executed in their place; both empty where nothing is replaced.
    pub replaced: Vec<u8>,
    /// See [`Self::replaced`].
    pub put: Vec<u8>,
    /// The thunk's first byte, and its code.
    pub thunk: Option<(u64, Vec<u8>)>,
    /// The part of the thunk that stands for this instruction alone: distances from its first byte.
    pub own: std::ops::Range<usize>,
    /// Words of the process that the thunk reaches by absolute addresses.
    pub words: Vec<(u64, &'static str)>,
}

/// What a guest that runs natively in a process meets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Native {
    /// It runs natively, patched as this says.
    Patched(Box<Patched>),
    /// The interpreter executes it, for this reason.
    Interpreted(&'static str),
}

/// Who deals with an instruction under KVM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvmWay {
    /// The CPU alone.
    Native,
    /// The host's kernel, and nobody else hears of it.
    Kernel,
    /// This program, after an exit.
    Exit,
    /// The host's kernel by its own emulator; what that lacks is this program's interpreter's.
    KernelEmulator,
    /// This program's interpreter, because the host cannot: a rescue.
    Rescue,
}

impl KvmWay {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Kernel => "kernel",
            Self::Exit => "exit",
            Self::KernelEmulator => "kernel emulator",
            Self::Rescue => "rescue",
        }
    }
}

/// What KVM does with an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KvmFate {
    /// Who deals with it.
    pub way: KvmWay,
    /// The exit's name in `linux/kvm.h`, where there is one.
    pub exit: Option<&'static str>,
    /// In words.
    pub about: &'static str,
    /// What KVM is on this host; if there is none, this tells of hardware.
    pub host: &'static str,
}
