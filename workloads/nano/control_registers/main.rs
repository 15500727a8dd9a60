//! Reading CR0; writing CR0 (TS on and off), CR4 (PGE on and off, which flushes the TLB) and CR8.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

const CR0_TS: u64 = 1 << 3;
const CR4_PGE: u64 = 1 << 7;

fn cr0() -> u64 {
    let value: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn set_cr8(value: u64) {
    // SAFETY: holds back interrupts below a priority.
    unsafe { asm!("mov cr8, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn main(run: &Run) {
    let clear = cr0() & !CR0_TS;
    let seen: u64;
    // SAFETY: nothing uses SSE between the two writes.
    unsafe {
        asm!("mov cr0, {set}", "mov {seen}, cr0", "mov cr0, {clear}", set = in(reg) clear | CR0_TS,
            clear = in(reg) clear, seen = out(reg) seen, options(nostack, preserves_flags))
    };
    let checksum = Checksum::new().word(seen & CR0_TS).word(cr0() & CR0_TS);
    run.nano("cr0_read", checksum, UNROLL, |turns| {
        // SAFETY: reading has no side effect.
        unsafe { guest::unrolled!(turns, ["mov rax, cr0"], out("rax") _) }
    });
    run.nano("cr0_write", checksum, 2 * UNROLL, |turns| {
        // SAFETY: nothing uses SSE between the two writes.
        unsafe {
            guest::unrolled!(turns, ["mov cr0, {set}", "mov cr0, {clear}"], set = in(reg) clear | CR0_TS,
                clear = in(reg) clear)
        }
    });

    let without = cpu::cr4() & !CR4_PGE;
    // SAFETY: no page is global, so the bit changes nothing but flushes.
    unsafe { cpu::set_cr4(without | CR4_PGE) };
    let checksum = Checksum::new().word(cpu::cr4() & CR4_PGE);
    // SAFETY: as above.
    unsafe { cpu::set_cr4(without) };
    run.nano("cr4_write", checksum.word(cpu::cr4() & CR4_PGE), 2 * UNROLL, |turns| {
        // SAFETY: as above.
        unsafe {
            guest::unrolled!(turns, ["mov cr4, {set}", "mov cr4, {clear}"], set = in(reg) without | CR4_PGE,
                clear = in(reg) without)
        }
    });

    let mut checksum = Checksum::new();
    for priority in (0..16).rev() {
        set_cr8(priority);
        checksum = checksum.word(cr8());
    }
    run.nano("cr8_write", checksum, UNROLL, |turns| {
        // SAFETY: priority 0 holds nothing back.
        unsafe { guest::unrolled!(turns, ["mov cr8, {zero}"], zero = in(reg) 0u64) }
    });
}
