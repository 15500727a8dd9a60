//! The stub: the only code of ours in the child. Position-independent assembly, copied out of this binary.
//!
//! It owns no policy. It maps the shared area, then does what the engine writes there: system calls from a list, vector
//! state in and out, and going on with the guest. It also hands the CPU from a user's process to the kernel's and back,
//! for SYSCALL, SYSRETQ and IRETQ, where the engine has opened these ways (`pv::sides`). Two ways lead into it:
//! - *hypercall*: a thunk jumps to [`Entries::hypercall`] with RAX saved in the control page and the guest's RIP in
//!   RAX. The general registers go to the control page; vector registers stay live. The way back loads them and jumps.
//! - *signal*: a trap of guest code, or a kick. The kernel has put the registers on the signal stack, which is shared; the
//!   way back is `rt_sigreturn`.
//!
//! A kick that hits the stub itself must neither be lost nor see half a state. Three regions decide: before the report
//! (`A`: an event follows anyway; where it is a hand-over to the other process, that one was kicked, too), between report and the last look at the kick word (`B`: set the word), and
//! the way out (`C`: the registers are still in the control page: start again with a KICKED report). A kick that hits
//! guest code while virtual interrupts are off returns at once, unless the engine wants the child to stop or the hit
//! is inside a thunk, where the virtual flag may be about to change. Requests of a user's process carry a key (`keys.rs`);
//! in the region where one may be in a register (`K`), a kick takes it out of the frame.
//!
//! The assembly is in files: `ways.s` (in from thunks and out), `hand_over.s` (to the other process), `exchange.s` (with the
//! engine), `signal.s`.
#![expect(unsafe_code, reason = "the stub is assembly")]
mod image;

#[cfg(test)]
pub(in crate::pv) use image::code;
pub(in crate::pv) use image::entries;
pub(super) use image::{Entries, image};

use super::registers::NATIVE;
use crate::emulator::single::far::SYSRET_FLAGS;
use crate::pv::layout::{self, SHARED_SIZE, at, command, event, frame, turn, way};
use std::arch::global_asm;

global_asm!(
    include_str!("stub/ways.s"),
    include_str!("stub/hand_over.s"),
    include_str!("stub/exchange.s"),
    include_str!("stub/signal.s"),
    D = const layout::SHARED_DISTANCE,
    SHARED_SIZE = const SHARED_SIZE,
    SHARED_FIXED = const libc::MAP_SHARED | libc::MAP_FIXED,
    SHARED_FD = const layout::SHARED_FD,
    SYS_MMAP = const libc::SYS_mmap,
    SYS_READ = const libc::SYS_read,
    SYS_FUTEX = const libc::SYS_futex,
    SYS_RT_SIGRETURN = const libc::SYS_rt_sigreturn,
    KICK_SIGNAL = const layout::KICK_SIGNAL,
    SIGILL = const libc::SIGILL,
    SIGTRAP = const libc::SIGTRAP,
    SIGSYS = const libc::SIGSYS,
    EINTR = const libc::EINTR,
    KEYS_FD = const layout::KEYS_FD,
    KEYED = const at::KEYED,
    SIGNAL_STACK = const at::SIGNAL_STACK,
    SIGNAL_STACK_SIZE = const at::SIGNAL_STACK_SIZE,
    ZONE = const layout::ZONE,
    ZONE_SIZE = const layout::ZONE_SIZE,
    FRAME_R8 = const frame::GPR[8],
    FRAME_R10 = const frame::GPR[10],
    FRAME_RBX = const frame::GPR[3],
    FRAME_CS = const frame::CS,
    FRAME_SIZE = const frame::SIZE,
    // UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS.
    FRAME_HAS_SS = const 6,
    // CS and SS of a 64-bit program.
    FRAME_SEGMENTS = const 0x002b_0000_0000_0033_u64,
    BOOT = const at::BOOT,
    CONFINED = const at::CONFINED,
    FRAME_R14 = const frame::GPR[14],
    FRAME_RIP = const frame::RIP,
    FRAME_RFLAGS = const frame::RFLAGS,
    T_CHILD = const turn::CHILD,
    T_ENGINE = const turn::ENGINE,
    E_BOOT = const event::BOOT,
    E_DONE = const event::DONE,
    E_HYPERCALL = const event::HYPERCALL,
    E_SIGNAL = const event::SIGNAL,
    E_KICKED = const event::KICKED,
    C_LOAD_FPU = const command::LOAD_FPU,
    C_SAVE_FPU = const command::SAVE_FPU,
    C_LOAD_BASES = const command::LOAD_BASES,
    C_REPORT = const command::REPORT,
    TURN = const at::TURN,
    CHILD_ASLEEP = const at::CHILD_ASLEEP,
    ENGINE_ASLEEP = const at::ENGINE_ASLEEP,
    SPINS = const at::SPINS,
    EVENT = const at::EVENT,
    KICK = const at::KICK,
    STOP = const at::STOP,
    FLAGS_DELTA = const at::FLAGS_DELTA,
    SAVED_RAX = const at::SAVED_RAX,
    REQUEST_COUNT = const at::REQUEST_COUNT,
    COMMAND = const at::COMMAND,
    FS_BASE = const at::FS_BASE,
    GS_BASE = const at::GS_BASE,
    SIGNAL = const at::SIGNAL,
    SIGNAL_INFO = const at::SIGNAL_INFO,
    SIGNAL_FRAME = const at::SIGNAL_FRAME,
    GPR = const at::GPR,
    RIP = const at::RIP,
    RFLAGS = const at::RFLAGS,
    XSAVE = const at::XSAVE,
    STACK_TOP = const at::STACK_TOP,
    WAY = const at::WAY,
    PARK = const at::PARK,
    USER_AREA = const at::USER_AREA,
    PAIR_SPINS = const at::PAIR_SPINS,
    KERNEL_ASLEEP = const at::KERNEL_ASLEEP,
    DOOR = const at::DOOR,
    NEXT_GUEST = const at::NEXT_GUEST,
    NEXT_NATIVE = const at::NEXT_NATIVE,
    ENTRY = const at::ENTRY,
    ENTRY_KEEP = const at::ENTRY_KEEP,
    ENTRY_DELTA = const at::ENTRY_DELTA,
    USER_CS = const at::USER_CS,
    USER_SS = const at::USER_SS,
    CROSSED = const at::CROSSED,
    W_HYPERCALL = const way::HYPERCALL,
    W_SYSCALL = const way::SYSCALL,
    W_SYSRET = const way::SYSRET,
    W_IRET = const way::IRET,
    T_KERNEL = const turn::KERNEL,
    T_STAND_DOWN = const turn::STAND_DOWN,
    T_PARKED = const turn::PARKED,
    SYSRET_FLAGS = const SYSRET_FLAGS,
    NATIVE_FLAGS = const NATIVE.bits(),
    NOT_USER_FLAGS = const !(NATIVE.bits() | 0x202) as i64,
    NT = const crate::arch::Rflags::NT.bits(),
    NOT_TF = const !(crate::arch::Rflags::TF.bits() as i32),
    NOT_RF = const !0x1_0000_i64,
    REQUESTS = const at::REQUESTS,
    REQUESTS_SIZE = const at::REQUESTS_SIZE,
    REQUEST_SIZE = const at::REQUEST_SIZE,
    REQUEST_SHIFT = const at::REQUEST_SIZE.ilog2(),
);
