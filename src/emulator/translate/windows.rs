//! Memory through windows: groups of accesses are checked at once, most of them at the start of their block.
use super::address::Address;
use super::builder::{Builder, FirstUse, Flags, Way, Ways};
use super::cold::Cold;
use super::groups::{Access, Group, STACK, class};
use super::number;
use crate::emulator::code::Miss;
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::{field, save_flags};
use crate::emulator::emit::{Alu, Condition, Forward, Mem, RAX, RCX};
use crate::emulator::mmu::window::{SLACK, SPANS, Window};
use crate::engine::Part;
use smallvec::smallvec;
use std::mem::offset_of;

/// What is told of a group that missed its window.
fn miss_of(group: &Group) -> Miss {
    Miss { address: group.address, class: group.class, write: group.write }
}

/// The ways on which a comparison with a window leaves.
struct Compared {
    /// What is checked does not lie in it.
    outside: Ways,
    /// It is not aligned as it must be.
    unfit: Ways,
}

/// What becomes of a group that missed its window, see [`Builder::refill`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Refill {
    link: u32,
    group: Group,
    resume: usize,
    /// Which instruction's flags have to be made again.
    remade: Option<u16>,
}

/// What a group is checked against: the window's offset in the context, which of [`SPANS`], and the address that is
/// compared. Of the stack the end is checked; what lies before it may be as much as the span.
fn checked_against(user: bool, group: &Group) -> (i32, usize, Address) {
    let window = Context::window(user, group.write, group.class);
    let kind = SPANS.iter().position(|&span| group.span <= span as i64).unwrap_or(SPANS.len() - 1);
    let ahead = if group.class == STACK { group.span - SPANS[kind] as i64 } else { 0 };
    (window, kind, Address { disp: group.address.disp.wrapping_add(ahead), ..group.address })
}

/// Whether a group is too wide for one comparison.
fn is_wide(group: &Group) -> bool {
    group.class != STACK && group.span > SLACK as i64
}

/// Of the start of a loop: what a CPU fetches decoded instructions by.
const LOOP_ALIGNMENT: usize = 32;

impl Builder<'_> {
    /// Whether groups are checked at the start of the block.
    pub(super) fn checks_at_start(&self) -> bool {
        self.way != Way::Tlb && self.plan.groups.iter().any(|group| group.at_start)
    }

    /// Checks all groups that can be checked at the start of the block.
    pub(super) fn check_at_start(&mut self) {
        let plan = self.plan;
        if let Way::Windows { user } = self.way {
            for (i, group) in plan.groups.iter().enumerate().filter(|(_, group)| group.at_start) {
                self.check_window(user, group, self.rip, true);
                self.checked[i] = true;
            }
        }
        self.body = self.asm.position();
        self.body_use = None;
    }

    /// The block is a loop, whose rounds begin here.
    pub(super) fn begin_loop(&mut self) {
        self.asm.align(LOOP_ALIGNMENT);
        self.body = self.asm.position();
        // Rounds come here from elsewhere.
        self.asm.forget_scratch();
    }

    /// Goes back to the start of the block, without saving flags that only a fault would show: `remake` makes them
    /// again from what is left of their operands. `None`: the block needs the flags that it was entered with.
    pub(super) fn repeat(&mut self, remake: impl Fn(&mut Self)) -> Option<()> {
        let Way::Windows { user } = self.way else { return None };
        if self.leave_loops
            || !self.plan_holds
            || self.body_use != Some(FirstUse::Sets)
            || self.flags != Flags::Live
            || self.flags_spoilt
        {
            return None;
        }
        let plan = self.plan;
        let kicked = self.is_kicked();
        let mut missed = Vec::new();
        for group in plan.groups.iter().filter(|group| group.at_start && group.moves) {
            let Compared { outside, unfit } = self.compare_with_window(user, group);
            let ways: Ways = outside.into_iter().chain(unfit).collect();
            missed.push((ways, self.miss_link(miss_of(group), self.rip)));
        }
        self.asm.jump_back(self.body);
        self.asm.bind(kicked);
        self.give_back();
        remake(self);
        save_flags(self.asm);
        let link = self.link(self.rip, true);
        self.asm.mov_imm(RAX, (number::KICK | link).into());
        self.asm.jump_to(self.stubs.help);
        for (ways, link) in missed {
            for way in ways {
                self.asm.bind(way);
            }
            self.give_back();
            remake(self);
            save_flags(self.asm);
            self.missed(link);
        }
        self.flags = Flags::Live;
        Some(())
    }

    /// Checks an address against its window, and with it the bytes behind. If it misses, the instruction at `rip` and
    /// what follows run through the soft TLB.
    fn check_window(&mut self, user: bool, group: &Group, rip: u64, planned: bool) {
        // This way out gives nothing back.
        self.regret_lent |= !self.lent.is_empty();
        let remade = self.spare_flags();
        let Compared { outside, unfit } = self.compare_with_window(user, group);
        let link = self.miss_link(miss_of(group), rip);
        // Other groups that were checked against the same window must find it as it was.
        let same = |other: &&Group| other.write == group.write && other.class == group.class;
        let alone = self.plan.groups.iter().filter(same).count() == 1;
        if planned && alone {
            let refill = Refill { link, group: *group, resume: self.asm.position(), remade };
            self.cold.push((outside, Cold::Refill(refill)));
            // What else was reached through this window is not, once it was moved.
            self.forget_carriers(Context::window(user, group.write, group.class));
            if !unfit.is_empty() {
                let link = self.miss_link(miss_of(group), rip);
                self.cold.push((unfit, Cold::Missed { link, remade }));
            }
        } else {
            let missed = outside.into_iter().chain(unfit).collect();
            self.cold.push((missed, Cold::Missed { link, remade }));
        }
    }

    /// An access missed its window, which no other group of the block was checked against: the window is moved, if it can be.
    pub(super) fn refill(&mut self, refill: &Refill) {
        let Refill { link, group, resume, remade } = refill;
        let user = self.way == Way::Windows { user: true };
        let (window, kind, address) = checked_against(user, group);
        self.asm.store(field(Context::SCRATCH), RAX);
        self.put_address(&address);
        self.asm.mov_imm(RAX, window as u64);
        let stub = self.stubs.refill[usize::from(user)][usize::from(group.write)][kind];
        self.asm.call(stub);
        let mut failed: Ways = smallvec![self.asm.jump_if(Condition::NOT_EQUAL)];
        if is_wide(group) {
            self.put_address(&address);
            self.asm.alu(Alu::Sub, RCX, field(window + offset_of!(Window, start) as i32));
            failed.push(self.compare_end(group, window));
            self.asm.load(RAX, field(Context::SCRATCH));
        }
        self.asm.jump_back(*resume);
        for way in failed {
            self.asm.bind(way);
        }
        if let Some(writer) = *remade {
            self.remake(writer);
        }
        self.missed(*link);
    }

    /// A link to the instruction at `rip`, to be taken when an access missed its window.
    pub(super) fn miss_link(&mut self, miss: Miss, rip: u64) -> u32 {
        let link = self.link(rip, true);
        self.new_link(link).miss = Some(miss);
        link
    }

    /// Goes on through the soft TLB, by way of a link; asks for the window to be moved now and then. Flags are saved.
    pub(super) fn missed(&mut self, link: u32) {
        self.asm.alu_imm(false, Alu::Sub, field(Context::MISSES), 1);
        let often = self.asm.jump_if(Condition::SIGN);
        let away = self.asm.jump();
        self.asm.bind(often);
        self.asm.bind(away);
        let stub = self.asm.position();
        let place = self.new_link(link);
        (place.displacement, place.stub) = (Some(away.0), stub);
        self.asm.mov_imm(RAX, (number::MISS | link).into());
        self.asm.jump_to(self.stubs.help);
    }

    /// Compares a group with its window: the ways on which it misses. Changes RCX, RAX and flags.
    fn compare_with_window(&mut self, user: bool, group: &Group) -> Compared {
        let (window, kind, address) = checked_against(user, group);
        let limit = field(window + (offset_of!(Window, limits) + 8 * kind) as i32);
        // From what is checked, which may lie before the group.
        let ahead = address.disp.wrapping_sub(group.address.disp);
        self.put_address(&address);
        let mut compared = Compared { outside: Ways::new(), unfit: Ways::new() };
        if let Some((distance, alignment)) = group.aligned {
            let distance = distance - ahead;
            let low = if distance % alignment as i64 == 0 {
                RCX
            } else {
                self.asm.lea(RAX, Mem::at(RCX, distance as i32));
                RAX
            };
            self.asm.test8(low, (alignment - 1) as u8);
            compared.unfit.push(self.asm.jump_if(Condition::NOT_EQUAL));
        }
        self.asm.alu(Alu::Sub, RCX, field(window + offset_of!(Window, start) as i32));
        self.asm.alu(Alu::Cmp, RCX, limit);
        compared.outside.push(self.asm.jump_if(Condition::NOT_BELOW));
        if is_wide(group) {
            compared.outside.push(self.compare_end(group, window));
        }
        compared
    }

    /// Compares the end of a group, whose distance from the start of its window is in RCX, for the way on which it misses.
    fn compare_end(&mut self, group: &Group, window: i32) -> Forward {
        self.asm.alu_imm(true, Alu::Add, RCX, (group.span - SLACK as i64) as i32);
        self.asm.alu(
            Alu::Cmp,
            RCX,
            field(window + offset_of!(Window, limits) as i32 + 8 * (SPANS.len() as i32 - 1)),
        );
        self.asm.jump_if(Condition::NOT_BELOW)
    }

    pub(super) fn through_window(&mut self, user: bool, access: &Access) -> Mem {
        let (index, rip) = self.current;
        let Access { address, alignment, .. } = access;
        let plan = self.plan;
        let place = plan.find(index, access).filter(|_| self.plan_holds);
        let group = place
            .map(|place| plan.accesses[place].group)
            .filter(|&g| self.checked[g] || plan.groups[g].first == index);
        let (write, class) = match group {
            Some(number) => {
                let group = &plan.groups[number];
                if !self.checked[number] {
                    self.part(Part::Window, |b| b.check_window(user, group, rip, true));
                    self.checked[number] = true;
                }
                (group.write, group.class)
            }
            None => {
                let alone = Group {
                    address: *address,
                    span: access.size as i64,
                    write: access.write,
                    aligned: (*alignment > 1).then_some((0, *alignment)),
                    at_start: false,
                    first: index,
                    moves: true,
                    class: class(address),
                };
                self.part(Part::Window, |b| b.check_window(user, &alone, rip, false));
                (access.write, alone.class)
            }
        };
        let window = Context::window(user, write, class);
        self.host_operand(window, address, place)
    }
}
