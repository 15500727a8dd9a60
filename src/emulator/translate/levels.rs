//! Changes of what blocks are found by, without a call for help: the privilege level by SYSCALL and SYSRET, CR0.TS by MOV
//! and CLTS.
//!
//! The mark of jumps changes with them. The stack of returns is emptied, for its entries lead to blocks of the mode before,
//! and what follows is looked up by address, even within the page. Windows stay: there is a set for each privilege, and
//! the set that is not in use holds for RFLAGS.AC clear (see `session::window`); AC and all else that is rare takes the
//! cold way.
use super::builder::Builder;
use super::system::{RFLAGS, segment};
use super::{Limits, Vectors};
use crate::arch::msr::Msrs;
use crate::arch::{CpuState, Cr0, Efer, Rflags, Segment, SegmentRegister};
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_R11, GUEST_RCX};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX, RSP};
use crate::emulator::front::block::CodeMode;
use crate::emulator::mmu::Bank;
use crate::emulator::single::far;
use iced_x86::{Code, Instruction, Mnemonic, Register};
use std::mem::offset_of;

const EFER: i32 = offset_of!(CpuState, efer) as i32;
const CR0: i32 = offset_of!(CpuState, cr0) as i32;
const STAR: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, star)) as i32;
const LSTAR: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, lstar)) as i32;
const SFMASK: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, sfmask)) as i32;
const TS: i32 = Cr0::TS.bits() as i32;

/// The mark of supervisor code and that of user code differ in these bits.
pub(in crate::emulator::translate) fn mark_of_levels() -> u64 {
    let limits = |user| Limits {
        code: CodeMode::new(64, user),
        vectors: Vectors::None,
        ring0: !user,
        windows: true,
        thread: false,
    };
    limits(true).number() ^ limits(false).number()
}

impl Builder<'_> {
    /// SYSCALL of ring 3, which ends the block.
    pub(super) fn system_call(&mut self, instruction: &Instruction) {
        self.save_flags();
        self.test_state(EFER, Efer::SCE.bits());
        self.cold_if(Condition::EQUAL);
        self.test_state(RFLAGS, Rflags::AC.bits());
        self.cold_if(Condition::NOT_EQUAL);
        self.rflags_image();
        self.asm.mov(GUEST_R11, RAX);
        self.asm.mov_imm(GUEST_RCX, instruction.next_ip());
        let mask = self.state(SFMASK);
        self.asm.load32(RAX, mask);
        // not eax
        self.asm.op(false, 0xf7, 2, RAX);
        self.asm.alu(Alu::And, RAX, GUEST_R11);
        self.set_rflags();
        self.change_level(false);
        let target = self.state(LSTAR);
        self.asm.load(RAX, target);
        let site = self.settle_last(instruction);
        self.look_up(site);
    }

    /// SYSRET of ring 0 to 64-bit code, which ends the block.
    pub(super) fn system_return(&mut self, instruction: &Instruction) {
        self.save_flags();
        self.test_state(EFER, Efer::SCE.bits());
        self.cold_if(Condition::EQUAL);
        self.test_state(RFLAGS, Rflags::AC.bits());
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.op(false, 0xf7, 0, GUEST_R11);
        self.asm.raw(&((Rflags::AC | Rflags::TF).bits() as u32).to_le_bytes());
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.mov(RCX, GUEST_RCX);
        self.cold_unless_canonical();
        self.cold_if_interrupt();
        self.asm.mov32(RAX, GUEST_R11);
        self.asm.alu_imm(false, Alu::And, RAX, far::SYSRET_FLAGS as i32);
        self.state(RFLAGS);
        self.set_rflags();
        self.change_level(true);
        self.asm.mov(RAX, GUEST_RCX);
        let site = self.settle_last(instruction);
        self.look_up(site);
    }

    /// Sets RFLAGS, which the CPU's state at RCX has, to RAX. Changes RAX and RCX.
    fn set_rflags(&mut self) {
        // or eax, 2: the bit that is always set.
        self.asm.raw(&[0x0d, 2, 0, 0, 0]);
        self.asm.store(Mem::at(RCX, RFLAGS), RAX);
        self.take_status();
    }

    /// Loads CS and SS as SYSCALL and SYSRET do, and makes known what depends on the privilege. Changes RAX and RCX.
    fn change_level(&mut self, to_user: bool) {
        let ring = if to_user { 3 } else { 0 };
        let segments = [
            (SegmentRegister::Cs, far::flat_code(0, ring, true)),
            (SegmentRegister::Ss, far::flat_data(0, ring)),
        ];
        // The selector of SYSCALL lies in bits 47:32, that of SYSRET in bits 63:48.
        let star = self.state(STAR + if to_user { 6 } else { 4 });
        // movzx eax, word
        self.asm.op_0f(0xb7, RAX.0, star);
        self.asm.alu_imm(false, Alu::And, RAX, !3);
        self.asm.alu_imm(false, Alu::Add, RAX, if to_user { 8 + 3 } else { 0 });
        let order = if to_user {
            [SegmentRegister::Ss, SegmentRegister::Cs]
        } else {
            [SegmentRegister::Cs, SegmentRegister::Ss]
        };
        for (i, register) in order.into_iter().enumerate() {
            if i > 0 {
                self.asm.alu_imm(false, Alu::Add, RAX, 8);
            }
            // mov word
            self.asm.byte(0x66);
            self.asm.op(false, 0x89, RAX.0, Mem::at(RCX, segment(register, offset_of!(Segment, selector))));
        }
        for (register, segment_value) in segments {
            let Segment { base, limit, attributes, .. } = segment_value;
            self.asm.store_imm(Mem::at(RCX, segment(register, offset_of!(Segment, base))), base as i32);
            self.asm.op(false, 0xc7, 0, Mem::at(RCX, segment(register, offset_of!(Segment, limit))));
            self.asm.raw(&limit.to_le_bytes());
            self.asm.byte(0x66);
            self.asm.op(false, 0xc7, 0, Mem::at(RCX, segment(register, offset_of!(Segment, attributes))));
            self.asm.raw(&attributes.to_le_bytes());
        }
        self.asm.load(RAX, field(Context::TAG));
        // xor rax, [levels]
        self.asm.op(true, 0x33, RAX.0, field(Context::LEVELS));
        self.asm.store(field(Context::TAG), RAX);
        let bank = if to_user { Bank::User } else { Bank::Supervisor };
        self.asm.load(RAX, field(Context::TLBS + 8 * i32::from(to_user)));
        self.asm.store(field(Context::TLB), RAX);
        self.asm.load(RCX, field(Context::BANK));
        self.asm.store_imm(Mem::at(RCX, 0), bank as i32);
        self.asm.load(RSP, field(Context::RETURNS_BASE));
    }

    /// Whether the instruction writes CR0 in a way that [`Self::write_cr0`] knows.
    pub(super) fn writes_cr0(instruction: &Instruction) -> bool {
        instruction.mnemonic() == Mnemonic::Clts
            || instruction.code() == Code::Mov_cr_r64 && instruction.op0_register() == Register::CR0
    }

    /// A write of CR0 at ring 0 that changes TS or nothing; it ends the block.
    pub(super) fn write_cr0(&mut self, instruction: &Instruction) {
        self.save_flags();
        if instruction.mnemonic() == Mnemonic::Clts {
            let cr0 = self.state(CR0);
            self.asm.load32(RAX, cr0);
            self.asm.alu_imm(false, Alu::And, RAX, TS);
        } else {
            let new = self.value(instruction.op1_register().number() as u8, RAX);
            if new != RAX {
                self.asm.mov(RAX, new);
            }
            let cr0 = self.state(CR0);
            // xor rax, [cr0]; test rax, all but TS
            self.asm.op(true, 0x33, RAX.0, cr0);
            self.asm.op(true, 0xf7, 0, RAX);
            self.asm.raw(&(!TS).to_le_bytes());
            self.cold_if(Condition::NOT_EQUAL);
        }
        // xor [cr0], rax
        self.asm.op(true, 0x31, RAX.0, Mem::at(RCX, CR0));
        self.asm.load32(RAX, Mem::at(RCX, CR0));
        self.asm.load(RCX, field(Context::TAG));
        self.asm.alu_imm(true, Alu::And, RCX, !(Limits::VECTORS as i32));
        self.asm.test8(RAX, TS as u8);
        let switched = self.asm.jump_if(Condition::NOT_EQUAL);
        self.asm.op(true, 0x0b, RCX.0, field(Context::UNSWITCHED));
        self.asm.bind(switched);
        self.asm.store(field(Context::TAG), RCX);
        self.asm.load(RSP, field(Context::RETURNS_BASE));
        self.settle_last(instruction);
        self.asm.forget_scratch();
        let next = instruction.next_ip();
        let link = self.link(next, true);
        self.heed_kicks(link);
        self.jump_far(link, next);
    }
}
