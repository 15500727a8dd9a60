//! Steps and breakpoints.
use super::rig::{CPU, OFF, Rig};
use crate::arch::Gva;
use crate::engine::{DebugEvent, Exit};
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
