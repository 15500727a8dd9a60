//! How many guest instructions a second the interpreter executes, on loops of known length.
//!
//! `cargo bench --bench single`: best of several runs for each loop, in millions of instructions a second.
mod bare;

use bare::{long_mode, machine};
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::time::Instant;
use trivisor::arch::Gpa;
use trivisor::emulator::{EmuEngine, Emulator};
use trivisor::engine::{Backend, Cause, Exit, VcpuId};

const CODE: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;
const RUNS: usize = 5;

fn measure(name: &str, program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    let platform = machine();
    let mut a = CodeAssembler::new(64).expect("an assembler");
    program(&mut a).expect("a valid program");
    a.hlt().expect("HLT");
    let code = a.assemble(CODE).expect("assembles");
    platform.ram().write(Gpa(CODE), &code).expect("in RAM");
    let best = (0..RUNS)
        .map(|_| {
            let emulator = Emulator::new(Arc::clone(platform.ram()), EmuEngine::Single);
            let mut vcpu = emulator.create_vcpu(VcpuId(0), &long_mode(CODE)).expect("a vCPU");
            let before = platform.counters(VcpuId(0)).get(Cause::Instruction);
            let start = Instant::now();
            let exit = vcpu.run(&platform).expect("runs");
            let elapsed = start.elapsed();
            assert_eq!(exit, Exit::Halted);
            let count = platform.counters(VcpuId(0)).get(Cause::Instruction) - before;
            count as f64 / elapsed.as_secs_f64() / 1e6
        })
        .fold(0.0, f64::max);
    println!("{name:<12} {best:8.1} million instructions/s");
}

type IcedError = iced_x86::IcedError;

fn main() {
    measure("alu", |a| {
        let mut again = a.create_label();
        a.mov(ecx, 4_000_000)?;
        a.set_label(&mut again)?;
        a.add(rax, rcx)?;
        a.xor(rdx, rax)?;
        a.shl(rdx, 3)?;
        a.sub(rbx, rdx)?;
        a.lea(rsi, ptr(rax + rbx * 4 + 8))?;
        a.and(esi, 0xffff)?;
        a.dec(ecx)?;
        a.jnz(again)
    });
    measure("memory", |a| {
        let mut again = a.create_label();
        a.mov(ecx, 4_000_000)?;
        a.mov(rdi, DATA)?;
        a.set_label(&mut again)?;
        a.movzx(eax, cl)?;
        a.mov(edx, dword_ptr(rdi + rax * 4))?;
        a.add(edx, ecx)?;
        a.mov(dword_ptr(rdi + rax * 4), edx)?;
        a.add(qword_ptr(rdi + 4096), 1)?;
        a.cmp(edx, dword_ptr(rdi + 8))?;
        a.dec(ecx)?;
        a.jnz(again)
    });
    measure("calls", |a| {
        let mut again = a.create_label();
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.mov(ecx, 2_000_000)?;
        a.set_label(&mut again)?;
        a.call(function)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.push(rbx)?;
        a.mov(ebx, ecx)?;
        a.test(ebx, 1)?;
        a.cmovne(eax, ebx)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.nop()
    });
}
