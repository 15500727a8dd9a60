//! Instructions that run as themselves: renamed registers, checked memory operands; integer and vector alike.
use super::address::Address;
use super::builder::{Builder, Flags};
use super::forms::{Field, Form, Kind, has_high_byte};
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RAX, GUEST_RCX, GUEST_RSP, home};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX, RDX, Reg, Rm, Shape};
use crate::emulator::single::int::PRODUCTS_SET_FLAGS;
use crate::emulator::single::operand_alignment;
use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};
use smallvec::{SmallVec, smallvec};

/// What an instruction does with the six status flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlagUse {
    /// Neither reads nor writes them.
    None,
    /// Writes all, whatever they were.
    Sets,
    /// Needs them as they are.
    Needs,
}

/// The six status flags.
pub(super) const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Whether a shift or rotation by a constant may be what it is: by nothing it leaves the flags alone.
fn is_shift(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd
    )
}

/// What an instruction does with the status flags, in more ways than one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FlagEffect {
    /// It reads some.
    pub reads: bool,
    /// It may change some.
    pub changes: bool,
    pub usage: FlagUse,
}

impl Default for FlagEffect {
    fn default() -> Self {
        Self { reads: false, changes: false, usage: FlagUse::None }
    }
}

impl FlagEffect {
    /// As [`Self::of`], for an instruction of a form that may know.
    #[inline]
    pub(super) fn find(instruction: &Instruction, form: &mut Form) -> Self {
        form.flags.unwrap_or_else(|| {
            let effect = Self::of(instruction, form.kind);
            form.flags = (!is_shift(instruction)).then_some(effect);
            effect
        })
    }

    /// What `instruction` does with the status flags.
    fn of(instruction: &Instruction, kind: Kind) -> Self {
        let mut changed = instruction.rflags_modified() & STATUS;
        // A rotation through the carry all the way round: Intel's CPUs leave OF then, AMD's change it.
        if matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr)
            && instruction.op1_kind() == OpKind::Immediate8
            && instruction.immediate8() & 0x1f != 0
        {
            changed |= RflagsBits::OF;
        }
        let reads = instruction.rflags_read() & STATUS != 0;
        let usage = match () {
            () if reads => FlagUse::Needs,
            () if changed == 0 => FlagUse::None,
            () => Self::of_change(instruction, kind, changed),
        };
        Self { reads, changes: changed != 0, usage }
    }

    fn of_change(instruction: &Instruction, kind: Kind, changed: u32) -> FlagUse {
        use Mnemonic as M;
        let defined = changed & !instruction.rflags_undefined();
        // Undefined here means that the CPU writes something, which does not depend on what was there.
        let overwrites = match instruction.mnemonic() {
            M::And | M::Or | M::Xor | M::Test | M::Shl | M::Shr | M::Sar => true,
            M::Mul | M::Imul => *PRODUCTS_SET_FLAGS,
            _ => false,
        };
        let sets = kind != Kind::ShiftByCl && (defined == STATUS || changed == STATUS && overwrites);
        if sets { FlagUse::Sets } else { FlagUse::Needs }
    }
}

/// One guest register of an instruction, and where the host has it.
#[derive(Clone, Copy, Debug)]
struct Placed {
    guest: u8,
    reg: Reg,
    spilled: bool,
    written: bool,
}

/// Scratch registers that may be given away.
type Free = SmallVec<[Reg; 2]>;

/// Places of the registers of one instruction.
#[derive(Default)]
struct Places(SmallVec<[Placed; 4]>);

impl Places {
    /// Gives `guest` a place, of `free` if it has no host register.
    fn add(&mut self, guest: u8, written: bool, free: &mut Free) -> Option<Reg> {
        if let Some(placed) = self.0.iter_mut().find(|p| p.guest == guest) {
            placed.written |= written;
            return Some(placed.reg);
        }
        let (reg, spilled) = match home(guest) {
            Some(reg) => (reg, false),
            None => (free.pop()?, true),
        };
        self.0.push(Placed { guest, reg, spilled, written });
        Some(reg)
    }

    fn spills(&self) -> bool {
        self.0.iter().any(|place| place.spilled)
    }

    fn load(&self, b: &mut Builder) {
        for place in self.0.iter().filter(|p| p.spilled) {
            b.asm.load(place.reg, field(Context::register(place.guest)));
        }
    }

    fn store(&self, b: &mut Builder) {
        for place in self.0.iter().filter(|p| p.spilled && p.written) {
            b.asm.store(field(Context::register(place.guest)), place.reg);
        }
    }
}

/// An instruction about to be translated.
#[derive(Clone, Copy)]
pub(super) struct Source<'i> {
    pub instruction: &'i Instruction,
    pub shape: &'i Shape,
    pub form: &'i Form,
    pub flags: FlagEffect,
    /// Of its memory operand, see [`super::decode::Decoded`].
    pub address: &'i Option<Address>,
}

impl Source<'_> {
    pub(super) fn has_memory(&self) -> bool {
        self.shape.is_memory()
    }

    /// The host's registers of the reg field, of VEX.vvvv and of the r/m field, if all guest registers among them have one.
    fn at_home(&self) -> Option<(u8, u8, u8)> {
        let Source { shape, form, .. } = *self;
        let place = |field: Field, number: u8| match field {
            Field::General { .. } => home(number).map(|reg| reg.0),
            Field::Other => Some(number),
        };
        let rm = if self.has_memory() { Field::Other } else { form.rm };
        let vvvv = shape.vex.map_or(0, |vex| vex.vvvv);
        Some((place(form.reg, shape.reg)?, place(form.vvvv, vvvv)?, place(rm, shape.rm)?))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.instruction.memory_size().size()
    }
}

impl Builder<'_> {
    /// Brings the flags to where the instruction wants them. Changes RAX.
    pub(super) fn prepare_flags(&mut self, source: &Source) {
        if source.flags.reads {
            self.restore_flags();
        } else if source.flags.usage == FlagUse::Needs {
            self.merge_flags();
        }
    }

    pub(super) fn note_flags(&mut self, source: &Source) {
        if source.flags.changes {
            self.flags_written(source.flags.usage == FlagUse::Sets);
        }
    }

    pub(super) fn operand(&mut self, source: &Source) -> Option<Mem> {
        let address = source.address.as_ref()?;
        let bytes = source.memory_bytes();
        if bytes == 0 || bytes > 32 {
            return None;
        }
        let alignment = if source.form.vector { operand_alignment(source.instruction, bytes) } else { 1 };
        Some(self.memory(address, bytes, source.form.writes_memory, alignment))
    }

    /// Translates an instruction of the simple kinds; `false`: it is one that `single` must execute.
    pub(super) fn simple(&mut self, source: &Source) -> bool {
        match source.form.kind {
            Kind::Plain => self.plain(source),
            Kind::Verbatim => {
                self.prepare_flags(source);
                if source.form.vector {
                    self.need_vectors();
                }
                // No operands: the reg and r/m fields are part of the opcode.
                let rm = source.shape.modrm.map(|_| Rm::Reg(source.shape.rm));
                self.asm.guest(source.shape, source.shape.reg, rm, 0, false);
                self.note_flags(source);
                true
            }
            Kind::Nothing => true,
            Kind::Accumulator => self.accumulator(source),
            Kind::OpcodeRegister => self.opcode_register(source),
            Kind::ExchangeAccumulator => self.exchange_accumulator(source),
            Kind::ShiftByCl => self.shift_by_cl(source),
            Kind::Multiply => self.multiply(source),
            Kind::Divide => self.divide(source),
            Kind::Widen => self.widen(source),
            Kind::CompareExchange => self.compare_exchange(source),
            Kind::CompareExchangeWide => self.compare_exchange_wide(source),
            Kind::StringIndex => {
                let done = self.plain(source);
                if done {
                    self.asm.mov32(GUEST_RCX, RCX);
                    self.asm.forget_scratch();
                }
                done
            }
            Kind::Lea => self.lea(source),
            _ => false,
        }
    }

    /// The instruction itself.
    fn plain(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        if form.byte && has_high_byte(instruction) {
            return self.high_byte(source);
        }
        let memory = source.has_memory();
        if memory && form.bit_string {
            return self.bit_string(source);
        }
        if memory && source.address.is_none() {
            return false;
        }
        if let Some((reg, vvvv, rm)) = source.at_home() {
            let rm = if memory {
                match self.plain_operand(source, false) {
                    Some(rm) => rm,
                    None => return false,
                }
            } else {
                if form.vector {
                    self.need_vectors();
                }
                Rm::Reg(rm)
            };
            self.prepare_flags(source);
            self.asm.guest(shape, reg, Some(rm), vvvv, form.byte);
            self.note_flags(source);
            return true;
        }
        let mut free: Free = if memory { smallvec![RAX] } else { smallvec![RCX, RAX] };
        let mut places = Places::default();
        let mut place = |kind: Field, number: u8| match kind {
            Field::General { written } => places.add(number, written, &mut free).map(|r| r.0),
            Field::Other => Some(number),
        };
        let vvvv = shape.vex.map_or(0, |vex| vex.vvvv);
        let Some(reg) = place(form.reg, shape.reg) else { return false };
        let Some(vvvv) = place(form.vvvv, vvvv) else { return false };
        let mut rm = Rm::Reg(shape.rm);
        if !memory {
            let Some(number) = place(form.rm, shape.rm) else { return false };
            rm = Rm::Reg(number);
        }
        if memory {
            match self.plain_operand(source, places.spills()) {
                Some(operand) => rm = operand,
                None => return false,
            }
        } else if form.vector {
            self.need_vectors();
        }
        self.prepare_flags(source);
        places.load(self);
        self.asm.guest(shape, reg, Some(rm), vvvv, form.byte);
        places.store(self);
        self.note_flags(source);
        true
    }

    /// The memory operand of [`Self::plain`], whose other registers may spill into RAX.
    fn plain_operand(&mut self, source: &Source, spills: bool) -> Option<Rm> {
        if source.form.vector {
            self.need_vectors();
        }
        self.keeps_rax = !spills && source.flags.usage != FlagUse::Needs;
        let mem = self.operand(source);
        self.keeps_rax = false;
        mem.map(Rm::Mem)
    }

    fn accumulator(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, .. } = *source;
        self.prepare_flags(source);
        let byte = shape.opcode & 1 == 0;
        let (opcode, digit) = if instruction.mnemonic() == Mnemonic::Test {
            (if byte { 0xf6 } else { 0xf7 }, 0)
        } else {
            (if byte { 0x80 } else { 0x81 }, shape.opcode >> 3)
        };
        let general = shape.with_opcode(opcode);
        self.asm.guest(&general, digit, Some(GUEST_RAX.into()), 0, byte);
        self.note_flags(source);
        true
    }

    fn opcode_register(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        if form.byte && has_high_byte(instruction) {
            return false;
        }
        let mut places = Places::default();
        let mut free: Free = smallvec![RCX];
        let Some(reg) = places.add(shape.rm, true, &mut free) else { return false };
        places.load(self);
        self.asm.guest_in_opcode(shape, reg.0, form.byte);
        places.store(self);
        true
    }

    fn exchange_accumulator(&mut self, source: &Source) -> bool {
        let mut places = Places::default();
        let mut free: Free = smallvec![RCX];
        let Some(reg) = places.add(source.shape.rm, true, &mut free) else { return false };
        places.load(self);
        let general = source.shape.with_opcode(0x87);
        self.asm.guest(&general, GUEST_RAX.0, Some(reg.into()), 0, false);
        places.store(self);
        true
    }

    fn shift_by_cl(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        if form.byte && has_high_byte(instruction) {
            return false;
        }
        let memory = source.has_memory();
        let mut free: Free = smallvec![RAX];
        let mut places = Places::default();
        let mut rm = Rm::Reg(0);
        if !memory {
            let Some(reg) = places.add(shape.rm, true, &mut free) else { return false };
            rm = reg.into();
        }
        let mut reg = shape.reg;
        if let Field::General { written } = form.reg {
            // SHLD and SHRD; with memory RAX is the operand's.
            if memory && home(shape.reg).is_none() {
                return false;
            }
            let Some(placed) = places.add(shape.reg, written, &mut free) else { return false };
            reg = placed.0;
        }
        if memory {
            let Some(mem) = self.operand(source) else { return false };
            // CL is needed: the operand moves to RAX.
            self.asm.lea(RAX, mem);
            if self.flags == Flags::Saved {
                // Restoring flags takes RAX.
                self.asm.mov(RCX, RAX);
                self.restore_flags();
                self.asm.mov(RAX, RCX);
            }
            rm = Mem::at(RAX, 0).into();
        } else {
            self.restore_flags();
            places.load(self);
        }
        self.asm.mov32(RCX, GUEST_RCX);
        self.asm.guest(shape, reg, Some(rm), 0, form.byte);
        places.store(self);
        self.note_flags(source);
        true
    }

    /// The one explicit operand of MUL, DIV and their kin, not in RAX.
    fn single_operand(&mut self, source: &Source) -> Option<Rm> {
        if source.has_memory() {
            return self.operand(source).map(Rm::Mem);
        }
        Some(self.value(source.shape.rm, RCX).into())
    }

    fn multiply(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        if form.byte && has_high_byte(instruction) {
            return false;
        }
        let Some(rm) = self.single_operand(source) else { return false };
        self.prepare_flags(source);
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.guest(shape, shape.reg, Some(rm), 0, form.byte);
        self.asm.mov(GUEST_RAX, RAX);
        self.note_flags(source);
        true
    }

    /// DIV and IDIV of 32 and 64 bits, after a check that they cannot fault; what the check refuses goes to `single`. The
    /// flags, all undefined, stay as they were: what the check leaves of them is no business of the guest's.
    fn divide(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, form, .. } = *source;
        if form.byte || shape.prefixes().next().is_some() {
            return false;
        }
        let wide = shape.rex & 8 != 0;
        let signed = instruction.mnemonic() == Mnemonic::Idiv;
        self.save_flags();
        match self.single_operand(source) {
            None | Some(Rm::Gs(_)) => return false,
            Some(Rm::Mem(mem)) => self.asm.op(wide, 0x8b, RCX.0, mem),
            Some(Rm::Reg(reg)) if reg != RCX.0 => self.asm.op(wide, 0x8b, RCX.0, Reg(reg)),
            Some(Rm::Reg(_)) => {}
        }
        if signed {
            // Divisors 0 and -1 can overflow, and so can a dividend that is no sign-extended accumulator.
            self.asm.op(wide, 0x8d, RAX.0, Mem::at(RCX, 1));
            self.asm.alu_imm(wide, Alu::Cmp, RAX, 1);
            self.cold_if(Condition::NOT_ABOVE);
            self.asm.op(wide, 0x8b, RAX.0, GUEST_RAX);
            // sar rax, 63 or 31
            self.asm.op(wide, 0xc1, 7, RAX);
            self.asm.byte(if wide { 63 } else { 31 });
            self.asm.op(wide, 0x3b, RAX.0, RDX);
            self.cold_if(Condition::NOT_EQUAL);
        } else {
            self.asm.op(wide, 0x3b, RDX.0, RCX);
            self.cold_if(Condition::NOT_BELOW);
        }
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.guest(shape, shape.reg, Some(RCX.into()), 0, false);
        self.asm.mov(GUEST_RAX, RAX);
        true
    }

    fn widen(&mut self, source: &Source) -> bool {
        self.asm.mov(RAX, GUEST_RAX);
        self.asm.guest(source.shape, 0, None, 0, false);
        if source.shape.opcode == 0x98 {
            self.asm.mov(GUEST_RAX, RAX);
        }
        true
    }

    fn lea(&mut self, source: &Source) -> bool {
        let Source { instruction, shape, .. } = *source;
        let Some(mut address) = *source.address else { return false };
        address.segment = None;
        if !matches!(instruction.op0_register().size(), 4 | 8) {
            return false;
        }
        let wide = instruction.op0_register().size() == 8;
        if let (Some(reg), Some(mem)) = (home(shape.reg), address.direct())
            && (mem.base.is_some() || mem.index.is_some())
        {
            self.asm.op(wide, 0x8d, reg.0, mem);
            return true;
        }
        self.put_address(&address);
        match home(shape.reg) {
            Some(reg) => self.asm.op(wide, 0x8b, reg.0, RCX),
            None => {
                if !wide {
                    self.asm.mov32(RCX, RCX);
                }
                self.asm.store(field(Context::register(shape.reg)), RCX);
            }
        }
        true
    }

    /// Moves the stack pointer.
    pub(super) fn move_stack(&mut self, by: i32) {
        self.asm.op(!self.narrow, 0x8d, GUEST_RSP.0, Mem::at(GUEST_RSP, by));
    }
}
