//! IN and OUT of ring 0, which may use every port: a call of the platform, past `single`.
//!
//! At other privileges `single` executes them, because the I/O permission map may be asked.
use super::builder::Builder;
use super::number;
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{RAX, RCX};
use iced_x86::{Code, Instruction};

/// An access to a port, in a form that translated code can hand over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PortAccess(u32);

impl PortAccess {
    const WIDTH: u32 = 7;
    const OUT: u32 = 1 << 3;
    const BY_DX: u32 = 1 << 4;
    const PORT_SHIFT: u32 = 8;

    /// What IN or OUT accesses; `None` for other instructions.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        let (bytes, out, by_dx) = match instruction.code() {
            Code::In_AL_imm8 => (1, false, false),
            Code::In_AX_imm8 => (2, false, false),
            Code::In_EAX_imm8 => (4, false, false),
            Code::In_AL_DX => (1, false, true),
            Code::In_AX_DX => (2, false, true),
            Code::In_EAX_DX => (4, false, true),
            Code::Out_imm8_AL => (1, true, false),
            Code::Out_imm8_AX => (2, true, false),
            Code::Out_imm8_EAX => (4, true, false),
            Code::Out_DX_AL => (1, true, true),
            Code::Out_DX_AX => (2, true, true),
            Code::Out_DX_EAX => (4, true, true),
            _ => return None,
        };
        let number =
            if by_dx { Self::BY_DX } else { u32::from(instruction.immediate8()) << Self::PORT_SHIFT };
        Some(Self(bytes | if out { Self::OUT } else { 0 } | number))
    }

    /// What [`Self::bits`] was.
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// It as a number.
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Bytes.
    pub(super) fn bytes(self) -> usize {
        (self.0 & Self::WIDTH) as usize
    }

    /// Whether it writes.
    pub(super) fn is_out(self) -> bool {
        self.0 & Self::OUT != 0
    }

    /// Which port, `rdx` being the register.
    pub(super) fn port(self, rdx: u64) -> u16 {
        if self.0 & Self::BY_DX != 0 { rdx as u16 } else { (self.0 >> Self::PORT_SHIFT) as u8 as u16 }
    }
}

impl Builder<'_> {
    /// IN or OUT of ring 0.
    pub(super) fn port(&mut self, instruction: &Instruction) {
        let Some(access) = PortAccess::of(instruction) else { return self.execute(instruction) };
        self.save_flags();
        let site = self.site(instruction, true);
        let behind = self.asm.lea_forward(RCX);
        self.asm.store(field(Context::RESUME), RCX);
        self.asm.mov_imm(RAX, (number::SITE | site).into());
        self.asm.mov_imm(RCX, access.bits().into());
        self.asm.jump_to(self.stubs.port);
        self.asm.bind(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn an_access_says_what_its_instruction_does() {
        for (code, bytes, is_out, port) in [
            (&[0xe4, 0x80][..], 1, false, 0x80),
            (&[0x66, 0xe5, 0xff], 2, false, 0xff),
            (&[0xe5, 0x01], 4, false, 1),
            (&[0xec], 1, false, 0xcdef),
            (&[0x66, 0xed], 2, false, 0xcdef),
            (&[0xed], 4, false, 0xcdef),
            (&[0xe6, 0x80], 1, true, 0x80),
            (&[0x66, 0xe7, 0x80], 2, true, 0x80),
            (&[0xe7, 0x80], 4, true, 0x80),
            (&[0xee], 1, true, 0xcdef),
            (&[0x66, 0xef], 2, true, 0xcdef),
            (&[0xef], 4, true, 0xcdef),
        ] {
            let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
            let access = PortAccess::from_bits(PortAccess::of(&instruction).unwrap().bits());
            let seen = (access.bytes(), access.is_out(), access.port(0x89ab_cdef));
            assert_eq!(seen, (bytes, is_out, port), "{instruction}");
        }
        assert_eq!(PortAccess::of(&Decoder::new(64, &[0x6c], DecoderOptions::NONE).decode()), None, "INSB");
    }
}
