//! What carries an access from the guest's address to the host's: a register with the distance of a window, or with that
//! distance and the base register's value.
//!
//! RCX always can, RAX while the instruction leaves it alone. Of the two the one is given up whose contents are wanted
//! later, as the plan of the block knows. A loop of one block whose accesses want more than two carriers borrows registers
//! of the guest that it does not use: they go to the context before its first round, and every way out of the loop brings
//! them back.
use super::Decoded;
use super::ablation;
use super::address::Address;
use super::builder::{Builder, Way};
use super::forms::Kind;
use super::groups::{Held, Planned};
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{home, pinned};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Mem, RAX, RCX, Reg};
use crate::emulator::mmu::window::Window;
use crate::emulator::technique::Technique;
use iced_x86::InstructionInfoFactory;
use std::mem::offset_of;

/// Registers that a loop may borrow.
const MOST_LENT: usize = 4;
/// Carriers that a loop gets by with without borrowing.
const FEW: usize = 2;

/// A guest register that a loop has borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent {
    guest: u8,
    reg: Reg,
    carrier: Carrier,
}

/// What a register holds to reach host memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Carrier {
    /// Offset of the window in the context.
    window: i32,
    /// A guest register that was added, and when.
    base: Option<Held>,
}

fn addend(window: i32) -> i32 {
    window + offset_of!(Window, addend) as i32
}

impl Builder<'_> {
    /// RAX and RCX do not carry anything by way of the window at `window` any more.
    pub(super) fn forget_carriers(&mut self, window: i32) {
        for carried in &mut self.carried {
            *carried = carried.filter(|(carrier, _)| carrier.window != window);
        }
    }

    /// The host's operand for an access through the window at `window`, once it is checked. `place`: where it stands in
    /// the plan.
    pub(super) fn host_operand(&mut self, window: i32, address: &Address, place: Option<usize>) -> Mem {
        let Some(Mem { base, index, disp }) = address.direct().filter(|_| address.segment.is_none()) else {
            self.put_address(address);
            self.asm.load(RAX, field(addend(window)));
            self.asm.lea(RCX, Mem { base: Some(RCX), index: Some((RAX, 0)), disp: 0 });
            return Mem::at(RCX, 0);
        };
        let sum = place.and_then(|place| self.plan.accesses[place].base);
        let sum = sum.map(|held| Carrier { window, base: Some(held) });
        if let Some(reg) = sum.and_then(|sum| self.carried_by(sum)) {
            return Mem { base: Some(reg), index, disp };
        }
        match (base, index) {
            (Some(base), Some(_)) => {
                let distance = self.distance(window, place);
                let reg = if sum.is_some() { self.give_up(place) } else { RCX };
                self.asm.lea(reg, Mem { base: Some(distance), index: Some((base, 0)), disp: 0 });
                if let Some(sum) = sum {
                    self.carry(reg, sum);
                }
                Mem { base: Some(reg), index, disp }
            }
            (Some(base), None) => {
                let distance = self.distance(window, place);
                Mem { base: Some(base), index: Some((distance, 0)), disp }
            }
            (None, index) => {
                let distance = self.distance(window, place);
                Mem { base: Some(distance), index, disp }
            }
        }
    }

    /// A register with a window's distance.
    fn distance(&mut self, window: i32, place: Option<usize>) -> Reg {
        let wanted = Carrier { window, base: None };
        if let Some(reg) = self.carried_by(wanted) {
            return reg;
        }
        let reg = self.give_up(place);
        self.asm.load(reg, field(addend(window)));
        self.carry(reg, wanted);
        reg
    }

    fn usable(&self) -> &'static [Reg] {
        if self.keeps_rax { &[RAX, RCX] } else { &[RCX] }
    }

    fn carries(&self, reg: Reg) -> Option<Carrier> {
        let (carrier, version) = self.carried[usize::from(reg.0 & 1)]?;
        (version == self.asm.version(reg)).then_some(carrier)
    }

    fn carried_by(&self, wanted: Carrier) -> Option<Reg> {
        if let Some(lent) = self.lent.iter().find(|lent| lent.carrier == wanted) {
            return Some(lent.reg);
        }
        self.usable().iter().copied().find(|&reg| self.carries(reg) == Some(wanted))
    }

    fn carry(&mut self, reg: Reg, carrier: Carrier) {
        self.carried[usize::from(reg.0 & 1)] = Some((carrier, self.asm.version(reg)));
    }

    /// The register that can carry something else from the access at `place` on: one that carries nothing, else the one
    /// that is wanted later.
    fn give_up(&self, place: Option<usize>) -> Reg {
        let usable = self.usable();
        let later = &self.plan.accesses[place.map_or(self.plan.accesses.len(), |place| place + 1)..];
        let next = |reg: Reg| match self.carries(reg) {
            Some(carrier) => {
                later.iter().position(|planned| self.wants(planned) == carrier).unwrap_or(usize::MAX)
            }
            None => usize::MAX,
        };
        match usable {
            [only] => *only,
            _ => usable.iter().copied().max_by_key(|&reg| next(reg)).unwrap_or(RCX),
        }
    }

    /// What an access will want to be carried by: if it needs three registers, two of them in one.
    fn wants(&self, planned: &Planned) -> Carrier {
        let base = planned.base.filter(|_| planned.access.address.index.is_some());
        Carrier { window: self.window_of(planned), base }
    }

    fn window_of(&self, planned: &Planned) -> i32 {
        let user = matches!(self.way, Way::Windows { user: true });
        let group = &self.plan.groups[planned.group];
        Context::window(user, group.write, group.class)
    }

    /// The block is a loop whose checks are made: borrows registers for it, if that pays.
    pub(super) fn borrow(&mut self, block: &[Decoded], factory: &mut Option<InstructionInfoFactory>) {
        let plan = self.plan;
        let left_out = [Technique::Lending, Technique::Pinning].into_iter().any(|one| self.without.has(one));
        let may = self.may_borrow && !left_out && !self.leave_loops && self.way != Way::Tlb;
        // A check in the middle would be a further way out.
        if !may || plan.accesses.len() <= FEW || !plan.groups.iter().all(|group| group.at_start) {
            return;
        }
        if !block.iter().all(|decoded| decoded.shape.is_some() && stays(decoded.form.kind)) {
            return;
        }
        let factory = factory.get_or_insert_with(InstructionInfoFactory::new);
        // Further rounds are the same instructions.
        let round = block.iter().position(|decoded| decoded.closes_loop(self.rip)).map_or(0, |last| last + 1);
        let (mut used, mut written) = (0, 0);
        for decoded in &block[..round] {
            let (reads, writes) = ablation::registers(&decoded.instruction, factory);
            (used, written) = (used | reads | writes, written | writes);
        }
        let mut wanted: Vec<(Carrier, usize)> = Vec::new();
        for planned in plan.accesses.iter().filter(|planned| planned.access.address.segment.is_none()) {
            let constant = planned
                .base
                .filter(|&(register, _)| written >> register & 1 == 0 && home(register).is_some());
            let carrier = Carrier { window: self.window_of(planned), base: constant };
            match wanted.iter_mut().find(|(known, _)| *known == carrier) {
                Some((_, uses)) => *uses += 1,
                None => wanted.push((carrier, 1)),
            }
        }
        if wanted.len() <= FEW {
            return;
        }
        wanted.sort_by_key(|&(_, uses)| std::cmp::Reverse(uses));
        let unused = pinned().filter(|(guest, _)| used >> guest & 1 == 0);
        for ((carrier, _), (guest, reg)) in wanted.into_iter().zip(unused).take(MOST_LENT) {
            self.asm.store(field(Context::register(guest)), reg);
            self.asm.load(reg, field(addend(carrier.window)));
            if let Some(base) = carrier.base.and_then(|(register, _)| home(register)) {
                self.asm.lea(reg, Mem { base: Some(reg), index: Some((base, 0)), disp: 0 });
            }
            self.lent.push(Lent { guest, reg, carrier });
        }
    }

    /// On a way out: brings back what the block has borrowed. Changes no flags.
    pub(super) fn give_back(&mut self) {
        for &Lent { guest, reg, .. } in &self.lent {
            self.asm.load(reg, field(Context::register(guest)));
        }
    }
}

/// Whether an instruction of this kind goes on with the next, or leaves by a branch.
fn stays(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Plain
            | Kind::Verbatim
            | Kind::Nothing
            | Kind::Lea
            | Kind::Accumulator
            | Kind::OpcodeRegister
            | Kind::ExchangeAccumulator
            | Kind::ShiftByCl
            | Kind::Multiply
            | Kind::Widen
            | Kind::Push
            | Kind::Pop
            | Kind::JumpIf
    )
}
