//! Ring 3: entering it, the system calls, and the arena it works in.
//!
//! ABI: number in RAX, arguments in RDI and RSI, result in RAX; RCX, R11 and the SSE registers are lost. Calls below
//! [`FIRST_CUSTOM`] are the library's, the others belong to the workload ([`set_handler`]). Ring 3 shares the code and
//! the constants, has a stack and an arena of its own, and sees none of the kernel's data.
//!
//! There are monitors under which SYSCALL goes to the right address but stays in ring 3 (KVM's `kvm_pvm`). The first
//! [`run`] finds out; system calls then take another gate, the invalid opcode exception, and a byte at [`USER_GATE`]
//! tells ring 3 which, as Linux's vsyscall page once told INT 0x80 from SYSENTER.

use core::arch::{asm, naked_asm};

use crate::cpu;
use crate::layout::{KERNEL_CODE, RAM_MAPPED, USER_ARENA, USER_GATE, USER_STACK_TOP};
use crate::single::Single;
use crate::trap::{self, Frame};

/// System call: back to [`run`] with RDI as its result.
pub const EXIT: u64 = 0;
/// System call: marks a phase on the bench port (RDI: the mark).
pub const MARK: u64 = 1;
/// System call: ends the run with a reason (RDI: text, RSI: length).
pub const FAIL: u64 = 2;
/// First number that belongs to the workload.
pub const FIRST_CUSTOM: u64 = 16;

/// What ring 3 was doing when it called, as saved by the kernel; a handler may change it, even to another program's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// R15 to RBX are preserved for the caller.
    pub r15: u64,
    /// R14.
    pub r14: u64,
    /// R13.
    pub r13: u64,
    /// R12.
    pub r12: u64,
    /// RBP.
    pub rbp: u64,
    /// RBX.
    pub rbx: u64,
    /// First argument.
    pub rdi: u64,
    /// Second argument.
    pub rsi: u64,
    /// Number, then result.
    pub rax: u64,
    /// Flags of the caller.
    pub rflags: u64,
    /// Where the caller goes on.
    pub rip: u64,
    /// Its stack pointer.
    pub rsp: u64,
}

/// Serves the system calls of a workload.
pub type Handler = fn(&mut Registers);

#[unsafe(no_mangle)]
static GUEST_KERNEL_RSP: Single<u64> = Single::new(0);
#[unsafe(no_mangle)]
static GUEST_USER_RSP: Single<u64> = Single::new(0);
static HANDLER: Single<Option<Handler>> = Single::new(None);
/// Whether it is known what SYSCALL does, and if it enters ring 0.
static PROBED: Single<Option<bool>> = Single::new(None);

/// Sets up SYSCALL.
pub(crate) fn init() {
    // SAFETY: the selectors are those of the GDT in `boot.rs`, the entry is ours.
    unsafe {
        cpu::wrmsr(cpu::MSR_STAR, 0x1b << 48 | u64::from(KERNEL_CODE) << 32);
        cpu::wrmsr(cpu::MSR_FMASK, 0x4_7700); // AC, NT, OF, DF, IF, TF
        set_entry(guest_system_call_entry);
    }
}

/// Lets SYSCALL go to `entry`.
///
/// # Safety
/// It must be written in assembly and leave calls it does not know to [`guest_system_call_entry`] with all registers as
/// they came.
pub unsafe fn set_entry(entry: unsafe extern "C" fn()) {
    // SAFETY: the caller's promise.
    unsafe { cpu::wrmsr(cpu::MSR_LSTAR, entry as usize as u64) };
}

/// Sets who serves the workload's own calls.
pub fn set_handler(handler: Handler) {
    // SAFETY: only read while ring 3 runs.
    unsafe { *HANDLER.get() = Some(handler) };
}

/// The general entry of system calls.
///
/// # Safety
/// Only the CPU calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn guest_system_call_entry() {
    naked_asm!(
        "mov [GUEST_USER_RSP], rsp",
        "mov rsp, [GUEST_KERNEL_RSP]",
        "test eax, eax",
        "jz 2f",
        "push qword ptr [GUEST_USER_RSP]",
        "push rcx",
        "push r11",
        "push rax",
        "push rsi",
        "push rdi",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rdi, rsp",
        "mov rbx, rsp",
        "and rsp, -16",
        "call {dispatch}",
        "mov rsp, rbx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "pop rdi",
        "pop rsi",
        "pop rax",
        "pop r11",
        "pop rcx",
        "pop rsp",
        "sysretq",
        "2:",
        "jmp {leave}",
        dispatch = sym dispatch,
        leave = sym leave,
    )
}

/// Ends [`enter`] with a result: the stack pointer goes back to where `enter` left it.
#[unsafe(naked)]
unsafe extern "C" fn leave(result: u64) -> ! {
    naked_asm!(
        "mov rax, rdi",
        "mov rsp, [GUEST_KERNEL_RSP]",
        "cld",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Where SYSCALL goes while it is tried out: the exception's frame shows the privilege level.
#[unsafe(naked)]
unsafe extern "C" fn probe_entry() {
    naked_asm!("ud2")
}

/// The other gate: UD2 in ring 3 is a system call. While SYSCALL is tried out it tells where that led.
fn invalid_opcode(frame: &mut Frame) {
    const UD2: [u8; 2] = [0x0f, 0x0b];
    if frame.rip == probe_entry as *const () as u64 {
        // SAFETY: as below.
        unsafe { leave(frame.cs & 3) }
    }
    // SAFETY: the instruction was fetched from there, so it is mapped.
    if frame.cs & 3 != 3 || unsafe { *(frame.rip as *const [u8; 2]) } != UD2 {
        trap::fatal(frame);
    }
    if frame.rax == EXIT {
        // SAFETY: ring 3 runs only within `enter`. The interrupted handler's stack is used anew from its top.
        unsafe { leave(frame.rdi) }
    }
    let mut registers = Registers {
        r15: frame.r15,
        r14: frame.r14,
        r13: frame.r13,
        r12: frame.r12,
        rbp: frame.rbp,
        rbx: frame.rbx,
        rdi: frame.rdi,
        rsi: frame.rsi,
        rax: frame.rax,
        rflags: frame.rflags,
        rip: frame.rip + UD2.len() as u64,
        rsp: frame.rsp,
    };
    dispatch(&mut registers);
    frame.r15 = registers.r15;
    frame.r14 = registers.r14;
    frame.r13 = registers.r13;
    frame.r12 = registers.r12;
    frame.rbp = registers.rbp;
    frame.rbx = registers.rbx;
    frame.rdi = registers.rdi;
    frame.rsi = registers.rsi;
    frame.rax = registers.rax;
    frame.rflags = registers.rflags;
    frame.rip = registers.rip;
    frame.rsp = registers.rsp;
}

/// Whether SYSCALL enters ring 0 on this machine.
pub fn syscall_works() -> bool {
    // SAFETY: ring 0 is not interrupted by anything that uses it.
    let probed = unsafe { PROBED.get() };
    if let Some(works) = *probed {
        return works;
    }
    trap::set(trap::INVALID_OPCODE, Some(invalid_opcode));
    let previous = cpu::rdmsr(cpu::MSR_LSTAR);
    // SAFETY: the program is `start` itself, whose first call is the probe; entry and stack are right for it.
    let works = unsafe {
        set_entry(probe_entry);
        let level = enter(probe as *const () as u64, 0, USER_STACK_TOP);
        cpu::wrmsr(cpu::MSR_LSTAR, previous);
        level == 0
    };
    // SAFETY: mapped for both rings, and nothing of Rust's.
    unsafe { (USER_GATE as *mut u8).write_volatile(u8::from(!works)) };
    *probed = Some(works);
    works
}

/// Ring 3's side of the probe.
#[unsafe(naked)]
unsafe extern "C" fn probe() {
    naked_asm!("syscall", "ud2")
}

#[unsafe(naked)]
unsafe extern "C" fn enter(program: u64, argument: u64, stack: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [GUEST_KERNEL_RSP], rsp",
        "mov rcx, offset {start}",
        "mov r11d, 0x202",
        "mov rsp, rdx",
        "sysretq",
        start = sym start,
    )
}

/// First code in ring 3: calls the program and exits with its result.
#[unsafe(naked)]
unsafe extern "C" fn start() {
    naked_asm!(
        "mov rax, rdi",
        "mov rdi, rsi",
        "xor ebp, ebp",
        "call rax",
        "mov rdi, rax",
        "xor eax, eax",
        "cmp byte ptr [{gate}], 0",
        "jne 2f",
        "syscall",
        "2:",
        "ud2",
        gate = const USER_GATE,
    )
}

extern "C" fn dispatch(registers: &mut Registers) {
    match registers.rax {
        MARK => {
            crate::measure::mark_kernel(registers.rdi as u32);
        }
        FAIL => {
            // SAFETY: ring 3 is our own program and names a text of its own.
            let text =
                unsafe { core::slice::from_raw_parts(registers.rdi as *const u8, registers.rsi as usize) };
            crate::fail(core::str::from_utf8(text).unwrap_or("ring 3 failed with a text that is none"));
        }
        // SAFETY: set before ring 3 ran.
        number => match unsafe { *HANDLER.get() } {
            Some(handler) if number >= FIRST_CUSTOM => handler(registers),
            _ => panic!("system call {number} is not known"),
        },
    }
}

/// Makes a system call. Ring 3 only.
#[inline(always)]
pub fn call(number: u64, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the kernel preserves what the ABI says.
    unsafe {
        asm!("cmp byte ptr [{gate}], 0", "jne 2f", "syscall", "jmp 3f", "2:", "ud2", "3:", gate = const USER_GATE,
            inout("rax") number => result, in("rdi") first, in("rsi") second, out("rcx") _, out("r11") _,
            clobber_abi("C"))
    };
    result
}

/// Runs `program` in ring 3 until it returns, interrupts enabled, and gives its result.
pub fn run(program: extern "C" fn(u64) -> u64, argument: u64) -> u64 {
    // SAFETY: the library's own ring-3 stack is mapped and used by nothing else.
    unsafe { run_on(program, argument, USER_STACK_TOP) }
}

/// Like [`run`], on another stack.
///
/// # Safety
/// Below `stack_top`, a multiple of 16, lies memory that ring 3 may write and that nothing else uses.
pub unsafe fn run_on(program: extern "C" fn(u64) -> u64, argument: u64, stack_top: u64) -> u64 {
    // SAFETY: the code is mapped for ring 3; `enter` keeps what the calling convention says, and saves the kernel's
    // stack pointer anew each time.
    unsafe {
        syscall_works();
        enter(program as usize as u64, argument, stack_top)
    }
}

/// The arena that ring 3 may read and write, `length` bytes from `offset`; contents undefined.
///
/// # Safety
/// Slices that are alive at the same time must not overlap.
pub unsafe fn arena(offset: usize, length: usize) -> &'static mut [u8] {
    assert!(offset + length <= (RAM_MAPPED - USER_ARENA) as usize, "the arena is too small");
    // SAFETY: mapped, and used for nothing else.
    unsafe { core::slice::from_raw_parts_mut((USER_ARENA as usize + offset) as *mut u8, length) }
}
