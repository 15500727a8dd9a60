//! Exceptions and interrupts: descriptor tables, stacks, and handlers by vector.
//!
//! Two kinds of handler. A *raw* one is an assembly function that the IDT names directly: it saves what it changes and
//! ends in IRETQ, and is what measurements use. A *Rust* one is called through `common` with all registers saved, the
//! SSE state included, because compiled code may use it. Every gate is an interrupt gate on a stack of its own (IST):
//! prebuilt `core` keeps data below the stack pointer. Interrupts and exceptions have different stacks, so an
//! interrupt handler may fault; an exception in a Rust exception handler is fatal.

use core::arch::{asm, global_asm, naked_asm};

use crate::boot::boot_gdt;
use crate::layout::{KERNEL_CODE, LAPIC, TSS};
use crate::single::{Counter, Single};

/// Vector of the divide error.
pub const DIVIDE_ERROR: u8 = 0;
/// Vector of the invalid opcode exception.
pub const INVALID_OPCODE: u8 = 6;
/// Vector of the double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// Vector of the page fault.
pub const PAGE_FAULT: u8 = 14;
/// Vector of the first PIC line; all lines use 0x20 to 0x2f.
pub const IRQ_BASE: u8 = 0x20;
/// Vector of the local APIC's timer.
pub const LAPIC_TIMER: u8 = 0x40;
/// Vector that the workloads send to themselves.
pub const SELF_IPI: u8 = 0x41;
/// Vector of the local APIC's spurious interrupt.
pub const LAPIC_SPURIOUS: u8 = 0xff;

/// Registers of the interrupted code.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// R15 down to RAX, as pushed.
    pub r15: u64,
    /// R14.
    pub r14: u64,
    /// R13.
    pub r13: u64,
    /// R12.
    pub r12: u64,
    /// R11.
    pub r11: u64,
    /// R10.
    pub r10: u64,
    /// R9.
    pub r9: u64,
    /// R8.
    pub r8: u64,
    /// RBP.
    pub rbp: u64,
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// RDX.
    pub rdx: u64,
    /// RCX.
    pub rcx: u64,
    /// RBX.
    pub rbx: u64,
    /// RAX.
    pub rax: u64,
    /// Which exception or interrupt.
    pub vector: u64,
    /// The CPU's error code, or 0.
    pub error: u64,
    /// Where the code goes on.
    pub rip: u64,
    /// Its code segment.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its stack segment.
    pub ss: u64,
}

/// A handler in Rust; it may change the frame.
pub type Handler = fn(&mut Frame);

const STACK: usize = 16 * 1024;
const STUB: u64 = 16;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: [u16; 5],
    io_map: u16,
}

#[repr(C, align(16))]
struct Gates([[u64; 2]; 256]);

static STACKS: [Single<Stack>; 3] = [const { Single::new(Stack([0; STACK])) }; 3];
static TASK_STATE: Single<TaskState> = Single::new(TaskState {
    reserved: 0,
    rsp: [0; 3],
    reserved2: 0,
    ist: [0; 7],
    reserved3: [0; 5],
    io_map: size_of::<TaskState>() as u16,
});
static GATES: Single<Gates> = Single::new(Gates([[0; 2]; 256]));
static HANDLERS: Single<[Option<Handler>; 256]> = Single::new([None; 256]);

// One stub of 16 bytes a vector: push an error code where the CPU does not, push the vector, go to `common`.
global_asm!(
    ".text",
    ".balign 16",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "push 0",
    ".endif",
    "push vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "trap_common:",
    "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
    "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "sub rsp, 512",
    "and rsp, -16",
    "fxsave64 [rsp]",
    "call {dispatch}",
    "fxrstor64 [rsp]",
    "mov rsp, rbx",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
    "add rsp, 16",
    "iretq",
    dispatch = sym dispatch,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

extern "C" fn dispatch(frame: &mut Frame) {
    // SAFETY: an aligned load; handlers are set with interrupts off.
    let handler =
        unsafe { HANDLERS.pointer().cast::<Option<Handler>>().add(frame.vector as u8 as usize).read() };
    match handler {
        Some(handler) => handler(frame),
        // A line of the PIC that nobody asked for: spurious, or a tick that was on its way when it was masked.
        None if (0x20..0x30).contains(&frame.vector) => {
            crate::pic::end_of_interrupt(frame.vector as u8 - IRQ_BASE)
        }
        None if frame.vector >= 0x40 && frame.vector != u64::from(LAPIC_SPURIOUS) => {
            crate::lapic::end_of_interrupt()
        }
        None if frame.vector == u64::from(LAPIC_SPURIOUS) => {}
        None => fatal(frame),
    }
}

/// Ends the run: nobody handles this exception.
pub(crate) fn fatal(frame: &Frame) -> ! {
    panic!(
        "exception {} error {:#x} at rip {:#x} cs {:#x} rsp {:#x} cr2 {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.cs,
        frame.rsp,
        crate::cpu::cr2()
    )
}

fn stack_of(vector: u8) -> u64 {
    match vector {
        2 | DOUBLE_FAULT | 18 => 3,
        0..0x20 => 2,
        _ => 1,
    }
}

fn gate(vector: u8, address: u64, privilege: u64) {
    let low = address & 0xffff
        | u64::from(KERNEL_CODE) << 16
        | stack_of(vector) << 32
        | (0x8e | privilege << 5) << 40
        | (address >> 16 & 0xffff) << 48;
    // SAFETY: the table has 256 entries; the CPU reads it only when a trap comes.
    unsafe { GATES.pointer().cast::<[u64; 2]>().add(vector as usize).write_volatile([low, address >> 32]) };
}

fn stub_address(vector: u8) -> u64 {
    (&raw const trap_stubs) as u64 + STUB * u64::from(vector)
}

/// Loads the task register and the IDT. Interrupts stay off.
pub(crate) fn init() {
    for vector in 0..=255 {
        gate(vector, stub_address(vector), 0);
    }
    // SAFETY: called once at boot, before anything else uses these tables.
    unsafe {
        let state = &raw mut (*TASK_STATE.pointer());
        for (index, stack) in STACKS.iter().enumerate() {
            (&raw mut (*state).ist[index]).write_unaligned(stack.pointer() as u64 + STACK as u64);
        }
        let base = TASK_STATE.pointer() as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        let table = &raw mut boot_gdt;
        (*table)[6] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        (*table)[7] = base >> 32;
        asm!("ltr {:x}", in(reg) TSS, options(nostack, preserves_flags));
        load_idt();
    }
}

/// Pointer to the IDT as LIDT wants it.
pub fn idt_pointer() -> [u16; 5] {
    let base = GATES.pointer() as u64;
    [
        size_of::<Gates>() as u16 - 1,
        base as u16,
        (base >> 16) as u16,
        (base >> 32) as u16,
        (base >> 48) as u16,
    ]
}

/// Loads the IDT again.
#[inline(always)]
pub fn load_idt() {
    let pointer = idt_pointer();
    // SAFETY: the table is a static.
    unsafe { asm!("lidt [{}]", in(reg) pointer.as_ptr(), options(nostack, preserves_flags)) };
}

/// Sets a Rust handler, or with `None` the default one (which ends the run, or acknowledges a stray interrupt).
pub fn set(vector: u8, handler: Option<Handler>) {
    // SAFETY: an aligned store; the vector does not fire meanwhile.
    unsafe { HANDLERS.pointer().cast::<Option<Handler>>().add(vector as usize).write(handler) };
    gate(vector, stub_address(vector), 0);
}

/// Sets a raw handler.
///
/// # Safety
/// The function must be written in assembly: it saves every register it changes, drops an error code if the vector has
/// one, and ends in IRETQ.
pub unsafe fn set_raw(vector: u8, handler: unsafe extern "C" fn(), callable_from_ring_3: bool) {
    gate(vector, handler as usize as u64, if callable_from_ring_3 { 3 } else { 0 });
}

/// Interrupts that [`count_from_lapic`] and [`count_from_pic`] took.
pub static TAKEN: Counter = Counter::new(0);

/// Raw handler: counts an interrupt in [`TAKEN`] and acknowledges it at the local APIC.
///
/// # Safety
/// Only the CPU calls it.
#[unsafe(naked)]
pub unsafe extern "C" fn count_from_lapic() {
    naked_asm!(
        "push rax",
        "inc qword ptr [{taken}]",
        "mov eax, {end_of_interrupt}",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
        end_of_interrupt = const LAPIC + crate::lapic::END_OF_INTERRUPT,
    )
}

/// Raw handler: counts an interrupt in [`TAKEN`] and acknowledges it at the master PIC.
///
/// # Safety
/// Only the CPU calls it.
#[unsafe(naked)]
pub unsafe extern "C" fn count_from_pic() {
    naked_asm!(
        "push rax",
        "inc qword ptr [{taken}]",
        "mov al, {end_of_interrupt}",
        "out {command}, al",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
        end_of_interrupt = const crate::pic::END_OF_INTERRUPT,
        command = const crate::pic::COMMAND,
    )
}
