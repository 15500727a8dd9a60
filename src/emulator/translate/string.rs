//! REP MOVS and REP STOS as themselves, where all that they touch lies in windows, or in one page each that the soft TLB
//! knows.
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
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX, RDI, RSI, Reg};
use crate::emulator::mmu::tlb::ENTRY_ADDEND;
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
    /// Puts the bytes of RCX elements into RAX.
    fn put_length(&mut self, size: u8) {
        self.asm.mov(RAX, GUEST_RCX);
        if size != 0 {
            self.asm.shift(true, false, RAX, size);
        }
    }

    /// Translates one of [`repeated`]; `false`: `single` must execute it.
    pub(super) fn string(&mut self, instruction: &Instruction) -> bool {
        let Some((size, moves)) = repeated(instruction) else { return false };
        self.save_flags();
        let rflags = self.state(RFLAGS);
        // test dword [rflags], DF
        self.asm.op(false, 0xf7, 0, rflags);
        self.asm.raw(&(Rflags::DF.bits() as u32).to_le_bytes());
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.alu_imm(true, Alu::Cmp, GUEST_RCX, 1 << (MOST - size));
        self.cold_if(Condition::NOT_BELOW);
        self.put_length(size);
        let distances = match self.way {
            Way::Windows { user } => {
                let target = self.stretch(user, RDI, true);
                [Some((RDI, target)), moves.then(|| (RSI, self.stretch(user, RSI, false)))]
            }
            Way::Tlb => {
                let target = self.piece(RDI, true, Context::SCRATCH);
                let source = moves.then(|| {
                    self.put_length(size);
                    (RSI, self.piece(RSI, false, Context::SCRATCH + 8))
                });
                [Some((RDI, target)), source]
            }
        };
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.mov(RCX, GUEST_RCX);
        for (index, distance) in distances.into_iter().flatten() {
            self.asm.alu(Alu::Add, index, field(distance));
        }
        let opcode = if moves { 0xa4 } else { 0xaa } | u8::from(size != 0);
        match size {
            1 => self.asm.raw(&[0x66, 0xf3, opcode]),
            3 => self.asm.raw(&[0xf3, 0x48, opcode]),
            _ => self.asm.raw(&[0xf3, opcode]),
        }
        for (index, distance) in distances.into_iter().flatten() {
            self.asm.alu(Alu::Sub, index, field(distance));
        }
        // RCX is zero.
        self.asm.mov(GUEST_RCX, RCX);
        self.asm.forget_scratch();
        true
    }

    /// Checks that the RAX bytes from `index` on lie in one page that the soft TLB knows; else the cold way. Puts the
    /// distance to host memory at the offset `to` of the context, and returns that. Changes RAX, RCX and flags.
    fn piece(&mut self, index: Reg, write: bool, to: i32) -> i32 {
        self.asm.mov(RCX, index);
        self.asm.alu_imm(false, Alu::And, RCX, 4095);
        self.asm.alu(Alu::Add, RCX, RAX);
        self.asm.alu_imm(true, Alu::Cmp, RCX, 4096);
        self.cold_if(Condition::ABOVE);
        self.asm.mov(RCX, index);
        self.find_entry(1, write);
        self.asm.load(RAX, Mem::at(RAX, ENTRY_ADDEND));
        self.asm.store(field(to), RAX);
        to
    }

    /// Checks that the RAX bytes from `index` on lie in their window. Returns the offset in the context of its distance to
    /// host memory. Changes RCX and flags.
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
        self.cold.push((smallvec![wraps, beyond], Cold::Missed { link, remade: None }));
        window + offset_of!(Window, addend) as i32
    }
}
