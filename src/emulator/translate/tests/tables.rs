//! Descriptor-table registers and CPUID, which translated code loads and answers by itself.
use super::*;
use crate::arch::state::gpr::{RAX, RBX, RCX, RSP};
use crate::arch::{Cr4, Vector};
use crate::engine::EventKind;
use iced_x86::code_asm::*;

const OTHER_IDT: u64 = 0x10_0000;
const POINTERS: u64 = 0x11_0000;

/// What LIDT reads.
fn put_pointer(b: &Bench, at: u64, limit: u16, base: u64) {
    b.machine.ram().write(Gpa(at), &limit.to_le_bytes()).unwrap();
    b.machine.ram().write(Gpa(at + 2), &base.to_le_bytes()).unwrap();
}

#[test]
fn interrupts_go_through_the_table_that_was_loaded_last() {
    // INT3 in turns through two tables, of which one leads to other handlers; in the end the limit is too small.
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 40)?;
            a.mov(edi, POINTERS as u32)?;
            a.set_label(&mut again)?;
            a.lidt(ptr(rdi))?;
            a.sidt(ptr(rsi))?;
            a.add(r14, qword_ptr(rsi + 2))?;
            a.int3()?;
            a.lidt(ptr(rdi + r12 + 16))?;
            a.int3()?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.lidt(ptr(rdi + 32))?;
            a.int3()?;
            a.hlt()
        };
        body().unwrap();
    })
    .set_up(|b| {
        let idt = b.state.idtr.base;
        put_pointer(b, POINTERS, 0xfff, idt);
        put_pointer(b, POINTERS + 16, 0xfff, OTHER_IDT);
        put_pointer(b, POINTERS + 32, 3 * 16 + 14, OTHER_IDT);
        b.state.gpr[6] = POINTERS + 0x100;
        b.assemble(HANDLERS + 16 * 3, |a| {
            a.inc(ebx).unwrap();
            a.iretq().unwrap();
        });
        b.assemble(CODE + 0x900, |a| {
            a.add(ebx, 1000).unwrap();
            a.iretq().unwrap();
        });
        for i in 0..64 {
            b.poke(OTHER_IDT + 8 * i, b.peek(idt + 8 * i));
        }
        b.poke(OTHER_IDT + 48, b.peek(OTHER_IDT + 48) & !0xffff_0000_0000_ffff | 0x1_0000_0000_0900);
    })
    .run();
    assert_eq!((b.state.gpr[RBX], b.state.gpr[RCX]), (40 * 1001, 0));
    // #GP cannot be delivered through so short a table either.
    assert_eq!(b.state.activity, crate::arch::Activity::Shutdown);
    assert_eq!(b.state.idtr.limit, 3 * 16 + 14);
}

#[test]
fn an_int_that_its_gate_refuses_faults_at_itself() {
    for (emit, error) in [
        ((|a| a.int(0x40)) as fn(&mut CodeAssembler) -> Result<(), IcedError>, 0x202),
        (|a| a.int3(), 3 * 8 + 2),
        (|a| a.int(0x81), 0),
    ] {
        let b = Pair::new(|a| {
            a.nop().unwrap();
            emit(a).unwrap();
            a.nop().unwrap();
        })
        .set_up(|b| {
            b.gate(0x81, 3, 0);
            b.enter_ring3();
        })
        .run();
        if error == 0 {
            assert_eq!((b.state.rip, b.peek(b.state.gpr[RSP])), (HANDLERS + 16 * 0x81 + 1, CODE + 3));
        } else {
            assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1);
            assert_eq!((b.peek(b.state.gpr[RSP]), b.peek(b.state.gpr[RSP] + 8)), (error, CODE + 1));
        }
    }
}

#[test]
fn table_loads_fault_before_they_change_anything() {
    for (what, ring3, at, base, vector) in [
        ("not canonical", false, POINTERS, 1 << 47, Vector::GeneralProtection),
        ("ring 3", true, POINTERS, 0, Vector::GeneralProtection),
        ("absent", false, WINDOW, 0, Vector::PageFault),
        ("half absent", false, WINDOW + 0x1ff8, 0, Vector::PageFault),
    ] {
        for global in [false, true] {
            println!("{what}, {global}");
            let b = Pair::new(|a| {
                let mut body = || -> Result<(), IcedError> {
                    let mut again = a.create_label();
                    a.mov(ecx, 20)?;
                    a.set_label(&mut again)?;
                    a.cmp(ecx, 1)?;
                    a.cmove(rdi, rsi)?;
                    if global {
                        a.lgdt(ptr(rdi))?
                    } else {
                        a.lidt(ptr(rdi))?
                    }
                    a.dec(ecx)?;
                    a.jnz(again)?;
                    a.hlt()
                };
                body().unwrap();
            })
            .set_up(|b| {
                let table = if global { b.state.gdtr } else { b.state.idtr };
                put_pointer(b, POINTERS + 0x40, table.limit, table.base);
                b.map(1, 0x12_0000 | 7);
                if at == POINTERS {
                    put_pointer(b, at, 0, base);
                }
                b.state.gpr[7] = POINTERS + 0x40;
                b.state.gpr[6] = at;
                if ring3 {
                    b.enter_ring3();
                }
            })
            .run();
            assert_eq!(b.state.rip, HANDLERS + 16 * vector as u64 + 1);
            assert_eq!(b.state.gpr[RCX], if ring3 { 20 } else { 1 });
            assert_ne!((b.state.gdtr.limit, b.state.idtr.limit), (0, 0));
        }
    }
}

#[test]
fn cpuid_answers_as_the_platform_does_and_follows_cr4() {
    const LEAVES: [u32; 12] =
        [0, 1, 2, 4, 7, 0xb, 0xd, 0x10, 0x4000_0000, 0x8000_0000, 0x8000_0001, 0x8000_0008];
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(r8d, 400)?;
            a.set_label(&mut again)?;
            // The leaves in turn, subleaf 0 or 1; CR4.OSXSAVE in turn, in other rounds.
            a.mov(eax, dword_ptr(rdi + r9 * 4))?;
            a.mov(ecx, r8d)?;
            a.shr(ecx, 4)?;
            a.and(ecx, 1)?;
            a.cpuid()?;
            for register in [rax, rbx, rcx, rdx] {
                a.rol(r14, 7)?;
                a.add(r14, register)?;
            }
            a.inc(r9d)?;
            a.cmp(r9d, LEAVES.len() as u32)?;
            a.cmove(r9d, r10d)?;
            a.test(r8d, 64)?;
            a.mov(rax, cr4)?;
            a.mov(rbx, rax)?;
            a.btr(rax, 18)?;
            a.bts(rbx, 18)?;
            a.test(r8d, 64)?;
            a.cmove(rax, rbx)?;
            a.mov(cr4, rax)?;
            a.dec(r8d)?;
            a.jnz(again)?;
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.hlt()
        };
        body().unwrap();
    })
    .set_up(|b| {
        for (i, leaf) in (0..).zip(LEAVES) {
            b.machine.ram().write(Gpa(POINTERS + 4 * i), &leaf.to_le_bytes()).unwrap();
        }
        b.state.gpr[7] = POINTERS;
    })
    .run();
    let one = b.machine.platform.cpuid(CPU, 1, 0, &b.state);
    assert_eq!((b.state.gpr[RAX], b.state.gpr[RCX]), (one.eax.into(), one.ecx.into()));
    assert!(b.state.cr4.contains(Cr4::OSXSAVE) && one.ecx >> 27 & 1 == 1);
    assert_eq!(b.state.gpr[RSP], STACK);
}

#[test]
fn the_trace_sees_each_cpuid() {
    let mut b = Bench::new(|a| {
        let mut again = a.create_label();
        a.mov(esi, 30).unwrap();
        a.set_label(&mut again).unwrap();
        a.xor(eax, eax).unwrap();
        a.cpuid().unwrap();
        a.dec(esi).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    let mut vcpu = b.vcpu_of(EmuEngine::Translator);
    let start = vcpu.save().unwrap();
    let trace = b.machine.platform.trace();
    for on in [false, true, false, true] {
        trace.enable(on);
        vcpu.load(&start).unwrap();
        run_until_halt(&b, &mut *vcpu);
        let seen = trace.drain().iter().filter(|event| event.kind == EventKind::Cpuid).count();
        assert_eq!(seen, if on { 30 } else { 0 });
    }
    b.state = vcpu.save().unwrap();
    assert_eq!(b.state.gpr[6], 0);
}
