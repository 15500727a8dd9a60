//! An invalid opcode (#UD) taken and stepped over.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::single::Counter;
use guest::{Checksum, Run, trap};

guest::entry!(main);

static TAKEN: Counter = Counter::new(0);

/// Counts, and steps over UD2, which has two bytes.
#[unsafe(naked)]
unsafe extern "C" fn handler() {
    naked_asm!("inc qword ptr [{taken}]", "add qword ptr [rsp], 2", "iretq", taken = sym TAKEN)
}

fn undefined(turns: u64) {
    for _ in 0..turns {
        // SAFETY: the handler steps over it.
        unsafe { asm!("ud2") };
    }
}

fn main(run: &Run) {
    // SAFETY: the handler changes no register; #UD pushes no error code.
    unsafe { trap::set_raw(trap::INVALID_OPCODE, handler, false) };
    let mut checksum = Checksum::new();
    for _ in 0..16 {
        undefined(1);
        checksum = checksum.word(TAKEN.read());
    }
    let mut expected = TAKEN.read();
    run.nano("undefined", checksum, 1, |turns| {
        undefined(turns);
        expected += turns;
    });
    assert!(TAKEN.read() == expected, "{} invalid opcodes taken instead of {expected}", TAKEN.read());
}
