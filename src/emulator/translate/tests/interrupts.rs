//! Interrupts at random moments: whatever block they hit, the interrupted computation never notices.
//!
//! The full count: `TRIVISOR_INTERRUPTS=10000000 cargo test --release --lib -- --ignored ten_million_interrupts`.
use super::*;
use crate::arch::state::gpr::{RAX, RBX};
use crate::arch::{Cr4, Rflags, Xcr0};
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const VECTOR: u8 = 0x40;
/// How many interrupts the handler counted.
const COUNT: u64 = DATA;
/// How many there shall be.
const WANTED: u64 = DATA + 8;
/// What each pass must give, and how many gave something else.
const EXPECTED: u64 = DATA + 16;
const WRONG: u64 = DATA + 24;
const PASSES: u64 = DATA + 32;
const SCRATCH: u64 = DATA + 0x800;
const TABLE: u64 = DATA + 0x100;
const PASS: u64 = CODE + 0x400;

/// One pass of the computation: the result in RAX. Flags live across branches, a carry chain, calls, an indirect
/// jump, string instructions, divisions, vectors that stay in registers.
fn pass(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut chain, mut case0, mut case1, mut on) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    let mut function = a.create_label();
    a.lea(rax, qword_ptr(case0))?;
    a.mov(qword_ptr(TABLE), rax)?;
    a.lea(rax, qword_ptr(case1))?;
    a.mov(qword_ptr(TABLE + 8), rax)?;
    a.mov(rax, 0x1234_5678_9abc_def0_u64)?;
    a.mov(r12, 0x9e37_79b9_7f4a_7c15_u64)?;
    a.movq(xmm3, r12)?;
    a.pxor(xmm4, xmm4)?;
    a.vpxor(ymm5, ymm5, ymm5)?;
    a.mov(ecx, 60)?;
    a.set_label(&mut again)?;
    // A carry chain whose loop keeps CF from one round to the next.
    a.mov(rsi, SCRATCH)?;
    a.mov(edx, 6)?;
    a.add(rax, r12)?;
    a.set_label(&mut chain)?;
    a.adc(qword_ptr(rsi), rax)?;
    a.lea(rsi, qword_ptr(rsi + 8))?;
    a.rcl(rax, 1)?;
    a.dec(edx)?;
    a.jnz(chain)?;
    a.adc(rax, 0)?;
    a.call(function)?;
    a.push(rax)?;
    a.pop(r13)?;
    a.mov(ebx, ecx)?;
    a.and(ebx, 1)?;
    a.jmp(qword_ptr(rbx * 8 + TABLE as i32))?;
    a.set_label(&mut case0)?;
    a.xor(rax, r13)?;
    a.sbb(rax, rcx)?;
    a.jmp(on)?;
    a.set_label(&mut case1)?;
    a.ror(rax, cl)?;
    a.adc(rax, r12)?;
    a.set_label(&mut on)?;
    a.paddq(xmm4, xmm3)?;
    a.vpaddq(ymm5, ymm5, ymm4)?;
    a.dec(ecx)?;
    a.jnz(again)?;
    a.movq(rdx, xmm4)?;
    a.add(rax, rdx)?;
    a.vextracti128(xmm6, ymm5, 1)?;
    a.movq(rdx, xmm6)?;
    a.adc(rax, rdx)?;
    a.movq(rdx, xmm5)?;
    a.adc(rax, rdx)?;
    // A loop over three arrays, which borrows registers that hold something.
    let mut round = a.create_label();
    a.lea(rbp, qword_ptr(rax + 1))?;
    a.lea(rbx, qword_ptr(rax + 2))?;
    a.lea(r14, qword_ptr(rax + 3))?;
    a.mov(edi, CODE as u32)?;
    a.mov(esi, PASS as u32)?;
    a.mov(edx, (SCRATCH + 0x100) as u32)?;
    a.xor(r9d, r9d)?;
    a.set_label(&mut round)?;
    a.mov(r8, qword_ptr(rdi + r9 * 8))?;
    a.add(r8, qword_ptr(rsi + r9 * 8))?;
    a.mov(qword_ptr(rdx + r9 * 8), r8)?;
    a.add(rax, r8)?;
    a.add(r9, 1)?;
    a.cmp(r9, 6)?;
    a.jne(round)?;
    for register in [rbp, rbx, r14] {
        a.ror(rax, 7)?;
        a.add(rax, register)?;
    }
    // Leave memory as it was found.
    a.mov(r8, rax)?;
    a.mov(edi, SCRATCH as u32)?;
    a.mov(ecx, 64)?;
    a.xor(eax, eax)?;
    a.rep().stosb()?;
    a.mov(rax, r8)?;
    a.ret()?;
    a.set_label(&mut function)?;
    a.push(rbp)?;
    a.mov(rbp, rsp)?;
    a.mov(r9, rax)?;
    a.xor(edx, edx)?;
    a.mov(ebx, 97)?;
    a.div(rbx)?;
    a.imul_2(rdx, r12)?;
    a.add(rax, rdx)?;
    a.lahf()?;
    a.adc(rax, r9)?;
    a.leave()?;
    a.ret()
}

/// Passes until enough interrupts were counted.
fn driver(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut right) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.call(PASS)?;
    a.cmp(rax, qword_ptr(EXPECTED))?;
    a.je(right)?;
    a.inc(qword_ptr(WRONG))?;
    a.mov(rbx, rax)?;
    a.set_label(&mut right)?;
    a.inc(qword_ptr(PASSES))?;
    a.mov(rdx, qword_ptr(WANTED))?;
    a.cmp(qword_ptr(COUNT), rdx)?;
    a.jb(again)?;
    a.int(0x81)
}

/// Counts, and spoils flags, vectors and what it saves.
fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(rax)?;
    a.push(rcx)?;
    a.push(r12)?;
    a.sub(rsp, 32)?;
    a.vmovdqu(ymmword_ptr(rsp), ymm4)?;
    a.inc(qword_ptr(COUNT))?;
    a.mov(r12, qword_ptr(COUNT))?;
    a.mov(eax, r12d)?;
    a.vpcmpeqd(ymm4, ymm4, ymm4)?;
    a.shl(eax, 3)?;
    a.sbb(ecx, ecx)?;
    a.cmp(eax, ecx)?;
    a.vmovdqu(ymm4, ymmword_ptr(rsp))?;
    a.add(rsp, 32)?;
    a.pop(r12)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.iretq()
}

fn bench(ring: u8, wanted: u64) -> Bench {
    let mut b = Bench::new(|a| driver(a).unwrap());
    b.state.cr4 |= Cr4::OSXSAVE;
    b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    b.assemble(PASS, |a| pass(a).unwrap());
    b.assemble(CODE + 0xc00, |a| handler(a).unwrap());
    b.assemble(HANDLERS + 16 * u64::from(VECTOR), |a| a.jmp(CODE + 0xc00).unwrap());
    b.gate(0x81, 3, 0);
    b.poke(WANTED, wanted);
    if ring == 3 {
        b.enter_ring3();
    }
    b
}

/// What one pass gives without interrupts, on the interpreter.
fn expected() -> u64 {
    let b = bench(0, 0);
    let mut vcpu = b.vcpu();
    assert_eq!(run_until_halt(&b, &mut *vcpu), Exit::Halted);
    vcpu.save().unwrap().gpr[RAX]
}

/// Raises interrupts at random moments until the guest has had `wanted`, in ring `ring`.
fn storm(engine: EmuEngine, ring: u8, wanted: u64) {
    let expected = expected();
    let mut b = bench(ring, wanted);
    b.poke(EXPECTED, expected);
    b.state.rflags |= Rflags::IF;
    let ended = Arc::new(AtomicBool::new(false));
    let raised = Arc::new(AtomicU64::new(0));
    let raiser = std::thread::spawn({
        let (interrupts, ended, raised) =
            (Arc::clone(&b.machine.interrupts), Arc::clone(&ended), Arc::clone(&raised));
        move || {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            while !ended.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Mostly within a pass or a handler, sometimes long after.
                let most = if random >> 60 == 0 { 2048 } else { 32 };
                for _ in 0..random % most {
                    std::hint::spin_loop();
                }
                if !crate::bus::InterruptController::pending(&*interrupts, CPU) {
                    interrupts.raise(VECTOR);
                    raised.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let mut vcpu = b.vcpu_of(engine);
    let exit = run_until_halt(&b, &mut *vcpu);
    ended.store(true, Ordering::Relaxed);
    raiser.join().unwrap();
    let state = vcpu.save().unwrap();
    let (passes, count) = (b.peek(PASSES), b.peek(COUNT));
    println!("{} in ring {ring}: {count} interrupts in {passes} passes", engine.name());
    assert_eq!((exit, state.rip), (Exit::Halted, HANDLERS + 16 * 0x81 + 1));
    assert_eq!(b.peek(WRONG), 0, "the last wrong result was {:#x}, not {expected:#x}", state.gpr[RBX]);
    assert!(count >= wanted && passes > 0);
    let raised = raised.load(Ordering::Relaxed);
    assert!(raised == count || raised == count + 1, "{raised} raised, {count} taken: each is taken once");
}

#[test]
fn a_computation_survives_interrupts_at_random_points() {
    for ring in [0, 3] {
        storm(EmuEngine::Translator, ring, 5_000);
    }
    storm(EmuEngine::Single, 0, 500);
}

#[test]
#[ignore = "takes minutes; the head of the file has the command"]
fn ten_million_interrupts() {
    let wanted = std::env::var("TRIVISOR_INTERRUPTS").map_or(10_000_000, |n| n.parse().unwrap());
    for ring in [0, 3] {
        storm(EmuEngine::Translator, ring, wanted / 2);
    }
}

/// Loops that have no end, by what closes them.
const LOOPS: &[(&str, Emit)] = &[
    ("jmp to itself", |a| a.db(&[0xeb, 0xfe])),
    ("jcc", |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.test(rsp, rsp)?;
        a.jnz(again)
    }),
    ("a link forward and one back", |a| {
        let (mut on, mut again) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.test(rsp, rsp)?;
        a.jnz(on)?;
        a.hlt()?;
        a.set_label(&mut on)?;
        a.jmp(again)
    }),
    ("jmp between pages", |a| a.jmp(CODE + 0x1000)),
    ("jcc between pages", |a| {
        a.test(rsp, rsp)?;
        a.jnz(CODE + 0x1000)
    }),
    ("jmp through a register", |a| {
        a.mov(rax, CODE)?;
        a.jmp(rax)
    }),
    ("call and ret", |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.call(CODE + 0x1800)?;
        a.call(CODE + 0x1800)?;
        a.jmp(again)
    }),
    ("ret alone", |a| {
        a.mov(rax, CODE)?;
        a.push(rax)?;
        a.ret()
    }),
    ("iretq", |a| {
        a.mov(rdx, rsp)?;
        a.push(0x10)?;
        a.push(rdx)?;
        a.push(2)?;
        a.push(8)?;
        a.push(CODE as i32)?;
        a.iretq()
    }),
    ("loop", |a| a.db(&[0x31, 0xc9, 0xe2, 0xfc])),
    ("rep", |a| {
        a.mov(rcx, -1_i64 as u64)?;
        a.xor(esi, esi)?;
        a.mov(edi, 0x4000_0000_u32)?;
        a.rep().lodsb()
    }),
    ("an exception each time", |a| a.ud2()),
];

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

#[test]
fn every_kind_of_endless_loop_is_left_when_asked() {
    for (name, emit) in LOOPS {
        println!("{name}");
        let mut b = Bench::new(|a| emit(a).unwrap());
        b.assemble(CODE + 0x1000, |a| a.jmp(CODE).unwrap());
        b.assemble(CODE + 0x1800, |a| a.ret().unwrap());
        // #UD comes back to where it was.
        b.assemble(HANDLERS + 16 * 6, |a| a.iretq().unwrap());
        b.state.gpr[RBX] = 7;
        let kick = Arc::clone(b.machine.platform.kick(CPU));
        let mut vcpu = b.vcpu_of(EmuEngine::Translator);
        let kicker = std::thread::spawn(move || {
            for _ in 0..5 {
                std::thread::sleep(std::time::Duration::from_millis(2));
                kick.kick();
            }
        });
        assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Kicked, "{name}");
        kicker.join().unwrap();
        let state = vcpu.save().unwrap();
        assert_eq!(state.gpr[RBX], 7);
        let inside = (CODE..CODE + 0x2000).contains(&state.rip) || state.rip == HANDLERS + 16 * 6;
        assert!(inside, "{name}: {:#x}", state.rip);
    }
}

/// Runs a guest that would not end, and kicks it.
fn hears_a_kick(b: &Bench) {
    let mut vcpu = b.vcpu_of(EmuEngine::Translator);
    let kick = Arc::clone(b.machine.platform.kick(CPU));
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        kick.kick();
    });
    assert_eq!(vcpu.run(&b.machine.platform).unwrap(), Exit::Kicked);
    kicker.join().unwrap();
}

/// Each function calls the next one twice, further on in the page: no jump goes back, yet it takes minutes.
#[test]
fn a_tree_of_calls_forward_hears_a_kick() {
    let b = Bench::new(|a| {
        let mut labels: Vec<_> = (0..38).map(|_| a.create_label()).collect();
        a.call(labels[0]).unwrap();
        a.hlt().unwrap();
        for i in 0..labels.len() {
            a.set_label(&mut labels[i]).unwrap();
            if let Some(&next) = labels.get(i + 1) {
                a.call(next).unwrap();
                a.call(next).unwrap();
            }
            a.ret().unwrap();
        }
    });
    hears_a_kick(&b);
}

/// Code at the end of the last page runs on into the first page: no branch goes back.
fn around_the_end(last: &[u8], first: &[u8], start: u64) {
    use crate::engine::fake::FakeMachine;
    const LAST: u64 = 0x8000;
    let b = Bench::new(|a| {
        a.mov(ecx, 2).unwrap();
        a.mov(rax, start).unwrap();
        a.jmp(rax).unwrap();
    });
    let tables = [FakeMachine::TABLES.0, 0xe000, 0xf000, 0x30_0000, LAST];
    for pair in tables.windows(2) {
        b.poke(pair[0] + 8 * 511, pair[1] | 7);
    }
    let ram = b.machine.ram();
    ram.write(Gpa(LAST + 0x1000 - last.len() as u64), last).unwrap();
    ram.write(Gpa(0), first).unwrap();
    hears_a_kick(&b);
}

#[test]
fn a_loop_around_the_end_of_the_address_space_hears_a_kick() {
    const TOP: u64 = 0xffff_ffff_ffff_f000;
    // jmp to the last 16 bytes, which are NOPs; at 0: jmp -0x1000.
    let mut page = [0x90; 0x1000];
    page[..5].copy_from_slice(&[0xe9, 0xeb, 0x0f, 0, 0]);
    around_the_end(&page, &[0xe9, 0xfb, 0xef, 0xff, 0xff], TOP);
    // dec ecx; jnz back to it: left in the middle of what it is unrolled to. At 0: mov ecx, 2; jmp -4.
    around_the_end(&[0xff, 0xc9, 0x75, 0xfc], &[0xb9, 2, 0, 0, 0, 0xe9, 0xf2, 0xff, 0xff, 0xff], TOP + 0xffc);
}
