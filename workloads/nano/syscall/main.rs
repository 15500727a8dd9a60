//! A system call of ring 3 that the guest kernel counts and returns from: SYSCALL and SYSRET.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::single::Counter;
use guest::{Checksum, Run, Sample, measure, user};

guest::entry!(main);

/// Number of the empty system call.
const NULL: u64 = user::FIRST_CUSTOM;

static SERVED: Counter = Counter::new(0);
static STACK: Counter = Counter::new(0);
static KERNEL_STACK: [Counter; 64] = [const { Counter::new(0) }; 64];

/// What any kernel does at least: change the stack, do the work, change back. The result is how many were served.
#[unsafe(naked)]
unsafe extern "C" fn entry() {
    naked_asm!(
        "cmp eax, {null}",
        "jne {general}",
        "mov [{stack}], rsp",
        "mov rsp, offset {kernel_stack} + 512",
        "push rcx",
        "push r11",
        "inc qword ptr [{served}]",
        "mov rax, [{served}]",
        "pop r11",
        "pop rcx",
        "mov rsp, [{stack}]",
        "sysretq",
        null = const NULL,
        served = sym SERVED,
        stack = sym STACK,
        kernel_stack = sym KERNEL_STACK,
        general = sym user::guest_system_call_entry,
    )
}

fn null() -> u64 {
    let result;
    // SAFETY: the entry above keeps all but RAX, RCX and R11.
    unsafe { asm!("syscall", inout("rax") NULL => result, out("rcx") _, out("r11") _) };
    result
}

/// What ring 3 works with, in its arena.
struct Task {
    budget: u64,
    checksum: Checksum,
    sample: Sample,
    /// Calls made, and the last result: both must agree.
    calls: u64,
    served: u64,
}

extern "C" fn work(task: u64) -> u64 {
    // SAFETY: `main` passes its task and leaves it alone meanwhile.
    let task = unsafe { &mut *(task as *mut Task) };
    for _ in 0..16 {
        task.checksum = task.checksum.word(null());
    }
    let (mut calls, mut served) = (16, 16);
    task.sample = measure::calibrate(task.budget, 1, |turns| {
        for _ in 0..turns {
            served = null();
        }
        calls += turns;
    });
    (task.calls, task.served) = (calls, served);
    0
}

fn main(run: &Run) {
    assert!(user::syscall_works(), "SYSCALL does not enter ring 0 on this machine");
    // SAFETY: the entry is written in assembly and passes on what it does not know.
    unsafe { user::set_entry(entry) };
    let task = guest::layout::USER_ARENA as *mut Task;
    let start = Task {
        budget: run.budget,
        checksum: Checksum::new(),
        sample: Sample::default(),
        calls: 0,
        served: 0,
    };
    // SAFETY: the arena's first page is used for this alone.
    unsafe { task.write(start) };
    user::run(work, task as u64);
    // SAFETY: ring 3 has ended.
    let task = unsafe { &*task };
    assert!(task.calls == task.served, "{} of {} system calls served", task.served, task.calls);
    run.report("syscall", 3, task.sample, task.checksum.value());
}
