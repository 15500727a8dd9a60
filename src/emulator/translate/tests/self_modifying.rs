//! Guests that rewrite code which was translated, linked and remembered: by every kind of store, behind themselves, in
//! other blocks and pages, through aliases, and by devices.
use super::*;
use crate::arch::state::gpr::RBX;
use crate::arch::{Cr4, Xcr0};
use iced_x86::code_asm::*;
use std::sync::Arc;

const ROUNDS: u32 = 50;
/// What follows the immediate that is rewritten: `add ebx, eax`, `dec ecx`.
const BEHIND: u64 = 0xc9ff_c301;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Ways to put EDX where RDI points; R8 is what eight bytes there shall be. EAX, RSI, R9 to R11 and vectors are free.
const STORES: &[(&str, Emit)] = &[
    ("mov dword", |a| a.mov(dword_ptr(rdi), edx)),
    ("mov byte", |a| a.mov(byte_ptr(rdi), dl)),
    ("mov word", |a| a.mov(word_ptr(rdi), dx)),
    ("mov qword", |a| a.mov(qword_ptr(rdi), r8)),
    ("mov immediate", |a| a.mov(dword_ptr(rdi), 0x1234)),
    ("mov indexed", |a| {
        a.lea(r9, qword_ptr(rdi - 0x40))?;
        a.mov(r10d, 0x10)?;
        a.mov(dword_ptr(r9 + r10 * 4), edx)
    }),
    ("mov from r12", |a| {
        a.mov(r12, rdx)?;
        a.mov(dword_ptr(rdi), r12d)
    }),
    ("add", |a| a.add(dword_ptr(rdi), edx)),
    ("inc", |a| a.inc(byte_ptr(rdi))),
    ("not", |a| a.not(dword_ptr(rdi))),
    ("rol", |a| a.rol(dword_ptr(rdi), 3)),
    ("rol cl", |a| a.rol(dword_ptr(rdi), cl)),
    ("lock xadd", |a| {
        a.mov(eax, edx)?;
        a.lock().xadd(dword_ptr(rdi), eax)
    }),
    ("xchg", |a| {
        a.mov(eax, edx)?;
        a.xchg(dword_ptr(rdi), eax)
    }),
    ("cmpxchg", |a| {
        a.mov(eax, dword_ptr(rdi))?;
        a.cmpxchg(dword_ptr(rdi), edx)
    }),
    ("cmpxchg8b", |a| {
        a.mov(r9, rbx)?;
        a.mov(r10, rcx)?;
        a.mov(r11, rdx)?;
        a.mov(ebx, r8d)?;
        a.mov(rcx, r8)?;
        a.shr(rcx, 32)?;
        a.mov(eax, dword_ptr(rdi))?;
        a.mov(edx, dword_ptr(rdi + 4))?;
        a.cmpxchg8b(qword_ptr(rdi))?;
        a.mov(rbx, r9)?;
        a.mov(rcx, r10)?;
        a.mov(rdx, r11)
    }),
    ("setcc", |a| {
        a.test(edx, 1)?;
        a.setz(byte_ptr(rdi))
    }),
    ("btc", |a| {
        a.mov(eax, edx)?;
        a.and(eax, 31)?;
        a.btc(dword_ptr(rdi), eax)
    }),
    ("shld", |a| a.shld(dword_ptr(rdi), edx, 5)),
    ("movbe", |a| a.movbe(dword_ptr(rdi), edx)),
    ("movnti", |a| a.movnti(dword_ptr(rdi), edx)),
    ("stosd", |a| {
        a.mov(eax, edx)?;
        a.stosd()
    }),
    ("rep movsb", |a| {
        a.mov(r9, rcx)?;
        a.push(rdx)?;
        a.mov(rsi, rsp)?;
        a.mov(ecx, 4)?;
        a.rep().movsb()?;
        a.pop(rax)?;
        a.mov(rcx, r9)
    }),
    ("push", |a| {
        a.mov(r9, rsp)?;
        a.lea(rsp, qword_ptr(rdi + 8))?;
        a.push(r8)?;
        a.mov(rsp, r9)
    }),
    ("push memory", |a| {
        a.push(r8)?;
        a.mov(rsi, rsp)?;
        a.mov(r9, rsp)?;
        a.lea(rsp, qword_ptr(rdi + 8))?;
        a.push(qword_ptr(rsi))?;
        a.mov(rsp, r9)?;
        a.pop(rax)
    }),
    ("pop", |a| {
        a.push(r8)?;
        a.pop(qword_ptr(rdi))
    }),
    ("movd", |a| {
        a.movd(xmm0, edx)?;
        a.movd(dword_ptr(rdi), xmm0)
    }),
    ("movss", |a| {
        a.movd(xmm0, edx)?;
        a.movss(dword_ptr(rdi), xmm0)
    }),
    ("movq", |a| {
        a.movq(xmm0, r8)?;
        a.movq(qword_ptr(rdi), xmm0)
    }),
    ("movhps", |a| {
        a.movq(xmm0, r8)?;
        a.shufps(xmm0, xmm0, 0x44)?;
        a.movhps(qword_ptr(rdi), xmm0)
    }),
    ("pextrb", |a| {
        a.movd(xmm0, edx)?;
        a.pextrb(byte_ptr(rdi), xmm0, 0)
    }),
    ("movups", |a| {
        a.movups(xmm1, xmmword_ptr(rdi))?;
        a.pinsrd(xmm1, edx, 0)?;
        a.movups(xmmword_ptr(rdi), xmm1)
    }),
    ("vmovups ymm", |a| {
        a.vmovups(ymm1, ymmword_ptr(rdi))?;
        a.vmovd(xmm0, edx)?;
        a.vpblendd(ymm1, ymm1, ymm0, 1)?;
        a.vmovups(ymmword_ptr(rdi), ymm1)
    }),
    ("vpmaskmovd", |a| {
        a.vpcmpeqd(xmm2, xmm2, xmm2)?;
        a.vmovd(xmm0, edx)?;
        a.vpsrldq(xmm2, xmm2, 12)?;
        a.vpmaskmovd(xmmword_ptr(rdi), xmm2, xmm0)
    }),
    ("maskmovdqu", |a| {
        a.pcmpeqd(xmm2, xmm2)?;
        a.psrldq(xmm2, 12)?;
        a.movd(xmm0, edx)?;
        a.maskmovdqu(xmm0, xmm2)
    }),
    ("fistp", |a| {
        a.push(r8)?;
        a.fild(qword_ptr(rsp))?;
        a.fistp(qword_ptr(rdi))?;
        a.pop(rax)
    }),
    ("movq mm", |a| {
        a.movq(mm0, r8)?;
        a.movq(qword_ptr(rdi), mm0)?;
        a.emms()
    }),
    ("stmxcsr", |a| a.stmxcsr(dword_ptr(rdi))),
    ("fnstcw", |a| a.fnstcw(word_ptr(rdi))),
    ("mov from segment", |a| a.mov(word_ptr(rdi), ss)),
    ("smsw", |a| a.smsw(word_ptr(rdi))),
];

/// EDX is the round's value, R8 that and what lies behind it.
fn prepare_values(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.imul_3(edx, ecx, 0x0101_0507)?;
    a.mov(r8d, BEHIND as u32)?;
    a.shl(r8, 32)?;
    a.mov(eax, edx)?;
    a.or(r8, rax)
}

fn with_avx(b: &mut Bench) {
    b.state.cr4 |= Cr4::OSXSAVE;
    b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
}

fn site_is_intact(b: &Bench, site: u64) {
    assert_eq!(b.peek(site + 5) as u32, BEHIND as u32, "the program is still what it was");
}

#[test]
fn every_store_right_before_the_rewritten_instruction_is_seen_by_it() {
    for (name, store) in STORES {
        for alias in [false, true] {
            println!("{name}, alias: {alias}");
            let offset = if alias { WINDOW - CODE } else { 0 };
            let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                let (mut again, mut site) = (a.create_label(), a.create_label());
                a.xor(ebx, ebx)?;
                a.mov(ecx, ROUNDS)?;
                a.mov(r13, offset)?;
                a.set_label(&mut again)?;
                prepare_values(a)?;
                a.lea(r15, qword_ptr(site))?;
                a.lea(rdi, qword_ptr(r15 + r13 + 1))?;
                store(a)?;
                a.set_label(&mut site)?;
                a.mov(eax, 0x1111_1111)?;
                a.add(ebx, eax)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                a.hlt()
            };
            let b = Pair::new(|a| emit(a).unwrap())
                .set_up(|b| {
                    with_avx(b);
                    b.map(0, CODE | 7);
                    b.map(1, (CODE + 0x1000) | 7);
                })
                .run();
            site_is_intact(&b, b.state.gpr[15]);
            if *name == "mov dword" {
                let sum = (1..=ROUNDS).fold(0_u32, |s, i| s.wrapping_add(i.wrapping_mul(0x0101_0507)));
                assert_eq!(b.state.gpr[RBX], u64::from(sum));
            }
        }
    }
}

type EmitTo = fn(&mut CodeAssembler, u64) -> Result<(), IcedError>;

/// Ways to get to the block that is rewritten, which adds to EBX and returns if it was called.
const WAYS: &[(&str, u64, bool, EmitTo)] = &[
    ("jmp in the page", CODE + 0x800, false, |a, to| a.jmp(to)),
    ("jmp to another page", CODE + 0x2800, false, |a, to| a.jmp(to)),
    ("jcc in the page", CODE + 0x800, false, |a, to| {
        a.test(rsp, rsp)?;
        a.jnz(to)
    }),
    ("jcc to another page", CODE + 0x2800, false, |a, to| {
        a.test(rsp, rsp)?;
        a.jnz(to)
    }),
    ("call in the page", CODE + 0x800, true, |a, to| a.call(to)),
    ("call to another page", CODE + 0x2800, true, |a, to| a.call(to)),
    ("call through a register", CODE + 0x800, true, |a, to| {
        a.mov(rax, to)?;
        a.call(rax)
    }),
    ("jmp through a register", CODE + 0x2800, false, |a, to| {
        a.mov(rax, to)?;
        a.jmp(rax)
    }),
    ("ret", CODE + 0x2800, false, |a, to| {
        a.mov(rax, to)?;
        a.push(rax)?;
        a.ret()
    }),
    ("call through memory", CODE + 0x2800, true, |a, to| {
        a.mov(rax, to)?;
        a.push(rax)?;
        a.call(qword_ptr(rsp))?;
        a.pop(rax)
    }),
];

/// The block at a fixed place: `mov eax, imm32; add ebx, eax`, and back.
fn put_block(b: &mut Bench, at: u64, called: bool, back: u64) {
    b.assemble(at, |a| {
        a.mov(eax, 0x55).unwrap();
        a.add(ebx, eax).unwrap();
        if called {
            a.ret().unwrap();
        } else {
            a.jmp(back).unwrap();
        }
    });
}

/// A loop that goes to the block each time, and rewrites it every eighth time by `rewrite`, with RDI at the immediate
/// and EDX the new value.
fn rewriting_loop(rewrite: Emit, offset: u64) {
    for &(name, site, called, go) in WAYS {
        println!("{name}");
        let after = CODE + 0x400;
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut skip = a.create_label();
            a.test(ecx, 7)?;
            a.jnz(skip)?;
            a.mov(rdi, (site + 1).wrapping_add(offset))?;
            a.mov(edx, ecx)?;
            rewrite(a)?;
            a.set_label(&mut skip)?;
            go(a, site)?;
            a.jmp(after)
        };
        let b = Pair::new(|a| emit(a).unwrap())
            .set_up(|b| {
                put_block(b, site, called, after);
                b.assemble(after, |a| {
                    a.dec(ecx).unwrap();
                    a.jnz(CODE).unwrap();
                    a.hlt().unwrap();
                });
                for page in 0..4 {
                    b.map(page, (CODE + page * 0x1000) | 7);
                }
                b.state.gpr[1] = 203;
                let ram = Arc::clone(b.machine.ram());
                b.machine.port.lock().unwrap().on_port_write.0 =
                    Some(Box::new(move |value| ram.write(Gpa(site + 1), &value.to_le_bytes()).unwrap()));
            })
            .run();
        let (mut value, mut sum) = (0x55, 0);
        for i in (1..=203).rev() {
            value = if i & 7 == 0 { i } else { value };
            sum += value;
        }
        assert_eq!(b.state.gpr[RBX], sum, "{name}");
    }
}

#[test]
fn links_and_remembered_jumps_to_rewritten_blocks_are_cut() {
    rewriting_loop(|a| a.mov(dword_ptr(rdi), edx), 0);
}

#[test]
fn links_are_cut_by_a_store_through_an_alias() {
    rewriting_loop(|a| a.mov(dword_ptr(rdi), edx), WINDOW - CODE);
}

#[test]
fn links_are_cut_by_a_device_that_writes_code_when_asked() {
    rewriting_loop(
        |a| {
            a.mov(eax, edx)?;
            a.mov(dx, 0x500)?;
            a.out(dx, eax)
        },
        0,
    );
}

/// Cells of the conversation with the host thread, in a page of their own.
const ASKED: u64 = DATA;
const DONE: u64 = DATA + 64;

#[test]
fn code_written_by_another_thread_is_run_by_a_guest_that_only_polls_memory() {
    const TIMES: u32 = 200;
    let function = CODE + 0x3000;
    for (bench, engine) in ENGINES.map(|engine| {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let (mut again, mut warm, mut poll) = (a.create_label(), a.create_label(), a.create_label());
            a.xor(ebx, ebx)?;
            a.xor(ecx, ecx)?;
            a.set_label(&mut again)?;
            // Code is hot before it changes.
            a.mov(edx, 20)?;
            a.set_label(&mut warm)?;
            a.call(function)?;
            a.dec(edx)?;
            a.jnz(warm)?;
            a.inc(ecx)?;
            a.mov(dword_ptr(ASKED), ecx)?;
            a.set_label(&mut poll)?;
            a.pause()?;
            a.cmp(dword_ptr(DONE), ecx)?;
            a.jne(poll)?;
            a.call(function)?;
            a.add(ebx, eax)?;
            a.cmp(ecx, TIMES as i32)?;
            a.jne(again)?;
            a.hlt()
        };
        let mut b = Bench::new(|a| emit(a).unwrap());
        b.assemble(function, |a| {
            a.mov(eax, 0x55).unwrap();
            a.ret().unwrap();
        });
        (b, engine)
    }) {
        let ram = Arc::clone(bench.machine.ram());
        let writer = std::thread::spawn(move || {
            for i in 1..=TIMES {
                let mut asked = [0; 4];
                while u32::from_le_bytes(asked) != i {
                    std::thread::yield_now();
                    ram.read(Gpa(ASKED), &mut asked).unwrap();
                }
                ram.write(Gpa(function + 1), &(i * i).to_le_bytes()).unwrap();
                ram.write(Gpa(DONE), &i.to_le_bytes()).unwrap();
            }
        });
        let mut vcpu = bench.vcpu_of(engine);
        assert_eq!(run_until_halt(&bench, &mut *vcpu), Exit::Halted);
        writer.join().unwrap();
        let sum = (1..=TIMES).map(|i| i * i).sum::<u32>();
        assert_eq!(vcpu.save().unwrap().gpr[RBX], u64::from(sum), "{}", engine.name());
    }
}

#[test]
fn a_block_that_rewrites_its_own_beginning_runs_anew_in_a_loop() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 300)?;
        a.set_label(&mut again)?;
        // add ebx, imm8
        a.db(&[0x83, 0xc3, 1])?;
        a.lea(rdi, qword_ptr(again))?;
        a.inc(byte_ptr(rdi + 2))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap()).run();
    let sum = (1..=300_u32).map(|i| i as u8 as i8).fold(0_u32, |s, i| s.wrapping_add(i as u32));
    assert_eq!(b.state.gpr[RBX], u64::from(sum));
}

#[test]
fn an_exception_frame_pushed_onto_code_is_seen() {
    // The stack lies in the code page: the frame of INT3 overwrites `mov eax, imm32` (five times 8 bytes below RSP).
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.call(CODE + 0x700)?;
        a.mov(rsp, CODE + 0x730)?;
        a.int3()?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.assemble(CODE + 0x700, |a| {
                a.mov(eax, 0x55).unwrap();
                a.ret().unwrap();
            });
            // The handler goes to what is the frame now: its RIP's low bytes are executed.
            let handler = HANDLERS + 16 * 3;
            b.assemble(handler, |a| {
                a.mov(rax, CODE + 0x700).unwrap();
                a.jmp(rax).unwrap();
            });
        })
        .run();
    // It is a page fault or an invalid opcode or whatever the bytes are: both engines agree, which `run` has checked.
    assert_ne!(b.peek(CODE + 0x708), 0);
}
