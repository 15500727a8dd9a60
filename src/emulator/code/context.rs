//! What translated code finds at RSP: the guest registers that have no host register, flags, and the places of
//! everything else.
//!
//! Translated code has no stack of its own; RSP points to the [`Context`], below which [`Frame`] leaves room for the
//! few return addresses of stubs and for the frames of signals. The layout is known to code only through `offset_of`.
use std::mem::offset_of;

/// Bytes below the context for signal frames (an XSAVE area with AVX-512 and AMX is about 11 KiB).
const ROOM: usize = 64 << 10;

/// The vCPU as translated code sees it.
#[repr(C, align(64))]
pub(crate) struct Context {
    /// Guest registers as in [`crate::emulator::single::cx::Cx::regs`]; those that have a host register are stale
    /// while translated code runs.
    pub regs: [u64; 32],
    /// The status flags in the form of `single::flags`, in the low 16 bits, where code says that they are saved.
    pub flags: u32,
    /// Nonzero while the guest's vector registers and MXCSR are in the host's.
    pub vector: u32,
    /// Guest RIP, for exits that have no number.
    pub rip: u64,
    /// Address of the soft TLB's bank in use.
    pub tlb: u64,
    /// Address of the jump cache.
    pub jumps: u64,
    /// What entries of the jump cache must be marked with to be valid now.
    pub tag: u64,
    /// Address of the word that asks for attention.
    pub kick: u64,
    /// Where to go on after a call for help.
    pub resume: u64,
    /// The host's stack.
    pub host_stack: u64,
    /// Address of the guest's XSAVE area.
    pub xsave: u64,
    /// Address of the [`crate::arch::CpuState`].
    pub state: u64,
    /// Address of the byte that is nonzero while an external interrupt waits.
    pub pending: u64,
    /// Who answers calls for help; see `super::super::translate::session`.
    pub session: u64,
    /// MXCSR for host code.
    pub host_mxcsr: u32,
}

impl Context {
    /// Offset of a guest register.
    pub(crate) const fn register(guest: u8) -> i32 {
        (offset_of!(Self, regs) + 8 * guest as usize) as i32
    }
    pub(crate) const FLAGS: i32 = offset_of!(Self, flags) as i32;
    pub(crate) const VECTOR: i32 = offset_of!(Self, vector) as i32;
    pub(crate) const RIP: i32 = offset_of!(Self, rip) as i32;
    pub(crate) const TLB: i32 = offset_of!(Self, tlb) as i32;
    pub(crate) const JUMPS: i32 = offset_of!(Self, jumps) as i32;
    pub(crate) const TAG: i32 = offset_of!(Self, tag) as i32;
    pub(crate) const KICK: i32 = offset_of!(Self, kick) as i32;
    pub(crate) const RESUME: i32 = offset_of!(Self, resume) as i32;
    pub(crate) const HOST_STACK: i32 = offset_of!(Self, host_stack) as i32;
    pub(crate) const XSAVE: i32 = offset_of!(Self, xsave) as i32;
    pub(crate) const STATE: i32 = offset_of!(Self, state) as i32;
    pub(crate) const PENDING: i32 = offset_of!(Self, pending) as i32;
    pub(crate) const HOST_MXCSR: i32 = offset_of!(Self, host_mxcsr) as i32;
}

/// A context with room below it.
#[repr(C, align(64))]
pub(crate) struct Frame {
    room: [u8; ROOM],
    pub context: Context,
}

impl Frame {
    /// An empty frame at an address that will not change.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            room: [0; ROOM],
            context: Context {
                regs: [0; 32],
                flags: 0,
                vector: 0,
                rip: 0,
                tlb: 0,
                jumps: 0,
                tag: 0,
                kick: 0,
                resume: 0,
                host_stack: 0,
                xsave: 0,
                state: 0,
                pending: 0,
                session: 0,
                host_mxcsr: 0x1f80,
            },
        })
    }
}
