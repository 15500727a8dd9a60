//! The registers that a case starts with: numbers that are likely to show a mistake, and a valid x87 and vector state.
use crate::case::{DATA, Registers};
use crate::rng::Rng;

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

pub(super) fn registers(rng: &mut Rng) -> Registers {
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
