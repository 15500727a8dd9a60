//! Branches and the stack.
use super::address::Address;
use super::builder::{Builder, Flags};
use super::forms::{Kind, has_high_byte};
use super::integer::Source;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RBP, GUEST_RSP, home};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Condition, Map, Mem, RAX, RCX};
use crate::emulator::technique::Technique;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

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

/// Whether the flags that an instruction has set can be made again from what it left.
fn can_remake(source: &Source) -> bool {
    let Source { instruction, shape, form, .. } = source;
    let registers = shape.modrm.is_none_or(|modrm| modrm >= 0xc0) && !has_high_byte(instruction);
    let constant = matches!(shape.opcode, 0x81 | 0x83) && shape.vex.is_none() && shape.map == Map::One;
    registers
        && match instruction.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => matches!(form.kind, Kind::Plain | Kind::Accumulator),
            Mnemonic::Add | Mnemonic::Sub => form.kind == Kind::Plain && constant && home(shape.rm).is_some(),
            _ => false,
        }
}

impl Builder<'_> {
    /// Translates PUSH, POP and LEAVE; `false`: it is one that `single` must execute.
    pub(super) fn stack(&mut self, source: &Source) -> bool {
        let instruction = source.instruction;
        if instruction.stack_pointer_increment().unsigned_abs() != 8 && source.form.kind != Kind::Leave {
            return false;
        }
        match source.form.kind {
            Kind::Push => self.push(instruction),
            Kind::Pop => self.pop(instruction),
            Kind::Leave if instruction.code() == iced_x86::Code::Leaveq => {
                let mem = self.memory(&Address::at(RBP, 0), 8, false, 1);
                self.asm.load(RCX, mem);
                self.asm.lea(GUEST_RSP, Mem::at(GUEST_RBP, 8));
                self.asm.mov(GUEST_RBP, RCX);
                true
            }
            _ => false,
        }
    }

    fn push(&mut self, instruction: &Instruction) -> bool {
        let top = Address::at(RSP, -8);
        match instruction.op0_kind() {
            OpKind::Register if instruction.op0_register().is_gpr64() => {
                let mem = self.memory(&top, 8, true, 1);
                let value = self.value(instruction.op0_register().number() as u8, RAX);
                self.asm.store(mem, value);
            }
            OpKind::Memory => {
                let Some(address) = Address::of(instruction) else { return false };
                let from = self.memory(&address, 8, false, 1);
                self.asm.load(RAX, from);
                self.asm.store(field(Context::RIP), RAX);
                let mem = self.memory(&top, 8, true, 1);
                self.asm.load(RAX, field(Context::RIP));
                self.asm.store(mem, RAX);
            }
            OpKind::Register => return false,
            _ => {
                let Ok(value) = i32::try_from(instruction.immediate(0) as i64) else { return false };
                let mem = self.memory(&top, 8, true, 1);
                self.asm.store_imm(mem, value);
            }
        }
        self.move_stack(-8);
        true
    }

    fn pop(&mut self, instruction: &Instruction) -> bool {
        let register = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register || !register.is_gpr64() {
            return false;
        }
        let mem = self.memory(&Address::at(RSP, 0), 8, false, 1);
        match home(register.number() as u8) {
            Some(reg) => self.asm.load(reg, mem),
            None => {
                self.asm.load(RAX, mem);
                self.asm.store(field(Context::register(register.number() as u8)), RAX);
            }
        }
        if register != Register::RSP {
            self.move_stack(8);
        }
        true
    }

    /// Translates a branch.
    pub(super) fn branch(&mut self, source: &Source, before: Option<Source>) -> Branch {
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
                let repeated = remade.and_then(|before| self.repeat(|b| b.remake_flags(&before)));
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
                let mem = self.memory(&Address::at(RSP, 0), 8, false, 1);
                self.asm.load(RAX, mem);
                let extra =
                    if instruction.op_count() == 1 { i32::from(instruction.immediate16()) } else { 0 };
                self.move_stack(8 + extra);
                let site = self.settle_last(instruction);
                self.return_to(site);
                Branch::Ended
            }
            _ => Branch::Refused,
        }
    }

    /// Sets the flags as `source` has set them a moment ago; see [`can_remake`]. Changes RAX and RCX.
    fn remake_flags(&mut self, source: &Source) {
        if matches!(source.instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            self.flags = Flags::Live;
            self.simple(source);
            return;
        }
        // What was added is taken away again, and added again, in a copy.
        if let Some(reg) = home(source.shape.rm) {
            self.asm.mov(RAX, reg);
            let digit = source.shape.reg & 7;
            self.asm.guest(source.shape, 5 - digit, Some(RAX.into()), 0, false);
            self.asm.guest(source.shape, digit, Some(RAX.into()), 0, false);
        }
    }

    fn push_return(&mut self, next: u64) {
        let mem = self.memory(&Address::at(RSP, -8), 8, true, 1);
        match i32::try_from(next as i64) {
            Ok(value) => self.asm.store_imm(mem, value),
            Err(_) => {
                self.asm.mov_imm(RAX, next);
                self.asm.store(mem, RAX);
            }
        }
        self.move_stack(-8);
    }

    fn indirect(&mut self, instruction: &Instruction, next: u64) -> Branch {
        self.save_flags();
        match instruction.op0_kind() {
            OpKind::Register => {
                let value = self.value(instruction.op0_register().number() as u8, RAX);
                if value != RAX {
                    self.asm.mov(RAX, value);
                }
            }
            _ => {
                let Some(address) = Address::of(instruction) else { return Branch::Refused };
                let mem = self.memory(&address, 8, false, 1);
                self.asm.load(RAX, mem);
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
