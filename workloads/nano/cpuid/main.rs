//! CPUID, leaf 0: unprivileged, yet most monitors must intercept it.
#![no_std]
#![no_main]

use guest::{Checksum, Run, cpu};

guest::entry!(main);

/// Leaf 1, EDX: FPU, TSC, MSR, PAE, APIC, FXSR, SSE, SSE2. Every machine that runs this guest has them.
const BASELINE: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 24 | 1 << 25 | 1 << 26;

/// Leaf 0x8000_0001, EDX: SYSCALL, NX, long mode.
const BASELINE_EXTENDED: u32 = 1 << 11 | 1 << 20 | 1 << 29;

fn main(run: &Run) {
    let checksum = Checksum::new()
        .word(u64::from(cpu::cpuid(1, 0)[3] & BASELINE))
        .word(u64::from(cpu::cpuid(0x8000_0001, 0)[3] & BASELINE_EXTENDED))
        .word(u64::from(cpu::cpuid(0, 0)[0] >= 1));
    run.nano("cpuid", checksum, 1, |turns| {
        for _ in 0..turns {
            core::hint::black_box(cpu::cpuid(0, 0));
        }
    });
}
