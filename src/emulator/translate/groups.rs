//! Which accesses of a block lie close together: they are checked once.
//!
//! Two accesses belong to one group if their addresses differ by a constant: the same base and index registers, in
//! which between the two nothing was written but known steps (PUSH, `add reg, imm`). The check is made at the lowest
//! address, where the group begins, or at the start of the block if the registers are then what they were there and no
//! branch lies between.
use super::Decoded;
use super::address::Address;
use super::forms::{Field, Kind};
use crate::emulator::mmu::window::{CLASSES, SLACK};
use crate::emulator::single::operand_alignment;
use iced_x86::{Mnemonic, OpKind};

/// Bytes that one check may cover; beyond [`SLACK`] it has two parts.
const WIDEST: i64 = 1 << 20;
const RSP: u8 = 4;
const RBP: u8 = 5;

/// One access of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Access {
    pub address: Address,
    pub size: usize,
    pub write: bool,
    pub alignment: u64,
}

/// An access in the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub access: Access,
    /// Index of its group.
    pub group: usize,
    /// What its base register holds, if it has one.
    pub base: Option<Held>,
}

/// A register as of one point of the block.
pub(super) type Held = (u8, Version);

/// Accesses with one check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The lowest address, in terms of the registers where the check is made.
    pub address: Address,
    /// Bytes from there to the end of the last access.
    pub span: i64,
    pub write: bool,
    /// The strictest alignment that one of its accesses needs, and how far that one is from `address`.
    pub aligned: Option<(i64, u64)>,
    /// It is checked at the start of the block.
    pub at_start: bool,
    /// Instruction at which it begins.
    pub first: usize,
    /// Its address is another one at the end of the block than at its start.
    pub moves: bool,
    /// Which window it goes through.
    pub class: usize,
}

/// The plan of a block.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub accesses: Vec<Planned>,
    pub groups: Vec<Group>,
    /// For each instruction, and for what is behind the last, the number of its first access.
    first_access: Vec<usize>,
    open: Vec<Open>,
}

/// The class of accesses by the stack pointer. Stacks begin at the ends of what is mapped and other data at its starts,
/// so the former may not be near the start of their window, the latter not near its end.
pub(super) const STACK: usize = 0;

/// The first of the classes by base register.
const BY_REGISTER: usize = 2;
/// The first of the classes by place, of which there are [`PLACES`].
const BY_PLACE: usize = BY_REGISTER + 16;
/// How many classes by place there are.
const PLACES: usize = 16;
const _: () = assert!(CLASSES == BY_PLACE + PLACES);
/// log2 of the bytes that make one place.
const PLACE_SHIFT: u32 = 16;

/// Which window an access goes through of which only the registers are known.
pub(super) fn class(address: &Address) -> usize {
    match (address.segment, address.base) {
        (None, Some(RSP)) => STACK,
        (None, None) if address.index.is_none() => 1,
        // RSP is no base of others: its number is free for those with a segment.
        (None, base) => {
            let register = base.or(address.index.map(|(index, _)| index));
            BY_REGISTER + usize::from(register.unwrap_or(RSP) & 15)
        }
        _ => BY_REGISTER + usize::from(RSP),
    }
}

/// Which window an access goes through that is known to go to `at` when its block is made. Where a program has its data
/// varies less than by which registers.
fn class_of_place(at: u64) -> usize {
    let place = at >> PLACE_SHIFT;
    BY_PLACE + (place ^ place >> 4 ^ place >> 8 ^ place >> 12) as usize % PLACES
}

/// What is known of a register: which unknown value it was last given, and how far it moved since.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Version {
    number: u32,
    moved: i64,
}

/// The registers in terms of which an address is constant, and which of their unknown values, in one number: two are often
/// compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key(u64);

impl Key {
    /// The bits of the registers' values.
    const VALUES: u64 = 0xffff << 16 | 0xffff << 48;

    /// Registers with the numbers of their values, of which there are less than 65,536 in a block.
    fn new(base: Option<(u8, u32)>, index: Option<(u8, u32, u8)>, segment: Option<u8>) -> Self {
        let base = base.map_or(0, |(register, value)| (u64::from(register) + 1) | u64::from(value) << 16);
        let index = index.map_or(0, |(register, value, scale)| {
            (u64::from(register) + 1) << 8 | u64::from(scale) << 40 | u64::from(value) << 48
        });
        Self(base | index | segment.map_or(0, |segment| u64::from(segment) + 1) << 32)
    }

    /// Whether the registers hold what they held at the start of the block.
    fn is_first(self) -> bool {
        self.0 & Self::VALUES == 0
    }
}

/// A group that further accesses may belong to.
#[derive(Debug)]
struct Open {
    key: Key,
    group: usize,
    /// Lowest and highest offset, from the registers' unknown values.
    low: i64,
    high: i64,
    /// Offset and alignment of the strictest access.
    aligned: Option<(i64, u64)>,
    /// How far the base and index had moved where the check is made.
    moved: i64,
}

/// Takes the accesses of an instruction in the order in which it makes them.
fn each_access(decoded: &Decoded, mut take: impl FnMut(Access)) {
    let Decoded { instruction, shape, form, address, .. } = decoded;
    let Some(shape) = shape else { return };
    let memory = shape.is_memory();
    let plain = |address, write| Access { address, size: 8, write, alignment: 1 };
    let last = match form.kind {
        Kind::Nothing | Kind::Lea | Kind::Execute | Kind::String | Kind::End | Kind::Jump | Kind::JumpIf => {
            return;
        }
        Kind::Push | Kind::CallIndirect if memory => {
            let Some(from) = *address else { return };
            take(plain(from, false));
            plain(Address::at(RSP, -8), true)
        }
        Kind::Push | Kind::Call | Kind::CallIndirect => plain(Address::at(RSP, -8), true),
        Kind::Pop | Kind::Ret => plain(Address::at(RSP, 0), false),
        Kind::Leave => plain(Address::at(RBP, 0), false),
        _ if !memory || form.bit_string => return,
        _ => {
            let (Some(address), size) = (*address, instruction.memory_size().size()) else { return };
            if size == 0 || size > 32 {
                return;
            }
            let alignment = if form.vector { operand_alignment(instruction, size) } else { 1 };
            Access { address, size, write: form.writes_memory, alignment }
        }
    };
    take(last);
}

/// What is known of the registers as of one instruction.
pub(super) struct Registers {
    versions: [Version; 16],
    next: u32,
}

impl Registers {
    /// As they are at the start of a block.
    pub(super) fn new() -> Self {
        Self { versions: [Version::default(); 16], next: 1 }
    }

    fn forget(&mut self, register: u8) {
        self.versions[usize::from(register & 15)] = Version { number: self.next, moved: 0 };
        self.next += 1;
    }

    fn shift(&mut self, register: u8, by: i64) {
        let version = &mut self.versions[usize::from(register & 15)];
        version.moved = version.moved.wrapping_add(by);
    }

    /// Takes over what an instruction does to the registers.
    pub(super) fn follow(&mut self, decoded: &Decoded) {
        let Decoded { instruction, shape, form, .. } = decoded;
        let Some(shape) = shape else {
            (0..16).for_each(|register| self.forget(register));
            return;
        };
        if let Some((register, by)) = known_step(decoded) {
            self.shift(register, by);
            return;
        }
        // In the place of a register in memory there is a part of its address, which is only read.
        let rm = if shape.is_memory() { Field::Other } else { form.rm };
        let fields = [(form.reg, shape.reg), (rm, shape.rm)];
        let vvvv = shape.vex.map(|vex| (form.vvvv, vex.vvvv));
        match form.kind {
            Kind::Push => self.shift(RSP, instruction.stack_pointer_increment().into()),
            Kind::Pop => {
                self.shift(RSP, instruction.stack_pointer_increment().into());
                if instruction.op0_kind() == OpKind::Register {
                    self.forget(instruction.op0_register().number() as u8);
                }
            }
            Kind::Leave => {
                self.forget(RBP);
                self.forget(RSP);
            }
            Kind::Multiply | Kind::Divide | Kind::Widen => {
                self.forget(0);
                self.forget(2);
            }
            Kind::Accumulator => self.forget(0),
            Kind::CompareExchange | Kind::ExchangeAccumulator => {
                self.forget(0);
                if shape.modrm.is_none_or(|modrm| modrm >= 0xc0) {
                    self.forget(shape.rm);
                }
            }
            Kind::OpcodeRegister => {
                self.forget(shape.rm);
                if form.byte {
                    self.forget(shape.rm & 3);
                }
            }
            Kind::Lea => self.forget(shape.reg),
            Kind::Plain | Kind::ShiftByCl => {
                for (field, number) in fields.into_iter().chain(vvvv) {
                    if matches!(field, Field::General { written: true }) {
                        // AH to BH have the numbers of other registers.
                        self.forget(number);
                        if form.byte {
                            self.forget(number & 3);
                        }
                    }
                }
            }
            Kind::Verbatim | Kind::Nothing | Kind::JumpIf => {}
            _ => (0..16).for_each(|register| self.forget(register)),
        }
    }

    pub(super) fn version(&self, register: u8) -> Version {
        self.versions[usize::from(register & 15)]
    }

    fn key(&self, address: &Address) -> (Key, i64) {
        let version = |register| self.version(register);
        let mut moved = 0_i64;
        let base = address.base.map(|register| {
            moved = moved.wrapping_add(version(register).moved);
            (register, version(register).number)
        });
        let index = address.index.map(|(register, scale)| {
            moved = moved.wrapping_add(version(register).moved << scale);
            (register, version(register).number, scale)
        });
        (Key::new(base, index, address.segment), moved)
    }
}

/// A register that is moved by a constant, with 64 bits.
fn known_step(decoded: &Decoded) -> Option<(u8, i64)> {
    let instruction = &decoded.instruction;
    if !matches!(decoded.form.kind, Kind::Plain | Kind::Accumulator | Kind::Lea) {
        return None;
    }
    if instruction.op0_kind() != OpKind::Register || !instruction.op0_register().is_gpr64() {
        return None;
    }
    let register = instruction.op0_register();
    let constant = || {
        let is_immediate = instruction.op_count() == 2
            && !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
        is_immediate.then(|| instruction.immediate(1) as i64)
    };
    let by = match instruction.mnemonic() {
        Mnemonic::Add => constant()?,
        Mnemonic::Sub => constant()?.wrapping_neg(),
        Mnemonic::Inc => 1,
        Mnemonic::Dec => -1,
        Mnemonic::Lea => {
            let address = decoded.address?;
            let same = address.base == Some(register.number() as u8) && address.index.is_none();
            if !same {
                return None;
            }
            address.disp
        }
        _ => return None,
    };
    // What is far away is no neighbour, and its distance could wrap.
    (by.unsigned_abs() < 1 << 31).then_some((register.number() as u8, by))
}

impl Plan {
    /// Plans a block; not `together`, each access is checked where it stands. `regs`: the registers of a user's block that is
    /// about to be entered.
    pub(super) fn make(&mut self, block: &[Decoded], together: bool, regs: Option<&[u64; 32]>) {
        self.accesses.clear();
        self.groups.clear();
        self.first_access.clear();
        let mut registers = Registers::new();
        let mut open = std::mem::take(&mut self.open);
        open.clear();
        let mut branched = false;
        for (i, decoded) in block.iter().enumerate() {
            self.first_access.push(self.accesses.len());
            each_access(decoded, |access| {
                if !together {
                    // Nothing that came before is of use.
                    open.clear();
                    branched = true;
                }
                let group = self.place(&registers, &mut open, i, &access, branched);
                let base = access.address.base.map(|register| (register, registers.version(register)));
                self.accesses.push(Planned { access, group, base });
            });
            branched |= decoded.form.kind == Kind::JumpIf || decoded.shape.is_none();
            registers.follow(decoded);
        }
        self.first_access.push(self.accesses.len());
        self.open = open;
        for group in self.groups.iter_mut().filter(|group| group.at_start) {
            let (key, moved) = registers.key(&group.address);
            // With a segment its base may change too, by an instruction that `single` executes.
            group.moves = !key.is_first() || moved != 0 || group.address.segment.is_some();
        }
        self.choose_classes(regs);
    }

    /// Lets groups of the user whose addresses are known go through windows by place, and those with one register through
    /// different windows: a window is moved in the middle of the block if no other group goes through it.
    fn choose_classes(&mut self, regs: Option<&[u64; 32]>) {
        let mut used = [0_u64; 2];
        for group in &mut self.groups {
            let address = &group.address;
            let constant = (address.base, address.index, address.segment) == (None, None, None);
            if let Some(regs) = regs
                && group.class != STACK
                && (group.at_start || constant)
            {
                group.class = class_of_place(address.value(regs));
                continue;
            }
            let used = &mut used[usize::from(group.write)];
            if (BY_REGISTER..BY_PLACE).contains(&group.class) {
                let classes = (0..16).map(|n| BY_REGISTER + (group.class - BY_REGISTER + 7 * n) % 16);
                group.class =
                    classes.into_iter().find(|class| *used >> class & 1 == 0).unwrap_or(group.class);
            }
            *used |= 1 << group.class;
        }
    }

    /// Finds or makes the group of an access.
    #[inline(never)]
    fn place(
        &mut self,
        registers: &Registers,
        open: &mut Vec<Open>,
        instruction: usize,
        access: &Access,
        branched: bool,
    ) -> usize {
        let (key, moved) = registers.key(&access.address);
        let low = access.address.disp.wrapping_add(moved);
        let high = low.wrapping_add(access.size as i64);
        let alignment = (access.alignment > 1).then_some((low, access.alignment));
        let fits = |one: &&mut Open| {
            if one.key != key {
                return false;
            }
            let span = high.max(one.high).wrapping_sub(low.min(one.low));
            let even = match (one.aligned, alignment) {
                (Some((at, a)), Some((_, b))) => at.wrapping_sub(low) % a.min(b) as i64 == 0,
                _ => true,
            };
            let widest = if class(&access.address) == STACK { SLACK as i64 } else { WIDEST };
            (0..=widest).contains(&span) && even
        };
        if let Some(one) = open.iter_mut().find(fits) {
            one.low = one.low.min(low);
            one.high = one.high.max(high);
            one.aligned = match (one.aligned, alignment) {
                (Some(a), Some(b)) if a.1 >= b.1 => Some(a),
                (a, b) => b.or(a),
            };
            let group = &mut self.groups[one.group];
            group.write |= access.write;
            group.aligned = one.aligned.map(|(at, alignment)| (at.wrapping_sub(one.low), alignment));
            group.address.disp = one.low.wrapping_sub(one.moved);
            group.span = one.high.wrapping_sub(one.low);
            return one.group;
        }
        let at_start = !branched && key.is_first();
        // At the start nothing has moved yet.
        let moved_at_check = if at_start { 0 } else { moved };
        let group = self.groups.len();
        self.groups.push(Group {
            address: Address { disp: low.wrapping_sub(moved_at_check), ..access.address },
            span: access.size as i64,
            write: access.write,
            aligned: alignment.map(|(_, alignment)| (0, alignment)),
            at_start,
            first: instruction,
            moves: true,
            class: class(&access.address),
        });
        open.push(Open { key, group, low, high, aligned: alignment, moved: moved_at_check });
        group
    }

    /// The place of an access among [`Self::accesses`], if it was planned.
    pub(super) fn find(&self, instruction: usize, access: &Access) -> Option<usize> {
        let &[first, end, ..] = self.first_access.get(instruction..)? else { return None };
        let here = self.accesses.get(first..end)?;
        here.iter().position(|planned| planned.access == *access).map(|at| first + at)
    }
}
