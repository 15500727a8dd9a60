//! Guests that attack the monitor: each ends in a clear error or in its own handler, leaves no process behind, and
//! another guest in the same process goes on undisturbed.
//!
//! Whatever the patches would catch is hidden from them, in the constant of an instruction that is jumped into; and all
//! of it runs without patches, too.
mod borrowed;

use super::*;
use crate::arch::Efer;
use crate::engine::EngineError;
use crate::pv::child::stub;
use crate::pv::layout::{MONITOR, SHARED, ZONE, at};

/// When a guest that need not end by itself is kicked.
const SOON: Duration = Duration::from_millis(150);
/// When any other is: far beyond what it needs on a busy host.
const LATE: Duration = Duration::from_secs(30);

/// How an attack is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The guest's process is ended, and one sentence says why; this is in it.
    Crash(&'static str),
    /// In the guest itself: it halts, or takes an exception that it cannot.
    Guest,
    /// Not at all, until it is kicked.
    Kicked,
    /// In any of these.
    Contained,
}

impl End {
    fn fits(self, result: &Result<Exit, EngineError>) -> bool {
        match (self, result) {
            (Self::Crash(words), Err(EngineError::GuestCrash(why))) => why.contains(words),
            (Self::Guest, Ok(Exit::Halted | Exit::TripleFault)) | (Self::Kicked, Ok(Exit::Kicked)) => true,
            (Self::Contained, result) => {
                matches!(
                    result,
                    Ok(Exit::Halted | Exit::TripleFault | Exit::Kicked) | Err(EngineError::GuestCrash(_))
                )
            }
            _ => false,
        }
    }
}

type Program = Box<dyn Fn(&mut CodeAssembler) -> Result<(), IcedError> + Sync>;

/// An attack by a program, whose exceptions come to a HLT or to another handler.
struct Attack {
    name: String,
    end: End,
    program: Program,
    handler: fn(&mut CodeAssembler),
    /// When it is kicked.
    kick: Duration,
}

fn attack(
    name: impl Into<String>,
    end: End,
    program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError> + Sync + 'static,
) -> Attack {
    let kick = if matches!(end, End::Kicked | End::Contained) { SOON } else { LATE };
    Attack { name: name.into(), end, program: Box::new(program), handler: halt, kick }
}

impl Attack {
    /// The same, which shows what it is only when it is kicked.
    fn kicked(self) -> Self {
        Self { kick: Duration::from_secs(1), ..self }
    }
}

/// Processes of the session that a child leads.
fn processes_of(leader: i32) -> Vec<String> {
    let session = |stat: &str| {
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(3)?.parse::<i32>().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| session(stat) == Some(leader)).collect()
}

/// Carries an attack out. Its process is the only one of its session, and none is left.
fn carry_out(attack: &Attack, interface: Interface) -> Result<Exit, EngineError> {
    let (machine, mut state) = guest(|a| (attack.program)(a).unwrap(), attack.handler);
    // A system call of the guest's own leads to the handler, too.
    state.efer |= Efer::SCE;
    (state.msrs.lstar, state.msrs.star) = (HANDLER, 8 << 32);
    let mut pv =
        PvVcpu::new(VcpuId(0), Arc::clone(machine.ram()), state, interface, Options::default()).unwrap();
    let pid = pv.child_pid();
    let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
    let _bound = kick.bind().unwrap();
    let result = std::thread::scope(|scope| {
        let (done, ended) = crossbeam_channel::bounded::<()>(0);
        scope.spawn(move || {
            if ended.recv_timeout(attack.kick).is_err_and(|e| e.is_timeout()) {
                kick.kick();
            }
        });
        let result = pv.run(&machine.platform);
        drop(done);
        result
    });
    let processes = processes_of(pid);
    assert!(processes.len() <= 1, "{}: {processes:?}", attack.name);
    drop(pv);
    assert_eq!(processes_of(pid), Vec::<String>::new(), "{}", attack.name);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    result
}

/// Emits code that the scan does not see: in the constant of a MOV. What is returned is to be given to [`enter`].
fn hide(a: &mut CodeAssembler, code: [u8; 7]) -> Result<CodeLabel, IcedError> {
    let mut place = a.create_label();
    a.set_label(&mut place)?;
    let mut constant = [0xf4; 8];
    constant[..7].copy_from_slice(&code);
    a.mov(rbx, u64::from_le_bytes(constant))?;
    Ok(place)
}

/// Bytes of a MOV before its constant.
const INTO: i32 = 2;

fn enter(a: &mut CodeAssembler, place: CodeLabel) -> Result<(), IcedError> {
    a.lea(r11, qword_ptr(place))?;
    a.add(r11, INTO)?;
    a.jmp(r11)
}

const SYSCALL: [u8; 7] = [0x0f, 0x05, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4];
/// `retfq`.
const FAR_RETURN: [u8; 7] = [0x48, 0xcb, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4];
/// Linux's 32-bit code segment of ring 3.
const COMPATIBLE: i32 = 0x23;

/// Goes to 32-bit code by a far return.
fn go_32_bit(a: &mut CodeAssembler, code: [u8; 7]) -> Result<(), IcedError> {
    let (code, way) = (hide(a, code)?, hide(a, FAR_RETURN)?);
    a.push(COMPATIBLE)?;
    a.lea(rax, qword_ptr(code))?;
    a.add(rax, INTO)?;
    a.push(rax)?;
    enter(a, way)
}

/// `mov eax, number` and another instruction of two bytes, in 32-bit code.
fn call_32_bit(number: u8, instruction: [u8; 2]) -> [u8; 7] {
    [0xb8, number, 0, 0, 0, instruction[0], instruction[1]]
}

const LEFT_64_BIT: End = End::Crash("left 64-bit mode");

/// System calls of the guest's own, seen by the patches or hidden from them.
fn raw_system_calls(all: &mut Vec<Attack>) {
    for (name, number) in [
        ("getpid", libc::SYS_getpid),
        ("fork", libc::SYS_fork),
        ("vfork", libc::SYS_vfork),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("execve", libc::SYS_execve),
        ("kill", libc::SYS_kill),
        ("mmap", libc::SYS_mmap),
        ("munmap", libc::SYS_munmap),
        ("ptrace", libc::SYS_ptrace),
        ("rt_sigreturn", libc::SYS_rt_sigreturn),
        ("of x32", 0x4000_0000 + libc::SYS_fork),
    ] {
        let number = number as i32;
        all.push(attack(format!("syscall {name}"), End::Guest, move |a| {
            a.mov(eax, number)?;
            a.syscall()?;
            a.hlt()
        }));
        // Neither reaches the host: both are the guest's own system call.
        all.push(attack(format!("hidden syscall {name}"), End::Guest, move |a| {
            let place = hide(a, SYSCALL)?;
            a.mov(eax, number)?;
            enter(a, place)
        }));
    }
    for number in [1_u8, 2, 20, 37] {
        let code = [0xb8, number, 0, 0, 0, 0xcd, 0x80];
        all.push(attack(format!("hidden int 0x80 with {number}"), End::Guest, move |a| {
            let place = hide(a, code)?;
            enter(a, place)
        }));
    }
    all.push(attack("sysenter", End::Contained, |a| a.sysenter()));
    all.push(attack("hidden sysenter", End::Contained, |a| {
        let place = hide(a, [0x0f, 0x34, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4])?;
        a.mov(eax, 2)?;
        enter(a, place)
    }));
}

/// 32-bit code, which no page of the guest's has a right to be.
fn compatibility_mode(all: &mut Vec<Attack>) {
    for (name, code) in [
        ("int 0x80: fork", call_32_bit(2, [0xcd, 0x80])),
        ("int 0x80: exit", call_32_bit(1, [0xcd, 0x80])),
        ("int 0x80: mmap2", call_32_bit(192, [0xcd, 0x80])),
        ("sysenter: fork", call_32_bit(2, [0x0f, 0x34])),
        ("syscall: fork", call_32_bit(2, [0x0f, 0x05])),
        ("ud2", call_32_bit(0, [0x0f, 0x0b])),
        ("a loop", call_32_bit(0, [0xeb, 0xfe])),
        ("hlt", call_32_bit(0, [0xf4, 0xf4])),
    ] {
        let attack = attack(format!("32-bit code: {name}"), LEFT_64_BIT, move |a| go_32_bit(a, code));
        all.push(if name == "a loop" { attack.kicked() } else { attack });
    }
    // A far jump that the scan sees: patched, it is the guest's own, whose GDT has no such segment.
    all.push(attack("far jump to 32-bit code", End::Contained, |a| {
        let code = hide(a, call_32_bit(2, [0xcd, 0x80]))?;
        a.lea(rax, qword_ptr(code))?;
        a.add(rax, INTO)?;
        a.mov(rdi, STACK)?;
        a.mov(dword_ptr(rdi), eax)?;
        a.mov(word_ptr(rdi + 4), COMPATIBLE)?;
        a.db(&[0xff, 0x2f])?; // jmp far [rdi]
        a.hlt()
    }));
}

/// Code and data of the monitor.
fn the_monitors_addresses(all: &mut Vec<Attack>) {
    let entries = stub::entries();
    for (name, to) in [
        ("stub start", entries.begin),
        ("hypercall entry", entries.hypercall),
        ("signal handler", entries.signal),
        ("sigreturn", entries.restorer),
        ("shared area", SHARED),
        ("signal stack", SHARED + at::SIGNAL_STACK),
        ("thunk zone", ZONE + 0x10_0000),
        ("control page", ZONE),
        ("vsyscall", 0xffff_ffff_ff60_0000),
        ("nowhere", 0x1234_5678_0000),
    ] {
        all.push(attack(format!("a jump to {name}"), End::Contained, move |a| {
            a.mov(rax, to)?;
            a.jmp(rax)
        }));
        all.push(attack(format!("zeroes over {name}"), End::Contained, move |a| {
            a.mov(rdi, to)?;
            a.mov(rsi, to)?;
            a.mov(ecx, 0x400)?;
            a.rep().stosq()?;
            a.hlt()
        }));
        all.push(attack(format!("a stack in {name}"), End::Contained, move |a| {
            a.mov(rsp, to + 0x800)?;
            a.push(rax)?;
            a.pushfq()?;
            a.ud2()
        }));
    }
    // A frame of the guest's own: all signals blocked, another stack for signals, 32-bit code, no user segments.
    for (name, mask, stack, selectors) in [
        ("that blocks signals", u64::MAX, SHARED + at::SIGNAL_STACK, 0x002b_0000_0000_0033_u64),
        ("with a stack in RAM", 0, STACK, 0x002b_0000_0000_0033),
        ("with a stack nowhere", 0, 0x7fff_0000_0000, 0x002b_0000_0000_0033),
        ("into 32-bit code", 0, SHARED + at::SIGNAL_STACK, 0x002b_0000_0000_0023),
        ("into ring 0", 0, SHARED + at::SIGNAL_STACK, 0x0018_0000_0000_0010),
    ] {
        all.push(attack(format!("a forged signal frame {name}"), End::Contained, move |a| {
            let mut spin = a.create_label();
            a.mov(rdi, STACK - 0x1000)?;
            for (offset, value) in
                [(16, stack), (32, at::SIGNAL_STACK_SIZE), (160, STACK), (184, selectors), (296, mask)]
            {
                a.mov(rax, value)?;
                a.mov(qword_ptr(rdi + offset), rax)?;
            }
            a.lea(rax, qword_ptr(spin))?;
            a.mov(qword_ptr(rdi + 168), rax)?;
            a.mov(rsp, rdi)?;
            a.mov(rax, entries.restorer)?;
            a.jmp(rax)?;
            a.set_label(&mut spin)?;
            a.inc(rbx)?;
            a.ud2()
        }));
    }
}

/// Traps without end.
fn floods(all: &mut Vec<Attack>) {
    let endless = |name: &str, program: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        // The handler goes back to the instruction that trapped.
        Attack { handler: |a| a.iretq().unwrap(), ..attack(name, End::Kicked, program) }
    };
    all.push(endless("ud2 for ever", |a| a.ud2()));
    all.push(endless("hidden int3 for ever", |a| {
        let place = hide(a, [0xcc, 0xeb, 0xfd, 0xf4, 0xf4, 0xf4, 0xf4])?;
        enter(a, place)
    }));
    all.push(Attack {
        handler: |a| a.jmp(rcx).unwrap(),
        ..attack("syscall for ever", End::Kicked, |a| {
            let place = hide(a, [0x0f, 0x05, 0xeb, 0xfc, 0xf4, 0xf4, 0xf4])?;
            enter(a, place)
        })
    });
    all.push(endless("page faults for ever", |a| {
        a.mov(rax, 0x80_0000_0000_u64)?;
        a.mov(rax, qword_ptr(rax))
    }));
    all.push(endless("division errors for ever", |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    }));
    let nested = |name: &str, handler: fn(&mut CodeAssembler)| Attack {
        handler,
        ..attack(name, End::Contained, |a| a.ud2())
    };
    all.push(nested("ud2 in its own handler", |a| a.ud2().unwrap()));
    all.push(nested("page faults in the handler", |a| {
        a.mov(rax, 0x80_0000_0000_u64).unwrap();
        a.mov(rax, qword_ptr(rax)).unwrap();
    }));
    all.push(nested("a handler without a stack", |a| {
        a.mov(rsp, 0x80_0000_0000_u64).unwrap();
        a.ud2().unwrap();
    }));
    all.push(attack("an IDT that is nowhere", End::Guest, |a| {
        a.mov(rdi, STACK)?;
        a.mov(word_ptr(rdi), 0xfff)?;
        a.mov(rax, 0x80_0000_0000_u64)?;
        a.mov(qword_ptr(rdi + 2), rax)?;
        a.lidt(ptr(rdi))?;
        a.ud2()
    }));
}

/// A guest that computes, traps and calls.
fn working() -> (FakeMachine, CpuState) {
    guest(
        |a| {
            let mut top = a.create_label();
            a.mov(ecx, 2000).unwrap();
            a.set_label(&mut top).unwrap();
            a.cli().unwrap();
            a.pushfq().unwrap();
            a.pop(rax).unwrap();
            a.add(r14, rax).unwrap();
            a.mov(rax, cs).unwrap();
            a.add(r14, rax).unwrap();
            a.ud2().unwrap();
            a.dec(ecx).unwrap();
            a.jnz(top).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.inc(r15).unwrap();
            a.add(qword_ptr(rsp), 2).unwrap();
            a.iretq().unwrap();
        },
    )
}

/// Runs that guest again and again until `done`; it must always come to the interpreter's result. Says how often.
fn undisturbed(done: &AtomicBool) -> u32 {
    let (machine, mut expected) = working();
    let mut single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
    while single.step(&mut expected, &machine.platform).unwrap() != Outcome::Halted {}
    let mut runs = 0;
    while !done.load(Ordering::Relaxed) || runs == 0 {
        let (machine, state) = working();
        let mut pv = vcpu(&machine, &state);
        let kick = Arc::clone(machine.platform.kick(VcpuId(0)));
        let _bound = kick.bind().unwrap();
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        let state = pv.save().unwrap();
        assert_eq!((state.gpr, state.rip, state.rflags), (expected.gpr, expected.rip, expected.rflags));
        runs += 1;
    }
    runs
}

#[test]
fn hostile_guests_do_not_get_out_and_others_go_on() {
    let mut all = Vec::new();
    raw_system_calls(&mut all);
    compatibility_mode(&mut all);
    borrowed::through_the_stub(&mut all);
    borrowed::with_the_stub(&mut all);
    the_monitors_addresses(&mut all);
    floods(&mut all);
    let done = AtomicBool::new(false);
    let (wrong, runs) = std::thread::scope(|scope| {
        let other = scope.spawn(|| undisturbed(&done));
        let attackers = [Interface::Patched, Interface::None].map(|interface| {
            let all = &all;
            scope.spawn(move || {
                let judge = |attack: &Attack| {
                    let result = carry_out(attack, interface);
                    let name = &attack.name;
                    (!attack.end.fits(&result))
                        .then(|| format!("{name} ({interface:?}): {result:?}, not {:?}", attack.end))
                };
                all.iter().filter_map(judge).collect::<Vec<_>>()
            })
        });
        let wrong = attackers.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        (wrong.map(Result::unwrap).concat(), other.join().unwrap())
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * all.len(), wrong.join("\n"));
    println!("{} attacks; meanwhile another guest ran {runs} times", 2 * all.len());
}
