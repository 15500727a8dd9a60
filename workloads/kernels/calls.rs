//! Calls and returns alone: a near call of one function, and calls through a register.
//!
//! Each function does one operation on a running value, in an order that matters, so that the checksum shows every call.
#![expect(
    unsafe_code,
    reason = "the call instruction itself is measured, which no language construct promises"
)]

use core::arch::{asm, naked_asm};

use super::{Kernel, always};

/// A near call and its return.
pub const DIRECT: Kernel =
    Kernel { name: "call_ret", scratch: 64, operations: CALLS, prepare, available: always, unit: direct };

/// Calls through a register, each from a place of its own that always calls the same function.
pub const INDIRECT: Kernel = Kernel {
    name: "indirect_call",
    scratch: 64,
    operations: CALLS,
    prepare,
    available: always,
    unit: one_target,
};

/// Calls through a register, from places at which four functions take turns.
pub const INDIRECT_4: Kernel = Kernel {
    name: "indirect_call_4",
    scratch: 64,
    operations: CALLS,
    prepare,
    available: always,
    unit: four_targets,
};

/// Calls in the loop's body, so that the loop itself weighs little.
const UNROLL: u64 = 16;
const TURNS: u64 = 256;
const CALLS: u64 = UNROLL * TURNS;

fn prepare(_: &mut [u8]) {}

/// Declares a function that changes RAX by one instruction, which touches neither flags nor other registers.
macro_rules! functions {
    ($($name:ident: $instruction:literal),+) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!($instruction, "ret")
            }
        )+
    };
}

functions!(
    triple: "lea rax, [rax + rax * 2 + 1]",
    quintuple: "lea rax, [rax + rax * 4 + 3]",
    ninefold: "lea rax, [rax + rax * 8 + 5]",
    step: "lea rax, [rax + 7]"
);

fn direct(_: &mut [u8]) -> u64 {
    let mut value = 1u64;
    // SAFETY: the function changes RAX only, and the stack is the compiler's to keep usable, as nothing says otherwise.
    unsafe {
        asm!(
            "2:", ".rept 16", "call {function}", ".endr", "dec {turns}", "jnz 2b",
            turns = inout(reg) TURNS => _,
            function = sym triple,
            inout("rax") value,
        )
    };
    value
}

fn one_target(_: &mut [u8]) -> u64 {
    let mut value = 1u64;
    let function: unsafe extern "C" fn() = quintuple;
    // SAFETY: as in `direct`.
    unsafe {
        asm!(
            "2:", ".rept 16", "call {function}", ".endr", "dec {turns}", "jnz 2b",
            turns = inout(reg) TURNS => _,
            function = in(reg) function,
            inout("rax") value,
        )
    };
    value
}

fn four_targets(_: &mut [u8]) -> u64 {
    let mut value = 1u64;
    let table: [unsafe extern "C" fn(); 4] = [triple, quintuple, ninefold, step];
    // Sixteen calls bring the index round to where it was; the step after them moves each place on by one function a turn.
    // SAFETY: as in `direct`; the index stays below 4, and the table lives on the stack meanwhile.
    unsafe {
        asm!(
            "2:",
            ".rept 16",
            "mov {function}, [{table} + {index} * 8]",
            "inc {index:e}",
            "and {index:e}, 3",
            "call {function}",
            ".endr",
            "inc {index:e}",
            "and {index:e}, 3",
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            table = in(reg) table.as_ptr(),
            index = inout(reg) 0u64 => _,
            function = out(reg) _,
            inout("rax") value,
        )
    };
    value
}
