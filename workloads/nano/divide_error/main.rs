//! A divide error (#DE) taken and returned from: an exception without error code.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::single::Counter;
use guest::{Checksum, Run, trap};

guest::entry!(main);

static TAKEN: Counter = Counter::new(0);

/// Counts, and steps over `div cl`, which has two bytes.
#[unsafe(naked)]
unsafe extern "C" fn handler() {
    naked_asm!("inc qword ptr [{taken}]", "add qword ptr [rsp], 2", "iretq", taken = sym TAKEN)
}

fn divide(turns: u64) {
    for _ in 0..turns {
        // SAFETY: the handler steps over the division, which changes nothing.
        unsafe { asm!("div cl", in("cl") 0u8, inout("ax") 1u16 => _) };
    }
}

fn main(run: &Run) {
    // SAFETY: the handler saves what it changes; #DE pushes no error code.
    unsafe { trap::set_raw(trap::DIVIDE_ERROR, handler, false) };
    let mut checksum = Checksum::new();
    for _ in 0..16 {
        divide(1);
        checksum = checksum.word(TAKEN.read());
    }
    let mut expected = TAKEN.read();
    run.nano("divide_error", checksum, 1, |turns| {
        divide(turns);
        expected += turns;
    });
    assert!(TAKEN.read() == expected, "{} divide errors taken instead of {expected}", TAKEN.read());
}
