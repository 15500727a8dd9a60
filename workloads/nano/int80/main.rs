//! INT 0x80 of ring 3, counted and returned from by the guest kernel: a system call as of old.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guest::single::Counter;
use guest::{Checksum, Run, Sample, measure, trap, user};

guest::entry!(main);

const VECTOR: u8 = 0x80;

static SERVED: Counter = Counter::new(0);

/// The result, in RAX, is how many were served.
#[unsafe(naked)]
unsafe extern "C" fn handler() {
    naked_asm!("inc qword ptr [{served}]", "mov rax, [{served}]", "iretq", served = sym SERVED)
}

fn call() -> u64 {
    let result;
    // SAFETY: the handler changes RAX only.
    unsafe { asm!("int 0x80", out("rax") result) };
    result
}

/// What ring 3 works with, in its arena.
struct Task {
    budget: u64,
    checksum: Checksum,
    sample: Sample,
    calls: u64,
    served: u64,
}

extern "C" fn work(task: u64) -> u64 {
    // SAFETY: `main` passes its task and leaves it alone meanwhile.
    let task = unsafe { &mut *(task as *mut Task) };
    for _ in 0..16 {
        task.checksum = task.checksum.word(call());
    }
    let (mut calls, mut served) = (16, 16);
    task.sample = measure::calibrate(task.budget, 1, |turns| {
        for _ in 0..turns {
            served = call();
        }
        calls += turns;
    });
    (task.calls, task.served) = (calls, served);
    0
}

fn main(run: &Run) {
    // SAFETY: the handler changes RAX only, which its callers expect; INT pushes no error code.
    unsafe { trap::set_raw(VECTOR, handler, true) };
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
    assert!(task.calls == task.served, "{} of {} interrupts served", task.served, task.calls);
    run.report("int80", 3, task.sample, task.checksum.value());
}
