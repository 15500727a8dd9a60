//! Jumps that are looked up by address, and calls and returns, which the host's CPU predicts.
use super::builder::{Builder, Flags, Ways};
use super::cold::Cold;
use super::number;
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::field;
use crate::emulator::code::{JUMP_SHIFT, JUMPS, Jump, NO_MARK, jump_index};
use crate::emulator::emit::{Alu, Condition, Forward, Mem, RAX, RCX, RSP};
use crate::emulator::technique::Technique;
use smallvec::smallvec;

/// Offset of the entry for an address in the jump cache.
fn jump_slot(rip: u64) -> i32 {
    (jump_index(rip) << JUMP_SHIFT) as i32
}

impl Builder<'_> {
    /// A jump to a fixed address in another page. Flags are saved.
    ///
    /// It is patched to go straight there, for as long as the mark of jumps is the one that it was patched under.
    pub(super) fn jump_far(&mut self, link: u32, rip: u64) {
        let stale = self.compare_mark(link);
        let direct = self.asm.jump();
        self.new_link(link).displacement = Some(direct.0);
        self.cold.push((smallvec![stale], Cold::Stale { link, rip, direct, back: None }));
    }

    /// Compares the mark of jumps with the one that a link holds for: the way on which it does not.
    fn compare_mark(&mut self, link: u32) -> Forward {
        // cmp dword [tag], mark
        self.asm.op(false, 0x81, 7, field(Context::TAG));
        self.new_link(link).mark = Some(self.asm.position());
        self.asm.raw(&NO_MARK.to_le_bytes());
        self.asm.jump_if(Condition::NOT_EQUAL)
    }

    /// A way that is taken if somebody asks for attention. Flags are saved.
    pub(super) fn is_kicked(&mut self) -> Forward {
        // cmp byte [attention], 0
        self.asm.op(false, 0x80, 7, field(Context::ATTENTION));
        self.asm.raw(&[0]);
        self.asm.jump_if(Condition::NOT_EQUAL)
    }

    /// Asks for help if somebody asks for attention. Flags are saved.
    pub(super) fn heed_kicks(&mut self, link: u32) {
        let kicked = self.is_kicked();
        let ask = Cold::Ask { number: number::KICK | link, live: false, target: false };
        self.cold.push((smallvec![kicked], ask));
    }

    /// A far link that holds for another mark: the jump cache may know where to go on. `direct` leads to where help is
    /// asked for; `back` is behind the call, if it is one.
    pub(super) fn stale(&mut self, link: u32, rip: u64, direct: Forward, back: Option<usize>) {
        let mut missed = self.find_fixed(rip);
        let number = number::LINK | link;
        if let Some(back) = back {
            self.asm.lea_position(RAX, back);
            self.asm.push(RAX);
            self.cold.push((missed, Cold::Unknown { number, target: false, back }));
            missed = Ways::new();
        }
        self.asm.jump_rm(Mem::at(RCX, jump_slot(rip) + Jump::TARGET));
        missed.push(direct);
        self.cold.push((missed, Cold::Ask { number, live: false, target: false }));
    }

    /// Leaves the entry of the jump cache for a fixed address in RCX, less its offset; or goes to one of the ways. Changes
    /// RAX.
    fn find_fixed(&mut self, rip: u64) -> Ways {
        let slot = jump_slot(rip);
        self.asm.load(RCX, field(Context::JUMPS));
        self.asm.mov_imm(RAX, rip);
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, slot));
        let other = self.asm.jump_if(Condition::NOT_EQUAL);
        self.asm.load(RAX, field(Context::TAG));
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, slot + Jump::TAG));
        let stale = self.asm.jump_if(Condition::NOT_EQUAL);
        smallvec![other, stale]
    }

    /// A jump to the guest address in RAX, through the jump cache. Flags are saved.
    pub(super) fn look_up(&mut self, site: u32) {
        let kicked = self.is_kicked();
        let mut missed = self.find();
        missed.push(kicked);
        self.asm.jump_rm(Mem::at(RCX, Jump::TARGET));
        self.cold.push((missed, Cold::Ask { number: number::INDIRECT | site, live: false, target: true }));
    }

    /// Leaves the entry of the jump cache for the address in RAX in RCX, or goes to one of the ways, with the address in
    /// RAX.
    fn find(&mut self) -> Ways {
        self.asm.mov32(RCX, RAX);
        self.asm.alu_imm(false, Alu::And, RCX, (JUMPS - 1) as i32);
        self.asm.shift(false, false, RCX, JUMP_SHIFT);
        self.asm.alu(Alu::Add, RCX, field(Context::JUMPS));
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, 0));
        let other = self.asm.jump_if(Condition::NOT_EQUAL);
        self.asm.load(RAX, field(Context::TAG));
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, Jump::TAG));
        // The address is needed again: it is that of the entry.
        self.asm.load(RAX, Mem::at(RCX, 0));
        let stale = self.asm.jump_if(Condition::NOT_EQUAL);
        smallvec![other, stale]
    }

    /// Remembers the return of a call that comes next. If somebody asks for attention, asks for help with that number
    /// instead, and with the target in RAX if there is one. Flags are saved. Changes RCX.
    fn remember_return(&mut self, next: u64, number: u32, target: bool) {
        self.asm.alu(Alu::Cmp, RSP, field(Context::RETURNS_LIMIT));
        let deep = self.asm.jump_if(Condition::BELOW);
        self.cold.push((smallvec![deep], Cold::Deep { resume: self.asm.position(), number, target }));
        match i32::try_from(next as i64) {
            Ok(next) => self.asm.push_imm(next),
            Err(_) => {
                self.asm.mov_imm(RCX, next);
                self.asm.push(RCX);
            }
        }
    }

    /// What is behind the call: where the guest's return comes to.
    fn come_back(&mut self, next: u64) {
        self.asm.lea(RSP, Mem::at(RSP, 8));
        self.asm.forget_scratch();
        self.flags = Flags::Saved;
        self.leave(next);
    }

    /// A call of `target`, the guest's return address being pushed; the return to `next` ends the block.
    pub(super) fn call(&mut self, target: u64, next: u64) {
        self.save_flags();
        if self.without.has(Technique::ReturnStack) {
            self.go_on_at(target, true);
            return;
        }
        let link = self.link(target, true);
        // Forward calls heed kicks too: some dozen that call the next one twice take for ever.
        self.remember_return(next, number::KICK | link, false);
        let stale = (!self.is_near(target)).then(|| self.compare_mark(link));
        let direct = self.asm.call_forward();
        if let Some(stale) = stale {
            self.new_link(link).displacement = Some(direct.0);
            let back = Some(self.asm.position());
            self.cold.push((smallvec![stale], Cold::Stale { link, rip: target, direct, back }));
        } else {
            self.goes(direct, link, false);
        }
        self.come_back(next);
    }

    /// A call of the address in RAX, the guest's return address being pushed. Flags are saved.
    pub(super) fn call_through(&mut self, site: u32, next: u64) {
        if self.without.has(Technique::ReturnStack) {
            self.look_up(site);
            return;
        }
        self.remember_return(next, number::INDIRECT | site, true);
        let missed = self.find();
        self.asm.call_rm(Mem::at(RCX, Jump::TARGET));
        let back = self.asm.position();
        self.cold.push((missed, Cold::Unknown { number: number::INDIRECT | site, target: true, back }));
        self.come_back(next);
    }

    /// A return to the guest address in RAX. Flags are saved.
    pub(super) fn return_to(&mut self, site: u32) {
        if self.without.has(Technique::ReturnStack) {
            self.look_up(site);
            return;
        }
        self.asm.mov_imm(RCX, (number::INDIRECT | site).into());
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RSP, 8));
        let astray = self.asm.jump_if(Condition::NOT_EQUAL);
        self.asm.ret();
        self.cold.push((smallvec![astray], Cold::Astray { site }));
    }
}
