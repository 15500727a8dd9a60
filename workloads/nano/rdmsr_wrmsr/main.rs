//! RDMSR and WRMSR of a register without side effects (KERNEL_GS_BASE).
#![no_std]
#![no_main]

use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

const REGISTER: u32 = cpu::MSR_KERNEL_GS_BASE;

fn main(run: &Run) {
    let mut checksum = Checksum::new();
    for bit in 0..16u64 {
        let value = 0x1111_1111 << bit;
        // SAFETY: the register takes effect by SWAPGS only, which is not used.
        unsafe { cpu::wrmsr(REGISTER, value) };
        checksum = checksum.word(cpu::rdmsr(REGISTER));
        assert!(cpu::rdmsr(REGISTER) == value, "KERNEL_GS_BASE does not keep {value:#x}");
    }
    run.nano("rdmsr", checksum, UNROLL, |turns| {
        // SAFETY: reading has no side effect.
        unsafe { guest::unrolled!(turns, ["rdmsr"], in("ecx") REGISTER, out("eax") _, out("edx") _) }
    });
    run.nano("wrmsr", checksum, UNROLL, |turns| {
        // SAFETY: as above.
        unsafe { guest::unrolled!(turns, ["wrmsr"], in("ecx") REGISTER, in("eax") 0, in("edx") 0) }
    });
}
