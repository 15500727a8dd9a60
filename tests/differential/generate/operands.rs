//! Gives one instruction what it needs to do something: memory operands that lie in the data (or just beside it), counts,
//! pointers, targets of branches, images of state to load.
use super::{constants, number, patch};
use crate::case::{CODE, Case, DATA, PAGE, READ_ONLY, Registers};
use crate::forms;
use crate::rng::Rng;
use iced_x86::{FlowControl, Instruction, Mnemonic as M, OpKind, Register};

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

fn segment_base(instruction: &Instruction, registers: &Registers) -> u64 {
    match instruction.memory_segment() {
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        _ => 0,
    }
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
pub(super) fn prepare(bytes: &mut [u8], case: &mut Case, rng: &mut Rng) {
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
