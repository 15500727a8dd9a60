//! The stub: the only code of ours in the child. Position-independent assembly, copied out of this binary.
//!
//! It owns no policy. It maps the shared area, then does what the engine writes there: system calls from a list, vector
//! state in and out, and going on with the guest. Two ways lead into it:
//! - *hypercall*: a thunk jumps to [`Entries::hypercall`] with RAX saved in the control page and the guest's RIP in
//!   RAX. The general registers go to the control page; vector registers stay live. The way back loads them and jumps.
//! - *signal*: a trap of guest code, or a kick. The kernel has put the registers on the signal stack, which is shared; the
//!   way back is `rt_sigreturn`.
//!
//! A kick that hits the stub itself must neither be lost nor see half a state. Three regions decide: before the report
//! (`A`: an event follows anyway: ignore), between report and the last look at the kick word (`B`: set the word), and
//! the way out (`C`: the registers are still in the control page: start again with a KICKED report). A kick that hits
//! guest code while virtual interrupts are off returns at once, unless the engine wants the child to stop or the hit
//! is inside a thunk, where the virtual flag may be about to change.
#![expect(unsafe_code, reason = "the stub is assembly")]
use crate::pv::layout::{self, MONITOR, at, command, event, frame, turn};
use std::arch::global_asm;

global_asm!(
    ".pushsection .rodata.trivisor_pv_stub,\"a\",@progbits",
    // Global, because this file's code and its assembly may end up in different objects; hidden, because nobody else's.
    ".irp name, begin, end, hypercall, signal, restorer",
    ".globl pv_stub_\\name",
    ".hidden pv_stub_\\name",
    ".endr",
    ".balign 4096",
    "pv_stub_begin:",
    // ----- start: map the shared area, then wait for the first requests
    "mov eax, {SYS_MMAP}",
    "lea rdi, [rip + pv_stub_begin + {D}]",
    "mov esi, {SHARED_SIZE}",
    "mov edx, 3",
    "mov r10d, {SHARED_FIXED}",
    "mov r8d, {SHARED_FD}",
    "xor r9d, r9d",
    "syscall",
    "mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_BOOT}",
    "lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]",
    "jmp 20f",
    // ----- region A: hypercall
    "pv_stub_hypercall:",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x08], rcx",
    "mov rcx, rax",
    "mov rax, [rip + pv_stub_begin + {D} + {SAVED_RAX}]",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x00], rax",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x10], rdx",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x18], rbx",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x20], rsp",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x28], rbp",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x30], rsi",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x38], rdi",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x40], r8",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x48], r9",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x50], r10",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x58], r11",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x60], r12",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x68], r13",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x70], r14",
    "mov [rip + pv_stub_begin + {D} + {GPR} + 0x78], r15",
    "lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]",
    "pushfq",
    "pop rdx",
    "cld",
    "rdfsbase rax",
    "mov [rip + pv_stub_begin + {D} + {FS_BASE}], rax",
    "rdgsbase rax",
    "mov [rip + pv_stub_begin + {D} + {GS_BASE}], rax",
    // The line that the engine looks at: last, and at once.
    "mov [rip + pv_stub_begin + {D} + {RIP}], rcx",
    "mov [rip + pv_stub_begin + {D} + {RFLAGS}], rdx",
    "mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_HYPERCALL}",
    "jmp 20f",
    "pv_stub_again:",
    "lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]",
    "mov dword ptr [rip + pv_stub_begin + {D} + {KICK}], 0",
    "mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_KICKED}",
    "20:",
    "call pv_stub_exchange",
    "cmp dword ptr [rip + pv_stub_begin + {D} + {KICK}], 0",
    "jne pv_stub_again",
    // ----- region C: the way out of a hypercall
    "pv_stub_out:",
    "push qword ptr [rip + pv_stub_begin + {D} + {RFLAGS}]",
    "popfq",
    "mov rax, [rip + pv_stub_begin + {D} + {GPR} + 0x00]",
    "mov rcx, [rip + pv_stub_begin + {D} + {GPR} + 0x08]",
    "mov rdx, [rip + pv_stub_begin + {D} + {GPR} + 0x10]",
    "mov rbx, [rip + pv_stub_begin + {D} + {GPR} + 0x18]",
    "mov rbp, [rip + pv_stub_begin + {D} + {GPR} + 0x28]",
    "mov rsi, [rip + pv_stub_begin + {D} + {GPR} + 0x30]",
    "mov rdi, [rip + pv_stub_begin + {D} + {GPR} + 0x38]",
    "mov r8, [rip + pv_stub_begin + {D} + {GPR} + 0x40]",
    "mov r9, [rip + pv_stub_begin + {D} + {GPR} + 0x48]",
    "mov r10, [rip + pv_stub_begin + {D} + {GPR} + 0x50]",
    "mov r11, [rip + pv_stub_begin + {D} + {GPR} + 0x58]",
    "mov r12, [rip + pv_stub_begin + {D} + {GPR} + 0x60]",
    "mov r13, [rip + pv_stub_begin + {D} + {GPR} + 0x68]",
    "mov r14, [rip + pv_stub_begin + {D} + {GPR} + 0x70]",
    "mov r15, [rip + pv_stub_begin + {D} + {GPR} + 0x78]",
    "mov rsp, [rip + pv_stub_begin + {D} + {GPR} + 0x20]",
    "jmp qword ptr [rip + pv_stub_begin + {D} + {RIP}]",
    "pv_stub_out_end:",
    // ----- the exchange: report, wait for the turn, do what is asked. Changes all but RBX, RBP, R14, R15.
    "pv_stub_exchange:",
    "mov eax, {T_ENGINE}",
    "xchg [rip + pv_stub_begin + {D} + {TURN}], eax",
    // ----- region B from here to the end of the exchange, and from the call's return to pv_stub_out
    "cmp dword ptr [rip + pv_stub_begin + {D} + {ENGINE_ASLEEP}], 0",
    "je 2f",
    "mov eax, {SYS_FUTEX}",
    "lea rdi, [rip + pv_stub_begin + {D} + {TURN}]",
    "mov esi, 1",
    "mov edx, 1",
    "syscall",
    "2:",
    "mov ecx, [rip + pv_stub_begin + {D} + {SPINS}]",
    "3:",
    "cmp dword ptr [rip + pv_stub_begin + {D} + {TURN}], {T_CHILD}",
    "je 6f",
    "pause",
    "dec ecx",
    "jnz 3b",
    "mov eax, 1",
    "xchg [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], eax",
    "cmp dword ptr [rip + pv_stub_begin + {D} + {TURN}], {T_CHILD}",
    "je 5f",
    "mov eax, {SYS_FUTEX}",
    "lea rdi, [rip + pv_stub_begin + {D} + {TURN}]",
    "xor esi, esi",
    "mov edx, {T_ENGINE}",
    "xor r10d, r10d",
    "syscall",
    "5:",
    "mov dword ptr [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], 0",
    "jmp 2b",
    "6:",
    "mov r13d, [rip + pv_stub_begin + {D} + {REQUEST_COUNT}]",
    "test r13d, r13d",
    "jz 8f",
    "lea r12, [rip + pv_stub_begin + {D} + {REQUESTS}]",
    "7:",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov [r12 + 56], rax",
    "add r12, {REQUEST_SIZE}",
    "dec r13d",
    "jnz 7b",
    "mov dword ptr [rip + pv_stub_begin + {D} + {REQUEST_COUNT}], 0",
    "8:",
    "mov ecx, [rip + pv_stub_begin + {D} + {COMMAND}]",
    "jecxz 9f",
    "mov dword ptr [rip + pv_stub_begin + {D} + {COMMAND}], 0",
    "mov r12d, ecx",
    "mov eax, 7",
    "xor edx, edx",
    "test r12d, {C_LOAD_FPU}",
    "jz 14f",
    "xrstor64 [rip + pv_stub_begin + {D} + {XSAVE}]",
    "14:",
    "test r12d, {C_SAVE_FPU}",
    "jz 15f",
    "xsave64 [rip + pv_stub_begin + {D} + {XSAVE}]",
    "15:",
    "test r12d, {C_LOAD_BASES}",
    "jz 16f",
    "mov rax, [rip + pv_stub_begin + {D} + {FS_BASE}]",
    "wrfsbase rax",
    "mov rax, [rip + pv_stub_begin + {D} + {GS_BASE}]",
    "wrgsbase rax",
    "16:",
    "test r12d, {C_REPORT}",
    "jz 9f",
    "mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_DONE}",
    "jmp pv_stub_exchange",
    "9:",
    "ret",
    // ----- signals: RDI number, RSI siginfo, RDX ucontext; all signals are blocked until rt_sigreturn
    "pv_stub_signal:",
    "cmp edi, {KICK_SIGNAL}",
    "jne 40f",
    "mov rax, [rdx + {FRAME_RIP}]",
    "lea rcx, [rip + pv_stub_out]",
    "cmp rax, rcx",
    "jb 31f",
    "lea rcx, [rip + pv_stub_out_end]",
    "cmp rax, rcx",
    "jae 31f",
    "lea rcx, [rip + pv_stub_again]", // region C
    "mov [rdx + {FRAME_RIP}], rcx",
    "jmp 50f",
    "31:",
    "lea rcx, [rip + pv_stub_begin]",
    "cmp rax, rcx",
    "jb 32f",
    "lea rcx, [rip + pv_stub_end]",
    "cmp rax, rcx",
    "jae 32f",
    "mov dword ptr [rip + pv_stub_begin + {D} + {KICK}], 1", // regions A (harmless) and B
    "jmp 50f",
    "32:",
    "cmp qword ptr [rip + pv_stub_begin + {D} + {STOP}], 0",
    "jne 40f",
    "sub rax, {ZONE}",
    "cmp rax, {ZONE_SIZE}",
    "jb 40f",
    "test dword ptr [rip + pv_stub_begin + {D} + {FLAGS_DELTA}], 0x200",
    "jnz 50f",
    "40:",
    "mov [rip + pv_stub_begin + {D} + {SIGNAL}], rdi",
    "mov [rip + pv_stub_begin + {D} + {SIGNAL_INFO}], rsi",
    "mov [rip + pv_stub_begin + {D} + {SIGNAL_FRAME}], rdx",
    "mov rbx, rdx",
    "rdfsbase rax",
    "mov [rip + pv_stub_begin + {D} + {FS_BASE}], rax",
    "rdgsbase rax",
    "mov [rip + pv_stub_begin + {D} + {GS_BASE}], rax",
    "mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_SIGNAL}",
    "call pv_stub_exchange",
    "mov rdx, rbx",
    "50:",
    "mov rsp, rdx",
    // The kernel restores neither ID nor NT from the frame: they stay what they are at the call.
    "push qword ptr [rdx + {FRAME_RFLAGS}]",
    "popfq",
    "pv_stub_restorer:",
    "mov eax, {SYS_RT_SIGRETURN}",
    "syscall",
    "ud2",
    "pv_stub_end:",
    ".popsection",
    D = const layout::SHARED_DISTANCE,
    SHARED_SIZE = const layout::SHARED_SIZE,
    SHARED_FIXED = const libc::MAP_SHARED | libc::MAP_FIXED,
    SHARED_FD = const layout::SHARED_FD,
    SYS_MMAP = const libc::SYS_mmap,
    SYS_FUTEX = const libc::SYS_futex,
    SYS_RT_SIGRETURN = const libc::SYS_rt_sigreturn,
    KICK_SIGNAL = const layout::KICK_SIGNAL,
    ZONE = const layout::ZONE,
    ZONE_SIZE = const layout::ZONE_SIZE,
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
    REQUESTS = const at::REQUESTS,
    REQUEST_SIZE = const at::REQUEST_SIZE,
);

unsafe extern "C" {
    static pv_stub_begin: u8;
    static pv_stub_end: u8;
    static pv_stub_hypercall: u8;
    static pv_stub_signal: u8;
    static pv_stub_restorer: u8;
}

/// Addresses in the child that the engine names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::pv) struct Entries {
    /// First byte of the stub.
    pub(in crate::pv) begin: u64,
    /// First byte behind it.
    pub(in crate::pv) end: u64,
    /// Where thunks jump to.
    pub(in crate::pv) hypercall: u64,
    /// Signal handler.
    pub(in crate::pv) signal: u64,
    /// `sa_restorer`.
    pub(in crate::pv) restorer: u64,
}

/// The stub's code.
pub(in crate::pv) fn code() -> &'static [u8] {
    let begin = &raw const pv_stub_begin;
    let length = &raw const pv_stub_end as usize - begin as usize;
    // SAFETY: the two symbols enclose initialised bytes of one read-only section of this binary.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

/// Where its entries lie in the child.
pub(in crate::pv) fn entries() -> Entries {
    let place = |symbol: *const u8| MONITOR + (symbol as u64 - (&raw const pv_stub_begin) as u64);
    Entries {
        begin: MONITOR,
        end: place(&raw const pv_stub_end),
        hypercall: place(&raw const pv_stub_hypercall),
        signal: place(&raw const pv_stub_signal),
        restorer: place(&raw const pv_stub_restorer),
    }
}

/// The stub as an executable file: a static ELF64 with one read-only segment at [`MONITOR`] (System V ABI, chapters 4, 5).
pub(in crate::pv) fn image() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const FILE_OFFSET: u64 = 0x1000;
    let code = code();
    let mut file = Vec::with_capacity(FILE_OFFSET as usize + code.len());
    // e_ident: 64-bit, little-endian, version 1.
    file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut put16 = |values: &[u16]| values.iter().for_each(|v| file.extend_from_slice(&v.to_le_bytes()));
    put16(&[2, 62]); // ET_EXEC, EM_X86_64
    put16(&[1, 0]); // version
    for word in [MONITOR, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // Program header: PT_LOAD, R+X.
    for word in [1_u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [FILE_OFFSET, MONITOR, MONITOR, code.len() as u64, code.len() as u64, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    debug_assert_eq!(file.len() as u64, HEADERS);
    file.resize(FILE_OFFSET as usize, 0);
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pv::layout::SHARED;

    #[test]
    fn the_image_is_an_elf_that_others_read_too() {
        use object::{Object, ObjectSegment};
        let image = image();
        let file = object::File::parse(&*image).unwrap();
        assert_eq!(file.entry(), MONITOR);
        let segment = file.segments().next().unwrap();
        assert_eq!(segment.address(), MONITOR);
        assert_eq!(segment.data().unwrap(), code());
        assert!(MONITOR + code().len() as u64 <= SHARED);
    }
}
