//! Answers what translated code asks for: an instruction that `single` executes, a link or a jump whose target is not known
//! yet, a window, attention.
#![expect(unsafe_code, reason = "reads and writes the context that translated code works on")]
use super::{End, Go, Session};
use crate::arch::state::gpr;
use crate::arch::{Activity, Exception, Gva};
use crate::emulator::front::block::CodeMode;
use crate::emulator::mmu::Fault;
use crate::emulator::single::cx::Flow;
use crate::emulator::single::{Ended, lower};
use crate::emulator::translate::number;
use crate::engine::{Account, Cause};
use iced_x86::{Code, Mnemonic, OpKind};
use std::sync::atomic::Ordering;

impl Session<'_, '_> {
    pub(super) fn answer(&mut self, number: u32) -> usize {
        // SAFETY: as in `write_context`.
        self.cx.flags = unsafe { (*self.context).flags } as u16;
        let index = number & !number::KIND;
        let go = match number & number::KIND {
            number::SITE => {
                self.counters.count(Cause::HelpSingle);
                if self.workshop.counts {
                    // A device may ask for the count.
                    self.count_instructions();
                }
                self.execute(index)
            }
            number::ACCESSED => self.accessed(index),
            number::LINK => {
                self.counters.count(Cause::HelpLink);
                self.cx.state.rip = self.store.links[index as usize].rip;
                self.through(index, self.windows)
            }
            number::MISS => {
                self.counters.count(Cause::HelpWindow);
                self.cx.state.rip = self.store.links[index as usize].rip;
                // With a window where there was none the access is tried again.
                if self.move_window(index) {
                    let found = self.remembered().map_or_else(|| self.find_next(true, false), Ok);
                    found.map_or_else(Go::Leave, Go::To)
                } else {
                    // Where it leads by itself, if it does.
                    self.store.links[index as usize].target.map_or_else(|| self.through(index, false), Go::To)
                }
            }
            number::INDIRECT => {
                self.counters.count(Cause::HelpJump);
                self.indirect(index)
            }
            _ => {
                self.counters.count(Cause::HelpKick);
                self.cx.state.rip = self.store.links[index as usize].rip;
                Go::Leave(End::Ended(Ended::Attention))
            }
        };
        let target = match go {
            // SAFETY: as in `write_context`.
            Go::Resume => Ok(unsafe { (*self.context).resume as usize }),
            Go::To(target) => Ok(target),
            Go::Next => self.next(self.windows),
            Go::Leave(end) => Err(end),
        };
        match target {
            Ok(target) => {
                self.write_context();
                target
            }
            Err(end) => {
                self.end = Some(end);
                // SAFETY: as in `write_context`. The vector registers were saved on the way here.
                unsafe { (*self.context).vector = 0 };
                self.store.stubs().leave
            }
        }
    }

    /// `single` executes the instruction of a site.
    fn execute(&mut self, site: u32) -> Go {
        let Some(site) = self.store.sites.get(site as usize) else { return Go::Leave(End::Broken) };
        let instruction = &site.instruction;
        // What is neither privileged nor rare is here because its memory is not in the soft TLB.
        let reaches =
            instruction.op_kinds().any(|kind| kind == OpKind::Memory) && !instruction.is_privileged();
        self.counters.ledger().is_for(if reaches { Account::SoftMmuFill } else { Account::Privileged });
        let state = &self.cx.state;
        let op = site.op.get_or_init(|| {
            let mode = CodeMode::new(state.code_bits(), state.cpl() == 3);
            Box::new(lower::lower(instruction, self.features, mode, instruction.ip(), true).op)
        });
        let cx = &mut *self.cx;
        cx.state.rip = instruction.ip();
        cx.mmu.stop = false;
        let (at, next, resumes) = (instruction.ip(), instruction.next_ip(), site.resumes);
        let is_wrmsr = instruction.code() == Code::Wrmsr;
        let asked = (instruction.code() == Code::Cpuid)
            .then_some((cx.regs[gpr::RAX] as u32, cx.regs[gpr::RCX] as u32));
        match (op.run)(cx, op) {
            Ok(Flow::Next) if resumes => {
                if let Some(asked) = asked {
                    self.note_cpuid(asked);
                }
                return Go::Resume;
            }
            Ok(Flow::Stop) if resumes && self.undisturbed() => return Go::Resume,
            Ok(Flow::Next) => {
                self.count_retired(1);
                self.cx.state.rip = next;
            }
            Ok(Flow::Stop) => {
                self.count_retired(1);
                self.cx.state.rip = next;
                if self.interruptible() {
                    return Go::Leave(End::Ended(Ended::Attention));
                }
            }
            Ok(Flow::Jump) => self.count_retired(1),
            Ok(flow @ (Flow::Renew | Flow::Again)) => {
                self.count_retired(u32::from(flow == Flow::Renew));
                // A task's trap bit, or TF that SYSRET has set.
                if let Some(exception) = self.cx.state.pending_exception.take() {
                    return self.raise(exception);
                }
                if is_wrmsr {
                    self.hold_cpuid();
                }
                if self.interruptible() {
                    return Go::Leave(End::Ended(Ended::Attention));
                }
            }
            Ok(Flow::Halt) => {
                self.count_retired(1);
                self.cx.state.activity = Activity::Halted;
                return Go::Leave(End::Ended(Ended::Halted));
            }
            Ok(Flow::Broken) => {
                self.error = self.cx.error.take();
                return Go::Leave(End::Broken);
            }
            Err(Fault) => {
                // INT n goes on before its gate is looked at.
                self.cx.state.rip = at;
                return self.raise(self.cx.mmu.exception);
            }
        }
        Go::Next
    }

    /// Remembers what CPUID has just answered, if nobody wants to see each one. Leaf 0DH shows XCR0, by which answers are not
    /// told apart.
    #[cold]
    fn note_cpuid(&mut self, asked: (u32, u32)) {
        if !self.cx.platform.trace().is_enabled() && asked.0 != 0xd {
            let answer =
                [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX].map(|register| self.cx.regs[register] as u32);
            self.workshop.cpuid.note(asked, self.cx.state.cr4.bits(), answer);
        }
    }

    /// After a device was accessed or code written: whether the block may go on all the same, because nothing that it
    /// was made of has changed and nobody asks for attention.
    pub(super) fn undisturbed(&self) -> bool {
        !self.kick.is_raised() && !self.code_was_written() && !self.interruptible()
    }

    /// Counts instructions that `single` has completed, where they are counted.
    pub(super) fn count_retired(&mut self, retired: u32) {
        if self.workshop.counts {
            self.counters.add(Cause::Instruction, retired.into());
        }
    }

    /// Brings the instructions that translated code has counted to the ledger.
    pub(super) fn count_instructions(&mut self) {
        // SAFETY: as in `write_context`.
        let executed = std::mem::take(unsafe { &mut (*self.context).executed });
        self.counters.add(Cause::Instruction, executed);
    }

    pub(super) fn interruptible(&self) -> bool {
        self.cx.state.can_take_interrupt()
            && match self.pending {
                Some(flag) => flag.load(Ordering::Acquire),
                None => self.cx.platform.interrupt_pending(self.cx.mmu.vcpu),
            }
    }

    /// A branch to the address in the context.
    fn indirect(&mut self, site: u32) -> Go {
        // SAFETY: as in `write_context`.
        let rip = unsafe { (*self.context).rip };
        let Some(instruction) = self.store.sites.get(site as usize).map(|site| site.instruction) else {
            return Go::Leave(End::Broken);
        };
        // A system call has happened, wherever it leads.
        if Gva(rip).is_canonical() || matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysretq)
        {
            self.cx.state.rip = rip;
            return Go::Next;
        }
        if self.workshop.counts {
            // It was counted.
            // SAFETY: as in `write_context`.
            unsafe { (*self.context).executed -= 1 };
        }
        // The branch itself must fault: its move of the stack pointer is taken back.
        let moved = i64::from(instruction.stack_pointer_increment());
        let stack = &mut self.cx.regs[gpr::RSP];
        *stack = stack.wrapping_sub(moved as u64);
        self.cx.state.rip = instruction.ip();
        // Not executed again: a call may have pushed over its operand.
        self.raise(Exception::GP0)
    }

    /// Lets the guest have an exception of the instruction at RIP.
    fn raise(&mut self, exception: Exception) -> Go {
        self.deliver(exception).map_or_else(Go::Leave, |()| Go::Next)
    }
}
