//! Changes of privilege and of CR0.TS that translated code makes by itself: what they load, what they refuse, and that
//! nothing of the mode before is used behind them.
use super::*;
use crate::arch::state::gpr::{R11, RAX, RBX, RCX, RSP};
use crate::arch::{Cr0, Cr4, Efer, Rflags, SegmentRegister, Vector};
use iced_x86::code_asm::*;

const KERNEL: u64 = CODE + 0x4000;
/// Where the kernel counts, where ring 3 cannot write.
const COUNT: u64 = PAGE;
const PAGE: u64 = 0x10_0000;
const CF: u64 = 1;
const OF: u64 = 1 << 11;

/// Ring 3 at [`CODE`], whose SYSCALL leads to [`KERNEL`].
fn with_system_calls(b: &mut Bench) {
    b.state.msrs.star = 0x1b_0008 << 32;
    b.state.msrs.lstar = KERNEL;
    b.state.msrs.sfmask = (Rflags::IF | Rflags::DF | Rflags::TF | Rflags::AC).bits();
    for vector in [0x81, 3] {
        b.gate(vector, 3, 0);
    }
    b.enter_ring3();
}

/// Fifty system calls of ring 3 with these flags; R13 and R14 gather what both sides see of them.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ebx, 50)?;
    a.set_label(&mut again)?;
    // Carry and overflow change with the turn.
    a.mov(eax, ebx)?;
    a.shl(eax, 30)?;
    a.add(eax, eax)?;
    a.syscall()?;
    a.setc(al)?;
    a.seto(ah)?;
    a.movzx(eax, ax)?;
    a.ror(r14, 3)?;
    a.add(r14, rax)?;
    a.add(r14, rcx)?;
    a.dec(ebx)?;
    a.jnz(again)?;
    a.int(0x81)
}

fn kernel(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.ror(r13, 5)?;
    a.add(r13, r11)?;
    a.pushfq()?;
    a.add(r13, qword_ptr(rsp))?;
    a.mov(r9, cs)?;
    a.add(r13, r9)?;
    a.mov(r9, ss)?;
    a.lea(rsp, qword_ptr(rsp + 8))?;
    a.add(r13, r9)?;
    a.add(qword_ptr(COUNT), 1)?;
    a.sysretq()
}

#[test]
fn system_calls_keep_flags_and_load_segments() {
    for flags in [Rflags::empty(), Rflags::IF, Rflags::NT | Rflags::ID, Rflags::DF | Rflags::IF] {
        for mask in [Rflags::IF, Rflags::STATUS | Rflags::NT, Rflags::empty()] {
            let b = Pair::new(|a| calls(a).unwrap())
                .set_up(|b| {
                    with_system_calls(b);
                    b.state.msrs.sfmask = mask.bits();
                    b.state.rflags |= flags;
                    b.assemble(KERNEL, |a| kernel(a).unwrap());
                })
                .run();
            assert_eq!(b.state.rip, HANDLERS + 16 * 0x81 + 1);
            assert_eq!((b.peek(COUNT), b.state.gpr[RBX]), (50, 0));
            let image = b.peek(b.state.gpr[RSP] + 16);
            assert_eq!(image & flags.bits(), flags.bits(), "the caller's flags came back");
            assert_eq!(b.peek(b.state.gpr[RSP] + 8), 0x2b);
        }
    }
}

#[test]
fn a_return_that_was_remembered_in_one_ring_is_not_taken_in_the_other() {
    // The kernel returns, by RET, to an address at which ring 3 expects a return: it must run the code there with the
    // kernel's rights, in which CPL shows.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut function, mut back) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ebx, 20)?;
        a.lea(r12, qword_ptr(back))?;
        a.set_label(&mut again)?;
        a.call(function)?;
        a.set_label(&mut back)?;
        a.mov(eax, cs)?;
        a.and(eax, 3)?;
        a.add(r14, rax)?;
        a.test(eax, eax)?;
        let mut user = a.create_label();
        a.jnz(user)?;
        a.mov(rcx, rdi)?;
        a.mov(r11d, 2)?;
        a.sysretq()?;
        a.set_label(&mut user)?;
        a.dec(ebx)?;
        a.jnz(again)?;
        a.int(0x81)?;
        a.set_label(&mut function)?;
        a.syscall()?;
        a.mov(rsp, STACK - 8)?;
        a.ret()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            with_system_calls(b);
            b.assemble(KERNEL, |a| {
                a.mov(rdi, rcx).unwrap();
                a.inc(r13).unwrap();
                a.push(r12).unwrap();
                a.ret().unwrap();
            });
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * 0x81 + 1);
    assert_eq!((b.state.gpr[13], b.state.gpr[14]), (20, 60), "each turn once with CPL 0 and once with 3");
}

#[test]
fn what_only_the_kernel_may_reach_is_out_of_ring_3s_reach_after_sysret() {
    // Kernel and user use the same base register on a supervisor's page; the user's access faults.
    for write in [false, true] {
        let b = Pair::new(|a| {
            let mut body = || -> Result<(), IcedError> {
                let mut again = a.create_label();
                a.mov(ebx, 40)?;
                a.mov(rdi, WINDOW)?;
                a.set_label(&mut again)?;
                a.syscall()?;
                a.cmp(ebx, 3)?;
                let mut on = a.create_label();
                a.jne(on)?;
                if write {
                    a.mov(qword_ptr(rdi), rbx)?
                } else {
                    a.mov(rax, qword_ptr(rdi))?
                }
                a.set_label(&mut on)?;
                a.dec(ebx)?;
                a.jnz(again)?;
                a.int(0x81)
            };
            body().unwrap();
        })
        .set_up(|b| {
            with_system_calls(b);
            b.map(0, PAGE | 0x63);
            b.assemble(KERNEL, |a| {
                a.add(qword_ptr(rdi), 1).unwrap();
                a.mov(rax, qword_ptr(rdi)).unwrap();
                a.sysretq().unwrap();
            });
        })
        .run();
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
        assert_eq!((b.state.cr2, b.state.gpr[RBX]), (WINDOW, 3));
        assert_eq!(b.peek(b.state.gpr[RSP]), if write { 7 } else { 5 });
        assert_eq!(b.peek(PAGE), 38);
    }
}

#[test]
fn smap_holds_after_a_system_call_though_the_kernel_lifted_it_before() {
    // The first call lifts SMAP and returns by IRETQ with it lifted; the second one reads the user's page without.
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ebx, 30)?;
            a.mov(rdi, WINDOW)?;
            a.set_label(&mut again)?;
            a.syscall()?;
            a.dec(ebx)?;
            a.jnz(again)?;
            a.int(0x81)
        };
        body().unwrap();
    })
    .set_up(|b| {
        with_system_calls(b);
        b.state.cr4 |= Cr4::SMAP;
        b.map(0, PAGE | 0x67);
        super::smap::give_to_the_supervisor(b, Some(CODE));
        b.assemble(KERNEL, |a| {
            let mut body = || -> Result<(), IcedError> {
                let mut bare = a.create_label();
                a.mov(rsp, RING0_STACK)?;
                a.cmp(ebx, 2)?;
                a.jb(bare)?;
                a.stac()?;
                a.add(qword_ptr(rdi), 1)?;
                a.add(qword_ptr(rdi), 1)?;
                for value in [u32::from(USER_DATA), STACK as u32, 2, u32::from(USER_CODE)] {
                    a.push(value as i32)?;
                }
                a.push(rcx)?;
                a.iretq()?;
                a.set_label(&mut bare)?;
                a.mov(rax, qword_ptr(rdi))?;
                a.sysretq()
            };
            body().unwrap();
        });
    })
    .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1, "SMAP forbids it");
    assert_eq!((b.state.cr2, b.state.gpr[RBX], b.peek(PAGE)), (WINDOW, 1, 2 * 29));
    assert_eq!(b.peek(b.state.gpr[RSP]), 1);
}

#[test]
fn system_returns_refuse_what_they_must_once_they_are_hot() {
    type Change = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let changes: [(&str, Change, Vector); 3] = [
        ("not canonical", |a| a.mov(rcx, 1_u64 << 47), Vector::GeneralProtection),
        (
            "no SYSCALL any more",
            |a| {
                a.mov(ecx, 0xc000_0080_u32)?;
                a.rdmsr()?;
                a.and(eax, !1)?;
                a.wrmsr()
            },
            Vector::InvalidOpcode,
        ),
        ("single steps", |a| a.or(r11d, 0x100), Vector::Debug),
    ];
    for (name, change, vector) in changes {
        println!("{name}");
        let b = Pair::new(|a| calls(a).unwrap())
            .set_up(|b| {
                with_system_calls(b);
                b.assemble(KERNEL, |a| {
                    let mut body = || -> Result<(), IcedError> {
                        let mut on = a.create_label();
                        a.mov(rsp, RING0_STACK)?;
                        a.mov(r8, rcx)?;
                        a.cmp(ebx, 10)?;
                        a.jne(on)?;
                        change(a)?;
                        a.set_label(&mut on)?;
                        a.sysretq()
                    };
                    body().unwrap();
                });
            })
            .run();
        assert_eq!(b.state.rip, HANDLERS + 16 * vector as u64 + 1);
        assert_eq!(b.state.gpr[RBX], 10);
    }
}

#[test]
fn interrupts_that_wait_come_in_with_sysret_and_not_before() {
    let b = Pair::new(|a| calls(a).unwrap())
        .set_up(|b| {
            with_system_calls(b);
            b.state.rflags |= Rflags::IF;
            let interrupts = std::sync::Arc::clone(&b.machine.interrupts);
            b.machine.port.lock().unwrap().on_port_write.0 = Some(Box::new(move |_| interrupts.raise(0x40)));
            b.assemble(KERNEL, |a| {
                let mut body = || -> Result<(), IcedError> {
                    let mut on = a.create_label();
                    a.cmp(ebx, 10)?;
                    a.jne(on)?;
                    a.mov(dx, 0x500)?;
                    a.out(dx, al)?;
                    a.add(qword_ptr(COUNT), 1)?;
                    a.set_label(&mut on)?;
                    a.sysretq()
                };
                body().unwrap();
            });
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * 0x40 + 1);
    assert_eq!((b.state.gpr[RBX], b.peek(COUNT)), (10, 1));
    let frame: [u64; 3] = std::array::from_fn(|i| b.peek(b.state.gpr[RSP] + 8 * i as u64));
    assert_eq!(
        (frame[0], frame[1]),
        (b.state.gpr[RCX], 0x2b),
        "ring 3 was interrupted before its next instruction"
    );
    assert_ne!(frame[2] & Rflags::IF.bits(), 0);
}

#[test]
fn alignment_checks_and_their_absence_survive_system_calls() {
    // AC set by ring 3 is cleared by SYSCALL's mask and brought back by SYSRET: the misaligned access behind it faults.
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ebx, 30)?;
            a.mov(rdi, DATA + 1)?;
            a.set_label(&mut again)?;
            a.syscall()?;
            a.mov(rax, qword_ptr(rdi))?;
            a.cmp(ebx, 5)?;
            let mut on = a.create_label();
            a.jne(on)?;
            a.mov(rdi, DATA)?;
            a.pushfq()?;
            a.or(dword_ptr(rsp), 0x4_0000)?;
            a.popfq()?;
            a.syscall()?;
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(rdi, DATA + 1)?;
            a.set_label(&mut on)?;
            a.dec(ebx)?;
            a.jnz(again)?;
            a.int(0x81)
        };
        body().unwrap();
    })
    .set_up(|b| {
        with_system_calls(b);
        b.state.cr0 |= Cr0::AM;
        b.assemble(KERNEL, |a| kernel(a).unwrap());
    })
    .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::AlignmentCheck as u64 + 1);
    assert_eq!(b.state.gpr[RBX], 4);
}

#[test]
fn system_calls_without_efer_sce_are_invalid() {
    let b = Pair::new(|a| calls(a).unwrap())
        .set_up(|b| {
            with_system_calls(b);
            b.state.efer -= Efer::SCE;
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::InvalidOpcode as u64 + 1);
    assert_eq!((b.state.gpr[RBX], b.state.gpr[RCX], b.state.gpr[R11]), (50, 0, 0));
}

#[test]
fn vector_code_obeys_each_change_of_ts_at_once() {
    // The same vector code runs with TS clear and faults with TS set; the handler clears it, by CLTS or by a write.
    for clts in [false, true] {
        let b = Pair::new(|a| {
            let mut body = || -> Result<(), IcedError> {
                let mut again = a.create_label();
                a.mov(ecx, 60)?;
                a.mov(rbp, cr0)?;
                a.lea(rdi, qword_ptr(rbp + 8))?;
                a.set_label(&mut again)?;
                a.paddd(xmm1, xmm2)?;
                a.mov(cr0, rdi)?;
                a.mov(rax, cr0)?;
                a.add(r13, rax)?;
                a.mov(cr0, rbp)?;
                a.paddd(xmm1, xmm2)?;
                a.mov(cr0, rdi)?;
                a.paddd(xmm1, xmm2)?;
                a.call(CODE + 0x900)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.movd(eax, xmm1)?;
                a.hlt()
            };
            body().unwrap();
        })
        .set_up(|b| {
            b.state.xsave.0[160 + 32] = 1;
            b.assemble(CODE + 0x900, |a| {
                a.paddd(xmm1, xmm2).unwrap();
                a.ret().unwrap();
            });
            b.assemble(HANDLERS + 16 * 7, |a| a.jmp(KERNEL).unwrap());
            b.assemble(KERNEL, |a| {
                a.inc(ebx).unwrap();
                if clts {
                    a.clts().unwrap()
                } else {
                    a.mov(cr0, rbp).unwrap()
                }
                a.iretq().unwrap();
            });
        })
        .run();
        assert_eq!((b.state.gpr[RAX], b.state.gpr[RBX]), (4 * 60, 60));
        assert!(!b.state.cr0.contains(Cr0::TS));
        assert_eq!(b.state.gpr[13], 60 * (b.state.cr0 | Cr0::TS).bits());
    }
}

#[test]
fn other_bits_of_cr0_have_their_effects_and_refusals() {
    // WP: a write to a read-only page is allowed without it, and faults again with it. Then what must not be.
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 30)?;
            a.mov(rbp, cr0)?;
            a.mov(rdi, WINDOW)?;
            a.mov(rax, rbp)?;
            a.btr(rax, 16)?;
            a.mov(r9, rax)?;
            a.set_label(&mut again)?;
            a.mov(cr0, r9)?;
            a.add(qword_ptr(rdi), 1)?;
            a.mov(cr0, rbp)?;
            a.cmp(ecx, 1)?;
            let mut on = a.create_label();
            a.jne(on)?;
            a.add(qword_ptr(rdi), 1)?;
            a.set_label(&mut on)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        body().unwrap();
    })
    .set_up(|b| b.map(0, PAGE | 0x61))
    .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
    assert_eq!((b.peek(PAGE), b.state.gpr[RCX]), (30, 1));
    for bad in [1_u64 << 63, 1 << 29 | 0x8000_0011, 0x8000_0010] {
        let b = Pair::new(|a| {
            a.mov(rax, bad).unwrap();
            a.mov(cr0, rax).unwrap();
            a.hlt().unwrap();
        })
        .run();
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1);
    }
    let b = Pair::new(|a| {
        a.clts().unwrap();
        a.int3().unwrap();
    })
    .set_up(|b| b.enter_ring3())
    .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1);
    assert_eq!(b.state.segment(SegmentRegister::Cs).selector & 3, 0);
}

#[test]
fn lowering_cr8_lets_a_waiting_interrupt_in_at_once() {
    let b = Pair::new(|a| {
        let mut body = || -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 20)?;
            a.sti()?;
            a.set_label(&mut again)?;
            a.mov(eax, 15)?;
            a.mov(cr8, rax)?;
            a.inc(ebx)?;
            a.mov(rax, rcx)?;
            a.and(eax, 15)?;
            a.mov(cr8, rax)?;
            a.inc(ebx)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        body().unwrap();
    })
    .set_up(|b| {
        b.state.rflags -= Rflags::IF;
        let interrupts = std::sync::Arc::clone(&b.machine.interrupts);
        crate::bus::InterruptController::set_cr8(&*interrupts, CPU, 15);
        interrupts.raise(0x40);
    })
    .run();
    // 20 and 19 and so on: the first class below 4.
    assert_eq!(b.state.rip, HANDLERS + 16 * 0x40 + 1);
    let turns = (1..=20_u64).rev().position(|i| i & 15 < 4).unwrap() as u64;
    assert_eq!(b.state.gpr[RBX], 2 * turns + 1);
    assert_eq!(b.peek(b.state.gpr[RSP] + 16) & (CF | OF), 0);
}
