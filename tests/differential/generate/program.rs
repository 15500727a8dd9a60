//! Programs of many instructions: forms that leave the pointers alone and read no undefined flag, branches forward, and
//! now and then a loop around it all.
use super::registers::registers;
use super::{constants, number, patch, saves_components};
use crate::case::{CODE, Case, DATA};
use crate::encode::{Style, encode};
use crate::forms;
use crate::rng::Rng;
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind, Register,
    RflagsBits,
};

/// What a program's pointer registers are: RSP, RSI, RDI, R14, R15; RBX is a small index.
const KEPT: [Register; 6] =
    [Register::RBX, Register::RSP, Register::RSI, Register::RDI, Register::R14, Register::R15];

/// Counts the rounds of a program that is a loop.
const ROUNDS: Register = Register::R13;

/// Whether a program can hold the instruction: it leaves the pointers (and a loop's counter) alone and reads no
/// undefined flag.
fn fits(instruction: &Instruction, undefined: u32, looped: bool) -> bool {
    if instruction.rflags_read() & undefined != 0 {
        return false;
    }
    match instruction.flow_control() {
        FlowControl::Next => {}
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
            return instruction.is_jcc_short_or_near()
                || instruction.is_jmp_short_or_near()
                || instruction.is_jcx_short()
                || instruction.is_call_near();
        }
        _ => return false,
    }
    if instruction.op_code().is_privileged()
        || saves_components(instruction)
        || matches!(
            instruction.mnemonic(),
            M::Leave | M::Enter | M::Popf | M::Popfq | M::Wrfsbase | M::Wrgsbase
        )
    {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let string = instruction.is_string_instruction();
    let stack = instruction.is_stack_instruction();
    for used in info.used_registers() {
        let written = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        let full = used.register().full_register();
        let own = string && matches!(full, Register::RSI | Register::RDI) || stack && full == Register::RSP;
        if written && (KEPT.contains(&full) && !own || looped && full == ROUNDS) {
            return false;
        }
    }
    let operands = 0..instruction.op_count();
    if operands.clone().any(|i| {
        instruction.op_kind(i) == OpKind::Register
            && stack
            && instruction.op_register(i).full_register() == Register::RSP
    }) {
        return false;
    }
    if operands.clone().any(|i| instruction.op_kind(i) == OpKind::Memory) {
        let base = instruction.memory_base();
        let index = instruction.memory_index();
        let good_base = KEPT[1..].contains(&base) || base == Register::RIP;
        let good_index = index == Register::None || index == Register::RBX || index.is_vector_register();
        let bits = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc);
        let far =
            bits && instruction.op1_kind() == OpKind::Register && number(instruction.op1_register()) != 3;
        return good_base && good_index && !far;
    }
    // A repeat count is whatever the program made it: faults end it soon, but 32-bit pointers would be lost.
    !string || instruction.op_kinds().all(|k| !matches!(k, OpKind::MemorySegESI | OpKind::MemoryESEDI))
}

/// A program of up to `length` of these forms, with branches forward; every third is a loop of a few rounds.
pub fn program(codes: &[Code], length: usize, rng: &mut Rng) -> Case {
    let mut registers = registers(rng);
    registers.rip = CODE + 0x40;
    for register in [6, 7, 14, 15] {
        registers.gpr[register] = DATA + 0x400 + 64 * rng.below(0x60);
    }
    registers.gpr[3] = rng.pick(&[0, 64, 128, 8, 3]);
    registers.gpr[1] = rng.below(16);
    let mut case =
        Case { program: Vec::new(), registers, data_seed: rng.next(), patches: Vec::new(), bits: 64 };
    let mut ip = case.registers.rip;
    let mut undefined = RflagsBits::NONE;
    let mut branches = Vec::new();
    let looped = length > 4 && rng.chance(33);
    let body = if looped { length - 2 } else { length };
    while case.program.len() < body {
        let Some((mut bytes, instruction)) = encode(rng.pick(codes), Style::Pointers, ip, rng) else {
            continue;
        };
        let odd = case.registers.rflags & 0x4_0000 != 0 && forms::checks_alignment_oddly(instruction.code());
        // These mostly fault on random operands, which would end most programs early.
        let harsh = instruction.is_vsib()
            || matches!(
                instruction.mnemonic(),
                M::Div
                    | M::Idiv
                    | M::Ldmxcsr
                    | M::Vldmxcsr
                    | M::Fxrstor
                    | M::Fxrstor64
                    | M::Fldcw
                    | M::Fldenv
                    | M::Frstor
            );
        let foreign = *forms::IS_AMD && forms::differs_on_amd(&instruction, &bytes);
        if odd || foreign || harsh && rng.chance(90) || !fits(&instruction, undefined, looped) {
            continue;
        }
        let (_, offsets) = constants(&bytes, ip);
        let size = offsets.displacement_size();
        if size != 0 {
            // Mostly aligned as the strictest form demands.
            let distance = rng.below(0x600).wrapping_sub(0x300) & if rng.chance(85) { !63 } else { !0 };
            let value = match (instruction.memory_base(), size) {
                (Register::RIP, _) => {
                    (DATA + 0x800).wrapping_sub(instruction.next_ip()).wrapping_add(distance)
                }
                (_, 1) => distance & 0xff,
                _ => distance,
            };
            patch(&mut bytes, offsets.displacement_offset(), size, value);
        }
        if instruction.flow_control() != FlowControl::Next {
            branches.push(case.program.len());
        }
        // Behind a branch an instruction may be skipped, so it defines nothing for certain.
        if branches.is_empty() {
            undefined &= !(instruction.rflags_modified() & !instruction.rflags_undefined());
        }
        undefined |= instruction.rflags_undefined();
        ip += bytes.len() as u64;
        case.program.push(bytes);
    }
    if looped {
        case.registers.gpr[number(ROUNDS)] = 2 + rng.below(5);
        // sub r13d, 1 defines all flags anew; jnz to the start
        let distance = (CODE + 0x40).wrapping_sub(ip + 4 + 6) as u32;
        case.program.push(vec![0x41, 0x83, 0xed, 1]);
        case.program.push([&[0x0f, 0x85][..], &distance.to_le_bytes()].concat());
    }
    aim_forward(&mut case, &branches, looped, rng);
    case
}

/// Sends each branch to a later instruction's start; in a loop never past the count and yet to the branch back, where
/// the loop would go on for ever.
fn aim_forward(case: &mut Case, branches: &[usize], looped: bool, rng: &mut Rng) {
    let mut starts = vec![case.registers.rip];
    for bytes in &case.program {
        starts.push(starts[starts.len() - 1] + bytes.len() as u64);
    }
    let back = if looped { case.program.len() - 1 } else { usize::MAX };
    for &i in branches {
        let (_, offsets) = constants(&case.program[i], starts[i]);
        let mut to = i + 1 + rng.below((starts.len() - i - 1) as u64) as usize;
        if to == back {
            to += 1;
        }
        let mut distance = starts[to] - starts[i + 1];
        if offsets.immediate_size() == 1 && distance > 127 {
            distance = 0;
        }
        patch(&mut case.program[i], offsets.immediate_offset(), offsets.immediate_size(), distance);
    }
}
