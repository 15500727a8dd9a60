//! Programs of 32-bit code: bytes from a list of opcodes, with operands of all kinds, and branches forward.
use super::registers::registers;
use crate::case::{CODE, Case, DATA};
use crate::rng::Rng;
use iced_x86::{Decoder, DecoderOptions, Instruction, RflagsBits};

/// Where an opcode has its operands.
#[derive(Clone, Copy)]
enum Shape {
    /// Nothing follows.
    Plain,
    /// ModRM.
    Rm,
    /// ModRM with this in its reg field.
    Digit(u8),
    /// Only a memory operand.
    Memory,
    /// An address of four bytes.
    Offset,
}

/// Opcode, operands, bytes of the immediate (0xff: of the operand size).
const OPCODES: &[(&[u8], Shape, u8)] = &[
    (&[0x00], Shape::Rm, 0),
    (&[0x01], Shape::Rm, 0),
    (&[0x02], Shape::Rm, 0),
    (&[0x03], Shape::Rm, 0),
    (&[0x04], Shape::Plain, 1),
    (&[0x05], Shape::Plain, 0xff),
    (&[0x11], Shape::Rm, 0),
    (&[0x13], Shape::Rm, 0),
    (&[0x19], Shape::Rm, 0),
    (&[0x1b], Shape::Rm, 0),
    (&[0x21], Shape::Rm, 0),
    (&[0x27], Shape::Plain, 0),
    (&[0x2b], Shape::Rm, 0),
    (&[0x2f], Shape::Plain, 0),
    (&[0x30], Shape::Rm, 0),
    (&[0x33], Shape::Rm, 0),
    (&[0x37], Shape::Plain, 0),
    (&[0x39], Shape::Rm, 0),
    (&[0x3a], Shape::Rm, 0),
    (&[0x3d], Shape::Plain, 0xff),
    (&[0x3f], Shape::Plain, 0),
    // INC, DEC, PUSH and POP of a register
    (&[0x40], Shape::Plain, 0),
    (&[0x41], Shape::Plain, 0),
    (&[0x42], Shape::Plain, 0),
    (&[0x48], Shape::Plain, 0),
    (&[0x49], Shape::Plain, 0),
    (&[0x4a], Shape::Plain, 0),
    (&[0x50], Shape::Plain, 0),
    (&[0x54], Shape::Plain, 0),
    (&[0x55], Shape::Plain, 0),
    (&[0x58], Shape::Plain, 0),
    (&[0x59], Shape::Plain, 0),
    (&[0x5a], Shape::Plain, 0),
    (&[0x60], Shape::Plain, 0),
    (&[0x62], Shape::Memory, 0),
    (&[0x68], Shape::Plain, 0xff),
    (&[0x69], Shape::Rm, 0xff),
    (&[0x6a], Shape::Plain, 1),
    (&[0x6b], Shape::Rm, 1),
    (&[0x80], Shape::Digit(0), 1),
    (&[0x80], Shape::Digit(5), 1),
    (&[0x81], Shape::Digit(2), 0xff),
    (&[0x81], Shape::Digit(6), 0xff),
    (&[0x82], Shape::Digit(7), 1),
    (&[0x83], Shape::Digit(3), 1),
    (&[0x83], Shape::Digit(4), 1),
    (&[0x84], Shape::Rm, 0),
    (&[0x85], Shape::Rm, 0),
    (&[0x86], Shape::Rm, 0),
    (&[0x87], Shape::Rm, 0),
    (&[0x88], Shape::Rm, 0),
    (&[0x89], Shape::Rm, 0),
    (&[0x8a], Shape::Rm, 0),
    (&[0x8b], Shape::Rm, 0),
    (&[0x8d], Shape::Memory, 0),
    (&[0x8f], Shape::Digit(0), 0),
    (&[0x91], Shape::Plain, 0),
    (&[0x98], Shape::Plain, 0),
    (&[0x99], Shape::Plain, 0),
    (&[0x9c], Shape::Plain, 0),
    (&[0x9e], Shape::Plain, 0),
    (&[0x9f], Shape::Plain, 0),
    (&[0xa0], Shape::Offset, 0),
    (&[0xa1], Shape::Offset, 0),
    (&[0xa2], Shape::Offset, 0),
    (&[0xa3], Shape::Offset, 0),
    (&[0xa4], Shape::Plain, 0),
    (&[0xa5], Shape::Plain, 0),
    (&[0xa6], Shape::Plain, 0),
    (&[0xaa], Shape::Plain, 0),
    (&[0xab], Shape::Plain, 0),
    (&[0xac], Shape::Plain, 0),
    (&[0xae], Shape::Plain, 0),
    (&[0xf3, 0xa4], Shape::Plain, 0),
    (&[0xf3, 0xab], Shape::Plain, 0),
    (&[0xf2, 0xae], Shape::Plain, 0),
    (&[0xb4], Shape::Plain, 1),
    (&[0xb8], Shape::Plain, 0xff),
    (&[0xba], Shape::Plain, 0xff),
    (&[0xc0], Shape::Digit(4), 1),
    (&[0xc1], Shape::Digit(0), 1),
    (&[0xc1], Shape::Digit(5), 1),
    (&[0xc1], Shape::Digit(7), 1),
    (&[0xc6], Shape::Digit(0), 1),
    (&[0xc7], Shape::Digit(0), 0xff),
    (&[0xd1], Shape::Digit(2), 0),
    (&[0xd3], Shape::Digit(3), 0),
    (&[0xd3], Shape::Digit(4), 0),
    (&[0xd4, 10], Shape::Plain, 0),
    (&[0xd5, 10], Shape::Plain, 0),
    (&[0xd6], Shape::Plain, 0),
    (&[0xd7], Shape::Plain, 0),
    (&[0xf6], Shape::Digit(0), 1),
    (&[0xf7], Shape::Digit(2), 0),
    (&[0xf7], Shape::Digit(3), 0),
    (&[0xf7], Shape::Digit(4), 0),
    (&[0xf7], Shape::Digit(5), 0),
    (&[0xf7], Shape::Digit(6), 0),
    (&[0xfe], Shape::Digit(0), 0),
    (&[0xff], Shape::Digit(1), 0),
    (&[0xff], Shape::Digit(6), 0),
    (&[0x0f, 0x44], Shape::Rm, 0),
    (&[0x0f, 0x4c], Shape::Rm, 0),
    (&[0x0f, 0x95], Shape::Rm, 0),
    (&[0x0f, 0xa3], Shape::Rm, 0),
    (&[0x0f, 0xa4], Shape::Rm, 1),
    (&[0x0f, 0xab], Shape::Rm, 0),
    (&[0x0f, 0xad], Shape::Rm, 0),
    (&[0x0f, 0xaf], Shape::Rm, 0),
    (&[0x0f, 0xb1], Shape::Rm, 0),
    (&[0x0f, 0xb6], Shape::Rm, 0),
    (&[0x0f, 0xb7], Shape::Rm, 0),
    (&[0x0f, 0xba], Shape::Digit(5), 1),
    (&[0x0f, 0xbd], Shape::Rm, 0),
    (&[0x0f, 0xbe], Shape::Rm, 0),
    (&[0x0f, 0xc1], Shape::Rm, 0),
    (&[0x0f, 0xc8], Shape::Plain, 0),
    (&[0x66, 0x0f, 0x6f], Shape::Rm, 0),
    (&[0xf3, 0x0f, 0x6f], Shape::Rm, 0),
    (&[0xf2, 0x0f, 0x58], Shape::Rm, 0),
    (&[0xf3, 0x0f, 0x2a], Shape::Rm, 0),
    (&[0x66, 0x0f, 0xef], Shape::Rm, 0),
    (&[0xc5, 0xf9, 0xef], Shape::Rm, 0),
    (&[0xc4, 0xe2, 0x78, 0xf2], Shape::Rm, 0),
];

/// Conditional jumps, short and near, LOOP and JECXZ, a jump and a call: all with distances.
const BRANCHES: &[(&[u8], u8)] = &[
    (&[0x72], 1),
    (&[0x75], 1),
    (&[0x7e], 1),
    (&[0x0f, 0x84], 4),
    (&[0x0f, 0x8f], 4),
    (&[0xe2], 1),
    (&[0xe3], 1),
    (&[0xeb], 1),
    (&[0xe9], 4),
    (&[0xe8], 4),
];

/// ModRM, SIB and displacement of a memory operand, mostly near [`DATA`].
fn memory(reg: u8, rng: &mut Rng) -> Vec<u8> {
    let distance = (rng.below(0x600) as i32 - 0x300) & if rng.chance(70) { !15 } else { !0 };
    // ESI, EDI and EBP point to data, EBX is a small index.
    let base = rng.pick(&[5, 6, 7]);
    let mut bytes = match rng.below(8) {
        0 => {
            let mut bytes = vec![reg << 3 | 5];
            bytes.extend((DATA as u32 + 0x800).wrapping_add_signed(distance).to_le_bytes());
            return bytes;
        }
        1 | 2 => vec![0x80 | reg << 3 | base],
        3 => return vec![0x40 | reg << 3 | base, distance as u8],
        4 => vec![0x80 | reg << 3 | 4, 0x24],
        5 => {
            // The sum of base and displacement passes 4 GiB.
            let far = (DATA as u32 + 0x900).wrapping_add_signed(distance);
            let mut bytes = vec![reg << 3 | 4, 0x1d | (rng.below(4) as u8) << 6];
            bytes.extend(far.to_le_bytes());
            return bytes;
        }
        _ => vec![0x80 | reg << 3 | 4, (rng.below(4) as u8) << 6 | 3 << 3 | base],
    };
    bytes.extend(distance.to_le_bytes());
    bytes
}

fn one(rng: &mut Rng) -> Vec<u8> {
    let (opcode, shape, immediate) = rng.pick(OPCODES);
    // General registers that may be written: EAX, ECX, EDX, and their bytes.
    let register = |rng: &mut Rng| rng.below(3) as u8;
    let mut bytes = Vec::new();
    let narrow = !matches!(opcode[0], 0x66 | 0xf2 | 0xf3 | 0xc4 | 0xc5) && rng.chance(12);
    if narrow {
        bytes.push(0x66);
    }
    bytes.extend(opcode);
    match shape {
        Shape::Plain => {}
        Shape::Rm | Shape::Digit(_) => {
            let reg = if let Shape::Digit(digit) = shape { digit } else { register(rng) };
            if rng.chance(55) {
                bytes.extend(memory(reg, rng));
            } else {
                bytes.push(0xc0 | reg << 3 | register(rng));
            }
        }
        Shape::Memory => {
            let reg = register(rng);
            bytes.extend(memory(reg, rng));
        }
        Shape::Offset => bytes.extend((DATA as u32 + 0x100 + rng.below(0x1800) as u32).to_le_bytes()),
    }
    let immediate = match (immediate, narrow) {
        (0xff, true) => 2,
        (0xff, false) => 4,
        (bytes, _) => usize::from(bytes),
    };
    bytes.extend(&rng.integer().to_le_bytes()[..immediate]);
    bytes
}

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(32, bytes, 0, DecoderOptions::NONE).decode()
}

/// A program of `length` instructions of 32-bit code.
pub fn narrow_program(length: usize, rng: &mut Rng) -> Case {
    let mut registers = registers(rng);
    registers.rip = CODE + 0x40;
    for value in &mut registers.gpr {
        *value &= 0xffff_ffff;
    }
    registers.gpr[8..].fill(0);
    for register in [4, 5, 6, 7] {
        registers.gpr[register] = DATA + 0x600 + 16 * rng.below(0x100);
    }
    registers.gpr[3] = rng.pick(&[0, 64, 128, 8, 3, 0xffff_fff0]);
    registers.gpr[1] = rng.below(16);
    // Alignment is checked in 64-bit programs.
    registers.rflags &= !0x4_0000;
    (registers.fs_base, registers.gs_base) = (0, 0);
    let mut case =
        Case { program: Vec::new(), registers, data_seed: rng.next(), patches: Vec::new(), bits: 32 };
    let mut undefined = RflagsBits::NONE;
    let mut branches = Vec::new();
    while case.program.len() < length {
        if rng.chance(12) {
            let (opcode, size) = rng.pick(BRANCHES);
            let mut bytes = opcode.to_vec();
            bytes.resize(opcode.len() + usize::from(size), 0);
            if decode(&bytes).rflags_read() & undefined == 0 {
                branches.push((case.program.len(), usize::from(size)));
                case.program.push(bytes);
            }
            continue;
        }
        let bytes = one(rng);
        let instruction = decode(&bytes);
        let stores_flags = bytes.ends_with(&[0x9c]) && undefined != 0;
        if instruction.is_invalid() || instruction.rflags_read() & undefined != 0 || stores_flags {
            continue;
        }
        // Shifts by nothing and repetitions of nothing define nothing, so only plain arithmetic counts.
        let opcode = bytes[usize::from(bytes[0] == 0x66)];
        let defines = opcode < 0x3e && opcode & 7 < 6 || matches!(opcode, 0x80..=0x85);
        if branches.is_empty() && defines {
            undefined &= !(instruction.rflags_modified() & !instruction.rflags_undefined());
        }
        undefined |= instruction.rflags_undefined();
        case.program.push(bytes);
    }
    // Each branch leads to a later instruction.
    for (i, size) in branches {
        let later = 1 + rng.below((length - i) as u64) as usize;
        let distance: usize = case.program[i + 1..(i + later).min(length)].iter().map(Vec::len).sum();
        let distance = if size == 1 && distance > 127 { 0 } else { distance };
        let bytes = &mut case.program[i];
        let at = bytes.len() - size;
        bytes[at..].copy_from_slice(&distance.to_le_bytes()[..size]);
    }
    case
}
