//! Steps and breakpoints.
use super::rig::{CPU, OFF, Rig};
use crate::arch::Gva;
use crate::engine::{DebugEvent, Exit, Watch, WatchHit, WatchKind};
use iced_x86::code_asm::*;

const STEP: Exit = Exit::Debug(DebugEvent::Step);

fn at(address: u64) -> Exit {
    Exit::Debug(DebugEvent::Breakpoint(Gva(address)))
}

/// Three one-byte instructions, over and over, then the power switch.
fn program(a: &mut CodeAssembler) {
    a.mov(ecx, 3).unwrap();
    let mut top = a.create_label();
    a.set_label(&mut top).unwrap();
    a.nop().unwrap();
    a.dec(ecx).unwrap();
    a.jnz(top).unwrap();
    a.mov(edx, u32::from(OFF)).unwrap();
    a.out(dx, eax).unwrap();
}

#[test]
fn a_step_is_one_instruction_and_an_interrupt_is_one_too() {
    for user in [false, true] {
        let Some(mut rig) = Rig::flat(user, program) else { return };
        rig.handler(0x33, 0x1_1000, |a| a.iretq().unwrap());
        let _bound = rig.platform.kick(CPU).bind().unwrap();
        let mut rips = Vec::new();
        for i in 0..6 {
            if i == 2 {
                rig.allow_interrupts();
                rig.interrupts.raise(0x33);
            }
            assert_eq!(rig.cpu.as_debug().unwrap().step(&rig.platform).unwrap(), STEP);
            rips.push(rig.cpu.save().unwrap().rip);
        }
        assert_eq!(rips, [0x1_0005, 0x1_0006, 0x1_1000, 0x1_0006, 0x1_0008, 0x1_0005], "user {user}");
    }
}

#[test]
fn breakpoints_stop_before_their_instruction_and_let_go_of_it() {
    for user in [false, true] {
        // Few of them fit into the CPU's registers, many do not.
        for many in [false, true] {
            let Some(mut rig) = Rig::flat(user, program) else { return };
            let mut set = vec![Gva(0x1_0005), Gva(0x1_000a)];
            if many {
                set.extend((0..10).map(|i| Gva(0x5_0000 + i)));
            }
            rig.cpu.as_debug().unwrap().set_breakpoints(&set).unwrap();
            for _ in 0..3 {
                assert_eq!(rig.run(), at(0x1_0005), "user {user} many {many}");
                assert_eq!(rig.state().rip, 0x1_0005);
            }
            assert_eq!(rig.run(), at(0x1_000a));
            assert_eq!(rig.cpu.as_debug().unwrap().step(&rig.platform).unwrap(), STEP);
            rig.cpu.as_debug().unwrap().set_breakpoints(&[]).unwrap();
            assert!(matches!(rig.run(), Exit::PowerOff(_)));
        }
    }
}

#[test]
fn accesses_to_what_is_watched_stop_behind_their_instruction() {
    const PLACE: u64 = 0x5_0000;
    let program = |a: &mut CodeAssembler| {
        a.mov(rbx, PLACE).unwrap(); // 10 bytes
        a.mov(eax, dword_ptr(rbx)).unwrap(); // 2
        a.mov(byte_ptr(rbx + 3), al).unwrap(); // 3
        a.mov(byte_ptr(rbx + 8), al).unwrap(); // 3
        a.mov(edx, u32::from(OFF)).unwrap();
        a.out(dx, eax).unwrap();
    };
    let behind = |bytes: u64| 0x1_0000 + bytes;
    for user in [false, true] {
        // Not all ranges fit into the CPU's registers, and no register stops at reads alone.
        for (kind, length, stops) in [
            (WatchKind::Write, 4, vec![(15, PLACE)]),
            (WatchKind::Write, 1, vec![]),
            (WatchKind::Access, 8, vec![(12, PLACE), (15, PLACE)]),
            (WatchKind::Write, 100, vec![(15, PLACE + 3), (18, PLACE + 8)]),
            (WatchKind::Read, 8, vec![(12, PLACE)]),
        ] {
            let Some(mut rig) = Rig::flat(user, program) else { return };
            let debug = rig.cpu.as_debug().unwrap();
            debug.set_watches(&[Watch { at: Gva(PLACE), length, kind }]).unwrap();
            let exact = debug.interprets_with_breakpoints();
            for (place, at) in stops {
                let Exit::Debug(DebugEvent::Watched(hit)) = rig.run() else { panic!("{kind:?} {length}") };
                assert_eq!(rig.state().rip, behind(place), "user {user} {kind:?} {length}");
                assert_eq!(hit.kind, kind);
                if exact {
                    let by = if place == 12 { 10 } else { place - 3 };
                    let at = if length < 100 && place == 15 { PLACE + 3 } else { at };
                    assert_eq!(hit, WatchHit { at: Gva(at), kind, by: Some(Gva(behind(by))) });
                } else {
                    assert_eq!(hit, WatchHit { at: Gva(at), kind, by: None });
                }
            }
            assert!(matches!(rig.run(), Exit::PowerOff(_)), "user {user} {kind:?} {length}");
        }
    }
}

#[test]
fn a_step_tells_of_what_is_watched_too() {
    let Some(mut rig) = Rig::flat(false, |a| {
        a.nop().unwrap();
        a.mov(qword_ptr(0x5_0000), rax).unwrap();
    }) else {
        return;
    };
    let _bound = rig.platform.kick(CPU).bind().unwrap();
    let debug = rig.cpu.as_debug().unwrap();
    debug.set_watches(&[Watch { at: Gva(0x5_0000), length: 8, kind: WatchKind::Write }]).unwrap();
    assert_eq!(debug.step(&rig.platform).unwrap(), STEP);
    let hit = WatchHit { at: Gva(0x5_0000), kind: WatchKind::Write, by: Some(Gva(0x1_0001)) };
    assert_eq!(debug.step(&rig.platform).unwrap(), Exit::Debug(DebugEvent::Watched(hit)));
}

#[test]
fn a_kick_ends_a_run_that_looks_for_breakpoints() {
    let Some(mut rig) = Rig::flat(false, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.jmp(top).unwrap();
    }) else {
        return;
    };
    rig.cpu.as_debug().unwrap().set_breakpoints(&[Gva(0x9_0000)]).unwrap();
    let cell = std::sync::Arc::clone(rig.platform.kick(CPU));
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(3));
        cell.kick();
    });
    assert_eq!(rig.run(), Exit::Kicked);
    other.join().unwrap();
}
