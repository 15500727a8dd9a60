//! Writes `encodings.bin`: how iced says that each instruction form is encoded, for `src/emulator/front/encoding.rs`.
//!
//! A process that asks iced itself waits for milliseconds at the first question, because iced then formats the
//! manual's text of every form.

use iced_x86::{Code, EncodingKind};
use std::fs;
use std::path::Path;

/// Bytes of a form: five operands, how many there are with a flag, and the sizes of operands and addresses.
const BYTES: usize = 8;
/// With the number of operands: the form has neither legacy nor VEX encoding.
const OTHER: u8 = 0x80;

pub(crate) fn write(out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed=build/encodings.rs");
    let mut table = Vec::with_capacity(BYTES * Code::values().len());
    for code in Code::values() {
        let op = code.op_code();
        let mut kinds = [0; 5];
        for (place, &kind) in kinds.iter_mut().zip(op.op_kinds()) {
            *place = kind as u8;
        }
        let plain = matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
        table.extend(kinds);
        table.push(op.op_count() as u8 | if plain { 0 } else { OTHER });
        table.push(op.operand_size() as u8);
        table.push(op.address_size() as u8);
    }
    let file = out.join("encodings.bin");
    fs::write(&file, table).map_err(|error| format!("{}: {error}", file.display()))
}
