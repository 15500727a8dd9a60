//! HLT, delivery, windows, CR8, and machines that die.
use super::rig::{CPU, OFF, PORT, Rig};
use crate::arch::state::gpr;
use crate::arch::{Activity, Rflags};
use crate::engine::{Cause, Exit};
use iced_x86::code_asm::*;
use std::sync::Arc;

const HANDLER: u64 = 0x1_1000;

fn power_off(a: &mut CodeAssembler) {
    a.mov(edx, u32::from(OFF)).unwrap();
    a.out(dx, eax).unwrap();
}

#[test]
fn a_halted_cpu_wakes_for_an_interrupt() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.xor(r15d, r15d).unwrap();
        a.sti().unwrap();
        a.hlt().unwrap();
        a.mov(rbx, r15).unwrap();
        power_off(a);
    }) else {
        return;
    };
    rig.counting_handler(0x30);
    assert_eq!(rig.run(), Exit::Halted);
    assert_eq!(rig.state().activity, Activity::Halted);
    assert_eq!(rig.run(), Exit::Halted, "nothing came");
    rig.interrupts.raise(0x30);
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    assert_eq!(rig.state().gpr[gpr::RBX], 1);
    assert_eq!(rig.platform.counters(CPU).get(Cause::Interrupt), 1);
}

#[test]
fn a_halt_with_interrupts_off_sleeps_through_them() {
    let Some(mut rig) = Rig::flat(false, |a| a.hlt().unwrap()) else {
        return;
    };
    rig.counting_handler(0x30);
    rig.interrupts.raise(0x30);
    assert_eq!(rig.run(), Exit::Halted);
    assert_eq!(rig.run(), Exit::Halted);
    assert_eq!(rig.platform.counters(CPU).get(Cause::Interrupt), 0);
}

/// Spins until the handler has run.
fn await_handler(a: &mut CodeAssembler) {
    let mut top = a.create_label();
    a.set_label(&mut top).unwrap();
    a.cmp(r15d, 0).unwrap();
    a.je(top).unwrap();
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.xor(r15d, r15d).unwrap();
        a.mov(ecx, 5000).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.mov(rbx, r15).unwrap();
        a.sti().unwrap();
        await_handler(a);
        a.mov(rsi, r15).unwrap();
        power_off(a);
    }) else {
        return;
    };
    rig.counting_handler(0x31);
    rig.interrupts.raise(0x31);
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let g = rig.state().gpr;
    assert_eq!((g[gpr::RBX], g[gpr::RSI]), (0, 1));
}

#[test]
fn an_interrupt_that_a_port_raises_does_not_come_behind_the_cli_after_it() {
    const ROUNDS: u64 = 50;
    let Some(mut rig) = Rig::flat(false, |a| {
        let mut top = a.create_label();
        a.xor(r14d, r14d).unwrap();
        a.xor(r15d, r15d).unwrap();
        a.mov(ecx, ROUNDS as u32).unwrap();
        a.mov(edx, u32::from(PORT)).unwrap();
        a.set_label(&mut top).unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.out(dx, al).unwrap();
        a.cli().unwrap();
        a.nop().unwrap();
        a.mov(rbx, rcx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        power_off(a);
    }) else {
        return;
    };
    rig.handler(0x33, HANDLER, |a| {
        let mut open = a.create_label();
        a.test(dword_ptr(rsp + 16), Rflags::IF.bits() as i32).unwrap();
        a.jnz(open).unwrap();
        a.inc(r14).unwrap();
        a.set_label(&mut open).unwrap();
        a.inc(r15).unwrap();
        a.iretq().unwrap();
    });
    rig.ports.lock().unwrap().raises = Some((Arc::clone(&rig.interrupts), 0x33));
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let g = rig.state().gpr;
    assert_eq!(g[14], 0, "interrupts came with IF clear");
    assert!((1..=ROUNDS).contains(&g[15]), "{} interrupts", g[15]);
}

#[test]
fn an_interrupt_reaches_a_spinning_guest_at_both_rings() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            await_handler(a);
            power_off(a);
        }) else {
            return;
        };
        rig.counting_handler(0x32);
        rig.allow_interrupts();
        let (source, cell) = (Arc::clone(&rig.interrupts), Arc::clone(rig.platform.kick(CPU)));
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(2));
            source.raise(0x32);
            cell.poke();
        });
        assert!(matches!(rig.run(), Exit::PowerOff(_)), "user {user}");
        other.join().unwrap();
        assert_eq!(rig.state().gpr[15], 1);
    }
}

#[test]
fn cr8_masks_and_unmasks() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.xor(r15d, r15d).unwrap();
        a.mov(eax, 3).unwrap();
        a.mov(cr8, rax).unwrap();
        a.sti().unwrap();
        a.mov(edx, u32::from(PORT)).unwrap();
        a.out(dx, eax).unwrap();
        a.mov(rbx, r15).unwrap();
        a.mov(rdi, cr8).unwrap();
        a.mov(eax, 2).unwrap();
        a.mov(cr8, rax).unwrap();
        await_handler(a);
        a.mov(rsi, r15).unwrap();
        power_off(a);
    }) else {
        return;
    };
    rig.counting_handler(0x3f);
    rig.interrupts.raise(0x3f);
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let g = rig.state().gpr;
    assert_eq!((g[gpr::RBX], g[gpr::RDI], g[gpr::RSI]), (0, 3, 1));
}

#[test]
fn an_exception_without_handlers_is_a_triple_fault() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
        }) else {
            return;
        };
        let mut state = rig.state();
        state.idtr.limit = 0;
        rig.cpu.load(&state).unwrap();
        assert_eq!(rig.run(), Exit::TripleFault, "user {user}");
        assert_eq!(rig.run(), Exit::TripleFault, "and stays so");
    }
}

#[test]
fn an_exception_reaches_its_handler_at_both_rings() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
        }) else {
            return;
        };
        rig.handler(0, HANDLER, |a| {
            a.mov(rbx, qword_ptr(rsp)).unwrap();
            a.mov(rsi, qword_ptr(rsp + 8)).unwrap();
            power_off(a);
        });
        assert!(matches!(rig.run(), Exit::PowerOff(_)), "user {user}");
        let g = rig.state().gpr;
        assert_eq!(g[gpr::RBX], 0x1_0002);
        assert_eq!(g[gpr::RSI], if user { 0x23 } else { 8 });
    }
}
