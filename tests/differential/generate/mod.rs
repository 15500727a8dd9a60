//! Makes cases: a random encoding of a form, and registers and memory in which it does something.
mod narrow;
mod operands;
mod program;
mod registers;

pub use narrow::narrow_program;
pub use program::program;

use crate::case::{CODE, Case, PAGE};
use crate::encode::{Style, encode};
use crate::forms;
use crate::rng::Rng;
use iced_x86::{
    Code, ConstantOffsets, Decoder, DecoderOptions, Instruction, Mnemonic as M, Register, RflagsBits,
};
use operands::prepare;
use registers::registers;

fn number(register: Register) -> usize {
    register.full_register().number()
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

/// One instruction of this form.
pub fn single(code: Code, rng: &mut Rng) -> Option<Case> {
    let mut registers = registers(rng);
    registers.rip = CODE + 0x100 + rng.below(0x100);
    let (mut bytes, _) = encode(code, Style::Free, registers.rip, rng)?;
    if rng.chance(1) {
        // The code ends with the page, sometimes within the instruction.
        registers.rip = CODE + PAGE as u64 - 1 - rng.below(bytes.len() as u64);
    }
    let mut case =
        Case { program: Vec::new(), registers, data_seed: rng.next(), patches: Vec::new(), bits: 64 };
    prepare(&mut bytes, &mut case, rng);
    // Aiming may have changed what the bytes mean.
    let (instruction, _) = constants(&bytes, case.registers.rip);
    if instruction.code() != code || *forms::IS_AMD && forms::differs_on_amd(&instruction, &bytes) {
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
        let instruction = Decoder::with_ip(case.bits, bytes, 0, DecoderOptions::NONE).decode();
        all | instruction.rflags_undefined()
    });
    bits.iter().filter(|(bit, _)| undefined & bit != 0).fold(0, |mask, (_, place)| mask | 1 << place)
}
