//! Random programs, a block at a time: after each block the interpreter runs to the same instruction, and registers,
//! flags, vectors and the programs' data are compared; all memory at the end.
//!
//! `TRIVISOR_LOCKSTEP` is the number of programs, `TRIVISOR_LOCKSTEP_SEED` where they begin.
use super::*;
use crate::arch::{Cr4, Rflags, Xcr0};
use crate::emulator::single::{Ended, Outcome};
use crate::emulator::technique::Without;
use crate::emulator::translate::session::Translator;
use iced_x86::code_asm::*;
use std::sync::Arc;

/// Instructions that a block can have: so far the interpreter looks for the end of one.
const MOST_STEPS: usize = 70;
/// A page that may be read only.
const READ_ONLY: u64 = WINDOW + 0x2000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

const R64: [AsmRegister64; 11] = [rax, rbx, rcx, rdx, rbp, r8, r9, r10, r11, r12, r13];
const R32: [AsmRegister32; 11] = [eax, ebx, ecx, edx, ebp, r8d, r9d, r10d, r11d, r12d, r13d];
const R16: [AsmRegister16; 11] = [ax, bx, cx, dx, bp, r8w, r9w, r10w, r11w, r12w, r13w];
const R8: [AsmRegister8; 14] = [al, bl, cl, dl, bpl, r8b, r9b, r10b, r11b, r12b, r13b, ah, bh, dh];
const X: [AsmRegisterXmm; 5] = [xmm0, xmm1, xmm7, xmm8, xmm15];
const Y: [AsmRegisterYmm; 5] = [ymm0, ymm1, ymm7, ymm8, ymm15];

/// An operand in the two pages of data, now and then across their border, of which RSI points to the middle.
fn place(r: &mut Random) -> AsmMemoryOperand {
    let disp = r.below(0x600) as i32 - 0x300;
    match r.below(6) {
        0 => rsi + r14 * 2 + disp,
        1 => ptr((DATA + 0x1000).wrapping_add_signed(disp.into())),
        2 => rdi + r14 * 8 + (disp & !31),
        _ => rsi + disp,
    }
}

/// One instruction (or a few that belong together) that leaves RSI, RDI, RSP, R14, R15 alone. Flags that the manual leaves
/// undefined are compared, too: both make them by the host's own instruction.
fn instruction(a: &mut CodeAssembler, r: &mut Random) -> Result<(), IcedError> {
    let (d, s) = (r.below(11) as usize, r.below(11) as usize);
    let (b, c) = (r.below(14) as usize, r.below(11) as usize);
    let (x, y) = (r.below(5) as usize, r.below(5) as usize);
    let m = place(r);
    match r.below(54) {
        0 => a.add(R64[d], R64[s]),
        1 => a.adc(R32[d], R32[s]),
        2 => a.sbb(R64[d], r.next() as i32),
        3 => a.sub(R8[c], R8[c]),
        4 => a.cmp(R16[d], R16[s]),
        5 => a.add(R64[d], qword_ptr(m)),
        6 => a.adc(dword_ptr(m), R32[s]),
        7 => a.sub(byte_ptr(m), R8[c]),
        8 => a.sbb(word_ptr(m), R16[s]),
        9 => a.inc(R64[d]),
        10 => a.dec(dword_ptr(m)),
        11 => a.neg(R32[d]),
        12 => a.not(qword_ptr(m)),
        13 => a.mov(R64[d], r.next()),
        14 => a.mov(R32[d], dword_ptr(m)),
        15 => a.mov(qword_ptr(m), R64[s]),
        16 => a.mov(byte_ptr(m), R8[c]),
        17 => a.movzx(R32[d], byte_ptr(m)),
        18 => a.movsx(R64[d], word_ptr(m)),
        19 => a.movsxd(R64[d], R32[s]),
        20 => a.lea(R64[d], qword_ptr(R64[s] + R64[d] * 4 + 77)),
        21 => a.lea(R32[d], qword_ptr(R64[s] - 5)),
        22 => a.shl(R64[d], 1),
        23 => a.sar(R32[d], 1),
        24 => a.rcr(R64[d], 1),
        25 => a.rol(qword_ptr(m), 1),
        26 => a.cmovb(R64[d], R64[s]),
        27 => a.cmovle(R32[d], dword_ptr(m)),
        28 => a.seto(R8[b.min(10)]),
        29 => a.setp(byte_ptr(m)),
        30 => {
            a.push(R64[s])?;
            a.pop(R64[d])
        }
        31 => a.xchg(qword_ptr(m), R64[d]),
        32 => a.lock().xadd(qword_ptr(m), R64[s]),
        33 => a.cmpxchg(dword_ptr(m), R32[s]),
        34 => a.mul(R64[s]),
        35 => {
            a.xor(edx, edx)?;
            a.or(R32[1 + s % 2], 3)?;
            a.div(R32[1 + s % 2])
        }
        36 => a.paddd(X[x], X[y]),
        37 => a.movups(X[x], xmmword_ptr(m)),
        38 => a.movups(xmmword_ptr(m), X[x]),
        39 => a.vpaddq(Y[x], Y[y], ymmword_ptr(m)),
        40 => a.vmovdqu(ymmword_ptr(m), Y[x]),
        41 => a.movq(X[x], R64[s]),
        42 => a.movq(R64[d], X[x]),
        43 => a.cvtsi2sd(X[x], R64[s]),
        44 => {
            a.stosq()?;
            a.lea(rdi, qword_ptr(rdi - 8))
        }
        45 => a.imul_2(R64[d], R64[s]),
        46 => a.imul_3(R32[d], dword_ptr(m), r.next() as i8 as i32),
        47 => a.and(R64[d], R64[s]),
        48 => a.shl(R64[d], r.next() as u8 as u32),
        49 => a.bsf(R64[d], R64[s]),
        50 => a.bt(R32[d], R32[s]),
        51 => a.shld(R64[d], R64[s], r.next() as u8 as u32),
        52 => a.mul(byte_ptr(m)),
        // Seven bytes: the handler of page faults skips it.
        _ => {
            let disp = r.below(0x80) as u32 * 16;
            let mut bytes = vec![0x41, [0x8b, 0x89, 0x01][r.below(3) as usize], 0x86];
            bytes.extend((READ_ONLY as u32 + disp - 0x10).to_le_bytes());
            a.mov(r14, 0x10_u64)?;
            a.db(&bytes)?;
            a.mov(r14, 3_u64)
        }
    }
}

/// A loop of a few rounds over random instructions, with branches forward, calls and jumps through registers.
fn program(a: &mut CodeAssembler, seed: u64) -> Result<(), IcedError> {
    let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut again, mut function) = (a.create_label(), a.create_label());
    a.mov(rsi, DATA + 0x1000)?;
    a.mov(rdi, DATA + 0xc00)?;
    a.mov(r14, 3_u64)?;
    a.mov(r15d, 2 + r.below(6) as u32)?;
    a.set_label(&mut again)?;
    for _ in 0..3 + r.below(12) {
        for _ in 0..r.below(8) {
            instruction(a, &mut r)?;
        }
        let mut on = a.create_label();
        match r.below(9) {
            0 => a.jo(on)?,
            1 => a.jb(on)?,
            2 => a.jne(on)?,
            3 => a.jle(on)?,
            4 => a.jp(on)?,
            5 => a.jmp(on)?,
            6 => a.call(function)?,
            7 => {
                a.lea(rax, qword_ptr(on))?;
                a.jmp(rax)?;
            }
            _ => {
                a.lea(rcx, qword_ptr(function))?;
                a.call(rcx)?;
            }
        }
        for _ in 0..r.below(4) {
            instruction(a, &mut r)?;
        }
        a.set_label(&mut on)?;
        a.nop()?;
    }
    a.dec(r15)?;
    a.jnz(again)?;
    a.hlt()?;
    a.set_label(&mut function)?;
    for _ in 0..r.below(4) {
        instruction(a, &mut r)?;
    }
    a.ret()
}

pub(super) fn bench(seed: u64) -> Bench {
    let mut b = Bench::new(|a| program(a, seed).unwrap());
    b.state.cr4 |= Cr4::OSXSAVE;
    b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    let mut r = Random(seed | 1 << 40);
    for at in (0..0x2000).step_by(8) {
        b.poke(DATA + at, r.next());
    }
    b.map(2, (DATA + 0x4000) | 5);
    b.assemble(HANDLERS + 16 * 14, |a| a.jmp(CODE + 0xf000).unwrap());
    b.assemble(CODE + 0xf000, |a| {
        a.add(rsp, 8).unwrap();
        a.add(qword_ptr(rsp), 7).unwrap();
        a.iretq().unwrap();
    });
    b
}

fn data(b: &Bench) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    b.machine.ram().read(Gpa(DATA), &mut bytes).unwrap();
    bytes
}

/// Runs one program, `blocks` blocks at a time; gives the number of comparisons.
pub(super) fn compare(seed: u64, blocks: u32, without: Without) -> usize {
    let (mut one, mut other) = (bench(seed), bench(seed));
    let mut translator = Translator::new(CPU, Arc::clone(other.machine.ram()));
    translator.budget = Some(blocks);
    translator.leave_out(without);
    for round in 0.. {
        let from = other.state.rip;
        let ended = translator.run(&mut other.state, &other.machine.platform).unwrap();
        let (mut lines, mut halted) = (Vec::new(), false);
        for _ in 0..MOST_STEPS * blocks as usize {
            halted = one.step() == Outcome::Halted;
            if one.state.rip == other.state.rip {
                // RF after IRET lasts for an instruction on the one, up to the next block on the other.
                let mut state = other.state.clone();
                state.rflags.remove(Rflags::RF);
                one.state.rflags.remove(Rflags::RF);
                lines = differences(&one.state, &state);
                if lines.is_empty() {
                    break;
                }
            }
            if halted {
                break;
            }
        }
        assert_eq!(one.state.rip, other.state.rip, "seed {seed}: from {from:#x}, round {round}");
        assert!(
            lines.is_empty(),
            "seed {seed}: from {from:#x} to {:#x}:\n{}",
            one.state.rip,
            lines.join("\n")
        );
        assert!(data(&one) == data(&other), "seed {seed}: data, from {from:#x} to {:#x}", one.state.rip);
        if ended == Ended::Halted {
            assert!(halted);
            compare_memory(&one, &other);
            return round + 1;
        }
        assert_eq!(ended, Ended::Attention);
    }
    unreachable!("the loop ends by returning")
}

#[test]
fn random_programs_agree_block_by_block() {
    let setting = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let first = setting("TRIVISOR_LOCKSTEP_SEED", 1);
    let count = setting("TRIVISOR_LOCKSTEP", 300);
    let compared: usize = (first..first + count).map(|seed| compare(seed, 1, Without::NOTHING)).sum();
    println!("{count} programs, {compared} comparisons");
    assert!(compared as u64 > 10 * count);
}

#[test]
fn random_programs_agree_when_blocks_are_linked() {
    for seed in 1..=200 {
        Pair { benches: [bench(seed), bench(seed)] }.run();
    }
}
