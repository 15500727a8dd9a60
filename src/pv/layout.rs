//! The child's address space and the shared page: every address and every word, once, for both sides.
//!
//! The guest owns everything below [`MONITOR`] except the thunk zone. The monitor's part lies far above what a guest
//! linked low uses: the stub's code, then the shared area (one memfd, mapped in the child and in the engine).
//! The guest runs in the same address space and can write all of it: the engine trusts no word of it.
//!
//! A vCPU has one process for its kernel and others for its user programs. The shared memory object holds an area for
//! each. A user's process maps its own area only; the kernel's maps all, its own first, and so its stub can hand the
//! CPU over and take it back without the engine.

/// First address that the guest cannot have: the stub's image.
pub(super) const MONITOR: u64 = 0x7000_0000_0000;
/// Lowest address that is mirrored. Most hosts forbid mappings below (vm.mmap_min_addr).
pub(super) const LOWEST: u64 = 0x1_0000;
/// Distance of the shared area from the stub's first byte; the stub reaches it relative to its own position.
pub(super) const SHARED_DISTANCE: u64 = 0x10_0000;
/// The shared area in the child.
pub(super) const SHARED: u64 = MONITOR + SHARED_DISTANCE;
/// Bytes of the shared area.
pub(super) const SHARED_SIZE: u64 = 0x2_0000;
/// Processes for user programs that a vCPU has at most: address spaces that it can switch between without mapping anew.
pub(super) const MOST_USERS: usize = 4;
/// Shared areas of a vCPU: the kernel's and its users'.
pub(super) const AREAS: usize = 1 + MOST_USERS;

/// The thunk zone: copies of patched instructions, within reach of a near jump from code linked low. Its distance from
/// that code has 0x60 or 0x61 in its highest byte, see `patch::pun`.
pub(super) const ZONE: u64 = 0x6040_0000;
/// Bytes of the zone. The memory behind it is sparse.
pub(super) const ZONE_SIZE: u64 = 0x180_0000;
/// The control page again, at the start of the zone, where thunks reach it.
pub(super) const ZONE_CONTROL: u64 = ZONE;
/// Counters of thunks, eight bytes each, at the end of the zone's memory. Mapped, writable and not executable, only
/// where sites are counted.
pub(super) const COUNTERS: u64 = ZONE + ZONE_SIZE - COUNTERS_SIZE;
/// Bytes of the counters.
pub(super) const COUNTERS_SIZE: u64 = 0x4_0000;
/// First byte of thunk code; it ends at [`COUNTERS`].
pub(super) const ZONE_CODE: u64 = ZONE + 0x1000;

/// Bytes that the mirror maps at most of a guest with so much RAM: all of it several times, and a GiB of small pages here
/// and there. What is beyond is unmapped again.
pub(super) const fn most_mapped(ram_size: u64) -> u64 {
    ram_size.saturating_mul(4).saturating_add(1 << 30)
}

/// The child's limit on its address space (RLIMIT_AS), in bytes: what the mirror maps, and the monitor's part.
pub(super) const fn address_space(ram_size: u64) -> u64 {
    most_mapped(ram_size).saturating_add(ZONE_SIZE + (16 << 20))
}

/// Descriptors that the child is started with: shared area, guest RAM, shadow text.
pub(super) const SHARED_FD: u32 = 3;
/// Guest RAM.
pub(super) const RAM_FD: u32 = 4;
/// Patched copies of code pages, each at its RAM offset; the thunk zone behind them.
pub(super) const TEXT_FD: u32 = 5;
/// A user's process only: the end of a pipe from which its stub reads requests with keys.
pub(super) const KEYS_FD: u32 = 6;

/// Offsets in the shared area. The first page is the control page.
pub(super) mod at {
    // A line of the cache has one writer at a time, and only the first is looked at while the other side works.

    // The first line is all that a hand-over changes, but for the general registers.

    /// u32: whose turn it is, [`super::turn`]. The one word that others wait on.
    pub(in crate::pv) const TURN: u64 = 0x000;
    /// u32: what the child reports, [`super::event`].
    pub(in crate::pv) const EVENT: u64 = 0x004;
    /// u64: instruction pointer of a hypercall.
    pub(in crate::pv) const RIP: u64 = 0x008;
    /// u64: host flags at a hypercall.
    pub(in crate::pv) const RFLAGS: u64 = 0x010;
    /// u64: FS base.
    pub(in crate::pv) const FS_BASE: u64 = 0x018;
    /// u64: GS base.
    pub(in crate::pv) const GS_BASE: u64 = 0x020;
    /// u64: the guest's address behind the SYSCALL that came last, and where its thunk goes on.
    pub(in crate::pv) const NEXT_GUEST: u64 = 0x028;
    /// u64: see [`NEXT_GUEST`].
    pub(in crate::pv) const NEXT_NATIVE: u64 = 0x030;
    /// u32: what to do beside the requests, [`super::command`].
    pub(in crate::pv) const COMMAND: u64 = 0x038;
    /// u32: the process sleeps and wants to be woken: a user's on TURN, the kernel's at its door.
    pub(in crate::pv) const CHILD_ASLEEP: u64 = 0x03c;

    /// u32: how many entries of REQUESTS are to be executed before the guest goes on.
    pub(in crate::pv) const REQUEST_COUNT: u64 = 0x040;
    /// u32: a kick came while the stub was at work.
    pub(in crate::pv) const KICK: u64 = 0x048;
    /// u32: the engine sleeps on this word. Whoever reports clears it and wakes the engine.
    pub(in crate::pv) const ENGINE_ASLEEP: u64 = 0x04c;
    /// u32: how often the child looks at TURN before it sleeps while the engine works; at least 1.
    pub(in crate::pv) const SPINS: u64 = 0x050;
    /// u32: the same, while the other process of the vCPU runs.
    pub(in crate::pv) const PAIR_SPINS: u64 = 0x054;
    /// u64: kernel's area: where it finds the area of the user's process that it hands over to (its own if there is none);
    /// user's area: 0.
    pub(in crate::pv) const USER_AREA: u64 = 0x058;

    /// u64: number of the signal that came.
    pub(in crate::pv) const SIGNAL: u64 = 0x088;
    /// u64: address of its `siginfo_t`.
    pub(in crate::pv) const SIGNAL_INFO: u64 = 0x090;
    /// u64: address of its `ucontext_t`.
    pub(in crate::pv) const SIGNAL_FRAME: u64 = 0x098;

    /// u64: what PUSHF adds to the host's flags to give the guest's: −0x200 while IF is clear, plus AC and IOPL.
    pub(in crate::pv) const FLAGS_DELTA: u64 = 0x0c0;
    /// u64: nonzero: CLI goes to the engine (ring 3).
    pub(in crate::pv) const CLI_SLOW: u64 = 0x0c8;
    /// u64: nonzero: STI goes to the engine (ring 3, or an interrupt waits).
    pub(in crate::pv) const STI_SLOW: u64 = 0x0d0;
    /// u64: [`super::POPF_SLOWLY`] or 0: POPF goes to the engine (as STI, or AC or IOPL are set).
    pub(in crate::pv) const POPF_SLOW: u64 = 0x0d8;
    /// u64: RAX while a thunk works.
    pub(in crate::pv) const SAVED_RAX: u64 = 0x0e0;
    /// u64: RCX while a thunk works.
    pub(in crate::pv) const SAVED_RCX: u64 = 0x0e8;
    /// u64: the child is to stop at the next kick whatever the virtual interrupt flag says.
    pub(in crate::pv) const STOP: u64 = 0x0f0;
    /// u64: where thunks jump to.
    pub(in crate::pv) const HYPERCALL_ENTRY: u64 = 0x0f8;

    /// u64 × 16: general registers of a hypercall, in encoding order.
    pub(in crate::pv) const GPR: u64 = 0x100;

    /// u64: the host's flags while a POPF thunk works.
    pub(in crate::pv) const HOST_FLAGS: u64 = 0x1b0;
    /// u64: nonzero: VMCALL goes to the engine, whatever it asks for (ring 3, or hypercalls are not taken).
    pub(in crate::pv) const VMCALL_SLOW: u64 = 0x1b8;
    /// u64: where thunks of SYSCALL jump to.
    pub(in crate::pv) const SYSCALL_WAY: u64 = 0x180;
    /// u64: where thunks of SYSRETQ jump to.
    pub(in crate::pv) const SYSRET_WAY: u64 = 0x188;
    /// u64: where thunks of IRETQ jump to.
    pub(in crate::pv) const IRET_WAY: u64 = 0x190;
    /// u32: which way led into the stub, [`super::way`].
    pub(in crate::pv) const WAY: u64 = 0x1a8;
    /// u32: the process waits inside a signal handler and is to leave it before it goes on.
    pub(in crate::pv) const PARK: u64 = 0x1ac;

    /// u64: kernel's area: where the child goes on for a SYSCALL of the user; 0: it takes none up.
    pub(in crate::pv) const ENTRY: u64 = 0x1c0;
    /// u64: the flags that SYSCALL keeps: what IA32_FMASK does not name.
    pub(in crate::pv) const ENTRY_KEEP: u64 = 0x1c8;
    /// u64: [`FLAGS_DELTA`] behind a SYSCALL.
    pub(in crate::pv) const ENTRY_DELTA: u64 = 0x1d0;
    /// u64: selectors in a frame of IRETQ that returns to the user.
    pub(in crate::pv) const USER_CS: u64 = 0x1d8;
    /// u64: see [`USER_CS`].
    pub(in crate::pv) const USER_SS: u64 = 0x1e0;
    /// u32: nonzero: kernel and user have handed over to each other since the engine's last release.
    pub(in crate::pv) const CROSSED: u64 = 0x1e8;

    /// u32: nonzero: requests are not in REQUESTS but in the pipe.
    pub(in crate::pv) const KEYED: u64 = 0x1ec;
    /// u64: user's area: what its last requests said is to be here when they are done.
    pub(in crate::pv) const CONFINED: u64 = 0x1f0;

    /// u32: user's area (or the kernel's, while it has no user): the kernel's process sleeps on DOOR.
    pub(in crate::pv) const KERNEL_ASLEEP: u64 = 0x200;
    /// u32: set and woken by whoever has something for the kernel's process.
    pub(in crate::pv) const DOOR: u64 = 0x204;
    /// Bytes of a user's area that the kernel's process maps: the control page and the XSAVE area.
    pub(in crate::pv) const HAND_OVER: u64 = 0x2000;
    /// XSAVE area, standard format.
    pub(in crate::pv) const XSAVE: u64 = 0x1000;
    /// The stub's own stack, growing down from here.
    pub(in crate::pv) const STACK_TOP: u64 = 0x3000;
    /// Requests: 8 × u64 each (number, six arguments, result).
    pub(in crate::pv) const REQUESTS: u64 = 0x3000;
    /// Bytes of a request.
    pub(in crate::pv) const REQUEST_SIZE: u64 = 64;
    /// Most requests at once.
    pub(in crate::pv) const REQUESTS_MOST: usize = 256;
    /// Bytes of so many requests.
    pub(in crate::pv) const REQUESTS_SIZE: u64 = REQUEST_SIZE * REQUESTS_MOST as u64;
    /// Structures that the start needs: signal actions, stack, filter; later a user's frame of constants.
    pub(in crate::pv) const BOOT: u64 = 0x7000;
    /// Signal stack: lowest byte.
    pub(in crate::pv) const SIGNAL_STACK: u64 = 0x8000;
    /// Signal stack: bytes.
    pub(in crate::pv) const SIGNAL_STACK_SIZE: u64 = super::SHARED_SIZE - SIGNAL_STACK;
}

/// In [`at::POPF_SLOW`]: a bit that no flag has and no thunk loads, so that one test finds it among flags.
pub(super) const POPF_SLOWLY: u64 = 1 << 15;

/// Values of [`at::TURN`].
pub(super) mod turn {
    /// The child runs (guest or stub).
    pub(in crate::pv) const CHILD: u32 = 1;
    /// The child has reported an event and waits.
    pub(in crate::pv) const ENGINE: u32 = 2;
    /// A user's process has made a system call and waits; the kernel's takes it up.
    pub(in crate::pv) const KERNEL: u32 = 3;
    /// The other process goes on: wake it if it sleeps, and wait as PARKED.
    pub(in crate::pv) const STAND_DOWN: u32 = 4;
    /// The child waits while the other process runs. Only while the kernel's process does are a user's reports believed.
    pub(in crate::pv) const PARKED: u32 = 5;
}

/// Values of [`at::WAY`].
pub(super) mod way {
    /// To the engine.
    pub(in crate::pv) const HYPERCALL: u32 = 0;
    /// SYSCALL to the kernel's process.
    pub(in crate::pv) const SYSCALL: u32 = 1;
    /// SYSRETQ to the user's.
    pub(in crate::pv) const SYSRET: u32 = 2;
    /// IRETQ to the user's.
    pub(in crate::pv) const IRET: u32 = 3;
}

/// Values of [`at::EVENT`].
pub(super) mod event {
    /// The stub has mapped the shared area.
    pub(in crate::pv) const BOOT: u32 = 1;
    /// Requests and commands were executed.
    pub(in crate::pv) const DONE: u32 = 2;
    /// A thunk called: registers are in GPR, RIP, RFLAGS; vector registers are live.
    pub(in crate::pv) const HYPERCALL: u32 = 3;
    /// A signal came: registers are in its frame.
    pub(in crate::pv) const SIGNAL: u32 = 4;
    /// A kick came on the way back into the guest: registers are as for HYPERCALL.
    pub(in crate::pv) const KICKED: u32 = 5;
}

/// Bits of [`at::COMMAND`].
pub(super) mod command {
    /// Load the vector registers from XSAVE. Only while the child waits in a hypercall.
    pub(in crate::pv) const LOAD_FPU: u32 = 1;
    /// Save the vector registers to XSAVE. Only while the child waits in a hypercall.
    pub(in crate::pv) const SAVE_FPU: u32 = 2;
    /// Load FS and GS bases.
    pub(in crate::pv) const LOAD_BASES: u32 = 4;
    /// Report DONE instead of going on with the guest.
    pub(in crate::pv) const REPORT: u32 = 8;
}

/// Signal that stops the child.
pub(super) const KICK_SIGNAL: i32 = libc::SIGUSR1;

/// Offsets in the kernel's `ucontext_t` on x86-64 (asm/sigcontext.h).
pub(super) mod frame {
    /// The sixteen general registers, in encoding order.
    pub(in crate::pv) const GPR: [u64; 16] =
        [144, 152, 136, 128, 160, 120, 112, 104, 40, 48, 56, 64, 72, 80, 88, 96];
    /// Instruction pointer.
    pub(in crate::pv) const RIP: u64 = 168;
    /// Flags.
    pub(in crate::pv) const RFLAGS: u64 = 176;
    /// u16: code segment.
    pub(in crate::pv) const CS: u64 = 184;
    /// Error code of the exception.
    pub(in crate::pv) const ERROR: u64 = 192;
    /// Vector of the exception.
    pub(in crate::pv) const TRAPNO: u64 = 200;
    /// Faulting address.
    pub(in crate::pv) const CR2: u64 = 216;
    /// Address of the XSAVE area.
    pub(in crate::pv) const FPSTATE: u64 = 224;
    /// Bytes of the part that we touch.
    pub(in crate::pv) const SIZE: u64 = 304;
}
