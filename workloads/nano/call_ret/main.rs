//! A near call and its return: the floor that the other costs stand on.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::{Checksum, Run, UNROLL};

guest::entry!(main);

#[unsafe(naked)]
unsafe extern "C" fn nothing() {
    naked_asm!("ret")
}

/// Adds three and doubles: shows that each call arrived, in order.
#[unsafe(naked)]
unsafe extern "C" fn count() {
    naked_asm!("add rax, 3", "add rax, rax", "ret")
}

fn main(run: &Run) {
    let mut value = 1u64;
    // SAFETY: `count` changes RAX only.
    unsafe { asm!(".rept 16", "call {count}", ".endr", count = sym count, inout("rax") value) };
    run.nano("call_ret", Checksum::new().word(value), UNROLL, |turns| {
        // SAFETY: `nothing` changes nothing.
        unsafe { guest::unrolled!(turns, ["call {nothing}"], nothing = sym nothing) }
    });
}
