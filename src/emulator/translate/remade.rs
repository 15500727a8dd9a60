//! Flags that only an access that misses its window would show: they are not saved, but made again on that way.
//!
//! Between `test rax, rax; jne` and the next instruction that sets all flags there is often an access and nobody who reads
//! them. Its check changes the host's flags, so they would have to be saved for the one case in many that the access
//! misses. Where the instruction that set them can be repeated, or leaves what they follow from, that case repeats it.
use super::Decoded;
use super::builder::{Builder, Flags};
use super::forms::{Kind, has_high_byte};
use super::groups::{Plan, Registers, Version};
use crate::emulator::code::registers::home;
use crate::emulator::code::stubs::save_flags;
use crate::emulator::emit::{Map, RAX};
use iced_x86::{Mnemonic, OpKind};
use smallvec::{SmallVec, smallvec};

/// How flags are made again from what is left of their operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Again {
    /// By the same instruction: it changed nothing else.
    Repeated,
    /// As TEST of the result: so flags follow from all bitwise logic.
    OfResult,
    /// What was added is taken away again, and added again, in a copy.
    Undone,
}

/// The registers that flags follow from.
type Operands = SmallVec<[u8; 2]>;

/// An instruction that has set flags, with what they follow from.
#[derive(Debug)]
struct Writer {
    number: u16,
    operands: SmallVec<[(u8, Version); 2]>,
}

/// How the flags that an instruction has set can be made again, and what must not change until then.
fn again(decoded: &Decoded) -> Option<(Again, Operands)> {
    let Decoded { instruction, shape, form, flags, .. } = decoded;
    let shape = shape.as_ref()?;
    let legacy = shape.vex.is_none() && shape.map == Map::One && !has_high_byte(instruction);
    if !decoded.sets_flags() || flags.reads || !legacy {
        return None;
    }
    let accumulator = form.kind == Kind::Accumulator;
    if form.kind != Kind::Plain && !accumulator {
        return None;
    }
    let target = instruction.op0_register();
    let in_register = instruction.op0_kind() == OpKind::Register;
    let wide = in_register && (target.is_gpr32() || target.is_gpr64());
    let number = target.number() as u8;
    match instruction.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test if accumulator => Some((Again::Repeated, smallvec![0])),
        Mnemonic::Cmp | Mnemonic::Test if !shape.is_memory() => match shape.opcode {
            0x38..=0x3b | 0x84 | 0x85 => Some((Again::Repeated, smallvec![shape.rm, shape.reg])),
            0x80 | 0x81 | 0x83 | 0xf6 | 0xf7 => Some((Again::Repeated, smallvec![shape.rm])),
            _ => None,
        },
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor if wide && home(number).is_some() => {
            Some((Again::OfResult, smallvec![number]))
        }
        Mnemonic::Add | Mnemonic::Sub
            if in_register
                && home(number).is_some()
                && !accumulator
                && matches!(shape.opcode, 0x81 | 0x83) =>
        {
            Some((Again::Undone, smallvec![number]))
        }
        _ => None,
    }
}

/// Whether the flags that an instruction has set can be made again from what it left.
pub(super) fn can_remake(decoded: &Decoded) -> bool {
    again(decoded).is_some()
}

/// Whether an instruction can stand between flags that were given up and those that take their place: it wants nothing of
/// them but at a check of its window.
fn lets_be(decoded: &Decoded) -> bool {
    decoded.shape.is_some()
        && !decoded.flags.reads
        && (decoded.sets_flags() || !decoded.flags.changes)
        && !decoded.form.bit_string
        && !decoded.form.vector
        && matches!(
            decoded.form.kind,
            Kind::Plain
                | Kind::Push
                | Kind::Pop
                | Kind::Nothing
                | Kind::Lea
                | Kind::OpcodeRegister
                | Kind::ExchangeAccumulator
                | Kind::Accumulator
        )
}

/// For each instruction of a block whose accesses go through windows: which one has set the flags that it finds, if they
/// need not be saved for its check.
pub(super) fn find(block: &[Decoded], plan: &Plan, found: &mut Vec<Option<u16>>) {
    found.clear();
    found.resize(block.len(), None);
    if plan.groups.iter().all(|group| group.at_start) {
        return;
    }
    let mut registers = Registers::new();
    let mut writer: Option<Writer> = None;
    for (i, decoded) in block.iter().enumerate() {
        let is = |&(register, version): &(u8, Version)| registers.version(register) == version;
        found[i] =
            writer.as_ref().filter(|writer| writer.operands.iter().all(is)).map(|writer| writer.number);
        registers.follow(decoded);
        if decoded.flags.changes || decoded.shape.is_none() {
            writer = again(decoded).map(|(_, operands)| {
                let held = |register: u8| (register, registers.version(register));
                Writer { number: i as u16, operands: operands.into_iter().map(held).collect() }
            });
        }
    }
    // What comes behind the block may want them.
    let mut unseen = false;
    for (i, decoded) in block.iter().enumerate().rev() {
        let checked = decoded.shape.as_ref().is_some_and(|shape| shape.is_memory())
            || matches!(decoded.form.kind, Kind::Push | Kind::Pop);
        unseen = lets_be(decoded) && (!checked || found[i].is_some()) && (decoded.sets_flags() || unseen);
        if !unseen {
            found[i] = None;
        }
    }
}

impl Builder<'_> {
    /// Before a check: saves the flags, unless they can be made again where it fails. Says by which instruction's.
    pub(super) fn spare_flags(&mut self) -> Option<u16> {
        let writer = self.remade.get(self.current.0).copied().flatten().filter(|_| self.plan_holds);
        let spared = writer.filter(|&writer| {
            self.flags == Flags::Live && !self.flags_spoilt || self.flags == Flags::Remade(writer)
        });
        match spared {
            Some(writer) => self.flags = Flags::Remade(writer),
            None => self.save_flags(),
        }
        spared
    }

    /// Off the hot path: makes the flags again that instruction `writer` has set, and saves them. Changes RAX and RCX.
    pub(super) fn remake(&mut self, writer: u16) {
        let Some(decoded) = self.block.get(usize::from(writer)) else { return };
        self.remake_flags(decoded);
        save_flags(self.asm);
    }

    /// Sets the flags as `decoded` has set them a moment ago; see [`can_remake`]. Changes RAX and RCX.
    pub(super) fn remake_flags(&mut self, decoded: &Decoded) {
        let (Some(source), Some((again, _))) = (decoded.source(), again(decoded)) else { return };
        let target = decoded.instruction.op0_register();
        match (again, home(target.number() as u8)) {
            (Again::OfResult, Some(reg)) => {
                // test
                self.asm.op(target.is_gpr64(), 0x85, reg.0, reg);
            }
            (Again::Undone, Some(reg)) => {
                self.asm.mov(RAX, reg);
                let digit = source.shape.reg & 7;
                self.asm.guest(source.shape, 5 - digit, Some(RAX.into()), 0, false);
                self.asm.guest(source.shape, digit, Some(RAX.into()), 0, false);
            }
            _ => {
                self.flags = Flags::Live;
                self.simple(&source);
            }
        }
    }
}
