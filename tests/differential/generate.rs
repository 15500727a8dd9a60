//! Makes cases: a random encoding of a form, and registers and memory in which it does something.
use crate::case::{CODE, Case, DATA, PAGE, READ_ONLY, Registers};
use crate::encode::{Style, encode};
use crate::forms;
use crate::rng::Rng;
use iced_x86::{
    Code, ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic as M, OpAccess, OpKind, Register, RflagsBits,
};

/// What a program's pointer registers are: RSP, RSI, RDI, R14, R15; RBX is a small index.
const KEPT: [Register; 6] =
    [Register::RBX, Register::RSP, Register::RSI, Register::RDI, Register::R14, Register::R15];

fn number(register: Register) -> usize {
    register.full_register().number()
}

/// A place in the data pages (or next to them) for an operand of `bytes`.
fn target(bytes: u64, rng: &mut Rng) -> u64 {
    let pages = 2 * PAGE as u64;
    match rng.below(100) {
        // Aligned as the strictest form demands.
        0..=59 => DATA + 64 + rng.below((pages - 1024 - 64) / 64) * 64,
        60..=79 => DATA + 64 + rng.below(pages - 1024 - 64),
        // Across the two pages.
        80..=87 => DATA + PAGE as u64 - rng.below(bytes.max(2)),
        // Across the end.
        88..=92 => DATA + pages - rng.below(bytes.max(2) + 1),
        93..=95 => READ_ONLY + rng.below(PAGE as u64 - 1024),
        96 => READ_ONLY + PAGE as u64 - 64 - rng.below(64),
        97 => DATA - rng.below(bytes.max(2) + 1),
        98 => rng.pick(&[0x8000_0000_0000, 0x1234_5678_9abc_def0, 0xffff_7fff_ffff_fff8]),
        // Across the end of what is canonical; what a large operand does there is in no defined order.
        _ if bytes <= 32 => 0x7fff_ffff_f000 - bytes / 2,
        _ => DATA,
    }
}

fn vector_state(registers: &mut Registers, rng: &mut Rng) {
    for at in (160..416).chain(576..832).step_by(8) {
        registers.xsave[at..at + 8].copy_from_slice(&rng.lane().to_le_bytes());
    }
    for slot in 0..8 {
        let (head, significand) = rng.f80();
        let at = 32 + 16 * slot;
        registers.xsave[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        registers.xsave[at + 8..at + 10].copy_from_slice(&head.to_le_bytes());
    }
    let mxcsr: u32 = match rng.below(10) {
        0..=5 => 0x1f80,
        6 | 7 => 0x1f80 | (rng.next() as u32 & 0xe07f),
        _ => rng.next() as u32 & 0xffff,
    };
    registers.xsave[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let control: u16 = if rng.chance(60) { 0x37f } else { 0x40 | rng.next() as u16 & 0xf3f };
    let control = if rng.chance(80) { control | 0x3f } else { control };
    let mut status = rng.next() as u16 & 0x7f7f;
    if rng.chance(90) {
        // No pending error.
        status &= control & 0x3f | 0xffc0;
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    registers.xsave[..2].copy_from_slice(&control.to_le_bytes());
    registers.xsave[2..4].copy_from_slice(&status.to_le_bytes());
    registers.xsave[4] = rng.pick(&[0, 0xff, rng.clone().next() as u8, rng.clone().next() as u8]);
}

fn registers(rng: &mut Rng) -> Registers {
    let mut registers = Registers::zero();
    vector_state(&mut registers, rng);
    for value in &mut registers.gpr {
        *value = rng.integer();
    }
    registers.gpr[4] = DATA + 0x800 + 8 * rng.below(0x100);
    registers.rflags = 0x202 | rng.next() & 0x8d5;
    if rng.chance(15) {
        registers.rflags |= 0x400;
    }
    if rng.chance(2) {
        registers.rflags |= 0x4_0000;
    }
    registers.fs_base = rng.pick(&[0, 0x40, DATA, 0xffff_ffff_ffff_ff80]);
    registers.gs_base = rng.pick(&[0, 0x100, DATA + 0x20, 0xffff_ffff_ffff_ff00]);
    registers
}

fn segment_base(instruction: &Instruction, registers: &Registers) -> u64 {
    match instruction.memory_segment() {
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        _ => 0,
    }
}

fn constants(bytes: &[u8], ip: u64) -> (Instruction, ConstantOffsets) {
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let offsets = decoder.get_constant_offsets(&instruction);
    (instruction, offsets)
}

fn patch(bytes: &mut [u8], at: usize, size: usize, value: u64) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// Bytes that a memory operand touches.
fn operand_bytes(instruction: &Instruction) -> u64 {
    match instruction.mnemonic() {
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => 512,
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xrstor | M::Xrstor64 => 832,
        _ => instruction.memory_size().size().max(1) as u64,
    }
}

/// Points the memory operand at `target` by setting registers or the displacement.
fn aim(bytes: &mut [u8], ip: u64, target: u64, registers: &mut Registers, rng: &mut Rng) {
    let (instruction, offsets) = constants(bytes, ip);
    let wanted = target.wrapping_sub(segment_base(&instruction, registers));
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let scale = u64::from(instruction.memory_index_scale());
    let displacement = instruction.memory_displacement64();
    let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
    if base == Register::RIP || base == Register::EIP {
        patch(bytes, at, size, wanted.wrapping_sub(instruction.next_ip()));
    } else if base == Register::None && !index.is_gpr() {
        if size != 0 {
            patch(bytes, at, size, wanted);
        }
    } else if base == Register::None {
        registers.gpr[number(index)] = wanted.wrapping_sub(displacement) / scale;
    } else if number(base) == number(index) && index.is_gpr() {
        registers.gpr[number(base)] = wanted.wrapping_sub(displacement) / (1 + scale);
    } else {
        let mut rest = wanted.wrapping_sub(displacement);
        if index.is_gpr() {
            if base.size() == 4 {
                registers.gpr[number(index)] &= 0xffff_ffff;
            }
            rest = rest.wrapping_sub(registers.gpr[number(index)].wrapping_mul(scale));
        }
        // With 32-bit addresses only the low half counts.
        let noise = if base.size() == 4 { rng.next() << 32 } else { 0 };
        registers.gpr[number(base)] = rest & if noise != 0 { 0xffff_ffff } else { u64::MAX } | noise;
    }
}

/// Sets what else an instruction needs to do something: counts, pointers, targets.
fn prepare(bytes: &mut [u8], case: &mut Case, rng: &mut Rng) {
    let ip = case.registers.rip;
    let (instruction, offsets) = constants(bytes, ip);
    let size = operand_bytes(&instruction);
    let place = target(size, rng);
    let has_memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    let registers = &mut case.registers;
    if instruction.is_vsib() {
        let at = number(instruction.memory_index());
        for lane in 0..4 {
            let index = rng.below(128) | rng.below(128) << 32;
            let index = if rng.chance(5) { rng.next() } else { index };
            let offset = if lane < 2 { 160 + 16 * at + 8 * lane } else { 576 + 16 * at + 8 * (lane - 2) };
            let index = if matches!(
                instruction.mnemonic(),
                M::Vgatherqpd | M::Vgatherqps | M::Vpgatherqd | M::Vpgatherqq
            ) {
                index & 0x7f
            } else {
                index
            };
            registers.xsave[offset..offset + 8].copy_from_slice(&index.to_le_bytes());
        }
    }
    for i in 0..instruction.op_count() {
        let place = target(16, rng);
        match instruction.op_kind(i) {
            OpKind::MemorySegRSI | OpKind::MemorySegESI => registers.gpr[6] = place,
            OpKind::MemoryESRDI | OpKind::MemoryESEDI | OpKind::MemorySegRDI | OpKind::MemorySegEDI => {
                registers.gpr[7] = place;
            }
            _ => {}
        }
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        registers.gpr[1] = if rng.chance(95) { rng.below(9) } else { rng.below(2000) };
    }
    match instruction.mnemonic() {
        M::Xlatb => registers.gpr[3] = place,
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xrstor | M::Xrstor64 => {
            registers.gpr[0] = registers.gpr[0] & !0xffff_ffff | rng.below(8);
            registers.gpr[2] &= !0xffff_ffff;
        }
        M::Bt | M::Bts | M::Btr | M::Btc if has_memory && instruction.op1_kind() == OpKind::Register => {
            // The offset reaches beyond the operand, but not beyond the data.
            let register = number(instruction.op1_register());
            registers.gpr[register] = rng.below(8000).wrapping_sub(4000);
        }
        M::Leave => registers.gpr[5] = place,
        M::Enter => {
            patch(bytes, offsets.immediate_offset(), 2, rng.below(256));
            registers.gpr[5] = place;
        }
        M::Wrfsbase | M::Wrgsbase => {
            // Only canonical addresses, and now and then another one.
            let register = number(instruction.op0_register());
            if rng.chance(90) {
                registers.gpr[register] &= 0x7fff_ffff_ffff;
            }
        }
        _ => {}
    }
    if instruction.is_stack_instruction() && rng.chance(15) {
        registers.gpr[4] = target(8, rng);
    }
    if forms::checks_alignment_oddly(instruction.code()) {
        registers.rflags &= !0x4_0000;
    }
    if has_memory {
        aim(bytes, ip, place, registers, rng);
    }
    aim_branch(bytes, case, rng);
    state_images(bytes, case, rng);
}

/// Gives a branch a target in the code page.
fn aim_branch(bytes: &mut [u8], case: &mut Case, rng: &mut Rng) {
    let ip = case.registers.rip;
    let (instruction, offsets) = constants(bytes, ip);
    let end = CODE + PAGE as u64;
    let place = match rng.below(20) {
        0 => end + rng.below(16),
        1 => DATA + rng.below(256),
        _ => instruction.next_ip() + rng.below(end.saturating_sub(instruction.next_ip()).max(1)),
    };
    match instruction.flow_control() {
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
            if offsets.has_immediate() =>
        {
            let (at, size) = (offsets.immediate_offset(), offsets.immediate_size());
            let distance = place.wrapping_sub(instruction.next_ip());
            let distance = if size == 1 { distance & 0x7f } else { distance };
            patch(bytes, at, size, distance);
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            if instruction.op0_kind() == OpKind::Register {
                case.registers.gpr[number(instruction.op0_register())] = place;
            } else {
                patch_data(case, &instruction, place);
            }
        }
        FlowControl::Return => {
            let at = case.registers.gpr[4].wrapping_sub(DATA);
            if at <= 2 * PAGE as u64 - 8 {
                case.patches.push((at as u16, place));
            }
        }
        _ => {}
    }
    if matches!(instruction.mnemonic(), M::Popf | M::Popfq) {
        // No trap flag: single steps are another test's business.
        let at = case.registers.gpr[4].wrapping_sub(DATA);
        if at <= 2 * PAGE as u64 - 8 {
            case.patches.push((at as u16, rng.next() & !0x100));
        }
    }
}

/// The effective linear address of the memory operand.
fn address(instruction: &Instruction, registers: &Registers) -> Option<u64> {
    let operand = (0..instruction.op_count()).find(|&i| instruction.op_kind(i) == OpKind::Memory)?;
    instruction.virtual_address(operand, 0, |register, _, _| match register {
        Register::FS => Some(registers.fs_base),
        Register::GS => Some(registers.gs_base),
        r if r.is_gpr() => Some(registers.gpr[number(r)]),
        _ => Some(0),
    })
}

fn patch_data(case: &mut Case, instruction: &Instruction, value: u64) {
    let Some(at) = address(instruction, &case.registers).map(|a| a.wrapping_sub(DATA)) else { return };
    if at <= 2 * PAGE as u64 - 8 {
        case.patches.push((at as u16, value));
    }
}

/// Images to be loaded are mostly valid: MXCSR, the XSAVE header, control words.
fn state_images(bytes: &[u8], case: &mut Case, rng: &mut Rng) {
    let (instruction, _) = constants(bytes, case.registers.rip);
    let Some(at) = address(&instruction, &case.registers).map(|a| a.wrapping_sub(DATA)) else { return };
    let mut put = |offset: u64, value: u64| {
        if at + offset <= 2 * PAGE as u64 - 8 {
            case.patches.push(((at + offset) as u16, value));
        }
    };
    if at > 2 * PAGE as u64 || rng.chance(15) {
        return;
    }
    match instruction.mnemonic() {
        M::Ldmxcsr | M::Vldmxcsr => put(0, rng.next() & !0xffff_0000),
        M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 => {
            put(24, rng.next() & 0xffff);
            put(512, rng.below(8));
            for i in 1..8 {
                put(512 + 8 * i, 0);
            }
        }
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 => put(512, rng.below(8)),
        _ => {}
    }
}

/// One instruction of this form.
pub fn single(code: Code, rng: &mut Rng) -> Option<Case> {
    let mut registers = registers(rng);
    registers.rip = CODE + 0x100 + rng.below(0x100);
    let (mut bytes, _) = encode(code, Style::Free, registers.rip, rng)?;
    if rng.chance(1) {
        // The code ends with the page, sometimes within the instruction.
        registers.rip = CODE + PAGE as u64 - 1 - rng.below(bytes.len() as u64);
    }
    let mut case = Case { program: Vec::new(), registers, data_seed: rng.next(), patches: Vec::new() };
    prepare(&mut bytes, &mut case, rng);
    // Aiming may have changed what the bytes mean.
    let (instruction, _) = constants(&bytes, case.registers.rip);
    if instruction.code() != code {
        return None;
    }
    if saves_components(&instruction)
        && (case.registers.gpr[0] as u32 > 7 || case.registers.gpr[2] as u32 != 0)
    {
        // The mask became an address: the host has components that the guest has not.
        return None;
    }
    case.program.push(bytes);
    Some(case)
}

fn saves_components(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xrstor | M::Xrstor64
    )
}

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
    let mut case = Case { program: Vec::new(), registers, data_seed: rng.next(), patches: Vec::new() };
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
        if odd || harsh && rng.chance(90) || !fits(&instruction, undefined, looped) {
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
    aim_forward(&mut case, &branches, rng);
    case
}

/// Sends each branch to a later instruction's start.
fn aim_forward(case: &mut Case, branches: &[usize], rng: &mut Rng) {
    let mut starts = vec![case.registers.rip];
    for bytes in &case.program {
        starts.push(starts[starts.len() - 1] + bytes.len() as u64);
    }
    for &i in branches {
        let later = &starts[i + 1..];
        let (_, offsets) = constants(&case.program[i], starts[i]);
        let mut distance = rng.pick(later) - starts[i + 1];
        if offsets.immediate_size() == 1 && distance > 127 {
            distance = 0;
        }
        patch(&mut case.program[i], offsets.immediate_offset(), offsets.immediate_size(), distance);
    }
}

/// RFLAGS bits that a program may leave undefined.
pub fn undefined_flags(case: &Case) -> u64 {
    let bits = [
        (RflagsBits::OF, 11),
        (RflagsBits::SF, 7),
        (RflagsBits::ZF, 6),
        (RflagsBits::AF, 4),
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::DF, 10),
        (RflagsBits::AC, 18),
    ];
    let undefined = case.program.iter().fold(0, |all, bytes| {
        let instruction = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
        all | instruction.rflags_undefined()
    });
    bits.iter().filter(|(bit, _)| undefined & bit != 0).fold(0, |mask, (_, place)| mask | 1 << place)
}
