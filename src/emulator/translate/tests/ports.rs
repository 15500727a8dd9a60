//! IN and OUT, which translated code makes without `single` where the privilege is certain.
use super::*;
use crate::arch::Rflags;
use crate::arch::state::gpr::{RAX, RBX, RCX, RSP};
use crate::emulator::Emulator;
use crate::emulator::technique::{Technique, Without};
use crate::engine::{Backend, Cause};
use iced_x86::code_asm::*;
use std::sync::Arc;

/// All forms, twenty times over, in a loop that keeps its flags and every register alive.
fn all_forms(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    for (register, value) in
        [rax, rbx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15].into_iter().zip(0x1111_u64..)
    {
        a.mov(register, value << 40 | value << 16 | value)?;
    }
    a.mov(edx, 0x500)?;
    a.mov(ecx, 20)?;
    a.set_label(&mut again)?;
    a.add(r8, rax)?;
    a.out(dx, al)?;
    a.adc(r9, rsi)?;
    a.in_(al, dx)?;
    a.out(dx, ax)?;
    a.add(r10, rax)?;
    a.in_(ax, dx)?;
    a.sbb(r11, rdi)?;
    a.out(dx, eax)?;
    a.add(rbx, rax)?;
    a.in_(eax, dx)?;
    a.add(r12, rax)?;
    a.out(0x81, al)?;
    a.out(0x81, ax)?;
    a.out(0x81, eax)?;
    a.rol(rax, 9)?;
    a.in_(al, 0x81)?;
    a.add(r13, rax)?;
    a.in_(ax, 0x81)?;
    a.add(r14, rax)?;
    a.in_(eax, 0x81)?;
    a.add(rax, r15)?;
    a.xor(r15, rbp)?;
    a.dec(ecx)?;
    a.jnz(again)
}

const PER_ROUND: u64 = 12;

/// A run on the translator alone: the machine, and how often `single` was asked.
fn run_with(emulator: impl FnOnce(Emulator) -> Emulator) -> (Bench, u64) {
    let mut b = Bench::new(|a| all_forms(a).and_then(|()| a.hlt()).unwrap());
    b.machine.port.lock().unwrap().answer = 0x89ab_cdef;
    let emulator = emulator(Emulator::new(Arc::clone(b.machine.ram()), EmuEngine::Translator));
    let mut vcpu = emulator.create_vcpu(CPU, &b.state).unwrap();
    assert_eq!(run_until_halt(&b, &mut *vcpu), Exit::Halted);
    b.state = vcpu.save().unwrap();
    let asked = b.machine.platform.counters(CPU).get(Cause::HelpSingle);
    (b, asked)
}

#[test]
fn all_forms_reach_their_device_and_leave_the_rest_alone() {
    let b = Pair::new(|a| all_forms(a).and_then(|()| a.hlt()).unwrap())
        .set_up(|b| b.machine.port.lock().unwrap().answer = 0x89ab_cdef)
        .run();
    let port = b.machine.port.lock().unwrap();
    assert_eq!((port.writes.len(), port.reads.len()), (60, 60), "the other port is nobody's");
    assert_eq!(port.writes[..2], [(0x500, 1, 0x11), (0x500, 2, 0x11ef)]);
    assert_eq!(port.reads[..3], [(0x500, 1), (0x500, 2), (0x500, 4)]);
}

#[test]
fn ring_0_needs_no_interpreter_and_each_access_is_counted_once() {
    let (b, asked) = run_with(|emulator| emulator);
    assert_eq!(b.machine.platform.counters(CPU).get(Cause::PortIo), 20 * PER_ROUND);
    assert!(asked <= 1, "{asked}: at most the HLT");
}

#[test]
fn without_the_technique_and_where_instructions_are_counted_the_interpreter_does_it() {
    let (fast, _) = run_with(|emulator| emulator);
    let without = Without::only(Technique::InlineSystem);
    let (left_out, asked) = run_with(|emulator| emulator.without(without));
    assert!(asked >= 20 * PER_ROUND);
    let (counting, asked) = run_with(|emulator| emulator.counting(true));
    assert!(asked >= 20 * PER_ROUND);
    for other in [left_out, counting] {
        assert_eq!(differences(&fast.state, &other.state), Vec::<String>::new());
        let writes = |b: &Bench| b.machine.port.lock().unwrap().writes.clone();
        assert_eq!(writes(&fast), writes(&other));
        assert_eq!(other.machine.platform.counters(CPU).get(Cause::PortIo), 20 * PER_ROUND);
    }
}

#[test]
fn vector_registers_in_use_survive_an_access() {
    let program = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(rax, 0x0123_4567_89ab_cdef_u64)?;
        a.movq(xmm0, rax)?;
        a.mov(edx, 0x500)?;
        a.mov(ecx, 10)?;
        a.set_label(&mut again)?;
        a.paddq(xmm1, xmm0)?;
        a.out(dx, al)?;
        a.paddq(xmm15, xmm1)?;
        a.in_(eax, dx)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.movq(rbx, xmm15)?;
        a.hlt()
    };
    let b = Pair::new(|a| program(a).unwrap()).run();
    assert_eq!(b.state.gpr[RBX], 0x0123_4567_89ab_cdef_u64.wrapping_mul(55));
}

#[test]
fn attention_that_an_access_causes_is_given_before_the_next_instruction() {
    // The 33rd write raises an interrupt: with IF set it is taken at once, with IF clear by STI's successor.
    for enabled in [true, false] {
        let program = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(edx, 0x500)?;
            a.mov(ecx, 40)?;
            a.set_label(&mut again)?;
            a.mov(eax, ecx)?;
            a.inc(ebx)?;
            a.out(dx, eax)?;
            a.inc(ebx)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.sti()?;
            a.inc(ebx)?;
            a.inc(ebx)?;
            a.hlt()
        };
        let b = Pair::new(|a| program(a).unwrap())
            .set_up(|b| {
                b.state.rflags.set(Rflags::IF, enabled);
                let interrupts = Arc::clone(&b.machine.interrupts);
                let hook = Box::new(move |value| {
                    if value == 8 {
                        interrupts.raise(0x40);
                    }
                });
                b.machine.port.lock().unwrap().on_port_write.0 = Some(hook);
            })
            .run();
        assert_eq!(b.state.rip, HANDLERS + 16 * 0x40 + 1);
        let expected = if enabled { (8, 2 * 32 + 1) } else { (0, 2 * 40 + 1) };
        assert_eq!((b.state.gpr[RCX], b.state.gpr[RBX]), expected);
    }
}

#[test]
fn ring_3_asks_the_permission_map() {
    for (iopl, allowed) in [(3, true), (0, false)] {
        let program = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.mov(edx, 0x500)?;
            a.mov(eax, 0x77)?;
            a.inc(ebx)?;
            a.out(dx, al)?;
            a.inc(ebx)?;
            a.int(0x81)
        };
        let b = Pair::new(|a| program(a).unwrap())
            .set_up(|b| {
                b.enter_ring3();
                b.gate(0x81, 3, 0);
                b.state.rflags |= Rflags::from_bits_retain(iopl << 12);
            })
            .run();
        let port = b.machine.port.lock().unwrap();
        let (vector, writes, count) = if allowed { (0x81, 1, 2) } else { (13, 0, 1) };
        assert_eq!(b.state.rip, HANDLERS + 16 * vector + 1);
        assert_eq!((port.writes.len(), b.state.gpr[RBX], b.state.gpr[RAX]), (writes, count, 0x77));
        let at = b.peek(b.state.gpr[RSP] + if allowed { 0 } else { 8 });
        assert!(allowed || at == CODE + 12, "{at:#x}: the instruction itself");
    }
}
