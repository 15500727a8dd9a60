//! Programs of ring 3 that take the stub's place in their process, so as not to wait while others have the vCPU: what is taken
//! from them is gone before anybody relies on that, and a process that is given to another program is the stub's again.
use super::*;
use crate::pv::child::stub;
use crate::pv::layout::{MONITOR, SHARED, SHARED_SIZE, at, event, frame, turn};

/// A page of the program's, which the kernel takes away, and where it writes to it later.
const PAGE: u64 = 0xa0_0000;
const ALIAS: u64 = 0xc0_0000;
const SECRET: u32 = 0x5ec3_e7ed;
/// A second address space, without the page.
const TABLES: u64 = 0x18_0000;

fn in_stub(bytes: &[u8]) -> u64 {
    MONITOR + stub::code().windows(bytes.len()).position(|code| code == bytes).unwrap() as u64
}

fn directory_entry(page: u64) -> u64 {
    FakeMachine::TABLES.0 + 0x2000 + 8 * (page >> 21)
}

/// With [`PAGE`] the program's, its alias the kernel's, and the other address space. The kernel has served a call already, so
/// that the program reaches it without the engine.
fn with_page(
    user: impl FnOnce(&mut CodeAssembler),
    entry: impl FnOnce(&mut CodeAssembler),
) -> (FakeMachine, CpuState) {
    let (machine, state) = with_user(
        |a| {
            a.mov(eax, 6).unwrap();
            a.syscall().unwrap();
            // What lies under the patch of the call is not executed natively.
            for _ in 0..8 {
                a.nop().unwrap();
            }
            a.mov(rax, qword_ptr(PAGE)).unwrap();
            a.mov(qword_ptr(USER_STACK - 8), rax).unwrap();
            user(a);
        },
        |a| {
            let mut other = a.create_label();
            a.cmp(eax, 6).unwrap();
            a.jne(other).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut other).unwrap();
            entry(a);
        },
        halt,
    );
    let ram = machine.ram();
    ram.write(Gpa(directory_entry(PAGE)), &(PAGE | 0x87).to_le_bytes()).unwrap();
    ram.write(Gpa(directory_entry(ALIAS)), &(PAGE | 0x83).to_le_bytes()).unwrap();
    let mut directory = [0; 4096];
    ram.read(Gpa(FakeMachine::TABLES.0 + 0x2000), &mut directory).unwrap();
    directory[(PAGE >> 21) as usize * 8..][..8].fill(0);
    ram.write(Gpa(TABLES + 0x2000), &directory).unwrap();
    ram.write(Gpa(TABLES), &((TABLES + 0x1000) | 7).to_le_bytes()).unwrap();
    ram.write(Gpa(TABLES + 0x1000), &((TABLES + 0x2000) | 7).to_le_bytes()).unwrap();
    (machine, state)
}

/// A system call that goes on in the program: what the stub does for SYSCALL, by the program's own instructions. The kernel
/// returns to `back`.
fn pretend_syscall(a: &mut CodeAssembler, back: CodeLabel) {
    a.lea(rax, qword_ptr(back)).unwrap();
    a.mov(rbx, SHARED).unwrap();
    a.mov(qword_ptr(rbx + at::NEXT_GUEST), rax).unwrap();
    a.mov(qword_ptr(rbx + at::NEXT_NATIVE), rax).unwrap();
    a.mov(qword_ptr(rbx + at::RFLAGS), 0x202).unwrap();
    a.mov(qword_ptr(rbx + at::GPR), 7).unwrap();
    a.mov(eax, turn::KERNEL).unwrap();
    a.xchg(dword_ptr(rbx + at::TURN), eax).unwrap();
    // Whoever sleeps at the door is woken by the stub's own system call, which returns by the program's stack.
    let mut awake = a.create_label();
    a.lea(rax, qword_ptr(awake)).unwrap();
    a.mov(rsp, USER_STACK).unwrap();
    a.push(rax).unwrap();
    a.mov(dword_ptr(rbx + at::DOOR), 1).unwrap();
    a.lea(rdi, qword_ptr(rbx + at::DOOR)).unwrap();
    a.mov(esi, 1).unwrap();
    a.mov(edx, 1).unwrap();
    a.xor(r14d, r14d).unwrap();
    a.mov(r13d, 1).unwrap();
    a.mov(r12, USER_DATA).unwrap();
    a.mov(r11, in_stub(&[0x0f, 0x05, 0x49, 0x89, 0x44, 0x24, 0x38])).unwrap();
    a.mov(eax, libc::SYS_futex as u32).unwrap();
    a.jmp(r11).unwrap();
    a.set_label(&mut awake).unwrap();
    a.nop().unwrap();
}

/// Reads its page for ever, and answers in the stub's name whatever it is told.
fn watch(a: &mut CodeAssembler) {
    let (mut top, mut back) = (a.create_label(), a.create_label());
    pretend_syscall(a, back);
    a.set_label(&mut top).unwrap();
    a.mov(rax, qword_ptr(PAGE)).unwrap();
    a.mov(qword_ptr(USER_DATA + 0x100), rax).unwrap();
    a.cmp(dword_ptr(rbx + at::TURN), turn::CHILD).unwrap();
    a.jne(top).unwrap();
    a.mov(dword_ptr(rbx + at::EVENT), event::DONE).unwrap();
    a.mov(dword_ptr(rbx + at::REQUEST_COUNT), 0).unwrap();
    a.mov(eax, turn::ENGINE).unwrap();
    a.xchg(dword_ptr(rbx + at::TURN), eax).unwrap();
    a.jmp(top).unwrap();
    a.set_label(&mut back).unwrap();
    exit(a);
}

/// Writes what the program is not to see, and waits until it would have seen it.
fn write_secret(a: &mut CodeAssembler) {
    let mut wait = a.create_label();
    a.mov(dword_ptr(ALIAS), SECRET).unwrap();
    a.mov(ecx, 50_000_000).unwrap();
    a.set_label(&mut wait).unwrap();
    a.dec(ecx).unwrap();
    a.jnz(wait).unwrap();
    a.hlt().unwrap();
}

/// What becomes of a guest whose program does not wait, and what that program saw.
fn watched(entry: impl FnOnce(&mut CodeAssembler)) -> (String, u32) {
    let (machine, state) = with_page(watch, entry);
    let mut pv = vcpu(&machine, &state);
    let end = pv.run(&machine.platform);
    drop(pv);
    let mut seen = [0; 4];
    machine.ram().read(Gpa(USER_DATA + 0x100), &mut seen).unwrap();
    (format!("{end:?}"), u32::from_le_bytes(seen))
}

#[test]
fn a_page_that_the_kernel_takes_away_is_gone_before_the_kernel_goes_on() {
    let (end, seen) = watched(|a| {
        a.btr(qword_ptr(directory_entry(PAGE)), 0).unwrap();
        a.invlpg(byte_ptr(PAGE)).unwrap();
        write_secret(a);
    });
    assert!(end.contains("took the place of the monitor"), "{end}");
    assert_ne!(seen, SECRET);
}

#[test]
fn a_program_whose_address_space_is_left_does_not_go_on() {
    let (end, seen) = watched(|a| {
        a.mov(rax, TABLES).unwrap();
        a.mov(cr3, rax).unwrap();
        write_secret(a);
    });
    assert!(end.contains("took the place of the monitor"), "{end}");
    assert_ne!(seen, SECRET);
}

#[test]
fn a_program_that_has_the_stub_read_its_requests_does_not_come_back_from_there() {
    // mov eax, SYS_read; mov edi, KEYS_FD
    let region = in_stub(&[0xb8, 0, 0, 0, 0, 0xbf, 6, 0, 0, 0]);
    let (machine, state) = with_page(
        |a| {
            let (mut escaped, mut back) = (a.create_label(), a.create_label());
            pretend_syscall(a, back);
            a.lea(rax, qword_ptr(escaped)).unwrap();
            a.mov(rsp, USER_STACK).unwrap();
            for _ in 0..16 {
                a.push(rax).unwrap();
            }
            // Words that would have the stub do other things than wait.
            a.mov(qword_ptr(rbx + at::USER_AREA), rbx).unwrap();
            a.mov(qword_ptr(rbx + at::ENTRY), rax).unwrap();
            a.mov(qword_ptr(rbx + at::RIP), rax).unwrap();
            a.mov(dword_ptr(rbx + at::PARK), 1).unwrap();
            a.mov(r11, region).unwrap();
            a.mov(ebp, 1).unwrap();
            a.jmp(r11).unwrap();
            a.set_label(&mut escaped).unwrap();
            a.mov(rbx, USER_DATA).unwrap();
            a.mov(qword_ptr(rbx + 0x100), 1).unwrap();
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.jmp(top).unwrap();
            a.set_label(&mut back).unwrap();
            exit(a);
        },
        |a| {
            let mut end = a.create_label();
            a.cmp(eax, 100).unwrap();
            a.jae(end).unwrap();
            a.btr(qword_ptr(directory_entry(PAGE)), 0).unwrap();
            a.invlpg(byte_ptr(PAGE)).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    // If it is told to stop between its words and its jump, the stub heeds the words: it does not stop, or it reports something
    // else than that it did what it was sent. Either way its guest ends.
    match pv.run(&machine.platform) {
        Ok(exit) => assert_eq!(exit, Exit::Halted),
        Err(error) => {
            let error = error.to_string();
            let caught = error.contains("did not stop") || error.contains("took the place of the monitor");
            assert!(caught, "{error}");
        }
    }
    let mut escaped = [0; 8];
    machine.ram().read(Gpa(USER_DATA + 0x100), &mut escaped).unwrap();
    assert_eq!(u64::from_le_bytes(escaped), 0);
}

#[test]
fn a_program_that_blocks_signals_does_so_until_its_process_is_confined() {
    let frame_at = USER_DATA + 0x1000;
    let (machine, state) = with_page(
        |a| {
            let (mut call, mut top) = (a.create_label(), a.create_label());
            a.mov(r15d, 6).unwrap();
            // One instruction for both calls: with signals blocked there is no trap that would have it patched.
            a.set_label(&mut call).unwrap();
            a.mov(eax, r15d).unwrap();
            a.syscall().unwrap();
            // Room for a jump to a thunk.
            a.mov(rax, rax).unwrap();
            a.mov(rax, rax).unwrap();
            a.set_label(&mut top).unwrap();
            a.cmp(r15d, 7).unwrap();
            a.je(top).unwrap();
            a.mov(r15d, 7).unwrap();
            // A signal frame of its own: all signals blocked, their stack elsewhere.
            a.mov(rsp, frame_at).unwrap();
            a.mov(qword_ptr(rsp + 16), USER_DATA as i32).unwrap();
            a.mov(qword_ptr(rsp + 32), 0x8000).unwrap();
            a.lea(rax, qword_ptr(call)).unwrap();
            a.mov(qword_ptr(rsp + frame::RIP), rax).unwrap();
            a.mov(qword_ptr(rsp + frame::RFLAGS), 0x202).unwrap();
            a.mov(qword_ptr(rsp + frame::GPR[15]), r15).unwrap();
            a.mov(rax, 0x002b_0000_0000_0033_u64).unwrap();
            a.mov(qword_ptr(rsp + frame::CS), rax).unwrap();
            a.mov(qword_ptr(rsp + 296), -1).unwrap();
            a.mov(r11, stub::entries().restorer).unwrap();
            a.jmp(r11).unwrap();
        },
        |a| {
            a.btr(qword_ptr(directory_entry(PAGE)), 0).unwrap();
            a.invlpg(byte_ptr(PAGE)).unwrap();
            a.sysretq().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            machine.platform.kick(VcpuId(0)).kick();
        });
        pv.run(&machine.platform)
    });
    assert_eq!(end.unwrap(), Exit::Kicked);
}

#[test]
fn a_program_that_does_not_let_itself_be_interrupted_ends_its_guest() {
    let (machine, state) = with_page(
        |a| {
            let mut top = a.create_label();
            a.mov(rbx, SHARED).unwrap();
            a.mov(qword_ptr(rbx + at::STOP), 0).unwrap();
            a.mov(qword_ptr(rbx + at::FLAGS_DELTA), 0x200).unwrap();
            a.mov(rbx, USER_DATA).unwrap();
            a.mov(qword_ptr(rbx + 0x100), 1).unwrap();
            a.set_label(&mut top).unwrap();
            a.jmp(top).unwrap();
        },
        halt,
    );
    let mut pv = vcpu(&machine, &state);
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut deaf = [0; 8];
            for _ in 0..1000 {
                if deaf != [0; 8] {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
                machine.ram().read(Gpa(USER_DATA + 0x100), &mut deaf).unwrap();
            }
            machine.interrupts.raise(0x40);
        });
        pv.run(&machine.platform)
    });
    let error = end.unwrap_err().to_string();
    assert!(error.contains("does not let itself be interrupted"), "{error}");
}

#[test]
fn a_kernel_writes_nothing_of_its_users_areas_but_what_a_hand_over_needs() {
    // The second area is the first user's. Behind the two pages there is nothing: a page fault that no table explains.
    let (machine, state) = guest(
        |a| {
            a.mov(rax, SHARED + SHARED_SIZE + at::REQUESTS).unwrap();
            a.mov(qword_ptr(rax), rax).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.mov(r15d, 1).unwrap();
            a.hlt().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    assert_eq!(pv.save().unwrap().gpr[15], 1);
}
