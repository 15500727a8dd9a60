//! What comparing found.
use crate::arch::CpuState;
use crate::arch::state::gpr;

/// How far both agreed, and where they do not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Blocks of the translator, or points at which a mode came out, after which both were equal.
    pub blocks: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// The guest ended by itself.
    pub ended: bool,
    /// Where they differ first.
    pub difference: Option<Difference>,
    /// The instruction at which comparing ended, because its result cannot be given to both.
    pub unequal: Option<Executed>,
}

/// Something in which both differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Where the block began that they differ after; `None`: it was an interrupt, between blocks.
    pub block: Option<u64>,
    /// The instruction, if it shows with the block cut behind it. `None`: only the block as a whole does it.
    pub culprit: Option<Culprit>,
    /// What differs after it.
    pub registers: Vec<Register>,
    /// The first byte of RAM that differs: guest-physical address, the interpreter's, the other's.
    pub memory: Option<(u64, u8, u8)>,
    /// What only one of them did: who and what, in words.
    pub error: Option<String>,
}

/// The instruction after which both differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Culprit {
    /// Its address.
    pub rip: u64,
    /// Its place in the block, from 1 on.
    pub number: usize,
    /// What it was before it was executed.
    pub at: Executed,
}

/// An instruction as it was fetched: it may change its own bytes, or where they are mapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Its instruction pointer.
    pub rip: u64,
    /// 16, 32 or 64.
    pub bits: u32,
    /// Its bytes and some that follow.
    pub bytes: Vec<u8>,
}

/// A part of the CPU's state that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// Which.
    pub name: String,
    /// What the interpreter has.
    pub single: String,
    /// What the other has.
    pub other: String,
}

/// The parts in which two states differ.
pub(super) fn differing(single: &CpuState, other: &CpuState) -> Vec<Register> {
    let mut list = Vec::new();
    let mut add = |name: &str, a: u64, b: u64| {
        if a != b {
            let (single, other) = (format!("{a:#x}"), format!("{b:#x}"));
            list.push(Register { name: name.to_owned(), single, other });
        }
    };
    for (name, (a, b)) in gpr::NAMES.into_iter().zip(single.gpr.iter().zip(&other.gpr)) {
        add(name, *a, *b);
    }
    add("rip", single.rip, other.rip);
    add("rflags", single.rflags.bits(), other.rflags.bits());
    let (a, b) = (&single.xsave.0, &other.xsave.0);
    if let Some(at) = (0..a.len()).find(|&i| a[i] != b[i]) {
        let at = at & !7;
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let name = format!("XSAVE area at {at:#x}");
        add(&name, word(&a[at..(at + 8).min(a.len())]), word(&b[at..(at + 8).min(b.len())]));
    }
    // All else by its name in the source.
    let rest = |state: &CpuState| CpuState {
        gpr: [0; 16],
        rip: 0,
        rflags: crate::arch::Rflags::empty(),
        xsave: CpuState::reset().xsave,
        ..state.clone()
    };
    let (a, b) = (rest(single), rest(other));
    if a != b {
        let (a, b) = (format!("{a:#x?}"), format!("{b:#x?}"));
        let lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b).take(16);
        list.extend(lines.map(|(a, b)| {
            let (name, single) = a.trim().split_once(':').unwrap_or(("", a.trim()));
            let other = b.trim().split_once(':').map_or(b.trim(), |(_, value)| value);
            let bare = |text: &str| text.trim().trim_end_matches(',').to_owned();
            Register { name: bare(name), single: bare(single), other: bare(other) }
        }));
    }
    list
}
