//! The native oracle: runs a case on the host's CPU, in a child process.
//!
//! The child lives in a signal handler. Each case ends in a signal (INT3 or a fault); the handler reads the registers
//! from the signal frame, writes those of the next case into it and returns, which loads them all at once. Cases and
//! results lie in shared memory, a batch at a time; two pipes say that a batch is there or done. If the child dies of
//! a wild store, the case is known and a new child takes over behind it.
//!
//! A seccomp filter keeps the code page from making system calls, and an interval timer ends what does not end.
#![expect(unsafe_code, reason = "executes random machine code in a child process")]
use crate::case::{CODE, Case, DATA, DATA_BYTES, End, Observation, PAGE, READ_ONLY, Registers};
use std::arch::asm;
use std::io;
use std::mem::zeroed;
use std::ptr::{addr_of_mut, null_mut};

/// Cases in a batch.
pub const BATCH: usize = 128;

#[repr(C, align(64))]
struct Slot {
    before: Registers,
    /// Of the code: 64, or 32.
    bits: u32,
    code: [u8; PAGE],
    data: [u8; DATA_BYTES],
    after: Registers,
    vector: u64,
    error: u64,
    cr2: u64,
    after_data: [u8; DATA_BYTES],
}

/// Vector numbers that no CPU has.
const ENDLESS: u64 = 100;
const SYSTEM_CALL: u64 = 101;

#[repr(C, align(64))]
struct Shared {
    count: usize,
    /// Results that are complete.
    done: usize,
    slots: [Slot; BATCH],
}

/// What the child's handler needs, in the child's own memory.
struct Child {
    shared: *mut Shared,
    /// Writable view of the code page.
    code: *mut u8,
    requests: i32,
    replies: i32,
    current: usize,
    running: bool,
    /// The case that ran at the last tick of the timer.
    ticked: usize,
    fs_base: u64,
    xsave_bits: u64,
}

static mut CHILD: Child = Child {
    shared: null_mut(),
    code: null_mut(),
    requests: -1,
    replies: -1,
    current: 0,
    running: false,
    ticked: usize::MAX,
    fs_base: 0,
    xsave_bits: 7,
};

/// A running child.
pub struct Oracle {
    shared: *mut Shared,
    pid: i32,
    requests: i32,
    replies: i32,
}

fn map(at: u64, bytes: usize, protection: i32, flags: i32, fd: i32) -> *mut u8 {
    // SAFETY: either the kernel chooses the place or it must be free (MAP_FIXED_NOREPLACE).
    let p = unsafe { libc::mmap(at as *mut libc::c_void, bytes, protection, flags, fd, 0) };
    assert!(p != libc::MAP_FAILED, "mmap at {at:#x}: {}", io::Error::last_os_error());
    p.cast()
}

impl Oracle {
    pub fn start() -> Self {
        let shared = map(
            0,
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
        );
        let mut oracle = Self { shared: shared.cast(), pid: 0, requests: -1, replies: -1 };
        oracle.spawn();
        oracle
    }

    fn spawn(&mut self) {
        let (mut to_child, mut from_child) = ([0; 2], [0; 2]);
        // SAFETY: plain system calls on live arrays; the child calls only async-signal-safe functions.
        unsafe {
            assert_eq!(libc::pipe2(to_child.as_mut_ptr(), libc::O_CLOEXEC), 0);
            assert_eq!(libc::pipe2(from_child.as_mut_ptr(), libc::O_CLOEXEC), 0);
            self.pid = libc::fork();
            assert!(self.pid >= 0, "fork: {}", io::Error::last_os_error());
            if self.pid == 0 {
                libc::close(to_child[1]);
                libc::close(from_child[0]);
                child(self.shared, to_child[0], from_child[1]);
            }
            libc::close(to_child[0]);
            libc::close(from_child[1]);
        }
        self.requests = to_child[1];
        self.replies = from_child[0];
    }

    fn stop(&mut self) {
        // SAFETY: the pid is our child's, which is reaped here; the descriptors are ours.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, null_mut(), 0);
            libc::close(self.requests);
            libc::close(self.replies);
        }
    }

    /// Hands a batch to the child, which starts at once.
    pub fn submit(&mut self, cases: &[Case]) {
        assert!(cases.len() <= BATCH);
        // SAFETY: the child waits for the request, so nobody else touches the memory.
        let shared = unsafe { &mut *self.shared };
        for (slot, case) in shared.slots.iter_mut().zip(cases) {
            slot.before = case.registers.clone();
            slot.bits = case.bits;
            slot.code = case.code();
            slot.data = *case.data();
        }
        shared.count = cases.len();
        shared.done = 0;
        self.request();
    }

    fn request(&mut self) {
        // SAFETY: writes one byte of a live buffer.
        assert_eq!(unsafe { libc::write(self.requests, [1_u8].as_ptr().cast(), 1) }, 1);
    }

    /// Waits for the results of the batch; `None` for a case that killed the child.
    pub fn results(&mut self) -> Vec<Option<Observation>> {
        let mut results = Vec::new();
        loop {
            let mut byte = 0_u8;
            // SAFETY: reads one byte into a live buffer.
            let read = unsafe { libc::read(self.replies, (&raw mut byte).cast(), 1) };
            // SAFETY: the child has answered or is dead.
            let shared = unsafe { &mut *self.shared };
            while results.len() < shared.done {
                let slot = &shared.slots[results.len()];
                results.push(Some(observation(slot)));
            }
            if read == 1 {
                return results;
            }
            self.stop();
            results.push(None);
            shared.done = results.len();
            self.spawn();
            if shared.done == shared.count {
                return results;
            }
            self.request();
        }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Option<Observation> {
        self.submit(std::slice::from_ref(case));
        self.results().pop().flatten()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: our own mapping, not used again.
        unsafe { libc::munmap(self.shared.cast(), size_of::<Shared>()) };
    }
}

fn observation(slot: &Slot) -> Observation {
    let mut registers = slot.after.clone();
    let end = match slot.vector {
        3 => {
            registers.rip = registers.rip.wrapping_sub(1);
            End::Reached
        }
        ENDLESS | SYSTEM_CALL => End::Endless,
        vector => {
            // The kernel's frame keeps old values of what the exception does not have.
            let code = if matches!(vector, 8 | 10..=14 | 17) { slot.error } else { 0 };
            let cr2 = if vector == 14 { slot.cr2 } else { 0 };
            End::Exception { vector: vector as u8, code, cr2 }
        }
    };
    Observation { end, registers, data: Box::new(slot.after_data) }
}

/// Order of [`Registers::gpr`] in the signal frame.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The child: sets up the memory and enters the handler for good.
unsafe fn child(shared: *mut Shared, requests: i32, replies: i32) -> ! {
    // SAFETY: the child has one thread, and the statics are its alone. Addresses are free in a position-independent
    // executable; the filter is a valid program.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let child = &mut *addr_of_mut!(CHILD);
        child.shared = shared;
        child.requests = requests;
        child.replies = replies;
        child.current = 0;
        child.running = false;
        let fd = libc::memfd_create(c"oracle-code".as_ptr(), 0);
        libc::ftruncate(fd, PAGE as i64);
        child.code = map(0, PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd);
        let fixed = libc::MAP_FIXED_NOREPLACE;
        map(CODE, PAGE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | fixed, fd);
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
        map(DATA, 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1);
        map(READ_ONLY, PAGE, libc::PROT_READ, anonymous, -1);
        asm!("rdfsbase {}", out(reg) child.fs_base, options(nomem, nostack));
        let size = 1 << 18;
        let stack = libc::stack_t {
            ss_sp: map(
                0,
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
            )
            .cast(),
            ss_flags: 0,
            ss_size: size,
        };
        libc::sigaltstack(&raw const stack, null_mut());
        for signal in [
            libc::SIGTRAP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGALRM,
            libc::SIGSYS,
        ] {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // A tick waits until the handler is done; a fault inside the handler kills.
            libc::sigaddset(&raw mut action.sa_mask, libc::SIGALRM);
            libc::sigaction(signal, &raw const action, null_mut());
        }
        forbid_system_calls();
        let tick = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        let timer = libc::itimerval { it_interval: tick, it_value: tick };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut());
        asm!("int3");
        libc::_exit(1)
    }
}

/// System calls from the code page, or of another ABI, become SIGSYS.
unsafe fn forbid_system_calls() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // seccomp_data: 0 number, 4 architecture, 8 instruction pointer, low half first.
    let mut filter = [
        op(LOAD, 0, 0, 4),
        op(EQUAL, 0, 6, AUDIT_ARCH_X86_64),
        op(LOAD, 0, 0, 12),
        op(EQUAL, 0, 3, 0),
        op(LOAD, 0, 0, 8),
        op(AND, 0, 0, 0xff00_0000),
        op(EQUAL, 1, 0, (CODE as u32) & 0xff00_0000),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is live and its length is true.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0 {
            libc::_exit(3);
        }
    }
}

/// Receives the end of a case and starts the next one. The FS base is the guest's until it is put back, so nothing
/// before that may use thread-local storage.
unsafe extern "C" fn handler(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid frame; the statics belong to this only thread.
    unsafe {
        let child = &mut *addr_of_mut!(CHILD);
        let (fs, gs): (u64, u64);
        asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nomem, nostack));
        asm!("wrfsbase {}", in(reg) child.fs_base, options(nomem, nostack));
        let context = &mut *context.cast::<libc::ucontext_t>();
        if signal == libc::SIGALRM {
            let first = child.ticked != child.current;
            child.ticked = child.current;
            let inside = (CODE..CODE + PAGE as u64)
                .contains(&(context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64));
            if first || !child.running || !inside {
                asm!("wrfsbase {}", in(reg) fs, options(nomem, nostack));
                return;
            }
            context.uc_mcontext.gregs[libc::REG_TRAPNO as usize] = ENDLESS as i64;
        }
        if signal == libc::SIGSYS {
            context.uc_mcontext.gregs[libc::REG_TRAPNO as usize] = SYSTEM_CALL as i64;
        }
        let shared = &mut *child.shared;
        if child.running {
            record(&mut shared.slots[child.current], context, fs, gs);
            child.current += 1;
            shared.done = child.current;
        }
        while !child.running || child.current == shared.count {
            if child.running && libc::write(child.replies, [1_u8].as_ptr().cast(), 1) != 1 {
                libc::_exit(2);
            }
            let mut byte = 0_u8;
            while libc::read(child.requests, (&raw mut byte).cast(), 1) != 1 {
                if *libc::__errno_location() != libc::EINTR {
                    libc::_exit(0);
                }
            }
            child.current = shared.done;
            child.running = true;
        }
        child.ticked = usize::MAX;
        load(&shared.slots[child.current], child, context);
    }
}

unsafe fn record(slot: &mut Slot, context: &libc::ucontext_t, fs: u64, gs: u64) {
    let gregs = &context.uc_mcontext.gregs;
    for (value, index) in slot.after.gpr.iter_mut().zip(GREGS) {
        *value = gregs[index as usize] as u64;
    }
    slot.after.rip = gregs[libc::REG_RIP as usize] as u64;
    slot.after.rflags = gregs[libc::REG_EFL as usize] as u64;
    slot.after.fs_base = fs;
    slot.after.gs_base = gs;
    slot.vector = gregs[libc::REG_TRAPNO as usize] as u64;
    slot.error = gregs[libc::REG_ERR as usize] as u64;
    slot.cr2 = gregs[libc::REG_CR2 as usize] as u64;
    // SAFETY: with AVX the frame holds at least 832 bytes of standard format; the data pages are mapped.
    unsafe {
        let area = context.uc_mcontext.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(area, slot.after.xsave.as_mut_ptr(), 832);
        std::ptr::copy_nonoverlapping(DATA as *const u8, slot.after_data.as_mut_ptr(), 2 * PAGE);
        std::ptr::copy_nonoverlapping(
            READ_ONLY as *const u8,
            slot.after_data.as_mut_ptr().add(2 * PAGE),
            PAGE,
        );
    }
    // A component that is not marked is in its initial state, whatever its bytes are.
    let xsave = &mut slot.after.xsave;
    let present = xsave[512];
    if present & 1 == 0 {
        xsave[..24].fill(0);
        xsave[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        xsave[32..160].fill(0);
    }
    if present & 2 == 0 {
        xsave[160..416].fill(0);
    }
    if present & 4 == 0 {
        xsave[576..832].fill(0);
    }
}

unsafe fn load(slot: &Slot, child: &Child, context: &mut libc::ucontext_t) {
    let before = &slot.before;
    let gregs = &mut context.uc_mcontext.gregs;
    for (value, index) in before.gpr.iter().zip(GREGS) {
        gregs[index as usize] = *value as i64;
    }
    gregs[libc::REG_RIP as usize] = before.rip as i64;
    gregs[libc::REG_EFL as usize] = before.rflags as i64;
    // Linux's selectors of 64- and 32-bit code; SS lies above.
    let selector = if slot.bits == 32 { 0x23 } else { 0x33 };
    let selectors = gregs[libc::REG_CSGSFS as usize] & !0xffff | selector;
    gregs[libc::REG_CSGSFS as usize] = selectors;
    // The data segments are no part of the frame; 64-bit programs have none.
    let data = if slot.bits == 32 { 0x2b_u32 } else { 0 };
    // SAFETY: loads no selector, or that of Linux's flat user data, as SS has it.
    unsafe {
        asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) data, options(nomem, nostack, preserves_flags));
    }
    // The kernel takes NT and ID not from the frame but from the handler's own flags.
    let kept = before.rflags & 0x20_4000;
    // SAFETY: changes two bits that no code of this handler looks at.
    unsafe {
        asm!("pushfq", "and qword ptr [rsp], {mask}", "or qword ptr [rsp], {kept}", "popfq",
            mask = const !0x20_4000, kept = in(reg) kept);
    }
    // SAFETY: as in `record`; the code page's writable view is ours. Bytes 464 to 511 of the frame are the kernel's.
    unsafe {
        let area = context.uc_mcontext.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(before.xsave.as_ptr(), area, 416);
        let bits = area.add(512).cast::<u64>();
        bits.write_unaligned(bits.read_unaligned() | child.xsave_bits);
        std::ptr::copy_nonoverlapping(before.xsave.as_ptr().add(576), area.add(576), 256);
        std::ptr::copy_nonoverlapping(slot.code.as_ptr(), child.code, PAGE);
        std::ptr::copy_nonoverlapping(slot.data.as_ptr(), DATA as *mut u8, 2 * PAGE);
        // The read-only page gets its contents through a moment of being writable.
        let page = READ_ONLY as *mut libc::c_void;
        let wanted = slot.data.as_ptr().add(2 * PAGE);
        if std::slice::from_raw_parts(READ_ONLY as *const u8, PAGE)
            != std::slice::from_raw_parts(wanted, PAGE)
        {
            libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE);
            std::ptr::copy_nonoverlapping(wanted, page.cast(), PAGE);
            libc::mprotect(page, PAGE, libc::PROT_READ);
        }
        asm!("wrgsbase {}", "wrfsbase {}", in(reg) before.gs_base, in(reg) before.fs_base,
            options(nomem, nostack));
    }
}
