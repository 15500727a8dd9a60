//! Branches and the stack.
use super::Decoded;
use super::address::Address;
use super::builder::{Builder, Flags};
use super::forms::Kind;
use super::integer::Source;
use super::remade::can_remake;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RBP, GUEST_RSP, home};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Condition, Mem, RAX, RCX, Reg};
use crate::emulator::technique::Technique;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

const RSP: u8 = 4;
const RBP: u8 = 5;

/// How a branch was translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Branch {
    /// The block goes on with the next instruction.
    GoesOn,
    /// The block has ended.
    Ended,
    /// It must be left to `single`.
    Refused,
}

impl Builder<'_> {
    /// Translates PUSH, POP and LEAVE; `false`: it is one that `single` must execute.
    pub(super) fn stack(&mut self, source: &Source) -> bool {
        let instruction = source.instruction;
        let moved = instruction.stack_pointer_increment().unsigned_abs() as usize;
        if moved != self.word() && source.form.kind != Kind::Leave {
            return false;
        }
        match source.form.kind {
            Kind::Push => self.push(instruction),
            Kind::Pop => self.pop(instruction),
            Kind::Leave if matches!(instruction.code(), Code::Leaveq | Code::Leaved) => {
                let word = self.word();
                let mem = self.memory(&Address::at(RBP, 0), word, false, 1);
                self.load_word(RCX, mem);
                self.asm.op(!self.narrow, 0x8d, GUEST_RSP.0, Mem::at(GUEST_RBP, word as i32));
                self.asm.op(!self.narrow, 0x8b, GUEST_RBP.0, RCX);
                true
            }
            _ => false,
        }
    }

    /// Bytes of a word of the stack.
    fn word(&self) -> usize {
        if self.narrow { 4 } else { 8 }
    }

    /// Loads a word of the stack, or an address of code.
    fn load_word(&mut self, to: Reg, from: Mem) {
        self.asm.op(!self.narrow, 0x8b, to.0, from);
    }

    fn store_word(&mut self, to: Mem, from: Reg) {
        self.asm.op(!self.narrow, 0x89, from.0, to);
    }

    /// Stores a constant as a word; in 64-bit code it is sign-extended.
    fn store_word_imm(&mut self, to: Mem, value: i32) {
        self.asm.op(!self.narrow, 0xc7, 0, to);
        self.asm.raw(&value.to_le_bytes());
    }

    /// Whether a register is one that a push moves as a word.
    fn is_word(&self, register: Register) -> bool {
        if self.narrow { register.is_gpr32() } else { register.is_gpr64() }
    }

    fn push(&mut self, instruction: &Instruction) -> bool {
        let word = self.word();
        let top = Address::at(RSP, -(word as i64));
        match instruction.op0_kind() {
            OpKind::Register if self.is_word(instruction.op0_register()) => {
                let mem = self.memory(&top, word, true, 1);
                let value = self.value(instruction.op0_register().number() as u8, RAX);
                self.store_word(mem, value);
            }
            OpKind::Memory => {
                let Some(address) = Address::of(instruction, self.narrow) else { return false };
                let from = self.memory(&address, word, false, 1);
                self.load_word(RAX, from);
                self.asm.store(field(Context::RIP), RAX);
                let mem = self.memory(&top, word, true, 1);
                self.asm.load(RAX, field(Context::RIP));
                self.store_word(mem, RAX);
            }
            OpKind::Register => return false,
            _ => {
                let value = instruction.immediate(0);
                let value = if self.narrow { i64::from(value as i32) } else { value as i64 };
                let Ok(value) = i32::try_from(value) else { return false };
                let mem = self.memory(&top, word, true, 1);
                self.store_word_imm(mem, value);
            }
        }
        self.move_stack(-(word as i32));
        true
    }

    fn pop(&mut self, instruction: &Instruction) -> bool {
        let register = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register || !self.is_word(register) {
            return false;
        }
        let word = self.word();
        let mem = self.memory(&Address::at(RSP, 0), word, false, 1);
        match home(register.number() as u8) {
            Some(reg) => self.load_word(reg, mem),
            None => {
                self.asm.load(RAX, mem);
                self.asm.store(field(Context::register(register.number() as u8)), RAX);
            }
        }
        if register.full_register() != Register::RSP {
            self.move_stack(word as i32);
        }
        true
    }

    /// Translates a branch.
    pub(super) fn branch(&mut self, source: &Source, before: Option<&Decoded>) -> Branch {
        let instruction = source.instruction;
        let target = instruction.near_branch_target();
        let next = instruction.next_ip();
        match source.form.kind {
            Kind::Jump => {
                self.leave(target);
                Branch::Ended
            }
            Kind::JumpIf => {
                self.restore_flags();
                let condition = Condition(instruction.condition_code() as u8 - 1);
                if !self.is_back(target) {
                    self.leave_if(condition, target);
                    return Branch::GoesOn;
                }
                if self.follower == Some(target) {
                    // The next round of an unrolled loop.
                    self.leave_if(condition.inverted(), next);
                    return Branch::GoesOn;
                }
                let on = self.asm.jump_if(condition.inverted());
                let eager = self.without.has(Technique::LazyFlags);
                let remade = before.filter(|before| !eager && target == self.rip && can_remake(before));
                let repeated = remade.and_then(|before| self.repeat(|b| b.remake_flags(before)));
                if repeated.is_none() {
                    self.leave(target);
                }
                self.asm.bind(on);
                self.flags = Flags::Live;
                self.leave(next);
                Branch::Ended
            }
            Kind::Call => {
                self.push_return(next);
                self.settle_last(instruction);
                self.call(target, next);
                Branch::Ended
            }
            Kind::JumpIndirect | Kind::CallIndirect => self.indirect(instruction, next),
            Kind::Ret => {
                self.save_flags();
                let word = self.word();
                let mem = self.memory(&Address::at(RSP, 0), word, false, 1);
                self.load_word(RAX, mem);
                let extra =
                    if instruction.op_count() == 1 { i32::from(instruction.immediate16()) } else { 0 };
                self.move_stack(word as i32 + extra);
                let site = self.settle_last(instruction);
                self.return_to(site);
                Branch::Ended
            }
            _ => Branch::Refused,
        }
    }

    fn push_return(&mut self, next: u64) {
        let word = self.word();
        let mem = self.memory(&Address::at(RSP, -(word as i64)), word, true, 1);
        match i32::try_from(next as i64) {
            _ if self.narrow => self.store_word_imm(mem, next as i32),
            Ok(value) => self.asm.store_imm(mem, value),
            Err(_) => {
                self.asm.mov_imm(RAX, next);
                self.asm.store(mem, RAX);
            }
        }
        self.move_stack(-(word as i32));
    }

    fn indirect(&mut self, instruction: &Instruction, next: u64) -> Branch {
        self.save_flags();
        match instruction.op0_kind() {
            OpKind::Register => {
                let value = self.value(instruction.op0_register().number() as u8, RAX);
                if value != RAX {
                    self.asm.op(!self.narrow, 0x8b, RAX.0, value);
                }
            }
            _ => {
                let Some(address) = Address::of(instruction, self.narrow) else { return Branch::Refused };
                let word = self.word();
                let mem = self.memory(&address, word, false, 1);
                self.load_word(RAX, mem);
            }
        }
        if instruction.mnemonic() == Mnemonic::Call {
            self.asm.store(field(Context::RIP), RAX);
            self.push_return(next);
            self.asm.load(RAX, field(Context::RIP));
        }
        let site = self.settle_last(instruction);
        if instruction.mnemonic() == Mnemonic::Call {
            self.call_through(site, next);
        } else {
            self.look_up(site);
        }
        Branch::Ended
    }
}
