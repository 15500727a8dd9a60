//! Builds random encodings of a form, byte by byte, so that redundant prefixes, all addressing modes and odd encodings
//! occur; iced's decoder says whether the result is the form that was wanted.
use crate::rng::Rng;
use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, OpCodeInfo,
    OpCodeOperandKind as K, OpCodeTableKind,
};

/// How operands are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Anything: the registers are set to fit afterwards.
    Free,
    /// Memory operands are based on the registers that a program keeps as pointers.
    Pointers,
}

fn uses_modrm(op: &OpCodeInfo) -> bool {
    op.is_group()
        || op.is_rm_group()
        || op.op_kinds().iter().any(|k| {
            matches!(
                k,
                K::mem
                    | K::mem_vsib32x
                    | K::mem_vsib64x
                    | K::mem_vsib32y
                    | K::mem_vsib64y
                    | K::r8_or_mem
                    | K::r16_or_mem
                    | K::r32_or_mem
                    | K::r64_or_mem
                    | K::mm_or_mem
                    | K::xmm_or_mem
                    | K::ymm_or_mem
                    | K::r8_reg
                    | K::r16_reg
                    | K::r16_reg_mem
                    | K::r16_rm
                    | K::r32_reg
                    | K::r32_reg_mem
                    | K::r32_rm
                    | K::r64_reg
                    | K::r64_reg_mem
                    | K::r64_rm
                    | K::seg_reg
                    | K::mm_reg
                    | K::mm_rm
                    | K::xmm_reg
                    | K::xmm_rm
                    | K::ymm_reg
                    | K::ymm_rm
                    | K::cr_reg
                    | K::dr_reg
            )
        })
}

fn immediate_bytes(kind: K, short_address: bool) -> usize {
    match kind {
        K::imm8 | K::imm8sex16 | K::imm8sex32 | K::imm8sex64 => 1,
        K::br16_1 | K::br32_1 | K::br64_1 | K::xmm_is4 | K::ymm_is4 => 1,
        K::imm16 | K::br16_2 => 2,
        K::imm32 | K::imm32sex64 | K::br32_4 | K::br64_4 => 4,
        K::imm64 => 8,
        K::mem_offs if short_address => 4,
        K::mem_offs => 8,
        _ => 0,
    }
}

fn takes_low_bits(kind: K) -> bool {
    matches!(kind, K::r8_opcode | K::r16_opcode | K::r32_opcode | K::r64_opcode | K::sti_opcode)
}

/// A random encoding of the form at `ip`, and what it decodes to.
pub fn encode(code: Code, style: Style, ip: u64, rng: &mut Rng) -> Option<(Vec<u8>, Instruction)> {
    let op = code.op_code();
    for _ in 0..200 {
        let bytes =
            if op.encoding() == EncodingKind::VEX { vex(op, style, rng) } else { legacy(op, style, rng) };
        if bytes.len() > 15 {
            continue;
        }
        let mut decoder = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.code() == code && instruction.len() == bytes.len() {
            return Some((bytes, instruction));
        }
    }
    None
}

fn legacy(op: &OpCodeInfo, style: Style, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let short_address = rng.chance(5) && style == Style::Free || op.address_size() == 32;
    if short_address {
        bytes.push(0x67);
    }
    if rng.chance(8) {
        bytes.push(rng.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x64, 0x65]));
    }
    if op.can_use_lock_prefix() && rng.chance(30) {
        bytes.push(0xf0);
    }
    if (op.can_use_rep_prefix() || op.can_use_repne_prefix()) && rng.chance(60) {
        bytes.push(rng.pick(&[0xf2, 0xf3]));
    }
    match op.mandatory_prefix() {
        MandatoryPrefix::P66 => bytes.push(0x66),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        _ => {}
    }
    let mandatory = op.mandatory_prefix() != MandatoryPrefix::None;
    if op.operand_size() == 16 && op.mandatory_prefix() != MandatoryPrefix::P66 || !mandatory && rng.chance(3)
    {
        bytes.push(0x66);
    }
    let wide = op.operand_size() == 64 && !op.default_op_size64() || op.w() == 1 || rng.chance(10);
    if wide || rng.chance(60) {
        bytes.push(0x40 | u8::from(wide) << 3 | rng.below(8) as u8);
    }
    match op.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
        OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
        _ => {}
    }
    tail(op, style, short_address, &mut bytes, rng);
    bytes
}

fn vex(op: &OpCodeInfo, style: Style, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let short_address = rng.chance(3) && style == Style::Free;
    if short_address {
        bytes.push(0x67);
    }
    if rng.chance(5) {
        bytes.push(rng.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    }
    let pp = match op.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    };
    let uses_vvvv =
        op.op_kinds().iter().any(|k| matches!(k, K::xmm_vvvv | K::ymm_vvvv | K::r32_vvvv | K::r64_vvvv));
    let vvvv = if uses_vvvv { rng.below(16) as u8 } else { 15 };
    let l = if op.is_lig() { rng.below(2) as u8 } else { u8::from(op.l() == 1) };
    let w = if op.is_wig() { rng.below(2) as u8 } else { op.w() as u8 };
    let map = match op.table() {
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 1,
    };
    let rxb = (rng.below(8) as u8) << 5;
    if map == 1 && w == 0 && rng.chance(50) {
        bytes.extend([0xc5, rxb & 0x80 | vvvv << 3 | l << 2 | pp]);
    } else {
        bytes.extend([0xc4, rxb | map, w << 7 | vvvv << 3 | l << 2 | pp]);
    }
    tail(op, style, short_address, &mut bytes, rng);
    bytes
}

/// Opcode, ModRM, SIB, displacement, immediates.
fn tail(op: &OpCodeInfo, style: Style, short_address: bool, bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut opcode = op.op_code();
    if op.op_kinds().iter().any(|&k| takes_low_bits(k)) {
        opcode = opcode & !7 | rng.below(8) as u32;
    }
    if op.op_code_len() == 2 {
        bytes.push((opcode >> 8) as u8);
    }
    bytes.push(opcode as u8);
    if op.op_code_len() == 1 && uses_modrm(op) {
        modrm(op, style, bytes, rng);
    }
    for &kind in op.op_kinds() {
        let value = rng.integer().to_le_bytes();
        bytes.extend(&value[..immediate_bytes(kind, short_address)]);
    }
}

fn modrm(op: &OpCodeInfo, style: Style, bytes: &mut Vec<u8>, rng: &mut Rng) {
    let reg = if op.group_index() >= 0 { op.group_index() as u8 } else { rng.below(8) as u8 };
    if op.rm_group_index() >= 0 {
        bytes.push(0xc0 | reg << 3 | op.rm_group_index() as u8);
        return;
    }
    let mode = rng.pick(&[3, 3, 0, 1, 2]);
    // With REX.B or without: RSI and RDI or R14 and R15; 4 means SIB, 5 with mode 0 RIP-relative.
    let rm = match style {
        Style::Free => rng.below(8) as u8,
        Style::Pointers if mode == 3 => rng.below(8) as u8,
        Style::Pointers if mode == 0 => rng.pick(&[6, 7, 4, 5]),
        Style::Pointers => rng.pick(&[6, 7, 4]),
    };
    bytes.push(mode << 6 | reg << 3 | rm);
    if mode == 3 {
        return;
    }
    let mut displacement = match mode {
        1 => 1,
        2 => 4,
        _ if rm == 5 => 4,
        _ => 0,
    };
    if rm == 4 {
        let sib = match style {
            Style::Free => rng.below(256) as u8,
            // Index RBX and base RSI, RDI, R14 or R15; or the stack pointer. No superfluous SIB: FOP would show it.
            Style::Pointers => rng.pick(&[0x1e, 0x5f, 0x9e, 0xdf, 0x24]),
        };
        bytes.push(sib);
        if sib & 7 == 5 && mode == 0 {
            displacement = 4;
        }
    }
    let value = rng.integer().to_le_bytes();
    bytes.extend(&value[..displacement]);
}
