//! Single instructions as functions. All of them need ring 0 unless they say otherwise.

use core::arch::asm;

use crate::layout::{KERNEL_DATA_END, KERNEL_DATA_START};

/// `IA32_STAR`: segment selectors of SYSCALL and SYSRET.
pub const MSR_STAR: u32 = 0xc000_0081;
/// `IA32_LSTAR`: where SYSCALL goes.
pub const MSR_LSTAR: u32 = 0xc000_0082;
/// `IA32_FMASK`: flags that SYSCALL clears.
pub const MSR_FMASK: u32 = 0xc000_0084;
/// `IA32_KERNEL_GS_BASE`: a plain 64-bit register to whoever does not use SWAPGS.
pub const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Time stamp counter. Any ring.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter; CR4.TSD stays clear.
    unsafe { asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags)) };
    high << 32 | low
}

/// Writes a byte to a port.
#[inline(always)]
pub fn outb(port: u16, value: u8) {
    // SAFETY: devices of this machine do not touch guest memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes 32 bits to a port.
#[inline(always)]
pub fn outl(port: u16, value: u32) {
    // SAFETY: as in `outb`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// Reads a byte from a port.
#[inline(always)]
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as in `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Reads 32 bits from a port.
#[inline(always)]
pub fn inl(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as in `outb`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes bytes to a port, one after the other, by one string instruction.
#[inline(always)]
pub fn outs_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads the slice only; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags))
    };
}

/// Writes `words` 16-bit words from `from` on to a port by one string instruction.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub unsafe fn outs_words(port: u16, from: *const u8, words: usize) {
    // SAFETY: the caller's promise; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep outsw", in("dx") port, inout("rsi") from => _, inout("rcx") words => _,
            options(readonly, nostack, preserves_flags))
    };
}

/// Reads `words` 16-bit words from a port to `to` on by one string instruction.
///
/// # Safety
/// They must be writable.
#[inline(always)]
pub unsafe fn ins_words(port: u16, to: *mut u8, words: usize) {
    // SAFETY: as in `outs_words`.
    unsafe {
        asm!("rep insw", in("dx") port, inout("rdi") to => _, inout("rcx") words => _,
            options(nostack, preserves_flags))
    };
}

/// Reads a model-specific register that exists.
#[inline(always)]
pub fn rdmsr(register: u32) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reading has no side effect.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("rax") low, out("rdx") high, options(nostack, preserves_flags))
    };
    high << 32 | low
}

/// Writes a model-specific register.
///
/// # Safety
/// The value decides where the CPU goes next (LSTAR), or what memory means (EFER).
#[inline(always)]
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags))
    };
}

/// Result registers of CPUID: EAX, EBX, ECX, EDX. Any ring.
#[inline(always)]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!("mov {kept}, rbx", "cpuid", "xchg {kept}, rbx", kept = out(reg) ebx, inout("eax") leaf => eax,
            inout("ecx") subleaf => ecx, out("edx") edx, options(nomem, nostack, preserves_flags))
    };
    [eax, ebx as u32, ecx, edx]
}

/// Lets programs use AVX, if the CPU has it: CR4.OSXSAVE, and x87, SSE and AVX state in XCR0. (SDM volume 1, 13.5.)
pub fn enable_avx() -> bool {
    const XSAVE: u32 = 1 << 26;
    const AVX: u32 = 1 << 28;
    const CR4_OSXSAVE: u64 = 1 << 18;
    if cpuid(1, 0)[2] & (XSAVE | AVX) != XSAVE | AVX {
        return false;
    }
    // SAFETY: the CPU has XSAVE and AVX. Handlers save the SSE state only; they use no AVX.
    unsafe {
        set_cr4(cr4() | CR4_OSXSAVE);
        asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0, options(nomem, nostack, preserves_flags));
    }
    true
}

/// Reads CR3.
#[inline(always)]
pub fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Switches to another top-level page table and flushes the TLB.
///
/// # Safety
/// The table must map the running code, its stack and all data in use.
#[inline(always)]
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Reads CR2: the address of the last page fault.
#[inline(always)]
pub fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR4.
#[inline(always)]
pub fn cr4() -> u64 {
    let value: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR4.
///
/// # Safety
/// PAE must stay set, and the bits must exist in this CPU.
#[inline(always)]
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Drops the TLB's entry for one page.
#[inline(always)]
pub fn invlpg(address: u64) {
    // SAFETY: forgetting a cached translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Lets interrupts in.
#[inline(always)]
pub fn sti() {
    // SAFETY: every vector has a handler once `trap::init` ran.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
#[inline(always)]
pub fn cli() {
    // SAFETY: no effect on memory.
    unsafe { asm!("cli", options(nostack)) };
}

/// Lets interrupts in and sleeps until one came. No interrupt can slip in between: STI's shadow covers HLT.
#[inline(always)]
pub fn sti_hlt() {
    // SAFETY: every vector has a handler once `trap::init` ran.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Lets interrupts in for one instruction, then keeps them out again.
#[inline(always)]
pub fn interrupt_window() {
    // SAFETY: every vector has a handler once `trap::init` ran. STI's shadow covers the NOP's start, not its end.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Privilege level of the running code. Any ring.
///
/// Told by the stack, since ring 3 has none in the kernel's data. CS would say it, too, but is one of the instructions that
/// lie to a kernel which a monitor runs in ring 3 without patching it (`demo/sensitive`).
#[inline(always)]
pub fn ring() -> u8 {
    let stack: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    if (KERNEL_DATA_START..KERNEL_DATA_END).contains(&stack) { 0 } else { 3 }
}
