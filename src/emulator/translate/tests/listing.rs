//! The host code of representative guest instructions, pinned: a slower translation shows as a difference.
//!
//! After an intended change: `INSTA_UPDATE=always cargo test --lib listing`, then read the difference.
use super::*;
use crate::arch::{Cr4, Xcr0};
use crate::emulator::code::stubs::{Callees, Stubs};
use crate::emulator::code::{CAPACITY, CodeStore, context::Context};
use crate::emulator::emit::Assembler;
use crate::emulator::single::int::PRODUCTS_SET_FLAGS;
use crate::emulator::translate::{Limits, Workshop, translate};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind};
use std::fmt::Write;

extern "sysv64" fn no_answer(_: *mut Context, _: u32) -> usize {
    0
}

extern "sysv64" fn no_access(_: *mut Context, _: u32, _: u32) -> u32 {
    0
}

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const INSTRUCTIONS: &[(&str, Emit)] = &[
    ("mov rbx, rsi", |a| a.mov(rbx, rsi)),
    ("mov r12, rax", |a| a.mov(r12, rax)),
    ("add eax, ebx", |a| a.add(eax, ebx)),
    ("adc r13, r15", |a| a.adc(r13, r15)),
    ("add eax, 1000", |a| a.add(eax, 1000)),
    ("lea rax, [rcx + 4 rdx + 8]", |a| a.lea(rax, qword_ptr(rcx + rdx * 4 + 8))),
    ("mov rax, [rbx]", |a| a.mov(rax, qword_ptr(rbx))),
    ("mov al, [rbx + rcx]", |a| a.mov(al, byte_ptr(rbx + rcx))),
    ("mov [rsp + 16], edx", |a| a.mov(dword_ptr(rsp + 16), edx)),
    ("mov eax, [r12 + 8 r13]", |a| a.mov(eax, dword_ptr(r12 + r13 * 8))),
    ("mov rax, [absolute]", |a| a.mov(rax, qword_ptr(DATA))),
    ("mov rax, fs:[0x28]", |a| a.mov(rax, qword_ptr(0x28).fs())),
    ("add [rdi], rax", |a| a.add(qword_ptr(rdi), rax)),
    ("movzx eax, ah", |a| a.movzx(eax, ah)),
    ("mov bh, 1", |a| a.mov(bh, 1)),
    ("shl rdx, cl", |a| a.shl(rdx, cl)),
    ("shlx rdx, rbx, rcx", |a| a.shlx(rdx, rbx, rcx)),
    ("div rbx", |a| a.div(rbx)),
    ("idiv ebx", |a| a.idiv(ebx)),
    ("lock cmpxchg [rdi], rdx", |a| a.lock().cmpxchg(qword_ptr(rdi), rdx)),
    ("cmp eax, 5; sete al", |a| {
        a.cmp(eax, 5)?;
        a.sete(al)
    }),
    ("push rbp", |a| a.push(rbp)),
    ("pop r12", |a| a.pop(r12)),
    ("leave", |a| a.leave()),
    ("dec ecx; jnz back in the page", |a| {
        a.dec(ecx)?;
        a.jnz(CODE)
    }),
    ("a loop over three arrays, which borrows three registers", |a| {
        a.movups(xmm0, xmmword_ptr(rdi + r9))?;
        a.addps(xmm0, xmmword_ptr(rsi + r9))?;
        a.movups(xmmword_ptr(rdx + r9), xmm0)?;
        a.add(r9, 16)?;
        a.cmp(r9, rcx)?;
        a.jne(CODE)
    }),
    ("jz forward in the page", |a| a.jz(CODE + 0x80)),
    ("jmp to another page", |a| a.jmp(CODE + 0x1000)),
    ("jz to another page", |a| a.jz(CODE + 0x1000)),
    ("call", |a| a.call(CODE + 0x80)),
    ("call [rbx]", |a| a.call(qword_ptr(rbx))),
    ("jmp rax", |a| a.jmp(rax)),
    ("ret", |a| a.ret()),
    ("movaps xmm1, [rdi]", |a| a.movaps(xmm1, xmmword_ptr(rdi))),
    ("addsd xmm1, xmm2; mulsd xmm1, xmm3", |a| {
        a.addsd(xmm1, xmm2)?;
        a.mulsd(xmm1, xmm3)
    }),
    ("vaddps ymm1, ymm2, [rdi + 32]", |a| a.vaddps(ymm1, ymm2, ymmword_ptr(rdi + 32))),
    ("cvtsi2sd xmm1, r12", |a| a.cvtsi2sd(xmm1, r12)),
    ("fld [rdi]", |a| a.fld(qword_ptr(rdi))),
    ("rep movsb", |a| a.rep().movsb()),
    ("cpuid", |a| a.cpuid()),
    ("clts", |a| a.clts()),
    ("out dx, al", |a| a.out(dx, al)),
];

/// The block of these instructions (and HLT), as text without host addresses.
fn listing(emit: Emit) -> String {
    let mut b = Bench::new(|a| {
        emit(a).unwrap();
        a.hlt().unwrap();
    });
    b.state.cr4 |= Cr4::OSXSAVE;
    b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    let mut workshop = Workshop::default();
    let callees = Callees { answer: no_answer, access_port: no_access };
    let mut store = CodeStore::new(&mut Assembler::default(), CAPACITY, true, callees).unwrap();
    let base = store.here();
    let block = b.single.with(&mut b.state, &b.machine.platform, |core, _, features| {
        let place = core.mmu.fetch_place(CODE).unwrap();
        let limits = Limits::of(core.state, true);
        translate(&mut core.mmu, &[0; 32], &mut store, features, &mut workshop, limits, (CODE, place))
            .unwrap()
    });
    let entries = store.entries(block).unwrap();
    let bytes = workshop.asm.bytes();
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, bytes, base as u64, DecoderOptions::NONE).iter().collect();
    let mut targets: Vec<u64> = instructions
        .iter()
        .filter(|i| is_branch(i))
        .map(Instruction::near_branch_target)
        .chain(
            instructions
                .iter()
                .filter(|i| i.is_ip_rel_memory_operand())
                .map(Instruction::ip_rel_memory_address),
        )
        .filter(|t| (base as u64..(base + bytes.len()) as u64).contains(t))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let name = |target: u64| match targets.iter().position(|&t| t == target) {
        Some(i) => format!("L{i}"),
        None => stub(store.stubs(), target as usize).to_owned(),
    };
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    for instruction in &instructions {
        let at = instruction.ip();
        for (entry, what) in [(entries.live, "flags live"), (entries.saved, "flags saved")] {
            if entry as u64 == at {
                writeln!(text, "-> {what}").unwrap();
            }
        }
        if targets.contains(&at) {
            writeln!(text, "{}:", name(at)).unwrap();
        }
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        if is_branch(instruction) {
            let mnemonic = line.split(' ').next().unwrap();
            line = format!("{mnemonic} {}", name(instruction.near_branch_target()));
        } else if instruction.is_ip_rel_memory_operand() {
            let place = line.split(['[', ']']).nth(1).unwrap();
            line = line.replace(place, &name(instruction.ip_rel_memory_address()));
        }
        writeln!(text, "    {line}").unwrap();
    }
    text
}

fn is_branch(instruction: &Instruction) -> bool {
    instruction.op_count() == 1 && instruction.op0_kind() == OpKind::NearBranch64
}

fn stub(stubs: Stubs, target: usize) -> &'static str {
    stubs.named().into_iter().find_map(|(at, name)| (at == target).then_some(name)).unwrap_or("elsewhere")
}

#[test]
fn the_listing_of_representative_instructions_is_as_pinned() {
    let mut text = String::new();
    for (name, emit) in INSTRUCTIONS {
        writeln!(text, "{name}\n{}", listing(*emit)).unwrap();
    }
    insta::assert_snapshot!("listing", text);
}

/// On the one host the flags before are of no interest, on the other they are undefined afterwards as they were.
#[test]
fn the_listing_of_a_product_is_as_pinned_for_the_host() {
    let host = if *PRODUCTS_SET_FLAGS { "product_sets_flags" } else { "product_leaves_flags" };
    insta::assert_snapshot!(host, listing(|a| a.mul(qword_ptr(rsi))));
}
