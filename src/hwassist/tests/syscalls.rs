//! SYSCALL from ring 3 enters ring 0 on every host; where KVM does half of it, the rest is done and counted.
use super::super::{calibrate::calibrated, flat};
use super::rig::{CPU, OFF, Rig};
use crate::arch::state::gpr;
use crate::arch::{CpuState, Efer, Rflags, msr};
use crate::engine::{Cause, Exit};
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Where SYSCALL leads.
const ENTRY: u64 = 0x1_1000;

fn power_off(a: &mut CodeAssembler) {
    a.mov(edx, u32::from(OFF)).unwrap();
    a.out(dx, eax).unwrap();
}

/// Ring 3 in `program`, SYSCALL to `entry`, which clears the flags of `mask`.
fn rig(
    mask: Rflags,
    change: impl FnOnce(&mut CpuState),
    program: impl FnOnce(&mut CodeAssembler),
    entry: impl FnOnce(&mut CodeAssembler),
) -> Option<Rig> {
    let mut state = flat::state(flat::CODE, true);
    state.msrs.star = flat::STAR;
    state.msrs.lstar = ENTRY;
    state.msrs.sfmask = mask.bits();
    state.rflags |= Rflags::IF;
    change(&mut state);
    let rig = Rig::new(&state)?;
    rig.place(flat::CODE, 64, program);
    rig.place(ENTRY, 64, entry);
    Some(rig)
}

fn rescues(rig: &Rig) -> u64 {
    rig.platform.counters(CPU).get(Cause::Rescue)
}

/// How many rescues so many SYSCALLs take on this host.
fn expected(calls: u64) -> u64 {
    if calibrated().syscall_enters { 0 } else { calls }
}

#[test]
fn it_enters_ring_0_with_all_that_belongs_to_it() {
    let Some(mut rig) = rig(
        Rflags::IF | Rflags::DF | Rflags::CF,
        |_| {},
        |a| {
            a.std().unwrap();
            a.stc().unwrap();
            a.mov(ebx, 7).unwrap();
            a.syscall().unwrap();
        },
        |a| {
            a.mov(r12, cs).unwrap();
            a.mov(r13, ss).unwrap();
            a.pushfq().unwrap();
            a.pop(r14).unwrap();
            power_off(a);
        },
    ) else {
        return;
    };
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let state = rig.state();
    assert_eq!(state.gpr[gpr::RBX], 7);
    assert_eq!((state.gpr[12], state.gpr[13]), (0x08, 0x10));
    assert_eq!(state.cpl(), 0);
    // STD and STC are a byte each, MOV five, SYSCALL two.
    assert_eq!(state.gpr[gpr::RCX], flat::CODE + 9);
    let before = Rflags::FIXED | Rflags::IF | Rflags::DF | Rflags::CF;
    assert_eq!(Rflags::from_bits_retain(state.gpr[gpr::R11]), before);
    assert_eq!(Rflags::from_bits_retain(state.gpr[14]), Rflags::FIXED);
    // The guest's own values, not those that KVM was told.
    assert_eq!((state.msrs.lstar, state.msrs.star), (ENTRY, flat::STAR));
    assert_eq!(rescues(&rig), expected(1));
    assert_eq!(rig.cpu.rescues(), if expected(1) == 0 { vec![] } else { vec![("syscall".to_owned(), 1)] });
}

#[test]
fn its_msrs_are_the_guests_and_refuse_what_the_cpu_refuses() {
    let write = |a: &mut CodeAssembler, index: u32, value: u64| {
        a.mov(ecx, index).unwrap();
        a.mov(eax, value as u32).unwrap();
        a.mov(edx, (value >> 32) as u32).unwrap();
        a.wrmsr().unwrap();
    };
    let read = |a: &mut CodeAssembler, index: u32, into| {
        a.mov(ecx, index).unwrap();
        a.rdmsr().unwrap();
        a.shl(rdx, 32).unwrap();
        a.or(rax, rdx).unwrap();
        a.mov(into, rax).unwrap();
    };
    for (index, refused) in [(msr::LSTAR, 1 << 63), (msr::SFMASK, 1 << 32)] {
        let Some(mut rig) = Rig::flat(false, |a| {
            write(a, msr::LSTAR, 0xffff_ffff_8123_4560);
            write(a, msr::SFMASK, 0x4_7700);
            read(a, msr::LSTAR, r8);
            read(a, msr::SFMASK, r9);
            write(a, index, refused);
        }) else {
            return;
        };
        rig.handler(13, 0x1_1000, power_off);
        assert!(matches!(rig.run(), Exit::PowerOff(_)), "{index:#x}");
        let state = rig.state();
        assert_eq!((state.gpr[8], state.gpr[9]), (0xffff_ffff_8123_4560, 0x4_7700));
        assert_eq!((state.msrs.lstar, state.msrs.sfmask), (state.gpr[8], state.gpr[9]), "{index:#x}");
    }
}

#[test]
fn it_is_undefined_until_the_guest_switches_it_on() {
    let Some(mut rig) = rig(
        Rflags::empty(),
        |state| state.efer -= Efer::SCE,
        |a| {
            a.nop().unwrap();
            a.syscall().unwrap();
        },
        |a| a.hlt().unwrap(),
    ) else {
        return;
    };
    rig.handler(6, 0x1_2000, |a| {
        a.mov(rbx, qword_ptr(rsp)).unwrap();
        power_off(a);
    });
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    assert_eq!(rig.state().gpr[gpr::RBX], flat::CODE + 1);
}

#[test]
fn a_program_that_jumps_to_where_kvm_leads_syscall_gets_its_page_fault() {
    let Some(mut rig) = rig(
        Rflags::IF,
        |_| {},
        |a| {
            a.mov(rax, 0xffff_8000_0000_0000_u64).unwrap();
            a.jmp(rax).unwrap();
        },
        |a| a.hlt().unwrap(),
    ) else {
        return;
    };
    rig.handler(14, 0x1_2000, |a| {
        a.mov(rbx, qword_ptr(rsp + 8)).unwrap();
        a.mov(r15, cr2).unwrap();
        power_off(a);
    });
    assert!(matches!(rig.run(), Exit::PowerOff(_)));
    let state = rig.state();
    assert_eq!((state.gpr[gpr::RBX], state.gpr[15]), (0xffff_8000_0000_0000, 0xffff_8000_0000_0000));
    assert_eq!(rescues(&rig), 0);
}

#[test]
fn calls_interrupts_and_moves_of_the_state_do_not_disturb_each_other() {
    const CALLS: u64 = 3_000;
    let Some(mut rig) = rig(
        Rflags::IF,
        |_| {},
        |a| {
            // R8 counts the calls here, R9 at ring 0; R10 notes a call that did not come back to the next instruction.
            let mut top = a.create_label();
            a.xor(r8d, r8d).unwrap();
            a.set_label(&mut top).unwrap();
            a.inc(r8).unwrap();
            a.syscall().unwrap();
            a.cmp(r8, r9).unwrap();
            a.setne(al).unwrap();
            a.or(r10b, al).unwrap();
            a.cmp(r8, CALLS as i32).unwrap();
            a.jne(top).unwrap();
            power_off(a);
        },
        |a| {
            a.inc(r9).unwrap();
            a.sysretq().unwrap();
        },
    ) else {
        return;
    };
    rig.handler(0x41, 0x1_2000, |a| {
        a.inc(r15).unwrap();
        a.iretq().unwrap();
    });
    let (source, cell) = (Arc::clone(&rig.interrupts), Arc::clone(rig.platform.kick(CPU)));
    let (sent, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (raised, ended) = (Arc::clone(&sent), Arc::clone(&stop));
    let other = std::thread::spawn(move || {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        while !ended.load(Ordering::SeqCst) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if source.raise_if_idle(0x41) {
                raised.fetch_add(1, Ordering::SeqCst);
                cell.poke();
            }
            if random.is_multiple_of(4) {
                cell.kick();
            }
            std::thread::sleep(std::time::Duration::from_micros(random % 500));
        }
    });
    let mut left = 0;
    let exit = loop {
        let exit = rig.run();
        if exit != Exit::Kicked {
            break exit;
        }
        left += 1;
        let state = rig.state();
        rig.cpu.load(&state).unwrap();
    };
    stop.store(true, Ordering::SeqCst);
    other.join().unwrap();
    let state = rig.state();
    println!("{left} moves, {} interrupts, exit {exit:?}", state.gpr[15]);
    assert!(matches!(exit, Exit::PowerOff(_)), "{exit:?}");
    assert_eq!((state.gpr[8], state.gpr[9], state.gpr[10] & 0xff), (CALLS, CALLS, 0));
    assert_eq!(state.gpr[15], rig.platform.counters(CPU).get(Cause::Interrupt));
    assert!(sent.load(Ordering::SeqCst) > 0);
    assert_eq!(rescues(&rig), expected(CALLS));
}
