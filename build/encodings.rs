//! Writes `encodings.bin`: how iced says that each instruction form is encoded, for `src/emulator/front/encoding.rs`.
//!
//! A process that asks iced itself waits for milliseconds at the first question, because iced then formats the
//! manual's text of every form.

use iced_x86::{
    Code, EncodingKind, Instruction, InstructionInfoFactory, InstructionInfoOptions, OpAccess, Register,
};
use std::fs;
use std::path::Path;

/// Bytes of a form: five operands, how many there are with flags, and the sizes of operands and addresses.
const BYTES: usize = 8;
/// With the number of operands: a bit for each of the first four that says whether it is written.
const WRITTEN: u32 = 3;
/// With the number of operands: the form has neither legacy nor VEX encoding.
const OTHER: u8 = 0x80;

pub(crate) fn write(out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed=build/encodings.rs");
    let mut factory = InstructionInfoFactory::new();
    let mut table = Vec::with_capacity(BYTES * Code::values().len());
    for code in Code::values() {
        let op = code.op_code();
        let mut kinds = [0; 5];
        for (place, &kind) in kinds.iter_mut().zip(op.op_kinds()) {
            *place = kind as u8;
        }
        let plain = matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
        table.extend(kinds);
        table.push(
            op.op_count() as u8 | written(code, &mut factory) << WRITTEN | if plain { 0 } else { OTHER },
        );
        table.push(op.operand_size() as u8);
        table.push(op.address_size() as u8);
    }
    let file = out.join("encodings.bin");
    fs::write(&file, table).map_err(|error| format!("{}: {error}", file.display()))
}

/// Which of the first four operands `code` may write. It does not depend on what they are.
fn written(code: Code, factory: &mut InstructionInfoFactory) -> u8 {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    // Two that differ: some forms do something else with twice the same.
    instruction.set_op0_register(Register::RAX);
    instruction.set_op1_register(Register::RCX);
    let only_operands = InstructionInfoOptions::NO_REGISTER_USAGE | InstructionInfoOptions::NO_MEMORY_USAGE;
    let info = factory.info_options(&instruction, only_operands);
    (0..instruction.op_count().min(4)).fold(0, |bits, operand| {
        let only_read = matches!(
            info.op_access(operand),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        bits | u8::from(!only_read) << operand
    })
}
