//! A switch between two kernel threads with address spaces of their own: registers, stack and CR3.
#![no_std]
#![no_main]

use core::arch::naked_asm;

use guest::layout::{PAGE, TEST_WINDOW};
use guest::paging::{self, PRESENT, Table, WRITABLE};
use guest::single::{Counter, Single};
use guest::{Checksum, Run, cpu};

guest::entry!(main);

#[repr(C, align(16))]
struct Stack([u8; 8192]);

static STACK: Single<Stack> = Single::new(Stack([0; 8192]));
/// Saved stack pointers: the main thread's and the second one's.
static SAVED: [Counter; 2] = [const { Counter::new(0) }; 2];
static ROOTS: [Counter; 2] = [const { Counter::new(0) }; 2];

/// Saves the callee's registers and the stack pointer in `save`, goes to the thread saved as `resume` in space `root`.
#[unsafe(naked)]
unsafe extern "C" fn switch(save: *mut u64, resume: *const u64, root: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, [rsi]",
        "mov cr3, rdx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

fn yield_from(thread: usize) {
    let other = 1 - thread;
    // SAFETY: the other thread was saved by `switch` or laid out alike, and both spaces map the kernel.
    unsafe { switch(SAVED[thread].pointer(), SAVED[other].pointer(), ROOTS[other].read()) };
}

fn private_word() -> *mut u64 {
    TEST_WINDOW as *mut u64
}

/// The second thread: counts in its own space's page.
extern "C" fn second() -> ! {
    loop {
        // SAFETY: both spaces map the window.
        unsafe { private_word().write_volatile(private_word().read_volatile() + 1) };
        yield_from(1);
    }
}

fn space(content: u64) -> Table {
    let root = Table(paging::allocate_zeroed());
    root.set(0, paging::root().get(0));
    let frame = paging::allocate();
    // SAFETY: the frame is ours and identity-mapped; the table is not in use yet.
    unsafe {
        (frame as *mut u8).write_bytes(0, PAGE as usize);
        (frame as *mut u64).write(content);
        paging::leaf(root, TEST_WINDOW).write(frame | PRESENT | WRITABLE);
    }
    root
}

fn main(run: &Run) {
    let spaces = [space(1000), space(0)];
    for (root, space) in ROOTS.iter().zip(spaces) {
        root.write(space.0);
    }
    // SAFETY: the stack is not in use yet. Six registers and the address to return to, aligned as after a call.
    unsafe {
        let top = STACK.pointer().add(1).cast::<u64>();
        top.sub(2).write(second as *const () as u64);
        SAVED[1].write(top.sub(8) as u64);
        cpu::set_cr3(spaces[0].0);
    }
    // SAFETY: frames are identity-mapped; the second thread is not running.
    let counted = || unsafe {
        (paging::address_of(*paging::leaf(spaces[1], TEST_WINDOW)) as *const u64).read_volatile()
    };
    let mut checksum = Checksum::new();
    for _ in 0..8 {
        yield_from(0);
        // SAFETY: the window is mapped here too.
        checksum = checksum.word(counted()).word(unsafe { private_word().read_volatile() });
    }
    let mut expected = counted();
    run.nano("context_switch", checksum, 2, |turns| {
        for _ in 0..turns {
            yield_from(0);
        }
        expected += turns;
    });
    assert!(counted() == expected, "the second thread ran {} times instead of {expected}", counted());
}
