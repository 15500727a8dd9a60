//! What becomes of instructions where techniques are left out, see [`crate::emulator::technique`], or instructions are
//! counted.
use super::Decoded;
use super::builder::{Builder, Flags};
use super::forms::{Form, Kind};
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::home;
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Mem, RCX};
use crate::emulator::technique::{Technique, Without};
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

/// The way that an instruction takes.
pub(super) fn kind(form: &Form, instruction: &Instruction, without: Without) -> Kind {
    let has_memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    let by_single = without.has(Technique::InlineTlb);
    match form.kind {
        Kind::System | Kind::SystemEnd if without.has(Technique::InlineSystem) => Kind::End,
        Kind::System if by_single && matches!(instruction.mnemonic(), Mnemonic::Pushfq | Mnemonic::Popfq) => {
            Kind::End
        }
        Kind::Call | Kind::CallIndirect | Kind::Ret if by_single => Kind::End,
        Kind::JumpIndirect if by_single && has_memory => Kind::End,
        Kind::Push | Kind::Pop | Kind::Leave | Kind::String if by_single => Kind::Execute,
        Kind::Nothing | Kind::Lea | Kind::JumpIndirect | Kind::End => form.kind,
        _ if by_single && has_memory => Kind::Execute,
        _ if form.vector && without.has(Technique::NativeVectors) => Kind::Execute,
        kind => kind,
    }
}

/// For each instruction, as bits, which registers it reads and which it writes.
pub(super) fn uses(
    block: &[Decoded],
    factory: &mut Option<InstructionInfoFactory>,
    without: Without,
    into: &mut Vec<(u16, u16)>,
) {
    into.clear();
    if !without.has(Technique::Pinning) {
        return;
    }
    let factory = factory.get_or_insert_with(InstructionInfoFactory::new);
    into.extend(block.iter().map(|decoded| registers(&decoded.instruction, factory)));
}

/// The general registers that an instruction reads and those that it writes, as bits.
pub(super) fn registers(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> (u16, u16) {
    let (mut read, mut written) = (0, 0);
    for used in factory.info(instruction).used_registers() {
        let full = used.register().full_register();
        if !full.is_gpr64() {
            continue;
        }
        let bit = 1 << full.number();
        match used.access() {
            OpAccess::None | OpAccess::NoMemAccess => {}
            OpAccess::Read | OpAccess::CondRead => read |= bit,
            // A part may be written, or nothing at all: the whole is needed.
            _ => (read, written) = (read | bit, written | bit),
        }
    }
    (read, written)
}

impl Builder<'_> {
    /// Before an instruction: its registers come from the context if they are not pinned. Changes no flags.
    pub(super) fn load_registers(&mut self) {
        let Some(&(read, _)) = self.uses.get(self.current.0) else { return };
        for guest in (0..16).filter(|guest| read >> guest & 1 != 0) {
            if let Some(reg) = home(guest) {
                self.asm.load(reg, field(Context::register(guest)));
            }
        }
    }

    /// After an instruction: its registers go to the context if they are not pinned, and flags that it has set too if
    /// they are not to stay. Changes RAX, no flags.
    pub(super) fn store_registers(&mut self) {
        let Some(&(_, written)) = self.uses.get(self.current.0) else { return };
        for guest in (0..16).filter(|guest| written >> guest & 1 != 0) {
            if let Some(reg) = home(guest) {
                self.asm.store(field(Context::register(guest)), reg);
            }
        }
    }

    /// Where the current instruction cannot fail any more: counts it, once, if instructions are counted. Changes RCX, no
    /// flags.
    pub(super) fn count(&mut self) {
        if self.counts && self.counted != Some(self.current.0) {
            self.counted = Some(self.current.0);
            self.asm.load(RCX, field(Context::EXECUTED));
            self.asm.lea(RCX, Mem::at(RCX, 1));
            self.asm.store(field(Context::EXECUTED), RCX);
        }
    }

    /// After an instruction that has set flags: they go to the context if they are not to stay in the host's.
    pub(super) fn store_flags(&mut self, instruction: &Instruction) {
        let eager = self.without.has(Technique::LazyFlags);
        if eager && self.flags == Flags::Live && instruction.rflags_modified() != 0 {
            self.save_flags();
        }
    }
}
