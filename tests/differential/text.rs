//! Cases as text, for regression files: one `name value` a line, values in hexadecimal, `#` begins a comment.
use crate::case::{Case, GPR_NAMES, Registers};
use std::fmt::Write;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect()
}

/// The case as text. What equals [`Registers::zero`] is left out.
pub fn write(case: &Case) -> String {
    let mut text = String::new();
    for bytes in &case.program {
        let instruction = iced_x86::Decoder::new(case.bits, bytes, 0).decode();
        let _ = writeln!(text, "code {} # {:?}", hex(bytes), instruction.code());
    }
    let plain = Registers::zero();
    let registers = &case.registers;
    for (name, value) in GPR_NAMES.iter().zip(registers.gpr) {
        if value != 0 {
            let _ = writeln!(text, "{name} {value:x}");
        }
    }
    for (name, value) in [
        ("rip", registers.rip),
        ("rflags", registers.rflags),
        ("fs", registers.fs_base),
        ("gs", registers.gs_base),
        ("data", case.data_seed),
        ("bits", case.bits.into()),
    ] {
        let _ = writeln!(text, "{name} {value:x}");
    }
    for at in (0..832).step_by(8) {
        let bytes = &registers.xsave[at..at + 8];
        if *bytes != plain.xsave[at..at + 8] {
            let _ = writeln!(text, "xsave+{at:x} {}", hex(bytes));
        }
    }
    for (at, value) in &case.patches {
        let _ = writeln!(text, "data+{at:x} {value:x}");
    }
    text
}

/// The case that a text describes.
///
/// # Panics
/// If it describes none: regression files are part of the test.
pub fn read(text: &str) -> Case {
    let mut case = Case {
        program: Vec::new(),
        registers: Registers::zero(),
        data_seed: 0,
        patches: Vec::new(),
        bits: 64,
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some((name, value)) = line.split_once(' ') else { continue };
        let number = || u64::from_str_radix(value, 16).expect("hexadecimal");
        let registers = &mut case.registers;
        if let Some(i) = GPR_NAMES.iter().position(|n| *n == name) {
            registers.gpr[i] = number();
        } else if let Some(at) = name.strip_prefix("xsave+") {
            let at = usize::from_str_radix(at, 16).expect("hexadecimal");
            registers.xsave[at..at + 8].copy_from_slice(&unhex(value));
        } else if let Some(at) = name.strip_prefix("data+") {
            case.patches.push((u16::from_str_radix(at, 16).expect("hexadecimal"), number()));
        } else {
            match name {
                "code" => case.program.push(unhex(value)),
                "rip" => registers.rip = number(),
                "rflags" => registers.rflags = number(),
                "fs" => registers.fs_base = number(),
                "gs" => registers.gs_base = number(),
                "data" => case.data_seed = number(),
                "bits" => case.bits = number() as u32,
                other => panic!("a case has no '{other}'"),
            }
        }
    }
    case
}
