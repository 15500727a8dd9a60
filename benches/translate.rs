//! What the translator takes to translate one guest instruction, in cycles of the host's TSC.
//!
//! `cargo bench --bench translate [WORKLOAD…]`: a long guest, and bundled workloads, each run on several fresh machines in
//! one process. *first* is the first of them: caches, page tables and branch predictors of the host are cold to the
//! translator, and all that it does only once it does there. *median* is that of the others, *least* the best of them. The
//! figures are the ones that `trivisor run --stats` prints: all cycles between asking for a block and having it, page
//! faults included, by the instructions in these blocks.
//!
//! The long guest is made here: functions like a compiler's, all different, each called a few times, so that the figure
//! holds for code that the translator meets for the first time while it is itself at home in the host's caches.
mod bare;

use bare::{long_mode, machine};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};
use std::sync::Arc;
use std::time::Instant;
use trivisor::arch::Gpa;
use trivisor::bench::workload;
use trivisor::emulator::{EmuEngine, Emulator};
use trivisor::engine::{Backend, Cause, Counters, Exit, Mode, VcpuId};
use trivisor::loader::Image;
use trivisor::machine::{Capture, Limits, Machine, MachineSpec, Stop};

/// Machines for each guest, the first one apart.
const ROUNDS: usize = 15;
/// Where the long guest's functions are.
const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x80_0000;
/// Functions of the long guest.
const FUNCTIONS: usize = 1500;
/// Short workloads, which are measured if none is named.
const WORKLOADS: &[&str] =
    &["crc32", "lz", "quicksort", "matmul", "page_fault", "recursion", "sha256", "syscall"];

/// What one machine's run counted.
#[derive(Clone, Copy)]
struct Figures {
    cycles: u64,
    instructions: u64,
    blocks: u64,
}

impl Figures {
    fn of(counters: &Counters) -> Self {
        Self {
            cycles: counters.get(Cause::TranslateCycles),
            instructions: counters.get(Cause::Translate),
            blocks: counters.get(Cause::Block),
        }
    }

    fn each(&self) -> u64 {
        self.cycles / self.instructions.max(1)
    }
}

fn report(name: &str, mut run: impl FnMut() -> Figures) {
    let start = Instant::now();
    let first = run();
    let mut others: Vec<u64> = (0..ROUNDS).map(|_| run().each()).collect();
    others.sort_unstable();
    println!(
        "{name:<17} {:>8} instructions {:>6} blocks {:>6} first {:>6} median {:>6} least   ({:.1} s)",
        first.instructions,
        first.blocks,
        first.each(),
        others[ROUNDS / 2],
        others[0],
        start.elapsed().as_secs_f64()
    );
}

/// A bundled workload, run as `trivisor run` does.
fn bundled(name: &str) {
    let Some(workload) = workload::find(name) else {
        println!("{name}: no such workload");
        return;
    };
    let image = Image::parse(workload.image).expect("an image");
    let spec = MachineSpec { command_line: "budget_us=500".to_owned(), ..MachineSpec::new(Mode::Emu) };
    report(name, || {
        let mut machine = Machine::build(&spec, &image, Box::new(Capture::new(1 << 16))).expect("a machine");
        let stop = machine.run(&Limits::default()).expect("runs");
        assert!(matches!(stop, Stop::PowerOff(_)), "{name}: {stop:?}");
        Figures::of(machine.platform().counters(VcpuId(0)))
    });
}

/// Numbers without end, the same in each run.
struct Random(u64);

impl Random {
    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) as usize) % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Registers that functions compute with. RBX and RBP point to data.
const VALUES: [Register; 11] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R14,
];

/// A few instructions of a function's body, in about the frequencies that compilers use them with.
fn body(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let full = |random: &mut Random| random.of(&VALUES);
    let half = |random: &mut Random| random.of(&VALUES).full_register32();
    let place = |random: &mut Random| {
        let base = random.of(&[Register::RBX, Register::RBX, Register::RBP, Register::RSP]);
        let disp = 8 * random.below(if base == Register::RSP { 8 } else { 40 }) as i64;
        MemoryOperand::with_base_displ(base, disp)
    };
    match random.below(40) {
        0..=4 => a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, full(random), full(random))?),
        5..=9 => a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, full(random), place(random))?),
        10..=11 => a.add_instruction(Instruction::with2(Code::Mov_r32_rm32, half(random), place(random))?),
        12..=14 => a.add_instruction(Instruction::with2(Code::Mov_rm64_r64, place(random), full(random))?),
        15 => a.add_instruction(Instruction::with2(Code::Mov_rm32_imm32, place(random), 7_u32)?),
        16..=18 => {
            let number = random.below(1 << 20) as u32;
            a.add_instruction(Instruction::with2(Code::Mov_r32_imm32, half(random), number)?)
        }
        19..=21 => {
            let disp = random.below(200) as i64;
            let from =
                MemoryOperand::with_base_index_scale_displ_size(full(random), full(random), 4, disp, 1);
            a.add_instruction(Instruction::with2(Code::Lea_r64_m, full(random), from)?)
        }
        22..=25 => {
            let code =
                random.of(&[Code::Add_r64_rm64, Code::Sub_r64_rm64, Code::Xor_r64_rm64, Code::And_r64_rm64]);
            a.add_instruction(Instruction::with2(code, full(random), full(random))?)
        }
        26..=27 => {
            let code = random.of(&[Code::Add_r64_rm64, Code::Or_r64_rm64, Code::Imul_r64_rm64]);
            a.add_instruction(Instruction::with2(code, full(random), place(random))?)
        }
        28..=29 => {
            let code = random.of(&[Code::Add_rm64_imm8, Code::And_rm64_imm8, Code::Sub_rm64_imm8]);
            a.add_instruction(Instruction::with2(code, full(random), random.below(100) as i32)?)
        }
        30 => {
            let code = random.of(&[Code::Shl_rm64_imm8, Code::Shr_rm64_imm8, Code::Rol_rm32_imm8]);
            let register = if code == Code::Rol_rm32_imm8 { half(random) } else { full(random) };
            a.add_instruction(Instruction::with2(code, register, random.below(31) as i32)?)
        }
        31 => {
            let from = place(random);
            a.add_instruction(Instruction::with2(Code::Movzx_r32_rm8, half(random), from)?)
        }
        32 => {
            a.add_instruction(Instruction::with2(Code::Test_rm64_r64, full(random), full(random))?)?;
            a.add_instruction(Instruction::with2(Code::Cmove_r64_rm64, full(random), full(random))?)
        }
        33 => {
            let (vector, code) = (Register::XMM0 + random.below(8) as u32, random.below(3));
            match code {
                0 => a.add_instruction(Instruction::with2(Code::Movsd_xmm_xmmm64, vector, place(random))?),
                1 => a.add_instruction(Instruction::with2(Code::Movups_xmm_xmmm128, vector, place(random))?),
                _ => a.add_instruction(Instruction::with2(Code::Pxor_xmm_xmmm128, vector, Register::XMM1)?),
            }
        }
        34..=36 => {
            // A branch over a little.
            let mut over = a.create_label();
            let (left, right) = (full(random), full(random));
            a.add_instruction(Instruction::with2(Code::Cmp_r64_rm64, left, right)?)?;
            if random.below(2) == 0 {
                a.je(over)?
            } else {
                a.jb(over)?
            }
            for _ in 0..1 + random.below(4) {
                let (to, from) = (full(random), full(random));
                a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, to, from)?)?;
            }
            a.set_label(&mut over)?;
            a.add_instruction(Instruction::with2(Code::Xor_r32_rm32, Register::ESI, Register::ESI)?)
        }
        37 => {
            let mut over = a.create_label();
            a.add_instruction(Instruction::with2(Code::Test_rm32_r32, Register::EDX, Register::EDX)?)?;
            a.jns(over)?;
            a.add_instruction(Instruction::with1(Code::Neg_rm32, Register::EDX)?)?;
            a.set_label(&mut over)?;
            a.add_instruction(Instruction::with1(Code::Inc_rm64, Register::RDX)?)
        }
        38 => {
            // A short loop.
            let mut again = a.create_label();
            a.mov(r15d, 2)?;
            a.set_label(&mut again)?;
            a.add(rax, qword_ptr(rbx + r15 * 8))?;
            a.dec(r15)?;
            a.jnz(again)
        }
        _ => {
            a.add_instruction(Instruction::with2(Code::Cmp_rm64_imm8, place(random), 0)?)?;
            a.add_instruction(Instruction::with1(Code::Sete_rm8, Register::AL)?)?;
            a.add_instruction(Instruction::with2(Code::Movzx_r32_rm8, Register::EAX, Register::AL)?)
        }
    }
}

/// Calls each of the functions twice, and halts.
fn program() -> Result<Vec<u8>, IcedError> {
    let (mut a, mut random) = (CodeAssembler::new(64)?, Random(1));
    let mut functions: Vec<CodeLabel> = (0..FUNCTIONS).map(|_| a.create_label()).collect();
    a.mov(rbx, DATA)?;
    a.lea(rbp, ptr(rbx + 4096))?;
    for &function in &functions {
        a.call(function)?;
        a.call(function)?;
    }
    a.hlt()?;
    for function in &mut functions {
        a.set_label(function)?;
        a.push(rbp)?;
        a.push(r14)?;
        a.sub(rsp, 80)?;
        for _ in 0..10 + random.below(60) {
            body(&mut a, &mut random)?;
        }
        a.add(rsp, 80)?;
        a.pop(r14)?;
        a.pop(rbp)?;
        a.ret()?;
    }
    a.assemble(CODE)
}

fn long() {
    let code = program().expect("a valid program");
    assert!(CODE + (code.len() as u64) < DATA);
    report("(generated)", || {
        let platform = machine();
        platform.ram().write(Gpa(CODE), &code).expect("in RAM");
        let emulator = Emulator::new(Arc::clone(platform.ram()), EmuEngine::default());
        let mut vcpu = emulator.create_vcpu(VcpuId(0), &long_mode(CODE)).expect("a vCPU");
        let exit = vcpu.run(&platform).expect("runs");
        assert_eq!(exit, Exit::Halted);
        Figures::of(platform.counters(VcpuId(0)))
    });
}

fn main() {
    // Cargo adds options of its own.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    // A short guest first: to the long one the translator is warm then.
    if named.is_empty() {
        WORKLOADS.iter().for_each(|name| bundled(name));
        long();
    }
    named.iter().for_each(|name| if name == "long" { long() } else { bundled(name) });
}
