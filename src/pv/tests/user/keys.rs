//! Programs of ring 3 that are written against the stub: with its own instructions they reach no more than without.
use super::*;
use crate::pv::child::stub;
use crate::pv::layout::{KEYS_FD, MONITOR, RAM_FD, SHARED, SHARED_SIZE, at};

/// Mapped by nobody, but for who is told by the engine.
const NOWHERE: u64 = 0xc000_0000;

/// The stub's instruction that makes the engine's requests: `syscall`, then the result goes to its place in the list.
fn request_instruction() -> u64 {
    const IN_THE_LOOP: [u8; 7] = [0x0f, 0x05, 0x49, 0x89, 0x44, 0x24, 0x38];
    MONITOR + stub::code().windows(7).position(|bytes| bytes == IN_THE_LOOP).unwrap() as u64
}

/// Jumps to a system call of the stub's with these registers, so that it would come back here.
fn borrow_stub(a: &mut CodeAssembler, instruction: u64, number: i64, arguments: [u64; 6]) {
    let mut back = a.create_label();
    a.lea(r14, qword_ptr(back)).unwrap();
    a.mov(rsp, USER_STACK).unwrap();
    for _ in 0..4 {
        a.push(r14).unwrap();
    }
    a.mov(r12, USER_DATA).unwrap();
    a.mov(r13d, 1).unwrap();
    a.xor(ebp, ebp).unwrap();
    let [b, c, d, e, f, g] = arguments;
    for (register, value) in
        [(rdi, b), (rsi, c), (rdx, d), (r10, e), (r8, f), (r9, g), (rax, number as u64), (r11, instruction)]
    {
        a.mov(register, value).unwrap();
    }
    a.jmp(r11).unwrap();
    a.set_label(&mut back).unwrap();
}

/// Counts page faults in R15, and goes on at R14.
fn count_fault(a: &mut CodeAssembler) {
    a.add(rsp, 8).unwrap();
    a.inc(r15).unwrap();
    a.mov(qword_ptr(rsp), r14).unwrap();
    a.iretq().unwrap();
}

/// R15 of a program that does this, then leaves.
fn faults(program: impl Fn(&mut CodeAssembler)) -> u64 {
    let (machine, state) = with_user(
        |a| {
            a.xor(r15d, r15d).unwrap();
            program(a);
            exit(a);
        },
        serve,
        count_fault,
    );
    let table = FakeMachine::TABLES.0 + 0x1000;
    machine.ram().write(Gpa(table + 8 * (NOWHERE >> 30)), &0_u64.to_le_bytes()).unwrap();
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    pv.save().unwrap().gpr[15]
}

#[test]
fn a_program_maps_and_unmaps_nothing_by_the_stubs_instruction() {
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let guess = 0x1234_5678_0000_0000;
    let calls: [(i64, [u64; 6]); 6] = [
        (libc::SYS_mmap, [NOWHERE, 4096, 3, flags, RAM_FD.into(), CODE]),
        (libc::SYS_mmap, [NOWHERE, 4096, 3, flags | guess, u64::from(RAM_FD) | guess, CODE]),
        (libc::SYS_mmap, [MONITOR, 4096, 5, flags, RAM_FD.into(), CODE]),
        (libc::SYS_munmap, [MONITOR, 4096, 0, 0, 0, 0]),
        (libc::SYS_munmap, [SHARED, SHARED_SIZE, 0, 0, 0, 0]),
        (libc::SYS_read, [KEYS_FD.into(), USER_DATA, 4096, 0, 0, 0]),
    ];
    for (number, arguments) in calls {
        let count = faults(|a| {
            borrow_stub(a, request_instruction(), number, arguments);
            let mut end = a.create_label();
            a.lea(r14, qword_ptr(end)).unwrap();
            a.mov(rax, qword_ptr(NOWHERE)).unwrap();
            a.set_label(&mut end).unwrap();
        });
        assert_eq!(count, 2, "system call {number} with {arguments:#x?}");
    }
}

#[test]
fn a_program_that_writes_requests_into_its_area_has_none_made() {
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let request = [libc::SYS_mmap as u64, NOWHERE, 4096, 3, flags, RAM_FD.into(), CODE];
    // With the word that says they come by the pipe, and without.
    for keyed in [0, 1] {
        let count = faults(|a| {
            for (i, word) in request.into_iter().enumerate() {
                a.mov(rax, word).unwrap();
                a.mov(rcx, SHARED + at::REQUESTS + 8 * i as u64).unwrap();
                a.mov(qword_ptr(rcx), rax).unwrap();
            }
            a.mov(rcx, SHARED).unwrap();
            a.mov(dword_ptr(rcx + at::KEYED), keyed).unwrap();
            a.mov(dword_ptr(rcx + at::REQUEST_COUNT), 1).unwrap();
            // It comes by the list when the kernel lets it go on.
            let mut end = a.create_label();
            a.lea(r14, qword_ptr(end)).unwrap();
            a.mov(eax, 7).unwrap();
            a.syscall().unwrap();
            a.mov(rax, qword_ptr(NOWHERE)).unwrap();
            a.set_label(&mut end).unwrap();
        });
        assert_eq!(count, 1, "KEYED {keyed}");
    }
}

#[test]
fn kicks_at_any_moment_leave_no_key_where_a_program_can_read_it() {
    const TURNS: u32 = 3000;
    const PAGE: u64 = 0xa0_0000;
    // A page of the program's is taken away and given back by the kernel at each call.
    let entry = FakeMachine::TABLES.0 + 0x2000 + 8 * (PAGE >> 21);
    let (machine, state) = with_user(
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, TURNS).unwrap();
            a.set_label(&mut top).unwrap();
            a.inc(qword_ptr(PAGE)).unwrap();
            a.mov(eax, 7).unwrap();
            a.syscall().unwrap();
            a.dec(ebx).unwrap();
            a.jnz(top).unwrap();
            exit(a);
        },
        |a| {
            let mut end = a.create_label();
            a.cmp(eax, 100).unwrap();
            a.jae(end).unwrap();
            a.xor(qword_ptr(entry), 1).unwrap();
            a.invlpg(byte_ptr(PAGE)).unwrap();
            a.xor(qword_ptr(entry), 1).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    machine.ram().write(Gpa(entry), &(PAGE | 0x87).to_le_bytes()).unwrap();
    let mut pv = vcpu(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let done = AtomicBool::new(false);
    let (mut kicks, mut shown) = (0, false);
    std::thread::scope(|scope| {
        let kicker = scope.spawn(|| {
            let mut n = 0_u32;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                machine.platform.kick(VcpuId(0)).kick();
                std::thread::sleep(Duration::from_micros(u64::from(n % 70)));
            }
        });
        while pv.run(&machine.platform).unwrap() == Exit::Kicked {
            kicks += 1;
            shown |= pv.shows_a_key();
        }
        done.store(true, Ordering::Relaxed);
        kicker.join().unwrap();
    });
    assert!(kicks > 0);
    assert!(!shown && !pv.shows_a_key(), "a key is left after {kicks} kicks");
    let mut counter = [0; 8];
    machine.ram().read(Gpa(PAGE), &mut counter).unwrap();
    assert_eq!(u64::from_le_bytes(counter), u64::from(TURNS));
}

#[test]
fn a_program_that_enters_the_kernel_by_a_closed_way_does_not_get_there() {
    let (machine, mut state) = with_user(
        |a| {
            let mut back = a.create_label();
            a.lea(rax, qword_ptr(back)).unwrap();
            a.mov(r11, stub::entries().syscall).unwrap();
            a.jmp(r11).unwrap();
            a.set_label(&mut back).unwrap();
            exit(a);
        },
        serve,
        halt,
    );
    // SYSCALL is switched off: it is #UD, and SYSRETQ with it. The program is there already.
    state.efer.remove(crate::arch::Efer::SCE);
    state.rip = USER;
    state.segments[SegmentRegister::Cs as usize] =
        Segment { selector: 0x2b, base: 0, limit: u32::MAX, attributes: 0xa0fb };
    state.segments[SegmentRegister::Ss as usize] =
        Segment { selector: 0x23, base: 0, limit: u32::MAX, attributes: 0xc0f3 };
    state.rflags.insert(Rflags::IF);
    let mut pv = vcpu(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            machine.platform.kick(VcpuId(0)).kick();
        });
        pv.run(&machine.platform)
    });
    // Nobody takes it up, so it waits for ever, and is ended when it is to stop. It would be in ring 0 by now otherwise.
    let error = end.unwrap_err().to_string();
    assert!(error.contains("did not stop"), "{error}");
}
