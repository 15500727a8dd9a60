//! Instructions that run as themselves but for a detour: AH to BH, bits of strings of bits in memory, CMPXCHG and its wide
//! kin.
use super::builder::Builder;
use super::forms::has_high_byte;
use super::integer::Source;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RAX, GUEST_RCX, home};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Mem, RAX, RCX, RSI, Rm};
use iced_x86::{Mnemonic, OpKind};

impl Builder<'_> {
    /// An instruction with AH, CH, DH or BH, between registers or with a constant. It has no REX prefix, so all its
    /// 8-bit registers are parts of RAX, RCX, RDX and RBX: the latter two are themselves, of the others copies are worked on.
    pub(super) fn high_byte(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, .. } = *source;
        if source.has_memory() {
            return false;
        }
        if instruction.mnemonic() == Mnemonic::Movzx {
            return self.widen_high_byte(source);
        }
        let is_register = |i| instruction.op_kind(i) == OpKind::Register;
        let is_byte = |i| !is_register(i) || instruction.op_register(i).size() == 1;
        if shape.vex.is_some() || shape.rex != 0 || !(0..instruction.op_count()).all(is_byte) {
            return false;
        }
        self.prepare_flags(source);
        let takes = |number| {
            let full = |i| instruction.op_register(i).full_register().number();
            (0..instruction.op_count()).any(|i| is_register(i) && full(i) == number)
        };
        let copies = [(0, RAX, GUEST_RAX), (1, RCX, GUEST_RCX)];
        for (_, copy, guest) in copies.into_iter().filter(|&(number, ..)| takes(number)) {
            self.asm.mov(copy, guest);
        }
        self.asm.guest(shape, shape.reg, Some(Rm::Reg(shape.rm)), 0, false);
        for (_, copy, guest) in copies.into_iter().filter(|&(number, ..)| takes(number)) {
            self.asm.mov(guest, copy);
        }
        self.asm.forget_scratch();
        self.note_flags(source);
        true
    }

    /// MOVZX of AH to BH.
    fn widen_high_byte(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, .. } = *source;
        if instruction.op1_kind() != OpKind::Register || instruction.op0_register().size() < 4 {
            return false;
        }
        let value = self.value(shape.rm & 3, RAX);
        if value != RAX {
            self.asm.mov32(RAX, value);
        }
        // movzx eax, ah
        self.asm.raw(&[0x0f, 0xb6, 0xc4]);
        match home(shape.reg) {
            Some(reg) => self.asm.mov32(reg, RAX),
            None => self.asm.store(field(Context::register(shape.reg)), RAX),
        }
        true
    }

    /// BT and its kin with memory and an index in a register, which may reach far from the operand: the word that it
    /// names is looked up by itself.
    pub(super) fn bit_string(&mut self, source: &Source) -> bool {
        let Source { shape, form, .. } = *source;
        let bytes = source.memory_bytes();
        let Some(address) = source.address.as_ref().filter(|_| !self.narrow) else { return false };
        let Some(log) = [2, 4, 8].iter().position(|&size| size == bytes) else { return false };
        let log = log as u8 + 1;
        self.save_flags();
        self.put_address(address);
        let index = self.value(shape.reg, RAX);
        match bytes {
            // movsx rax, word
            2 => self.asm.raw(&[0x48 | index.0 >> 3, 0x0f, 0xbf, 0xc0 | index.0 & 7]),
            // movsxd rax, dword
            4 => self.asm.op(true, 0x63, RAX.0, index),
            _ if index != RAX => self.asm.mov(RAX, index),
            _ => {}
        }
        // sar rax, log2 of a word's bits
        self.asm.op(true, 0xc1, 7, RAX);
        self.asm.byte(log + 3);
        self.asm.lea(RCX, Mem { base: Some(RCX), index: Some((RAX, log)), disp: 0 });
        self.look_up_computed(bytes, form.writes_memory);
        self.asm.store(field(Context::RESUME), RAX);
        // Flags may come to the host's now, which takes RAX.
        let index = self.value(shape.reg, RCX);
        self.asm.mov32(RCX, index);
        self.asm.alu_imm(false, Alu::And, RCX, 8 * bytes as i32 - 1);
        self.prepare_flags(source);
        self.asm.load(RAX, field(Context::RESUME));
        self.asm.guest(shape, RCX.0, Some(Mem::at(RAX, 0).into()), 0, false);
        self.asm.forget_scratch();
        self.note_flags(source);
        true
    }

    /// CMPXCHG.
    pub(super) fn compare_exchange(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        let memory = source.has_memory();
        let Some(reg) = home(shape.reg) else { return false };
        if form.byte && has_high_byte(instruction) || !memory && home(shape.rm).is_none() {
            return false;
        }
        let rm = match home(shape.rm) {
            Some(rm) if !memory => rm.into(),
            _ => match self.operand(source) {
                Some(mem) => Rm::Mem(mem),
                None => return false,
            },
        };
        if !memory && shape.rm == 0 {
            // The accumulator itself is the destination: one register in two places.
            return false;
        }
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.guest(shape, reg.0, Some(rm), 0, form.byte);
        self.asm.mov(GUEST_RAX, RAX);
        self.note_flags(source);
        true
    }

    /// CMPXCHG8B and CMPXCHG16B. They take RAX to RDX, so the host's address goes to RSI for as long as it lasts.
    pub(super) fn compare_exchange_wide(&mut self, source: &Source) -> bool {
        let bytes = source.memory_bytes();
        let Some(address) = source.address.as_ref().filter(|_| matches!(bytes, 8 | 16)) else { return false };
        let mem = self.memory(address, bytes, true, if bytes == 16 { 16 } else { 1 });
        self.asm.store(field(Context::RIP), RSI);
        self.asm.lea(RSI, mem);
        self.prepare_flags(source);
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.mov(RCX, GUEST_RCX);
        self.asm.guest(source.shape, source.shape.reg, Some(Mem::at(RSI, 0).into()), 0, false);
        self.asm.mov(GUEST_RAX, RAX);
        self.asm.load(RSI, field(Context::RIP));
        self.asm.forget_scratch();
        self.note_flags(source);
        true
    }
}
