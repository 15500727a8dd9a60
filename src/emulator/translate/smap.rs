//! STAC and CLAC of ring 0, without a call for help: whether supervisor code may reach user pages.
//!
//! They change which bank of the soft TLB is used. Windows that were opened with RFLAGS.AC set and hold only so are listed in
//! the context; CLAC drops those. All other windows hold on: with AC set the supervisor may do more, not less.
use super::builder::Builder;
use super::system::CR4;
use crate::arch::{Cr4, Rflags};
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX};
use crate::emulator::mmu::{Bank, Mmu};

impl Builder<'_> {
    /// STAC, if `on`, or CLAC. Without SMAP, where it would change no rights, it takes the cold way.
    pub(super) fn set_ac(&mut self, on: bool) {
        self.save_flags();
        self.test_state(CR4, Cr4::SMAP.bits());
        self.cold_if(Condition::EQUAL);
        let bank = if on { Bank::SupervisorAc } else { Bank::Supervisor };
        if on {
            self.set(Rflags::AC);
        } else {
            self.clear(Rflags::AC);
            self.asm.alu_imm(true, Alu::Cmp, field(Context::OPENED_AC_COUNT), 0);
            let none = self.asm.jump_if(Condition::EQUAL);
            let drop = self.stubs.drop_ac;
            self.asm.call(drop);
            self.asm.bind(none);
        }
        self.asm.load(RAX, field(Context::TLBS + 8 * bank as i32));
        self.asm.store(field(Context::TLB), RAX);
        self.asm.load(RCX, field(Context::BANK));
        self.asm.store_imm(Mem::at(RCX, 0), bank as i32);
        // mov byte
        self.asm.op(false, 0xc6, 0, Mem::at(RCX, Mmu::AC_FROM_BANK));
        self.asm.byte(on.into());
    }
}
