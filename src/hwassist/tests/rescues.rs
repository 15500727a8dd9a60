//! What the host's KVM cannot execute, `single` does; and what it was given and did not deliver.
use super::super::is_pvm;
use super::rig::{CPU, OFF, Rig};
use crate::arch::Gpa;
use crate::arch::state::gpr;
use crate::engine::{Cause, Exit};
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn power_off(a: &mut CodeAssembler) {
    a.mov(edx, u32::from(OFF)).unwrap();
    a.out(dx, eax).unwrap();
}

#[test]
fn a_locked_sixteen_byte_exchange_works_at_ring_0() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.mov(rsi, 0x2_0000_u64).unwrap();
        a.mov(eax, 1).unwrap();
        a.mov(edx, 2).unwrap();
        a.mov(ebx, 3).unwrap();
        a.mov(ecx, 4).unwrap();
        a.lock().cmpxchg16b(xmmword_ptr(rsi)).unwrap();
        a.setz(r8b).unwrap();
        power_off(a);
    }) else {
        return;
    };
    let before = [1_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
    rig.platform.ram().write(Gpa(0x2_0000), &before).unwrap();
    assert_eq!(rig.run(), Exit::PowerOff(1));
    let mut after = [0; 16];
    rig.platform.ram().read(Gpa(0x2_0000), &mut after).unwrap();
    assert_eq!(after.to_vec(), [3_u64.to_le_bytes(), 4_u64.to_le_bytes()].concat());
    assert_eq!(rig.state().gpr[8] & 0xff, 1);
    let rescues = rig.platform.counters(CPU).get(Cause::Rescue);
    assert_eq!(rescues, u64::from(is_pvm()), "only an emulated supervisor needs help");
}

#[test]
fn vector_arithmetic_works_at_ring_0_and_keeps_its_state() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.mov(eax, 7).unwrap();
        a.movd(xmm3, eax).unwrap();
        a.pshufd(xmm3, xmm3, 0).unwrap();
        a.paddd(xmm3, xmm3).unwrap();
        a.mulps(xmm4, xmm4).unwrap();
        a.movd(ebx, xmm3).unwrap();
        power_off(a);
    }) else {
        return;
    };
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let state = rig.state();
    assert_eq!(state.gpr[gpr::RBX], 14);
    assert_eq!(state.xsave.ymm(3)[..16], [14, 0, 0, 0].repeat(4));
    println!("{} instructions rescued", rig.platform.counters(CPU).get(Cause::Rescue));
}

#[test]
fn vector_code_at_ring_0_is_executed_in_runs_that_interrupts_end() {
    const TURNS: u32 = 2_000;
    let Some(mut rig) = Rig::flat(false, |a| {
        let mut top = a.create_label();
        a.mov(ebx, TURNS).unwrap();
        a.mov(edi, 0x2_0000).unwrap();
        a.pxor(xmm0, xmm0).unwrap();
        a.set_label(&mut top).unwrap();
        a.movd(xmm1, ebx).unwrap();
        a.paddd(xmm0, xmm1).unwrap();
        a.mov(dword_ptr(rdi), ebx).unwrap();
        a.add(r8d, dword_ptr(rdi)).unwrap();
        a.dec(ebx).unwrap();
        a.jnz(top).unwrap();
        a.movd(r9d, xmm0).unwrap();
        power_off(a);
    }) else {
        return;
    };
    rig.counting_handler(0x41);
    rig.allow_interrupts();
    let (source, cell) = (Arc::clone(&rig.interrupts), Arc::clone(rig.platform.kick(CPU)));
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    let other = std::thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            if source.raise_if_idle(0x41) {
                cell.poke();
            }
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
    });
    let exit = rig.run();
    stop.store(true, Ordering::SeqCst);
    other.join().unwrap();
    assert!(matches!(exit, Exit::PowerOff(_)), "{exit:?}");
    let state = rig.state();
    let sum = u64::from(TURNS) * u64::from(TURNS + 1) / 2;
    assert_eq!((state.gpr[8], state.gpr[9]), (sum, sum));
    assert_eq!(state.gpr[15], rig.platform.counters(CPU).get(Cause::Interrupt));
    let rescues = rig.platform.counters(CPU).get(Cause::Rescue);
    let exits = rig.platform.counters(CPU).get(Cause::HostExit);
    println!("{rescues} instructions rescued in {exits} exits, {} interrupts", state.gpr[15]);
    assert_eq!(rescues, rig.cpu.rescues().iter().map(|(_, count)| count).sum::<u64>());
    assert!(rescues == 0 || exits < rescues / 10, "they are met one by one: {exits} exits");
}

#[test]
fn an_undefined_instruction_reaches_its_handler_at_both_rings() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            a.ud2().unwrap();
        }) else {
            return;
        };
        rig.handler(6, 0x1_1000, |a| {
            a.mov(rbx, qword_ptr(rsp)).unwrap();
            power_off(a);
        });
        assert!(matches!(rig.run(), Exit::PowerOff(_)), "user {user}");
        assert_eq!(rig.state().gpr[gpr::RBX], 0x1_0000);
    }
}

#[test]
fn no_interrupt_is_lost_or_doubled_when_the_state_moves_at_random_times() {
    const INTERRUPTS: u32 = 300;
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.jmp(top).unwrap();
        }) else {
            return;
        };
        rig.counting_handler(0x41);
        rig.allow_interrupts();
        let (source, cell) = (Arc::clone(&rig.interrupts), Arc::clone(rig.platform.kick(CPU)));
        let (left, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (answered, ended) = (Arc::clone(&left), Arc::clone(&stop));
        let other = std::thread::spawn(move || {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            let (mut sent, mut kicks) = (0, 0);
            while !ended.load(Ordering::SeqCst) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                if sent < INTERRUPTS && source.raise_if_idle(0x41) {
                    sent += 1;
                    cell.poke();
                }
                // From a kick that meets the entry to one that lets the handler through.
                for _ in 0..random % 30_000 {
                    std::hint::spin_loop();
                }
                cell.kick();
                kicks += 1;
                while answered.load(Ordering::SeqCst) < kicks && !ended.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
        });
        let start = std::time::Instant::now();
        loop {
            assert_eq!(rig.run(), Exit::Kicked);
            let state = rig.state();
            rig.cpu.load(&state).unwrap();
            left.fetch_add(1, Ordering::SeqCst);
            let lost = start.elapsed() > std::time::Duration::from_secs(120);
            if state.gpr[15] >= u64::from(INTERRUPTS) || lost {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        other.join().unwrap();
        assert_eq!(rig.state().gpr[15], u64::from(INTERRUPTS), "user {user}");
        assert_eq!(rig.platform.counters(CPU).get(Cause::Interrupt), u64::from(INTERRUPTS));
    }
}

#[test]
fn a_stack_or_code_in_device_memory_is_the_guests_mistake_and_no_error() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, |a| {
            a.mov(rsp, super::rig::MMIO + 0x800).unwrap();
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
        }) else {
            return;
        };
        rig.handler(0, 0x1_1000, power_off);
        let exit = rig.run();
        // kvm_pvm pushes no frame into device memory.
        let expected = matches!(exit, Exit::PowerOff(_)) || is_pvm() && exit == Exit::TripleFault;
        assert!(expected, "user {user}: {exit:?}");
        // Bytes that count up from 0x88: whatever that does, it ends in a page fault or a fault without handler.
        let Some(mut rig) = Rig::flat(user, |a| {
            a.mov(rax, super::rig::MMIO).unwrap();
            a.jmp(rax).unwrap();
        }) else {
            return;
        };
        let cell = Arc::clone(rig.platform.kick(CPU));
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            cell.kick();
        });
        assert!(matches!(rig.run(), Exit::TripleFault | Exit::Kicked), "user {user}");
        other.join().unwrap();
    }
}
