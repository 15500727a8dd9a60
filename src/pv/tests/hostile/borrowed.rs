//! Attacks with the stub's own system-call instruction, the only one that the filter lets through at all.
use super::*;
use crate::pv::layout::{RAM_FD, SHARED_FD, SHARED_SIZE, TEXT_FD, ZONE_CODE, ZONE_SIZE};

const MONITORS_CODE: End = End::Crash("jumped into the monitor's code");
const DAMAGED: End = End::Crash("damaged the monitor's part");

/// Where the stub has a SYSCALL.
fn stubs_syscall() -> u64 {
    let at = stub::code().windows(2).position(|bytes| bytes == [0x0f, 0x05]).unwrap();
    MONITOR + at as u64
}

/// A system call with six arguments by the stub's own instruction.
fn call_from_stub(a: &mut CodeAssembler, number: i64, arguments: [u64; 6]) -> Result<(), IcedError> {
    let [b, c, d, e, f, g] = arguments;
    for (register, value) in [
        (rdi, b),
        (rsi, c),
        (rdx, d),
        (r10, e),
        (r8, f),
        (r9, g),
        (rax, number as u64),
        (r11, stubs_syscall()),
    ] {
        a.mov(register, value)?;
    }
    a.jmp(r11)
}

/// System calls by the stub's own instruction, the only ones that the filter looks at twice.
pub(super) fn through_the_stub(all: &mut Vec<Attack>) {
    for (name, number) in [
        ("fork", libc::SYS_fork),
        ("vfork", libc::SYS_vfork),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("execve", libc::SYS_execve),
        ("kill", libc::SYS_kill),
        ("open", libc::SYS_open),
        ("seccomp", libc::SYS_seccomp),
        ("prctl", libc::SYS_prctl),
        ("mprotect", libc::SYS_mprotect),
        ("fork of x32", 0x4000_0000 + libc::SYS_fork),
    ] {
        let program = move |a: &mut CodeAssembler| call_from_stub(a, number, [0; 6]);
        all.push(attack(format!("{name} from the stub"), MONITORS_CODE, program));
    }
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let rights = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    for (name, end, number, arguments) in [
        // Private memory, and a descriptor that it does not have.
        ("mmap anonymous", MONITORS_CODE, libc::SYS_mmap, [STACK, 4096, rights, 0x32, u64::MAX, 0]),
        ("mmap of another file", MONITORS_CODE, libc::SYS_mmap, [STACK, 4096, rights, flags, 0, 0]),
        ("futex requeue", MONITORS_CODE, libc::SYS_futex, [SHARED, 3, 1, 1, 0, 0]),
        // What is allowed, and ends its own process.
        ("munmap of the stub", DAMAGED, libc::SYS_munmap, [MONITOR, 4096, 0, 0, 0, 0]),
        ("munmap of the shared area", DAMAGED, libc::SYS_munmap, [SHARED, SHARED_SIZE, 0, 0, 0, 0]),
        ("munmap of everything", DAMAGED, libc::SYS_munmap, [0x1_0000, 0x7fff_ff00_0000, 0, 0, 0, 0]),
        ("RAM in place of the stub", DAMAGED, libc::SYS_mmap, [MONITOR, 4096, 1, flags, RAM_FD.into(), 0]),
        (
            "RAM in place of the shared area",
            End::Contained,
            libc::SYS_mmap,
            [SHARED, SHARED_SIZE, rights, flags, RAM_FD.into(), 0x40_0000],
        ),
    ] {
        all.push(attack(name, end, move |a| call_from_stub(a, number, arguments)));
    }
    let never_answers = attack(
        "a stub of its own that never answers",
        End::Crash("did not stop when it was told to"),
        move |a| {
            // A page of NOPs with `jmp $` at its end, over the stub: the same from wherever it is entered.
            a.mov(rdi, 0x40_0000_u64)?;
            a.mov(eax, 0x9090_9090_u32)?;
            a.mov(ecx, 1024)?;
            a.rep().stosd()?;
            a.mov(word_ptr(0x40_0ffe), 0xfeeb_u32)?;
            call_from_stub(a, libc::SYS_mmap, [MONITOR, 4096, rights, flags, RAM_FD.into(), 0x40_0000])
        },
    );
    all.push(never_answers.kicked());
    all.push(attack("the stub's list of requests", End::Contained, |a| {
        a.mov(rbx, SHARED)?;
        a.mov(rax, SHARED + at::REQUESTS)?;
        a.mov(qword_ptr(rax), 11)?;
        a.mov(qword_ptr(rax + 8), 0x1_0000)?;
        a.mov(rcx, 0x7fff_ff00_0000_u64)?;
        a.mov(qword_ptr(rax + 16), rcx)?;
        a.mov(dword_ptr(rbx + at::REQUEST_COUNT), 1)?;
        a.mov(dword_ptr(rbx + at::TURN), 1)?;
        a.mov(rax, stub::entries().hypercall)?;
        a.jmp(rax)
    }));
}

/// The same, which comes back: the stub executes a list of requests, and returns to whoever is on the stack.
fn borrow_stub(a: &mut CodeAssembler, number: i64, arguments: [u64; 6]) -> Result<(), IcedError> {
    // `syscall`, then the result goes to its place in the list.
    const IN_THE_LOOP: [u8; 7] = [0x0f, 0x05, 0x49, 0x89, 0x44, 0x24, 0x38];
    let distance = stub::code().windows(7).position(|bytes| bytes == IN_THE_LOOP).unwrap();
    let mut back = a.create_label();
    a.lea(rax, qword_ptr(back))?;
    a.push(rax)?;
    a.mov(r12, SHARED + at::REQUESTS + 100 * at::REQUEST_SIZE)?;
    a.mov(r13d, 1)?;
    let [b, c, d, e, f, g] = arguments;
    let way = MONITOR + distance as u64;
    for (register, value) in
        [(rdi, b), (rsi, c), (rdx, d), (r10, e), (r8, f), (r9, g), (rax, number as u64), (r11, way)]
    {
        a.mov(register, value)?;
    }
    a.jmp(r11)?;
    a.set_label(&mut back)
}

/// The stub as a tool: the guest maps what it likes of its own, and goes on.
pub(super) fn with_the_stub(all: &mut Vec<Attack>) {
    const PLACE: u64 = 0x50_0000;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let rights = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let map = move |fd: u32, offset: u64| [PLACE, 0x1000, rights, flags, fd.into(), offset];
    // RAM that it may write and execute unpatched: its system calls are its own all the same.
    all.push(attack("code of its own behind the patches", End::Guest, move |a| {
        borrow_stub(a, libc::SYS_mmap, map(RAM_FD, PLACE))?;
        a.mov(rdi, PLACE)?;
        a.mov(dword_ptr(rdi), 0xf4f4_050f_u32 as i32)?;
        a.mov(eax, libc::SYS_fork as i32)?;
        a.jmp(rdi)
    }));
    for (name, fd, offset) in [
        ("the control page", SHARED_FD, 0),
        ("the list of requests", SHARED_FD, at::REQUESTS),
        ("the signal stack", SHARED_FD, at::SIGNAL_STACK + at::SIGNAL_STACK_SIZE - 0x1000),
        ("the first thunks", TEXT_FD, (16 << 20) + (ZONE_CODE - ZONE)),
        ("memory beyond RAM's end", RAM_FD, 1 << 40),
    ] {
        for value in [0, -1] {
            all.push(attack(
                format!("{value} all over {name}, by another address"),
                End::Contained,
                move |a| {
                    borrow_stub(a, libc::SYS_mmap, map(fd, offset))?;
                    a.mov(rdi, PLACE)?;
                    a.mov(rax, i64::from(value))?;
                    a.mov(ecx, 512)?;
                    a.rep().stosq()?;
                    a.cli()?;
                    a.nop()?;
                    a.pushfq()?;
                    a.ud2()
                },
            ));
        }
    }
    for (name, from, length) in [
        ("the thunks", ZONE, ZONE_SIZE),
        ("its own code", CODE & !0xfff, 0x1000),
        ("all that is its own", 0x1_0000, ZONE - 0x1_0000),
    ] {
        all.push(attack(format!("{name} unmapped"), End::Contained, move |a| {
            borrow_stub(a, libc::SYS_munmap, [from, length, 0, 0, 0, 0])?;
            a.cli()?;
            a.pushfq()?;
            a.hlt()
        }));
    }
}
