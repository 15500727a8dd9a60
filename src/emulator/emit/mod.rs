//! Host machine code: a byte-level assembler for the few forms that the translator glues guest instructions with, and
//! for guest instructions whose registers and memory operand are replaced.
//!
//! It is our own because the budget is a few hundred cycles for a guest instruction with its glue; a general encoder
//! takes that long for one host instruction (docs/decisions/emu-01-translator.md). Positions are offsets into the
//! buffer; `base` is the address at which the buffer will run, so that jumps to known addresses can be relative.
mod guest;
mod operand;
mod piece;

pub(crate) use guest::{Map, Shape};
pub(crate) use operand::{Alu, Condition, Gs, Mem, RAX, RCX, RDI, RDX, RSI, RSP, Reg, Rm};

use piece::{Piece, ROOM};

/// Bytes of a new buffer.
const FIRST: usize = 16 << 10;

/// A jump whose target is not known yet: the position of its 32-bit displacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) struct Forward(pub usize);

/// A short jump whose target is not known yet: the position of its 8-bit displacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) struct ShortForward(usize);

/// A buffer of host code.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// What was written, and room for what comes.
    code: Vec<u8>,
    /// Bytes that were written.
    length: usize,
    base: usize,
    /// Change with each instruction that may have changed RAX or RCX.
    versions: [u32; 2],
}

impl Assembler {
    /// Empties the buffer for code that will run at `base`.
    pub(crate) fn restart(&mut self, base: usize) {
        self.length = 0;
        self.base = base;
    }

    /// A number that stays the same for as long as glue leaves `scratch` alone, RAX or RCX. Guest instructions do: those
    /// that get it as a register got their value loaded into it before.
    pub(crate) fn version(&self, scratch: Reg) -> u32 {
        self.versions[usize::from(scratch.0 & 1)]
    }

    /// Code that comes from elsewhere may arrive here: RAX and RCX are not what they were.
    pub(crate) fn forget_scratch(&mut self) {
        self.touch(RAX.0);
        self.touch(RCX.0);
    }

    #[inline]
    fn touch(&mut self, register: u8) {
        if let Some(version) = self.versions.get_mut(usize::from(register)) {
            *version += 1;
        }
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.code.get(..self.length).unwrap_or_default()
    }

    /// Offset of the next byte.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.length
    }

    /// Writes one instruction, or less.
    #[inline]
    fn put(&mut self, write: impl FnOnce(&mut Piece<'_>)) {
        if self.code.len() < self.length + ROOM {
            self.grow();
        }
        if let Some(room) = self.code[self.length..].first_chunk_mut() {
            let mut piece = Piece { room, length: 0 };
            write(&mut piece);
            self.length += piece.length;
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.code.resize(2 * self.code.len() + FIRST, 0);
    }

    /// Fills up to a multiple of `alignment` of the address at which the code will run, with instructions that do nothing.
    pub(crate) fn align(&mut self, alignment: usize) {
        /// Recommended by Intel's SDM, Vol. 2B, NOP.
        const NOPS: [&[u8]; 9] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0],
            &[0x0f, 0x1f, 0x40, 0],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ];
        let mut missing = self.base.wrapping_add(self.position()).wrapping_neg() & (alignment - 1);
        while missing > 0 {
            let nop = NOPS[missing.min(NOPS.len()) - 1];
            self.raw(nop);
            missing -= nop.len();
        }
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.put(|piece| piece.byte(byte));
    }

    /// At most 15 bytes.
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.put(|piece| bytes.iter().for_each(|&byte| piece.byte(byte)));
    }

    fn dword(&mut self, value: u32) {
        self.put(|piece| piece.dword(value));
    }

    /// An instruction with a one-byte opcode; `wide` for 64 bits.
    pub(crate) fn op(&mut self, wide: bool, opcode: u8, reg: u8, rm: impl Into<Rm>) {
        self.op_rm(wide, opcode, reg, rm.into());
    }

    fn op_rm(&mut self, wide: bool, opcode: u8, reg: u8, rm: Rm) {
        // The field may also be part of the opcode: then this is too careful.
        self.touch(reg);
        if let Rm::Reg(rm) = rm {
            self.touch(rm);
        }
        self.put(|piece| {
            piece.optional(0x65, matches!(rm, Rm::Gs(_)));
            piece.rex(wide, reg, rm, false);
            piece.byte(opcode);
            piece.operand(reg, rm);
        });
    }

    /// An instruction with the opcode `0F opcode`, 32 bits.
    pub(crate) fn op_0f(&mut self, opcode: u8, reg: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        self.put(|piece| {
            piece.optional(0x65, matches!(rm, Rm::Gs(_)));
            piece.rex(false, reg, rm, false);
            piece.byte(0x0f);
            piece.byte(opcode);
            piece.operand(reg, rm);
        });
    }

    /// `mov to, from`, 64 bits.
    pub(crate) fn mov(&mut self, to: Reg, from: Reg) {
        self.op(true, 0x8b, to.0, from);
    }

    /// `mov to, from`, 32 bits.
    pub(crate) fn mov32(&mut self, to: Reg, from: Reg) {
        self.op(false, 0x8b, to.0, from);
    }

    /// Loads 64 bits.
    pub(crate) fn load(&mut self, to: Reg, from: impl Into<Rm>) {
        self.op(true, 0x8b, to.0, from);
    }

    /// Loads 32 bits, zero-extended.
    pub(crate) fn load32(&mut self, to: Reg, from: impl Into<Rm>) {
        self.op(false, 0x8b, to.0, from);
    }

    /// Stores 64 bits.
    pub(crate) fn store(&mut self, to: impl Into<Rm>, from: Reg) {
        self.op(true, 0x89, from.0, to);
    }

    /// Stores 32 bits.
    pub(crate) fn store32(&mut self, to: impl Into<Rm>, from: Reg) {
        self.op(false, 0x89, from.0, to);
    }

    /// Stores a 32-bit constant, sign-extended to 64 bits.
    pub(crate) fn store_imm(&mut self, to: impl Into<Rm>, value: i32) {
        self.op(true, 0xc7, 0, to);
        self.dword(value as u32);
    }

    /// `mov to, value`, as short as it goes.
    pub(crate) fn mov_imm(&mut self, to: Reg, value: u64) {
        self.touch(to.0);
        if let Ok(value) = u32::try_from(value) {
            self.put(|piece| {
                piece.optional(0x41, to.0 >= 8);
                piece.byte(0xb8 | to.0 & 7);
                piece.dword(value);
            });
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.op(true, 0xc7, 0, to);
            self.dword(value as u32);
        } else {
            self.put(|piece| {
                piece.byte(0x48 | to.0 >> 3);
                piece.byte(0xb8 | to.0 & 7);
                piece.qword(value.to_le_bytes(), 8);
            });
        }
    }

    /// `lea to, from`.
    pub(crate) fn lea(&mut self, to: Reg, from: Mem) {
        self.op(true, 0x8d, to.0, from);
    }

    /// `operation reg, rm`, 64 bits.
    pub(crate) fn alu(&mut self, operation: Alu, reg: Reg, rm: impl Into<Rm>) {
        self.op(true, (operation as u8) << 3 | 3, reg.0, rm);
    }

    /// `operation rm, value`.
    pub(crate) fn alu_imm(&mut self, wide: bool, operation: Alu, rm: impl Into<Rm>, value: i32) {
        match i8::try_from(value) {
            Ok(value) => {
                self.op(wide, 0x83, operation as u8, rm);
                self.byte(value as u8);
            }
            Err(_) => {
                self.op(wide, 0x81, operation as u8, rm);
                self.dword(value as u32);
            }
        }
    }

    /// `shl reg, count` (`right`: `shr`), 64 or 32 bits.
    pub(crate) fn shift(&mut self, wide: bool, right: bool, reg: Reg, count: u8) {
        self.op(wide, 0xc1, if right { 5 } else { 4 }, reg);
        self.byte(count);
    }

    /// `test reg8, value`, for RAX and RCX.
    pub(crate) fn test8(&mut self, reg: Reg, value: u8) {
        self.raw(&[0xf6, 0xc0 | reg.0 & 3, value]);
    }

    fn opcode_dword(&mut self, opcode: u8, value: u32) {
        self.put(|piece| {
            piece.byte(opcode);
            piece.dword(value);
        });
    }

    fn displacement_to(&self, target: usize, end: usize) -> u32 {
        target.wrapping_sub(self.base.wrapping_add(end)) as u32
    }

    /// `jmp` to an address.
    pub(crate) fn jump_to(&mut self, target: usize) {
        let displacement = self.displacement_to(target, self.position() + 5);
        self.opcode_dword(0xe9, displacement);
    }

    /// `jmp` to an earlier place of the buffer.
    pub(crate) fn jump_back(&mut self, position: usize) {
        self.jump_to(self.base.wrapping_add(position));
    }

    /// `call` of an address.
    pub(crate) fn call(&mut self, target: usize) {
        self.forget_scratch();
        let displacement = self.displacement_to(target, self.position() + 5);
        self.opcode_dword(0xe8, displacement);
    }

    /// `jmp` forward.
    pub(crate) fn jump(&mut self) -> Forward {
        self.opcode_dword(0xe9, 0);
        Forward(self.position() - 4)
    }

    /// `movzx to, byte [from]`, for RAX to RDI.
    pub(crate) fn load_byte(&mut self, to: Reg, Gs(offset): Gs) {
        self.touch(to.0);
        self.raw(&[0x65, 0x0f, 0xb6, 0x04 | to.0 << 3, 0x25]);
        self.raw(&offset.to_le_bytes());
    }

    /// `call` of a place that is not known yet.
    pub(crate) fn call_forward(&mut self) -> Forward {
        self.forget_scratch();
        self.opcode_dword(0xe8, 0);
        Forward(self.position() - 4)
    }

    /// `lea to, [rip + …]`: the address of a place in the buffer.
    pub(crate) fn lea_position(&mut self, to: Reg, position: usize) {
        self.touch(to.0);
        let displacement = position.wrapping_sub(self.position() + 7) as u32;
        self.put(|piece| {
            piece.byte(0x48 | (to.0 >> 3) << 2);
            piece.byte(0x8d);
            piece.byte(5 | (to.0 & 7) << 3);
            piece.dword(displacement);
        });
    }

    /// `lea to, [rip + …]`: the address of a place that comes.
    pub(crate) fn lea_forward(&mut self, to: Reg) -> Forward {
        self.lea_position(to, 0);
        Forward(self.position() - 4)
    }

    /// `push value`, sign-extended.
    pub(crate) fn push_imm(&mut self, value: i32) {
        self.opcode_dword(0x68, value as u32);
    }

    /// `push reg`.
    pub(crate) fn push(&mut self, reg: Reg) {
        self.put(|piece| {
            piece.optional(0x41, reg.0 >= 8);
            piece.byte(0x50 | reg.0 & 7);
        });
    }

    /// `pop reg`.
    pub(crate) fn pop(&mut self, reg: Reg) {
        self.touch(reg.0);
        self.put(|piece| {
            piece.optional(0x41, reg.0 >= 8);
            piece.byte(0x58 | reg.0 & 7);
        });
    }

    /// `ret`.
    pub(crate) fn ret(&mut self) {
        self.byte(0xc3);
    }

    /// `call rm`.
    pub(crate) fn call_rm(&mut self, rm: impl Into<Rm>) {
        self.forget_scratch();
        self.op(false, 0xff, 2, rm);
    }

    /// `jcc` forward.
    pub(crate) fn jump_if(&mut self, condition: Condition) -> Forward {
        self.put(|piece| {
            piece.byte(0x0f);
            piece.byte(0x80 | condition.0);
            piece.dword(0);
        });
        Forward(self.position() - 4)
    }

    /// `jrcxz` forward.
    pub(crate) fn jump_if_rcx_zero(&mut self) -> ShortForward {
        self.raw(&[0xe3, 0]);
        ShortForward(self.position() - 1)
    }

    /// The target of a forward jump is here.
    pub(crate) fn bind(&mut self, from: Forward) {
        let displacement = (self.position() - from.0 - 4) as u32;
        self.code[from.0..from.0 + 4].copy_from_slice(&displacement.to_le_bytes());
    }

    /// The target of a short forward jump is here, at most 127 bytes on.
    pub(crate) fn bind_short(&mut self, from: ShortForward) {
        let displacement = self.position() - from.0 - 1;
        debug_assert!(displacement < 128);
        self.code[from.0] = displacement as u8;
    }

    /// `jmp rm`.
    pub(crate) fn jump_rm(&mut self, rm: impl Into<Rm>) {
        self.op(false, 0xff, 4, rm);
    }

    /// A guest instruction whose one register is part of the opcode, with another register.
    pub(crate) fn guest_in_opcode(&mut self, shape: &Shape, register: u8, byte: bool) {
        self.put(|piece| {
            piece.prefixes(shape);
            piece.rex(shape.rex & 8 != 0, 0, Rm::Reg(register), byte);
            piece.optional(0x0f, shape.map == Map::Two);
            piece.byte(shape.opcode & !7 | register & 7);
            piece.immediate(shape);
        });
    }

    /// A guest instruction of this shape with other operands: `reg` and `rm` fields and VEX.vvvv. `byte` says that
    /// general 8-bit registers take part, so that numbers 4 to 7 mean SPL to DIL.
    pub(crate) fn guest(&mut self, shape: &Shape, reg: u8, rm: Option<Rm>, vvvv: u8, byte: bool) {
        self.put(|piece| {
            if let Some(vex) = shape.vex {
                let extension = rm.map_or(0, Rm::extension);
                piece.byte(0xc4);
                piece.byte((!reg >> 3 & 1) << 7 | (!extension & 3) << 5 | vex.map);
                piece.byte((vex.wide << 7) | (!vvvv & 15) << 3 | vex.length << 2 | vex.prefix);
            } else {
                piece.prefixes(shape);
                piece.rex(shape.rex & 8 != 0, reg, rm.unwrap_or(Rm::Reg(0)), byte);
                piece.optional(0x0f, shape.map != Map::One);
                let third = if shape.map == Map::Three38 { 0x38 } else { 0x3a };
                piece.optional(third, matches!(shape.map, Map::Three38 | Map::Three3a));
            }
            piece.byte(shape.opcode);
            if let Some(rm) = rm {
                piece.operand(reg, rm);
            }
            piece.immediate(shape);
        });
    }
}

#[cfg(test)]
mod tests;
