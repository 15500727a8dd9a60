//! Descriptor tables whose selectors mean other things than in Linux's GDT, and the trap that catches what a case raises.
use core::arch::{asm, naked_asm};

use guest::cpu;
use guest::layout::{KERNEL_CODE, KERNEL_DATA};
use guest::single::Single;
use guest::trap::{self, Frame};

use crate::Finding;

/// Selector of a data segment of ring 3 with a base; in Linux it is the flat one.
pub const WITH_BASE: u16 = 0x28 | 3;
/// Its base.
pub const BASE: u64 = 0x1234_5000;
/// Selector of a 64-bit code segment of ring 3; in Linux, too.
pub const OUTER_CODE: u16 = 0x30 | 3;
/// Selector of the local descriptor table.
pub const LDT: u16 = 0x40;

#[repr(C, align(16))]
struct Table([u64; 10]);

static GDT: Single<Table> = Single::new(Table([
    0,
    0x00af_9b00_0000_ffff, // 0x08 kernel code, as before
    0x00cf_9300_0000_ffff, // 0x10 kernel data, as before
    0x00cf_fb00_0000_ffff, // 0x18 as before
    0x00cf_f300_0000_ffff, // 0x20 as before
    0x12cf_f334_5000_ffff, // 0x28 WITH_BASE
    0x00af_fb00_0000_ffff, // 0x30 OUTER_CODE; the task register has its own copy of what was here
    0,
    0x0000_8200_0000_000f, // 0x40 LDT of two empty entries at 0
    0,
]));

/// What the last case raised.
pub static RAISED: Single<Raised> = Single::new(Raised::NOTHING);

/// Where a case goes on after an exception, and with which stack: set by [`attempt`], and within it by `watched!`.
#[unsafe(no_mangle)]
static SENSITIVE_RESUME: Single<[u64; 2]> = Single::new([0; 2]);

/// An exception as its frame shows it.
#[derive(Clone, Copy)]
pub struct Raised {
    /// Whether there was one.
    pub any: bool,
    /// Its vector.
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// The interrupted code segment.
    pub cs: u64,
    /// The interrupted flags.
    pub rflags: u64,
    /// The interrupted stack pointer.
    pub rsp: u64,
}

impl Raised {
    /// No exception.
    pub const NOTHING: Self = Self { any: false, vector: 0, error: 0, cs: 0, rflags: 0, rsp: 0 };
}

/// The first byte of the GDT.
pub fn gdt() -> u64 {
    GDT.pointer() as u64
}

/// Loads the tables, and takes the exceptions that cases raise.
pub fn load() {
    let base = gdt();
    let limit = size_of::<Table>() as u16 - 1;
    let pointer = [limit, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16];
    // SAFETY: what is in use keeps its selector and its meaning.
    unsafe {
        asm!("lgdt [{}]", in(reg) pointer.as_ptr(), options(nostack, preserves_flags));
        asm!("lldt {:x}", in(reg) LDT, options(nostack, preserves_flags));
        // Monitor coprocessor off: a bit of CR0 that Linux sets, without effect while TS is clear.
        asm!("mov {t}, cr0", "and {t}, -3", "mov cr0, {t}", t = out(reg) _, options(nostack));
        cpu::set_cr4(cpu::cr4() & !(1 << 18));
    }
    for vector in [trap::INVALID_OPCODE, 10, 11, 12, 13, trap::PAGE_FAULT] {
        trap::set(vector, Some(catch));
    }
}

/// Notes an exception and goes on where the case says, in ring 0 with interrupts off.
fn catch(frame: &mut Frame) {
    let raised = Raised {
        any: true,
        vector: frame.vector,
        error: frame.error,
        cs: frame.cs,
        rflags: frame.rflags,
        rsp: frame.rsp,
    };
    // SAFETY: cases do not hold references while they run.
    unsafe {
        *RAISED.get() = raised;
        let resume = SENSITIVE_RESUME.get();
        (frame.rip, frame.rsp) = (resume[0], resume[1]);
    }
    (frame.cs, frame.ss, frame.rflags) = (KERNEL_CODE.into(), KERNEL_DATA.into(), 2);
}

/// What a case found, or the vector of an exception that it did not watch for.
pub fn attempt(run: fn() -> Finding) -> Result<Finding, u64> {
    let mut found = Finding { right: 0, seen: 0 };
    let mut act = || found = run();
    // SAFETY: the closure lives until the call is over; an exception leaves nothing behind but its own frames.
    let whole = unsafe { call_watched(call_closure(&act), (&raw mut act).cast()) };
    // SAFETY: cases hold no references now.
    if whole { Ok(found) } else { Err(unsafe { RAISED.get() }.vector) }
}

/// The function that calls a closure of this type.
fn call_closure<F: FnMut()>(_: &F) -> extern "C" fn(*mut ()) {
    extern "C" fn call<F: FnMut()>(closure: *mut ()) {
        // SAFETY: `attempt` passes the closure that this function was made for.
        unsafe { (*closure.cast::<F>())() }
    }
    call::<F>
}

/// Calls `act` and says whether it came to its end.
#[unsafe(naked)]
unsafe extern "C" fn call_watched(act: extern "C" fn(*mut ()), argument: *mut ()) -> bool {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "lea rax, [rip + 2f]",
        "mov [SENSITIVE_RESUME], rax",
        "mov [SENSITIVE_RESUME + 8], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "mov eax, 1",
        "jmp 3f",
        "2:",
        "xor eax, eax",
        "3:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Executes instructions of which one may raise an exception, or leave the stack pointer anywhere; says what was raised.
#[macro_export]
macro_rules! watched {
    ([$($op:literal),+ $(,)?] $(, $($operand:tt)*)?) => {{
        *$crate::tables::RAISED.get() = $crate::tables::Raised::NOTHING;
        ::core::arch::asm!(
            "push qword ptr [SENSITIVE_RESUME]", "push qword ptr [SENSITIVE_RESUME + 8]",
            "lea {resume}, [rip + 9f]", "mov [SENSITIVE_RESUME], {resume}", "mov [SENSITIVE_RESUME + 8], rsp",
            $($op,)+
            "9:", "mov rsp, [SENSITIVE_RESUME + 8]",
            "pop qword ptr [SENSITIVE_RESUME + 8]", "pop qword ptr [SENSITIVE_RESUME]",
            resume = out(reg) _, $($($operand)*)?
        );
        *$crate::tables::RAISED.get()
    }};
}
