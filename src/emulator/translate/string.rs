//! REP MOVS and REP STOS as themselves, where all that they touch lies in windows.
//!
//! The index registers are moved to host addresses for as long as the instruction takes. What it does to memory that
//! overlaps, or that the guest maps twice, is what it does natively: RAM lies in the host at one place, in the order of
//! guest-physical addresses.
use super::address::Address;
use super::builder::{Builder, Way};
use super::cold::Cold;
use super::groups::class;
use super::system::RFLAGS;
use crate::arch::Rflags;
use crate::emulator::code::Miss;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RAX, GUEST_RCX};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, RAX, RCX, RDI, RSI, Reg};
use crate::emulator::mmu::window::Window;
use iced_x86::{Code, Instruction, OpKind, Register};
use smallvec::smallvec;
use std::mem::offset_of;

/// log2 of the bytes that one instruction may take at once: attention waits for so long. Beyond, `single` does it in
/// parts.
const MOST: u8 = 18;

/// What is repeated: log2 of an element's bytes, and whether it is MOVS.
pub(super) fn repeated(instruction: &Instruction) -> Option<(u8, bool)> {
    let (size, moves) = match instruction.code() {
        Code::Movsb_m8_m8 => (0, true),
        Code::Movsw_m16_m16 => (1, true),
        Code::Movsd_m32_m32 => (2, true),
        Code::Movsq_m64_m64 => (3, true),
        Code::Stosb_m8_AL => (0, false),
        Code::Stosw_m16_AX => (1, false),
        Code::Stosd_m32_EAX => (2, false),
        Code::Stosq_m64_RAX => (3, false),
        _ => return None,
    };
    let plain = |i| match instruction.op_kind(i) {
        OpKind::MemoryESRDI | OpKind::Register => true,
        OpKind::MemorySegRSI => !matches!(instruction.memory_segment(), Register::FS | Register::GS),
        _ => false,
    };
    (instruction.has_rep_prefix() && !instruction.has_repne_prefix() && (0..2).all(plain))
        .then_some((size, moves))
}

impl Builder<'_> {
    /// Translates one of [`repeated`]; `false`: `single` must execute it.
    pub(super) fn string(&mut self, instruction: &Instruction) -> bool {
        let (Way::Windows { user }, Some((size, moves))) = (self.way, repeated(instruction)) else {
            return false;
        };
        self.save_flags();
        let rflags = self.state(RFLAGS);
        // test dword [rflags], DF
        self.asm.op(false, 0xf7, 0, rflags);
        self.asm.raw(&(Rflags::DF.bits() as u32).to_le_bytes());
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.alu_imm(true, Alu::Cmp, GUEST_RCX, 1 << (MOST - size));
        self.cold_if(Condition::NOT_BELOW);
        self.asm.mov(RAX, GUEST_RCX);
        if size != 0 {
            self.asm.shift(true, false, RAX, size);
        }
        let target = self.stretch(user, RDI, true);
        let source = moves.then(|| self.stretch(user, RSI, false));
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.mov(RCX, GUEST_RCX);
        let indices = [Some((RDI, target)), source.map(|source| (RSI, source))];
        for (index, window) in indices.into_iter().flatten() {
            self.asm.alu(Alu::Add, index, field(window + offset_of!(Window, addend) as i32));
        }
        let opcode = if moves { 0xa4 } else { 0xaa } | u8::from(size != 0);
        match size {
            1 => self.asm.raw(&[0x66, 0xf3, opcode]),
            3 => self.asm.raw(&[0xf3, 0x48, opcode]),
            _ => self.asm.raw(&[0xf3, opcode]),
        }
        for (index, window) in indices.into_iter().flatten() {
            self.asm.alu(Alu::Sub, index, field(window + offset_of!(Window, addend) as i32));
        }
        // RCX is zero.
        self.asm.mov(GUEST_RCX, RCX);
        self.asm.forget_scratch();
        true
    }

    /// Checks that the RAX bytes from `index` on lie in their window, whose offset in the context it returns. Changes
    /// RCX and flags.
    fn stretch(&mut self, user: bool, index: Reg, write: bool) -> i32 {
        let address = Address::at(index.0, 0);
        let class = class(&address);
        let window = Context::window(user, write, class);
        self.asm.mov(RCX, index);
        self.asm.alu(Alu::Sub, RCX, field(window + offset_of!(Window, start) as i32));
        self.asm.alu(Alu::Add, RCX, RAX);
        let wraps = self.asm.jump_if(Condition::BELOW);
        self.asm.alu(Alu::Cmp, RCX, field(window + offset_of!(Window, length) as i32));
        let beyond = self.asm.jump_if(Condition::ABOVE);
        let link = self.miss_link(Miss { address, class, write }, self.current.1);
        self.cold.push((smallvec![wraps, beyond], Cold::Missed { link }));
        window
    }
}
