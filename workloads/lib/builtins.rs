//! The four memory functions that compiled code calls by name, and the unwinder's stub.
//!
//! Written in assembly so that the compiler cannot turn their loops into calls to themselves, and with plain moves:
//! string instructions are slow in most emulators, which would hide what a workload wants to show.

use core::arch::naked_asm;

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Copies `length` bytes between regions that do not overlap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "shr rcx, 3",
        "jz 3f",
        "2:",
        "mov r8, [rsi]",
        "mov [rdi], r8",
        "add rsi, 8",
        "add rdi, 8",
        "dec rcx",
        "jnz 2b",
        "3:",
        "and edx, 7",
        "jz 5f",
        "4:",
        "movzx ecx, byte ptr [rsi]",
        "mov [rdi], cl",
        "inc rsi",
        "inc rdi",
        "dec edx",
        "jnz 4b",
        "5:",
        "ret",
    )
}

/// Copies `length` bytes between regions that may overlap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {forward}", // as unsigned: also when the target lies below the source
        "mov rax, rdi",
        "test rdx, rdx",
        "jz 3f",
        "2:",
        "movzx ecx, byte ptr [rsi + rdx - 1]",
        "mov [rdi + rdx - 1], cl",
        "dec rdx",
        "jnz 2b",
        "3:",
        "ret",
        forward = sym memcpy,
    )
}

/// Fills `length` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "mov rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "jz 3f",
        "2:",
        "mov [rdi], rsi",
        "add rdi, 8",
        "dec rcx",
        "jnz 2b",
        "3:",
        "and edx, 7",
        "jz 5f",
        "4:",
        "mov [rdi], sil",
        "inc rdi",
        "dec edx",
        "jnz 4b",
        "5:",
        "ret",
    )
}

/// Compares `length` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    naked_asm!(
        "xor eax, eax",
        "test rdx, rdx",
        "jz 3f",
        "2:",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jnz 3f",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "jnz 2b",
        "3:",
        "ret",
    )
}

/// Like [`memcmp`], of which only zero or not zero is asked.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}
