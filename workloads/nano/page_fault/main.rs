//! A page fault (#PF) round trip: the handler reads CR2, counts, and steps over the access.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::layout::{PAGE, TEST_WINDOW};
use guest::single::Counter;
use guest::{Checksum, Run, trap};

guest::entry!(main);

static TAKEN: Counter = Counter::new(0);
static ADDRESS: Counter = Counter::new(0);
static ERROR: Counter = Counter::new(0);

/// Keeps address and error code, and steps over `mov al, [rdi]`, which has two bytes.
#[unsafe(naked)]
unsafe extern "C" fn handler() {
    naked_asm!(
        "push rax",
        "mov rax, cr2",
        "mov [{address}], rax",
        "mov rax, [rsp + 8]",
        "mov [{error}], rax",
        "inc qword ptr [{taken}]",
        "pop rax",
        "add rsp, 8",
        "add qword ptr [rsp], 2",
        "iretq",
        address = sym ADDRESS,
        error = sym ERROR,
        taken = sym TAKEN,
    )
}

fn touch(address: u64) {
    // SAFETY: nothing is mapped there, and the handler steps over the access.
    unsafe { asm!("mov al, [rdi]", in("rdi") address, out("al") _) };
}

fn main(run: &Run) {
    // SAFETY: the handler saves what it changes and drops the error code.
    unsafe { trap::set_raw(trap::PAGE_FAULT, handler, false) };
    let mut checksum = Checksum::new();
    for page in 0..16 {
        touch(TEST_WINDOW + page * (PAGE + 5));
        checksum = checksum.word(TAKEN.read()).word(ADDRESS.read()).word(ERROR.read());
    }
    let mut expected = TAKEN.read();
    run.nano("page_fault", checksum, 1, |turns| {
        for _ in 0..turns {
            touch(TEST_WINDOW);
        }
        expected += turns;
    });
    assert!(TAKEN.read() == expected, "{} page faults taken instead of {expected}", TAKEN.read());
}
