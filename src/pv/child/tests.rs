//! The child alone: guest code without page tables, mapped by hand.
use super::*;
use crate::arch::Gpa;
use crate::arch::{CpuState, Rflags};
use crate::engine::KickCell;
use crate::mem::GuestRam;
use crate::pv::layout::{RAM_FD, ZONE_SIZE};
use crate::sys::memfd;
use iced_x86::code_asm::{CodeAssembler, eax, rax, rbx, rcx, xmm3, ymm3};

const CODE: u64 = 0x20_0000;

pub(super) struct Bench {
    pub(super) child: Child,
    pub(super) ram: GuestRam,
    state: CpuState,
    kick: std::sync::Arc<KickCell>,
}

impl Bench {
    pub(super) fn new(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        let ram = GuestRam::new(0x40_0000).unwrap();
        let text = memfd::create(c"text", 0x40_0000 + ZONE_SIZE).unwrap();
        let mut a = CodeAssembler::new(64).unwrap();
        program(&mut a);
        ram.write(Gpa(CODE), &a.assemble(CODE).unwrap()).unwrap();
        let mut child =
            Child::start(ram.file(), &text, Start { zone_offset: 0x40_0000, traps_time: false }).unwrap();
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        child.request(libc::SYS_mmap, [CODE, 0x1000, 7, flags, RAM_FD.into(), CODE]).unwrap();
        let mut state = CpuState::reset();
        state.rip = CODE;
        state.rflags |= Rflags::IF;
        Self { child, ram, state, kick: KickCell::new() }
    }

    pub(super) fn go(&mut self) -> Result<Report, EngineError> {
        let mut commands = self.child.load_registers(&self.state, self.state.rip, false);
        commands |= self.child.load_vectors(&self.state.xsave);
        self.child.release(commands).unwrap();
        assert_eq!(Pairing::new().wait(&mut self.child, None, &self.kick)?, Awake::Report);
        let report = self.child.report()?;
        self.child.save_registers(&mut self.state);
        self.child.save_vectors(&mut self.state.xsave)?;
        Ok(report)
    }

    fn trap(&mut self) -> Trap {
        match self.go().unwrap() {
            Report::Trap(trap) => trap,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn registers_go_in_and_come_back() {
    let mut b = Bench::new(|a| {
        a.xchg(rax, rbx).unwrap();
        a.vpaddd(ymm3, ymm3, ymm3).unwrap();
        a.stc().unwrap();
        a.hlt().unwrap();
    });
    for i in 0..16 {
        b.state.gpr[i] = 0x1111_2222_3333_0000 + i as u64;
    }
    b.state.xsave.0[XMM3..XMM3 + 4].copy_from_slice(&5_u32.to_le_bytes());
    b.state.xsave.0[YMM3_HIGH..YMM3_HIGH + 4].copy_from_slice(&7_u32.to_le_bytes());
    let before = b.state.clone();
    let trap = b.trap();
    assert_eq!((trap.signal, trap.vector), (libc::SIGSEGV, 13));
    let mut expected = before;
    expected.gpr.swap(0, 3);
    expected.rip = CODE + 3 + 4 + 1;
    expected.rflags |= Rflags::CF;
    expected.xsave.0[XMM3] = 10;
    expected.xsave.0[YMM3_HIGH] = 14;
    assert_eq!(b.state, expected);
}

const XMM3: usize = 160 + 3 * 16;
const YMM3_HIGH: usize = 576 + 3 * 16;

#[test]
fn system_calls_of_the_guest_are_traps() {
    for (number, wide) in
        [(libc::SYS_getpid, true), (libc::SYS_execve, true), (libc::SYS_kill, true), (1, false)]
    {
        let mut b = Bench::new(|a| {
            a.mov(eax, number as i32).unwrap();
            if wide {
                a.syscall().unwrap();
            } else {
                a.int(0x80).unwrap();
            }
            a.hlt().unwrap();
        });
        let trap = b.trap();
        assert_eq!(trap.signal, libc::SIGSYS);
        assert_eq!((b.state.rip, b.state.gpr[0]), (CODE + 7, number as u64));
    }
}

#[test]
fn a_page_that_is_not_there_names_its_address() {
    let mut b = Bench::new(|a| {
        a.mov(rax, iced_x86::code_asm::qword_ptr(rcx)).unwrap();
        a.movq(xmm3, rax).unwrap();
        a.hlt().unwrap();
    });
    b.state.gpr[1] = 0x1234_5678;
    let trap = b.trap();
    assert_eq!((trap.signal, trap.vector, trap.address), (libc::SIGSEGV, 14, 0x1234_5678));
    assert_eq!(b.state.rip, CODE);
    assert!(b.ram.size() > 0);
}

#[test]
fn a_spinning_guest_is_stopped_by_a_kick_even_with_interrupts_off() {
    let mut b = Bench::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.jmp(top).unwrap();
    });
    b.state.rflags -= Rflags::IF;
    let commands = b.child.load_registers(&b.state, CODE, false);
    b.child.release(commands).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    // Interrupts are off: a mere poke is ignored.
    b.child.signal();
    b.kick.poke();
    assert_eq!(Pairing::new().wait(&mut b.child, None, &b.kick).unwrap(), Awake::Attention);
    b.child.shared().set(at::STOP, 1);
    b.child.signal();
    b.child.await_report().unwrap();
    assert_eq!(b.child.report().unwrap(), Report::Kicked);
    b.child.save_registers(&mut b.state);
    assert_eq!(b.state.rip, CODE);
    assert!(!b.state.rflags.contains(Rflags::IF));
}

#[test]
fn a_guest_that_unmaps_the_monitor_ends_its_process_only() {
    let mut b = Bench::new(|a| {
        // Jump to the stub's loop over requests with a munmap of the shared area and the stub.
        a.mov(rax, stub::entries().hypercall).unwrap();
        a.jmp(rax).unwrap();
    });
    // As a hostile guest would: the request list is in its address space too.
    b.child.request(libc::SYS_munmap, [SHARED, 0x2_0000, 0, 0, 0, 0]).unwrap();
    let error = b.go().unwrap_err();
    assert!(matches!(error, EngineError::GuestCrash(_)), "{error}");
}

#[test]
fn a_dropped_child_is_gone() {
    let b = Bench::new(|a| a.hlt().unwrap());
    let pid = b.child.pid();
    drop(b);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
