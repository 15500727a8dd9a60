//! What translated code finds at the base of GS: the guest registers that have no host register, flags, and the places
//! of everything else.
//!
//! RSP points into the stack of returns, below the [`Context`] in one [`Frame`]: a guest call pushes the guest's return
//! address and, by a host call, the host's; a guest return to that address is a host return, which the host's CPU
//! predicts. [`DEPTH`] entries are kept. Below them [`Frame`] leaves room for the frames of signals. The layout is known
//! to code only through `offset_of`.
#![expect(unsafe_code, reason = "writes parts of a frame of which other parts are borrowed")]
use crate::emulator::mmu::window::{CLASSES, WIDE, Window};
use std::mem::offset_of;

/// Returns that are remembered.
const DEPTH: usize = 1024;
/// Bytes for them and, below them, for signal frames (an XSAVE area with AVX-512 and AMX is about 11 KiB).
const ROOM: usize = (64 << 10) + 16 * DEPTH;
/// The guest address in the last entry: none, because it is not canonical.
const NO_RETURN: u64 = 1 << 63;

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
    /// Where to go on after a call for help.
    pub resume: u64,
    /// Where RSP is in the stack of returns while other code runs.
    pub returns: u64,
    /// Where the stack of returns begins: its last entry is there.
    pub returns_base: u64,
    /// Where the stack of returns is full. Its topmost byte, which is zero in every address, is that of
    /// [`Self::ATTENTION`]: a call that looks whether it may go deeper looks at both.
    pub returns_limit: u64,
    /// Address of this context.
    pub itself: u64,
    /// The host's stack.
    pub host_stack: u64,
    /// Address of the guest's XSAVE area.
    pub xsave: u64,
    /// Address of the [`crate::arch::CpuState`].
    pub state: u64,
    /// Address of the byte that is nonzero while an external interrupt waits.
    pub pending: u64,
    /// Address of the table of MSRs that are read where they lie; see `super::super::translate::system`.
    pub msr_places: u64,
    /// Who answers calls for help; see `super::super::translate::session`.
    pub session: u64,
    /// MXCSR for host code.
    pub host_mxcsr: u32,
    /// How many accesses may miss their window before one of them asks for it to be moved.
    pub misses: u32,
    /// Windows of the supervisor and of the user; for reading and for writing; by class.
    pub windows: [[[Window; CLASSES]; 2]; 2],
    /// Windows over several pages, which those above are moved to: of the supervisor and of the user; for reading and for
    /// writing. Those of the supervisor hold in all address spaces.
    pub wide: [[[Window; WIDE]; 2]; 2],
    /// How many of [`Self::opened`] count.
    pub opened_count: u64,
    /// Addresses of those of `windows` that are not empty, each once.
    pub opened: [u64; 4 * CLASSES],
    /// How many of [`Self::opened_ac`] count.
    pub opened_ac_count: u64,
    /// Addresses of windows that were opened with RFLAGS.AC set and hold only so, each once; some may hold nothing or
    /// something else by now.
    pub opened_ac: [u64; 2 * CLASSES],
    /// What `misses` was when they were counted last.
    pub misses_counted: u32,
    /// Address of the answers to CPUID; see `super::super::translate::cpuid`.
    pub cpuid: u64,
    /// Address of the [`crate::emulator::mmu::Bank`] of ordinary accesses.
    pub bank: u64,
    /// The bits of `tag` for vector instructions as they are with CR0.TS clear.
    pub unswitched: u64,
    /// The bits of `tag` that change between supervisor and user.
    pub levels: u64,
    /// Addresses of the soft TLB's banks of the supervisor, of the user and of the supervisor with RFLAGS.AC set.
    pub tlbs: [u64; 3],
    /// Where registers are while a window is moved, see [`super::stubs::Stubs::refill`].
    pub scratch: [u64; 2],
    /// Guest instructions that translated code has completed since they were brought to the ledger, where it counts them.
    pub executed: u64,
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
    pub(crate) const RESUME: i32 = offset_of!(Self, resume) as i32;
    pub(crate) const RETURNS: i32 = offset_of!(Self, returns) as i32;
    pub(crate) const RETURNS_BASE: i32 = offset_of!(Self, returns_base) as i32;
    pub(crate) const RETURNS_LIMIT: i32 = offset_of!(Self, returns_limit) as i32;
    /// Offset of the byte that is nonzero while attention is asked for.
    pub(crate) const ATTENTION: i32 = Self::RETURNS_LIMIT + 7;
    pub(crate) const ITSELF: i32 = offset_of!(Self, itself) as i32;
    pub(crate) const HOST_STACK: i32 = offset_of!(Self, host_stack) as i32;
    pub(crate) const XSAVE: i32 = offset_of!(Self, xsave) as i32;
    pub(crate) const STATE: i32 = offset_of!(Self, state) as i32;
    pub(crate) const CPUID: i32 = offset_of!(Self, cpuid) as i32;
    pub(crate) const BANK: i32 = offset_of!(Self, bank) as i32;
    pub(crate) const UNSWITCHED: i32 = offset_of!(Self, unswitched) as i32;
    pub(crate) const LEVELS: i32 = offset_of!(Self, levels) as i32;
    pub(crate) const TLBS: i32 = offset_of!(Self, tlbs) as i32;
    pub(crate) const SCRATCH: i32 = offset_of!(Self, scratch) as i32;
    pub(crate) const PENDING: i32 = offset_of!(Self, pending) as i32;
    pub(crate) const MSR_PLACES: i32 = offset_of!(Self, msr_places) as i32;
    pub(crate) const EXECUTED: i32 = offset_of!(Self, executed) as i32;
    pub(crate) const OPENED_COUNT: i32 = offset_of!(Self, opened_count) as i32;
    pub(crate) const OPENED: i32 = offset_of!(Self, opened) as i32;
    pub(crate) const OPENED_AC_COUNT: i32 = offset_of!(Self, opened_ac_count) as i32;
    pub(crate) const OPENED_AC: i32 = offset_of!(Self, opened_ac) as i32;
    pub(crate) const MISSES: i32 = offset_of!(Self, misses) as i32;

    /// Offset of a window.
    pub(crate) const fn window(user: bool, write: bool, class: usize) -> i32 {
        let number = (user as usize * 2 + write as usize) * CLASSES + class;
        (offset_of!(Self, windows) + number * size_of::<Window>()) as i32
    }

    /// Offset of one of [`Self::wide`].
    pub(crate) const fn wide(user: bool, write: bool, number: usize) -> i32 {
        let number = (user as usize * 2 + write as usize) * WIDE + number;
        (offset_of!(Self, wide) + number * size_of::<Window>()) as i32
    }
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
                resume: 0,
                returns: 0,
                returns_base: 0,
                returns_limit: 0,
                itself: 0,
                host_stack: 0,
                xsave: 0,
                state: 0,
                cpuid: 0,
                bank: 0,
                unswitched: 0,
                levels: 0,
                tlbs: [0; 3],
                scratch: [0; 2],
                pending: 0,
                msr_places: 0,
                session: 0,
                host_mxcsr: 0x1f80,
                misses: 0,
                misses_counted: 0,
                executed: 0,
                windows: [[[Window::default(); CLASSES]; 2]; 2],
                wide: [[[Window::default(); WIDE]; 2]; 2],
                opened_count: 0,
                opened: [0; 4 * CLASSES],
                opened_ac_count: 0,
                opened_ac: [0; 2 * CLASSES],
            },
        })
    }

    /// Empties the stack of returns but for its last entry, which leads to the host address `end`.
    ///
    /// # Safety
    /// `frame` is valid, and of it nothing but the context's registers is referred to elsewhere.
    pub(crate) unsafe fn forget_returns(frame: *mut Self, end: usize) {
        // SAFETY: as above; the last entry lies at the end of the room.
        unsafe {
            let base = (&raw mut (*frame).room).cast::<u8>().add(ROOM - 16).cast::<u64>();
            base.write(end as u64);
            base.add(1).write(NO_RETURN);
            (*frame).context.returns = base as u64;
            (*frame).context.returns_base = base as u64;
            (*frame).context.returns_limit = base as u64 - 16 * (DEPTH as u64 - 1);
            (*frame).context.itself = (&raw const (*frame).context) as u64;
        }
    }
}
