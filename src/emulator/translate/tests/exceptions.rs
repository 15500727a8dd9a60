//! Exceptions out of the middle of translated blocks: the frame, the registers and the flags are exact.
use super::*;
use crate::arch::state::gpr::{RAX, RCX, RSP};
use crate::arch::{Cr0, Rflags, Vector};
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::*;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn halted_in(b: &Bench, vector: Vector) {
    assert_eq!(b.state.rip, HANDLERS + 16 * vector as u64 + 1, "{vector:?}");
}

/// Instructions that fault when RDI points to nothing; RSI too, and RSP is it for the second half.
const FAULTING: &[Emit] = &[
    |a| a.mov(eax, dword_ptr(rdi)),
    |a| a.mov(dword_ptr(rdi), eax),
    |a| a.mov(byte_ptr(rdi + rcx * 2), ah),
    |a| a.add(rbx, qword_ptr(rdi)),
    |a| a.adc(qword_ptr(rdi), rbx),
    |a| a.inc(qword_ptr(rdi)),
    |a| a.rcl(dword_ptr(rdi), cl),
    |a| a.imul_2(ebx, dword_ptr(rdi)),
    |a| a.mul(qword_ptr(rdi)),
    |a| a.div(qword_ptr(rdi)),
    |a| a.cmovc(eax, dword_ptr(rdi)),
    |a| a.setc(byte_ptr(rdi)),
    |a| a.xchg(dword_ptr(rdi), ebx),
    |a| a.cmpxchg(qword_ptr(rdi), r12),
    |a| a.lock().xadd(qword_ptr(rdi), r13),
    |a| a.bts(dword_ptr(rdi), ebx),
    |a| a.movzx(eax, word_ptr(rdi)),
    |a| a.movsd(),
    |a| a.rep().movsb(),
    |a| a.stosq(),
    |a| a.push(qword_ptr(rdi)),
    |a| a.pop(qword_ptr(rdi)),
    |a| a.call(qword_ptr(rdi)),
    |a| a.jmp(qword_ptr(rdi)),
    |a| a.movups(xmm3, xmmword_ptr(rdi)),
    |a| a.addsd(xmm3, qword_ptr(rdi)),
    |a| a.movaps(xmmword_ptr(rdi), xmm3),
    |a| a.fadd(qword_ptr(rdi)),
    |a| a.fstp(qword_ptr(rdi)),
    |a| a.push(rax),
    |a| a.push(0x1234),
    |a| a.pop(r12),
    |a| a.call(CODE + 0x800),
    |a| a.call(rax),
    |a| a.ret(),
    |a| a.ret_1(16),
    |a| a.leave(),
    |a| a.pushfq(),
    |a| a.popfq(),
    |a| a.enter(32, 0),
];

#[test]
fn a_page_fault_leaves_everything_as_it_was() {
    for (i, faulting) in FAULTING.iter().enumerate() {
        for (what, entry, place) in [
            ("absent", 0, WINDOW + 0x800),
            ("read-only", DATA | 5, WINDOW + 0x800),
            ("half absent", DATA | 7, WINDOW + 0xffe),
            ("not canonical", 0, 1 << 47),
            ("wraps", 0, u64::MAX - 1),
        ] {
            println!("{i}, {what}");
            let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                let mut again = a.create_label();
                // First with good pointers, then with the bad one: flags are live before the instruction.
                a.mov(rdi, DATA + 0x400)?;
                a.mov(rsi, DATA + 0x500)?;
                a.mov(r14, RING0_STACK - 0x100)?;
                a.mov(r15, CODE + 0x800)?;
                a.lea(r8, qword_ptr(again))?;
                a.set_label(&mut again)?;
                a.mov(rsp, r14)?;
                a.mov(rbp, r14)?;
                a.mov(qword_ptr(DATA + 0x400), r15)?;
                a.mov(ebx, 3)?;
                a.mov(ecx, 2)?;
                a.mov(rax, CODE + 0x800)?;
                a.mov(edx, 1)?;
                a.add(r11, qword_ptr(DATA + 0x600))?;
                a.cmp(r11d, 0x5566)?;
                faulting(a)?;
                a.mov(rax, CODE + 0x800)?;
                a.jmp(rax)
            };
            let b = Pair::new(|a| emit(a).unwrap())
                .set_up(|b| {
                    b.map(0, entry);
                    // Frames go to IST 1, so that a bad stack does no harm.
                    for vector in [12, 13, 14, 17, 0] {
                        b.gate(vector, 0, 1);
                    }
                    let body = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                        a.inc(r10)?;
                        a.cmp(r10, 2)?;
                        let mut end = a.create_label();
                        a.ja(end)?;
                        a.mov(rdi, place)?;
                        a.mov(rsi, place)?;
                        a.lea(r14, qword_ptr(rdi))?;
                        a.jmp(r8)?;
                        a.set_label(&mut end)?;
                        a.hlt()
                    };
                    b.assemble(CODE + 0x800, |a| body(a).unwrap());
                    b.poke(RING0_STACK - 0x100, CODE + 0x800);
                    b.state.gpr[11] = 0x7000;
                })
                .run();
            // In a handler, or behind the function where no fault was.
            assert!(b.state.rip < CODE || b.state.gpr[10] == 3, "{:#x}", b.state.rip);
        }
    }
}

#[test]
fn branches_to_nowhere_fault_at_themselves() {
    let ways: &[(&str, Emit)] = &[
        ("ret", |a| {
            a.push(rax)?;
            a.ret()
        }),
        ("ret 16", |a| {
            a.push(rax)?;
            a.ret_1(16)
        }),
        ("jmp", |a| a.jmp(rax)),
        ("jmp memory", |a| {
            a.mov(qword_ptr(DATA), rax)?;
            a.jmp(qword_ptr(DATA))
        }),
        ("call", |a| a.call(rax)),
        ("call r12", |a| {
            a.mov(r12, rax)?;
            a.call(r12)
        }),
        ("call memory", |a| {
            a.mov(qword_ptr(DATA), rax)?;
            a.call(qword_ptr(DATA))
        }),
        ("call what the call itself overwrites", |a| {
            a.mov(qword_ptr(rsp - 8), rax)?;
            a.call(qword_ptr(rsp - 8))
        }),
    ];
    for (name, way) in ways {
        for nowhere in [1 << 47, 0x8000_0000_0000_0000, !(1_u64 << 47)] {
            println!("{name}");
            // Twice to a good place, then to the bad one.
            let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                let mut again = a.create_label();
                a.mov(rax, CODE + 0x900)?;
                a.xor(ecx, ecx)?;
                a.set_label(&mut again)?;
                a.lea(r8, qword_ptr(again))?;
                a.mov(rsp, STACK)?;
                a.inc(ecx)?;
                way(a)
            };
            let b = Pair::new(|a| emit(a).unwrap())
                .set_up(|b| {
                    b.assemble(CODE + 0x900, |a| {
                        a.mov(rdx, nowhere).unwrap();
                        a.cmp(ecx, 2).unwrap();
                        a.cmove(rax, rdx).unwrap();
                        a.jmp(r8).unwrap();
                    });
                })
                .run();
            halted_in(&b, Vector::GeneralProtection);
            assert_eq!(b.state.gpr[RCX], 3);
            let frame: [u64; 6] = std::array::from_fn(|i| b.peek(b.state.gpr[RSP] + 8 * i as u64));
            assert_eq!(frame[0], 0);
            assert!((CODE..CODE + 0x80).contains(&frame[1]), "RIP is the branch: {:#x}", frame[1]);
            assert_eq!(frame[4], if name.starts_with("ret") { STACK - 8 } else { STACK }, "RSP is as before");
        }
    }
}

#[test]
fn alignment_is_checked_once_it_is_asked_for() {
    for access in [
        (|a| a.mov(eax, dword_ptr(rdi + 2))) as Emit,
        |a| a.mov(word_ptr(rdi + 1), ax),
        |a| a.add(rbx, qword_ptr(rdi + 4)),
        |a| a.push(qword_ptr(rdi + 4)),
    ] {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 40)?;
            a.set_label(&mut again)?;
            a.cmp(ecx, 20)?;
            let mut go = a.create_label();
            a.jne(go)?;
            a.pushfq()?;
            a.or(dword_ptr(rsp), 0x4_0000)?;
            a.popfq()?;
            a.set_label(&mut go)?;
            access(a)?;
            a.mov(rsp, STACK)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.int3()
        };
        let b = Pair::new(|a| emit(a).unwrap())
            .set_up(|b| {
                b.state.gpr[7] = DATA;
                b.state.cr0 |= Cr0::AM;
                b.gate(3, 3, 0);
                b.enter_ring3();
            })
            .run();
        halted_in(&b, Vector::AlignmentCheck);
        assert_eq!(b.state.gpr[RCX], 20);
    }
}

#[test]
fn a_single_step_trap_comes_after_each_instruction_of_hot_code() {
    // The handler counts; the loop has run without the flag before.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut part) = (a.create_label(), a.create_label());
        a.mov(edx, 1)?;
        a.set_label(&mut part)?;
        a.mov(ecx, 30)?;
        a.set_label(&mut again)?;
        a.add(rax, rcx)?;
        a.call(CODE + 0x900)?;
        a.movd(xmm0, eax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        // Turned on the first time round, off by the next.
        a.pushfq()?;
        a.xor(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.dec(edx)?;
        a.jns(part)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.assemble(CODE + 0x900, |a| {
                a.lea(rbx, qword_ptr(rax * 2)).unwrap();
                a.ret().unwrap();
            });
            b.assemble(HANDLERS + 16, |a| {
                a.inc(qword_ptr(DATA)).unwrap();
                a.iretq().unwrap();
            });
        })
        .run();
    // DEC, JNS and MOV; 30 rounds of seven; PUSHFQ, XOR and POPFQ, as the flag was set when it began.
    assert_eq!(b.peek(DATA), 2 + 1 + 30 * 7 + 3);
}

#[test]
fn interrupts_wait_for_one_instruction_after_sti_and_mov_ss() {
    let after: &[(&str, Emit, u64)] = &[
        (
            "sti",
            |a| {
                a.sti()?;
                a.inc(eax)?;
                a.inc(eax)
            },
            1,
        ),
        (
            "sti and cli",
            |a| {
                a.sti()?;
                a.cli()?;
                a.inc(eax)?;
                a.inc(eax)
            },
            2,
        ),
        (
            "mov ss",
            |a| {
                a.mov(ecx, ss)?;
                a.sti()?;
                a.mov(ss, ecx)?;
                a.inc(eax)?;
                a.inc(eax)
            },
            1,
        ),
        (
            "mov ds before mov ss",
            |a| {
                a.mov(ecx, ss)?;
                a.mov(ds, ecx)?;
                a.sti()?;
                a.mov(ss, ecx)?;
                a.inc(eax)?;
                a.inc(eax)
            },
            1,
        ),
        (
            "popf",
            |a| {
                a.push(0x202)?;
                a.popfq()?;
                a.inc(eax)?;
                a.inc(eax)
            },
            0,
        ),
    ];
    for (name, emit, count) in after {
        println!("{name}");
        let b = Pair::new(|a| {
            emit(a).unwrap();
            a.hlt().unwrap();
        })
        .set_up(|b| b.machine.interrupts.raise(0x40))
        .run();
        assert_eq!(b.state.gpr[RAX], *count);
        if *name != "sti and cli" {
            assert_eq!(b.state.rip, HANDLERS + 16 * 0x40 + 1);
        }
    }
}

#[test]
fn the_resume_flag_lasts_for_one_instruction_and_shows_in_frames_of_faults() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut target = a.create_label();
        a.mov(rdx, rsp)?;
        a.lea(rcx, qword_ptr(target))?;
        for value in [0x10, 0, 0x1_0002, 0x8] {
            a.push(value)?;
        }
        a.mov(qword_ptr(rsp + 16), rdx)?;
        a.push(rcx)?;
        a.iretq()?;
        a.set_label(&mut target)?;
        a.nop()?;
        a.pushfq()?;
        a.pop(rbx)?;
        a.mov(eax, dword_ptr(WINDOW))?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap()).run();
    halted_in(&b, Vector::PageFault);
    assert_eq!(b.state.gpr[3] & Rflags::RF.bits(), 0);
    assert_ne!(b.peek(b.state.gpr[RSP] + 24) & Rflags::RF.bits(), 0);
}

#[test]
fn a_bit_beyond_the_operand_is_found_there_whatever_came_before() {
    // The register forms of BT before the memory forms: they share a code, but not their reach. The bit lies in a page
    // that is not the next one in RAM.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.bt(ebx, ecx)?;
        a.bts(ebx, ecx)?;
        a.btr(rbx, rcx)?;
        a.btc(rbx, rcx)?;
        a.mov(eax, dword_ptr(rdi))?;
        a.mov(eax, dword_ptr(rdi + 0x1000))?;
        a.mov(rcx, 0x1000_u64 * 8 + 5)?;
        a.bts(dword_ptr(rdi), ecx)?;
        a.bt(dword_ptr(rdi), ecx)?;
        a.adc(edx, 0)?;
        a.btc(qword_ptr(rdi), rcx)?;
        a.bt(dword_ptr(rdi), ecx)?;
        a.adc(edx, 0)?;
        a.bts(dword_ptr(rdi), ecx)?;
        a.mov(rcx, 1_u64 << 40)?;
        a.btr(qword_ptr(rdi), rcx)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.map(0, DATA | 7);
            b.map(1, (DATA + 0x3000) | 7);
            b.state.gpr[7] = WINDOW + 0x800;
        })
        .run();
    halted_in(&b, Vector::PageFault);
    assert_eq!((b.peek(DATA + 0x3800), b.peek(DATA + 0x1800), b.state.gpr[2] & 1), (1 << 5, 0, 1));
}

/// Far more misses than the windows' owner waits for before it moves one.
#[test]
fn no_window_is_opened_at_an_address_that_is_not_canonical() {
    fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(rbx, DATA | 1 << 63)?;
        a.mov(ecx, 20_000)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.inc(r8)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.inc(r9)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    }
    let mut b = Bench::new(|a| program(a).unwrap());
    // The handler counts and skips the access and the count behind it.
    b.assemble(HANDLERS + 16 * Vector::GeneralProtection as u64, |a| {
        a.inc(r10).unwrap();
        a.add(qword_ptr(rsp + 8), 6).unwrap();
        a.add(rsp, 8).unwrap();
        a.iretq().unwrap();
    });
    let mut vcpu = b.vcpu_of(EmuEngine::Translator);
    assert_eq!(run_until_halt(&b, &mut *vcpu), Exit::Halted);
    let state = vcpu.save().unwrap();
    assert_eq!((state.gpr[8], state.gpr[9], state.gpr[10]), (0, 0, 40_000));
}

/// The last entry of the stack of returns is marked with an address that a guest can return to.
#[test]
fn returns_to_the_mark_of_the_last_return_do_not_unbalance_the_stack_of_returns() {
    fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
        let (mut even, mut done, mut function) = (a.create_label(), a.create_label(), a.create_label());
        a.inc(r8)?;
        a.cmp(r8d, 40)?;
        a.jae(done)?;
        a.test(r8d, 1)?;
        a.jz(even)?;
        a.call(function)?;
        a.set_label(&mut even)?;
        a.push(rax)?;
        a.ret()?;
        a.set_label(&mut done)?;
        a.hlt()?;
        a.set_label(&mut function)?;
        a.push(rax)?;
        a.ret()
    }
    let b = Pair::new(|a| {
        a.mov(rax, 1_u64 << 63).unwrap();
        a.push(rax).unwrap();
        a.ret().unwrap();
    })
    .set_up(|b| {
        b.assemble(CODE + 0xc00, |a| handler(a).unwrap());
        b.assemble(HANDLERS + 16 * Vector::GeneralProtection as u64, |a| a.jmp(CODE + 0xc00).unwrap());
    })
    .run();
    assert_eq!(b.state.gpr[8], 40);
}

/// `add rbx, far; mov rax, [rbx + far]`: together further than an instruction can say.
#[test]
fn groups_far_from_their_registers_are_checked_where_they_are() {
    const FAR: u32 = 0x4000_0000;
    fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
        let (mut again, mut fresh) = (a.create_label(), a.create_label());
        // The window of RBX is opened at what the two constants make alone.
        a.mov(rbx, 2 * u64::from(FAR))?;
        a.mov(ecx, 300)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(rbx, (DATA + 0x40).wrapping_sub(2 * u64::from(FAR)))?;
        a.mov(qword_ptr(DATA + 0x40), 0x1234)?;
        a.jmp(fresh)?;
        a.set_label(&mut fresh)?;
        a.add(rbx, FAR as i32)?;
        a.mov(rax, qword_ptr(rbx + FAR as i32))?;
        a.mov(qword_ptr(rbx + (FAR as i32 + 8)), rax)?;
        a.hlt()
    }
    let b = Pair::new(|a| program(a).unwrap())
        .set_up(|b| {
            b.map(0, (DATA + 0x8000) | 0x67);
            // The third GiB is as the second.
            b.poke(FakeMachine::TABLES.0 + 0x1010, b.peek(FakeMachine::TABLES.0 + 0x1008));
        })
        .run();
    assert_eq!((b.state.gpr[RAX], b.peek(DATA + 0x48)), (0x1234, 0x1234));
}
