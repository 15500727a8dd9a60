//! A fixed amount of computing with 1 to 4096 port writes among it: what a rate of exits costs.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::abi::PORT_COM1;
use guest::{Checksum, Run, Size, cpu};

guest::entry!(main);

const SCRATCH: u16 = PORT_COM1 + 7;
const SIZES: [u64; 5] = [1, 8, 64, 512, 4096];
/// Steps of computing in one unit, whatever is among them; a multiple of each size.
const STEPS: u64 = 4096;

/// One unit with `writes` writes, evenly among its steps; what it computed (Knuth's MMIX generator).
fn unit(writes: u64) -> u64 {
    let mut value = 1_u64;
    // SAFETY: the device does not touch memory.
    unsafe {
        asm!(
            "2:",
            "mov {step}, {steps}",
            "3:",
            "imul {value}, {factor}",
            "add {value}, {addend}",
            "dec {step}",
            "jnz 3b",
            "mov eax, {value:e}",
            "out dx, al",
            "dec {left}",
            "jnz 2b",
            step = out(reg) _,
            steps = in(reg) STEPS / writes,
            value = inout(reg) value,
            factor = in(reg) 6_364_136_223_846_793_005_u64,
            addend = in(reg) 1_442_695_040_888_963_407_u64,
            left = inout(reg) writes => _,
            in("dx") SCRATCH,
            out("eax") _,
            options(nomem, nostack),
        );
    }
    value
}

fn main(run: &Run) {
    for writes in SIZES {
        let value = unit(writes);
        let checksum = Checksum::new().word(value).word(u64::from(cpu::inb(SCRATCH)));
        let mut differs = false;
        run.point("exit_rate", Size { what: "exits", count: writes }, checksum, 1, |turns| {
            for _ in 0..turns {
                differs |= unit(writes) != value;
            }
        });
        assert!(!differs, "a repetition computed something else");
    }
}
