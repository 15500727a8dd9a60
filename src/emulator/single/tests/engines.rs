//! System instructions that the translator executes by itself: each program is run by both engines.
use super::*;
use crate::arch::state::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::arch::{Cr4, Rflags, msr};
use crate::engine::Exit;
use iced_x86::code_asm::*;

const VECTOR: u8 = 0x40;
const RF: u64 = Rflags::RF.bits();

/// Runs a program to its HLT, or that of a handler, with both engines.
pub(super) fn both(setup: impl Fn() -> Bench, check: impl Fn(&Bench, &CpuState)) {
    for engine in EmuEngine::ALL {
        let b = setup();
        let mut vcpu =
            Emulator::new(Arc::clone(b.machine.ram()), engine).create_vcpu(VcpuId(0), &b.state).unwrap();
        assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Halted, "{engine:?}");
        check(&b, &vcpu.save().unwrap());
    }
}

/// Asserts that the handler of `vector` has halted, whose frame has no error code; gives the address in the frame.
pub(super) fn handled(b: &Bench, state: &CpuState, vector: u8) -> u64 {
    assert_eq!(state.rip, HANDLERS + 16 * u64::from(vector) + 1, "the handler's HLT");
    b.peek(state.gpr[RSP])
}

#[test]
fn an_interrupt_that_waits_comes_one_instruction_after_sti() {
    let program = |a: &mut CodeAssembler| {
        a.nop().unwrap();
        a.cli().unwrap();
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    };
    both(
        || {
            let b = Bench::new(program);
            b.machine.interrupts.raise(VECTOR);
            b
        },
        |b, state| {
            assert_eq!(handled(b, state, VECTOR), CODE + 5);
            assert_eq!(state.gpr[RAX], 1);
        },
    );
}

#[test]
fn no_interrupt_comes_between_sti_and_cli_or_where_it_is_masked() {
    both(
        || {
            let b = Bench::new(|a| {
                a.mov(ecx, 100).unwrap();
                let mut top = a.create_label();
                a.set_label(&mut top).unwrap();
                a.sti().unwrap();
                a.cli().unwrap();
                a.inc(eax).unwrap();
                a.dec(ecx).unwrap();
                a.jnz(top).unwrap();
                a.hlt().unwrap();
            });
            b.machine.interrupts.raise(VECTOR);
            b
        },
        |_, state| assert_eq!((state.gpr[RAX], state.rip), (100, CODE + 14)),
    );
}

#[test]
fn popf_with_an_interrupt_waiting_opens_the_door_at_once() {
    both(
        || {
            let b = Bench::new(|a| {
                a.pushfq().unwrap();
                a.or(dword_ptr(rsp), 0x200).unwrap();
                a.popfq().unwrap();
                a.inc(eax).unwrap();
                a.hlt().unwrap();
            });
            b.machine.interrupts.raise(VECTOR);
            b
        },
        |b, state| {
            assert_eq!(handled(b, state, VECTOR), CODE + 9);
            assert_eq!(state.gpr[RAX], 0);
        },
    );
}

/// POPF of `image`, then PUSHF into RBX and the arithmetic flags into RCX by SETcc.
fn popf_program(image: u64) -> impl FnOnce(&mut CodeAssembler) {
    move |a| {
        a.mov(rax, image).unwrap();
        a.push(rax).unwrap();
        a.popfq().unwrap();
        a.setc(cl).unwrap();
        a.seto(ch).unwrap();
        a.sets(dl).unwrap();
        a.setz(dh).unwrap();
        a.pushfq().unwrap();
        a.pop(rbx).unwrap();
        // Of ring 3 an exception, after which the handler halts.
        a.hlt().unwrap();
    }
}

#[test]
fn popf_changes_what_the_privilege_allows() {
    let everything = Rflags::STATUS | Rflags::IF | Rflags::DF | Rflags::AC | Rflags::ID | Rflags::IOPL;
    let everything = (everything | Rflags::NT).bits();
    let fixed = Rflags::FIXED.bits();
    for image in [0, everything, 0x8c1, 0x200, 0x400, 0x4_0000, 0x20_0000, 0x3000, !0x100] {
        for (ring3, iopl) in [(false, 0), (true, 0), (true, 3)] {
            both(
                || {
                    let mut b = Bench::new(popf_program(image));
                    b.state.rflags = Rflags::from_bits_retain(iopl << 12) | Rflags::FIXED;
                    if ring3 {
                        b.enter_ring3();
                    }
                    b
                },
                |_, state| {
                    let mut writable = everything;
                    if ring3 {
                        writable &= !Rflags::IOPL.bits();
                    }
                    if ring3 && iopl < 3 {
                        writable &= !Rflags::IF.bits();
                    }
                    let wanted = image & writable | fixed | (iopl << 12) & !writable;
                    assert_eq!(state.gpr[RBX], wanted, "{image:#x}, ring 3: {ring3}, IOPL {iopl}");
                    let bit = |at: u32| image >> at & 1;
                    assert_eq!(state.gpr[RCX] & 0xffff, bit(0) | bit(11) << 8);
                    assert_eq!(state.gpr[RDX] & 0xffff, bit(7) | bit(6) << 8);
                },
            );
        }
    }
}

#[test]
fn popf_of_the_trap_flag_traps_after_the_next_instruction() {
    both(
        || {
            Bench::new(|a| {
                a.pushfq().unwrap();
                a.or(dword_ptr(rsp), 0x100).unwrap();
                a.popfq().unwrap();
                a.inc(eax).unwrap();
                a.inc(eax).unwrap();
                a.hlt().unwrap();
            })
        },
        |b, state| {
            assert_eq!(handled(b, state, Vector::Debug as u8), CODE + 11);
            assert_eq!(state.gpr[RAX], 1);
        },
    );
}

#[test]
fn pushf_shows_flags_of_arithmetic_and_popf_faults_before_it_changes_anything() {
    both(
        || {
            let mut b = Bench::new(|a| {
                a.mov(eax, 0x7fff_ffff).unwrap();
                a.add(eax, 1).unwrap();
                a.pushfq().unwrap();
                a.pop(rsi).unwrap();
                a.mov(rsp, WINDOW).unwrap();
                a.popfq().unwrap();
            });
            b.state.rflags |= Rflags::ID;
            b.gate(Vector::PageFault as u8, 0, 1);
            b
        },
        |b, state| {
            let wanted = Rflags::OF | Rflags::SF | Rflags::AF | Rflags::PF | Rflags::FIXED | Rflags::ID;
            assert_eq!(state.gpr[RSI], wanted.bits());
            assert_eq!(state.cr2, WINDOW);
            let frame = state.gpr[RSP];
            assert_eq!(b.peek(frame + 32), WINDOW, "RSP in the frame");
            assert_eq!(b.peek(frame + 24), wanted.bits() | RF, "RFLAGS in the frame");
        },
    );
}

#[test]
fn control_registers_are_read_at_ring_0_only() {
    let program = |a: &mut CodeAssembler| {
        a.mov(rbx, cr0).unwrap();
        a.mov(r12, cr2).unwrap();
        a.mov(rsi, cr3).unwrap();
        a.mov(rsp, cr4).unwrap();
        a.hlt().unwrap();
    };
    both(
        || {
            let mut b = Bench::new(program);
            b.state.cr2 = 0x1234_5678_9abc;
            b
        },
        |b, state| {
            assert_eq!((state.gpr[RBX], state.gpr[12]), (b.state.cr0.bits(), 0x1234_5678_9abc));
            assert_eq!((state.gpr[RSI], state.gpr[RSP]), (b.state.cr3, b.state.cr4.bits()));
        },
    );
    both(
        || {
            let mut b = Bench::new(program);
            b.enter_ring3();
            b
        },
        |b, state| {
            assert_eq!(handled(b, state, Vector::GeneralProtection as u8), 0, "error code");
            assert_eq!(b.peek(state.gpr[RSP] + 8), CODE);
        },
    );
}

#[test]
fn the_time_stamp_counter_obeys_tsd_and_its_adjustment() {
    let program = |a: &mut CodeAssembler| {
        a.stc().unwrap();
        a.rdtsc().unwrap();
        a.mov(rsi, rax).unwrap();
        a.mov(rdi, rdx).unwrap();
        a.rdtscp().unwrap();
        a.setc(bl).unwrap();
        a.hlt().unwrap();
    };
    for ring3 in [false, true] {
        both(
            || {
                let mut b = Bench::new(program);
                b.state.msrs.tsc_adjust = 0xabcd_u64 << 48;
                b.state.msrs.tsc_aux = 77;
                if ring3 {
                    b.enter_ring3();
                } else {
                    b.state.cr4 |= Cr4::TSD;
                }
                b
            },
            |_, state| {
                let first = state.gpr[RDI] << 32 | state.gpr[RSI];
                let second = state.gpr[RDX] << 32 | state.gpr[RAX];
                assert!(first < second && second - first < 1 << 40 && state.gpr[RAX] >> 32 == 0);
                assert!(first.wrapping_sub(0xabcd << 48) < 1 << 62);
                assert_eq!((state.gpr[RCX], state.gpr[RBX]), (77, 1));
            },
        );
    }
    both(
        || {
            let mut b = Bench::new(program);
            b.state.cr4 |= Cr4::TSD;
            b.enter_ring3();
            b
        },
        |b, state| {
            handled(b, state, Vector::GeneralProtection as u8);
            assert_eq!(b.peek(state.gpr[RSP] + 8), CODE + 1);
        },
    );
}

#[test]
fn msrs_are_read_and_written_and_refuse_what_is_not_canonical() {
    let msrs = [msr::STAR, msr::LSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE];
    for index in msrs {
        both(
            || {
                Bench::new(|a| {
                    a.mov(ecx, index).unwrap();
                    a.mov(eax, 0x89ab_cde0_u32).unwrap();
                    a.mov(rdx, 0xffff_ffff_0000_4567_u64).unwrap();
                    a.wrmsr().unwrap();
                    a.mov(rdx, 0u64).unwrap();
                    a.rdmsr().unwrap();
                    a.mov(esi, eax).unwrap();
                    a.mov(edi, edx).unwrap();
                    a.mov(edx, 0x8000).unwrap();
                    a.wrmsr().unwrap();
                    a.hlt().unwrap();
                })
            },
            |b, state| {
                assert_eq!((state.gpr[RSI], state.gpr[RDI]), (0x89ab_cde0, 0x4567), "{index:#x}");
                if index != msr::STAR {
                    assert_eq!(handled(b, state, Vector::GeneralProtection as u8), 0);
                }
            },
        );
    }
    // One beside the table, and one in it that does not exist.
    for index in [msr::EFER - 1, msr::TSC_AUX + 1, msr::SFMASK + 1, 0x4000_0000] {
        both(
            || {
                Bench::new(|a| {
                    a.mov(ecx, index).unwrap();
                    a.rdmsr().unwrap();
                    a.hlt().unwrap();
                })
            },
            |b, state| assert_eq!(handled(b, state, Vector::GeneralProtection as u8), 0, "{index:#x}"),
        );
    }
}

#[test]
fn swapgs_and_writes_of_bases_hold_for_the_next_access() {
    both(
        || {
            let mut b = Bench::new(|a| {
                a.mov(rax, qword_ptr(8).gs()).unwrap();
                a.swapgs().unwrap();
                a.mov(rbx, qword_ptr(8).gs()).unwrap();
                a.mov(ecx, DATA as u32 + 0x200).unwrap();
                a.wrgsbase(rcx).unwrap();
                a.mov(rsi, qword_ptr(8).gs()).unwrap();
                a.rdgsbase(rdi).unwrap();
                a.swapgs().unwrap();
                a.mov(rbp, qword_ptr(8).gs()).unwrap();
                a.hlt().unwrap();
            });
            b.state.cr4 |= Cr4::FSGSBASE;
            b.state.segment_mut(SegmentRegister::Gs).base = DATA;
            b.state.msrs.kernel_gs_base = DATA + 0x100;
            for i in 0..3 {
                b.poke(DATA + 0x100 * i + 8, i + 1);
            }
            b
        },
        |_, state| {
            let seen = [RAX, RBX, RSI, RBP].map(|register| state.gpr[register]);
            assert_eq!((seen, state.gpr[RDI]), ([1, 2, 3, 1], DATA + 0x200));
            assert_eq!(state.segment(SegmentRegister::Gs).base, DATA);
            assert_eq!(state.msrs.kernel_gs_base, DATA + 0x200);
        },
    );
}

#[test]
fn lahf_sahf_and_the_direction_flag() {
    both(
        || {
            let b = Bench::new(|a| {
                a.mov(rax, 0x1111_2222_3333_4444_u64).unwrap();
                a.stc().unwrap();
                a.lahf().unwrap();
                a.mov(rbx, rax).unwrap();
                a.mov(ecx, 0x7fff_ffff).unwrap();
                a.add(ecx, 1).unwrap();
                a.mov(ah, 0x45).unwrap();
                a.sahf().unwrap();
                a.pushfq().unwrap();
                a.pop(rdx).unwrap();
                a.mov(esi, DATA as u32 + 8).unwrap();
                a.std().unwrap();
                a.lodsq().unwrap();
                a.cld().unwrap();
                a.lodsq().unwrap();
                a.hlt().unwrap();
            });
            b.poke(DATA, 5);
            b
        },
        |_, state| {
            assert_eq!(state.gpr[RBX], 0x1111_2222_3333_0344);
            assert_eq!(state.gpr[RDX], 0x847, "OF is left alone");
            assert_eq!((state.gpr[RSI], state.gpr[RAX]), (DATA + 8, 5));
            assert!(!state.rflags.contains(Rflags::DF));
        },
    );
}

#[test]
fn invlpg_of_a_page_with_code_leads_to_the_new_code() {
    both(
        || {
            let mut b = Bench::new(|a| {
                a.mov(ebx, WINDOW as u32).unwrap();
                a.call(rbx).unwrap();
                a.mov(esi, eax).unwrap();
                a.mov(edx, PAGE_TABLE as u32).unwrap();
                a.mov(dword_ptr(rdx), DATA as u32 + 0x1003).unwrap();
                // A page of data first, which leaves code alone.
                a.invlpg(byte_ptr(rbx + 0x1000)).unwrap();
                a.invlpg(byte_ptr(rbx)).unwrap();
                a.call(rbx).unwrap();
                a.hlt().unwrap();
            });
            for (page, value) in [(DATA, 1), (DATA + 0x1000, 2)] {
                b.assemble(page, |a| {
                    a.mov(eax, value).unwrap();
                    a.ret().unwrap();
                });
            }
            b.map(0, DATA | 3);
            b
        },
        |_, state| assert_eq!((state.gpr[RSI], state.gpr[RAX]), (1, 2)),
    );
}
