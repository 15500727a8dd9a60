//! Interrupts, their shadow, HLT, single-stepping, kicks and the counted clock, through the backend.
use super::*;
use crate::arch::state::gpr::{RAX, RCX, RSP};
use crate::arch::{Gva, Rflags};
use crate::clock::{Nanos, TimerClient};
use crate::engine::{Cause, DebugEvent, Exit};
use iced_x86::code_asm::*;
use std::sync::Mutex;

const VECTOR: u8 = 0x40;

/// RIP and RCX of the interrupted code, which a handler that halts has left.
fn interrupted(b: &Bench, state: &CpuState) -> (u64, u64) {
    assert_eq!(state.rip, HANDLERS + 16 * u64::from(VECTOR) + 1, "the handler's HLT");
    (b.peek(state.gpr[RSP]), state.gpr[RCX])
}

#[test]
fn after_sti_one_instruction_runs_before_the_interrupt() {
    let b = Bench::new(|a| {
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    b.machine.interrupts.raise(VECTOR);
    let mut vcpu = b.vcpu();
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    let state = vcpu.save().unwrap();
    assert_eq!(interrupted(&b, &state).0, CODE + 3);
    assert_eq!(state.gpr[RAX], 1);
    assert!(!state.rflags.contains(Rflags::IF), "an interrupt gate closes the door");
}

#[test]
fn popf_and_iret_open_the_door_without_a_shadow() {
    let b = Bench::new(|a| {
        a.pushfq().unwrap();
        a.or(dword_ptr(rsp), 0x200).unwrap();
        a.popfq().unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    b.machine.interrupts.raise(VECTOR);
    let mut vcpu = b.vcpu();
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    assert_eq!(vcpu.save().unwrap().gpr[RAX], 0);
}

#[test]
fn hlt_waits_and_an_interrupt_ends_it() {
    let b = Bench::new(|a| {
        a.sti().unwrap();
        a.hlt().unwrap();
        a.inc(eax).unwrap();
    });
    let mut vcpu = b.vcpu();
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted, "nothing happened");
    b.machine.interrupts.raise(VECTOR);
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    assert_eq!(interrupted(&b, &vcpu.save().unwrap()).0, CODE + 2);
}

#[test]
fn a_repeated_instruction_is_interrupted_in_its_middle() {
    let b = Bench::new(|a| {
        a.sti().unwrap();
        a.rep().lodsb().unwrap();
        a.hlt().unwrap();
    });
    let mut state = b.state.clone();
    state.gpr[RCX] = u64::MAX;
    state.gpr[6] = 0;
    b.map(0, 0);
    let mut vcpu = b.vcpu();
    vcpu.load(&state).unwrap();
    let interrupts = Arc::clone(&b.machine.interrupts);
    let raiser = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(3));
        interrupts.raise(VECTOR);
    });
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    raiser.join().unwrap();
    let state = vcpu.save().unwrap();
    let (at, left) = interrupted(&b, &state);
    assert_eq!(at, CODE + 1, "the same instruction goes on after the handler");
    assert_eq!(state.gpr[6], u64::MAX - left, "as many elements as RCX says");
    assert_ne!(left, 0);
}

#[test]
fn the_trap_flag_stops_after_each_instruction() {
    let mut b = Bench::new(|a| {
        a.popfq().unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
    });
    b.state.gpr[RSP] = STACK - 8;
    b.poke(STACK - 8, 0x102);
    assert_eq!(b.step(), Outcome::Retired, "POPF itself is not trapped");
    assert_eq!(b.step(), Outcome::Exception(Vector::Debug));
    assert_eq!(b.peek(b.state.gpr[RSP]), CODE + 2);
    assert_ne!(b.state.dr[6] & 1 << 14, 0);
    assert!(!b.state.rflags.contains(Rflags::TF));
    // The same by whole blocks.
    let mut b = Bench::new(|a| {
        a.popfq().unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
    });
    b.state.gpr[RSP] = STACK - 8;
    b.poke(STACK - 8, 0x102);
    b.run();
    assert_eq!(b.peek(b.state.gpr[RSP]), CODE + 2);
}

#[test]
fn breakpoints_stop_before_their_instruction_and_steps_count() {
    let b = Bench::new(|a| {
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    let mut vcpu = b.vcpu();
    let platform = &b.machine.platform;
    let at = Gva(CODE + 4);
    vcpu.as_debug().unwrap().set_breakpoints(&[at]).unwrap();
    assert_eq!(vcpu.run(platform).unwrap(), Exit::Debug(DebugEvent::Breakpoint(at)));
    assert_eq!(vcpu.save().unwrap().gpr[RAX], 2);
    assert_eq!(vcpu.as_debug().unwrap().step(platform).unwrap(), Exit::Debug(DebugEvent::Step));
    assert_eq!(vcpu.as_debug().unwrap().step(platform).unwrap(), Exit::Halted);
    assert_eq!(platform.counters(VcpuId(0)).get(Cause::Instruction), 4);
}

#[test]
fn a_breakpoint_at_a_handler_is_not_missed() {
    let b = Bench::new(|a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    let handler = Gva(HANDLERS + 16 * u64::from(VECTOR));
    let mut vcpu = b.vcpu();
    vcpu.as_debug().unwrap().set_breakpoints(&[handler]).unwrap();
    b.machine.interrupts.raise(VECTOR);
    let stopped = Exit::Debug(DebugEvent::Breakpoint(handler));
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), stopped);
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted, "and goes on from there");
}

#[test]
fn a_kick_ends_an_endless_loop() {
    let b = Bench::new(|a| a.db(&[0xeb, 0xfe]).unwrap());
    let kick = Arc::clone(b.machine.platform.kick(VcpuId(0)));
    let mut vcpu = b.vcpu();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(3));
        kick.kick();
    });
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Kicked);
    kicker.join().unwrap();
    assert_eq!(vcpu.save().unwrap().rip, CODE);
}

/// Remembers when it was called and rings.
struct Bell(Vec<u64>, Arc<crate::engine::fake::FakeInterrupts>);

impl TimerClient for Bell {
    fn timer_fired(&mut self, now: Nanos) {
        self.0.push(now.0);
        self.1.raise(VECTOR);
    }
}

#[test]
fn the_counted_clock_takes_an_interrupt_at_the_exact_instruction() {
    let source = ClockSource::Counted { nanos_per_instruction: 1 };
    let b = Bench::with_clock(source, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        for _ in 0..10 {
            a.inc(eax).unwrap();
        }
        a.jmp(again).unwrap();
    });
    let timer = b.machine.timers.add();
    let bell = Arc::new(Mutex::new(Bell(vec![], Arc::clone(&b.machine.interrupts))));
    let client: Arc<Mutex<dyn TimerClient>> = bell.clone();
    timer.connect(&client);
    timer.arm(Nanos(1234));
    let mut state = b.state.clone();
    state.rflags |= Rflags::IF;
    let mut vcpu = b.vcpu();
    vcpu.load(&state).unwrap();
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted);
    assert_eq!(bell.lock().unwrap().0, [1234]);
    // 1,234 instructions: 112 whole turns of 11, and 2 more.
    let state = vcpu.save().unwrap();
    assert_eq!((state.gpr[RAX], interrupted(&b, &state).0), (1122, CODE + 4));
}
