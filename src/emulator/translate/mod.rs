//! The translator: guest code becomes host code, a block at a time.
//!
//! A block begins anywhere and goes on, past forward conditional branches that are not taken, to the first other branch,
//! backward conditional ones included, to an instruction after which everything is looked at anew, or to the end of the
//! page; [`decode`](mod@decode) has the bounds on instructions and bytes. Most instructions become themselves with other registers ([`integer`]); the rest
//! is executed by `single` in the middle of the block. [`session`] runs what was translated.
//!
//! See `docs/translator.md` for a listing and the invariants.
mod ablation;
pub(crate) mod address;
mod awkward;
mod branch;
mod builder;
mod carriers;
mod cold;
mod cpuid;
mod decode;
mod forms;
mod groups;
mod integer;
mod jumps;
pub(crate) mod lens;
mod levels;
mod marks;
mod narrow;
mod port;
mod remade;
pub(crate) mod session;
mod smap;
mod string;
mod system;
#[cfg(test)]
mod tests;
mod windows;

use super::code::{CodeStore, Entries};
use super::emit::Assembler;
use super::front::block::CodeMode;
use super::front::features::Features;
use super::mistake::Mistake;
use super::mmu::Mmu;
use super::mmu::slow::Place;
use super::technique::{Technique, Without};
use crate::arch::{CpuState, Cr0, Cr4, Xcr0};
use crate::engine::{Cause, Part};
use branch::Branch;
use builder::{Builder, FirstUse, Flags, Output, Way};
use decode::{Decoded, decode};
use forms::{Forms, Kind};
use groups::Plan;
use iced_x86::{InstructionInfoFactory, Mnemonic};
use integer::Source;
use marks::Marks;

/// Instructions in a block at most.
const MOST_INSTRUCTIONS: usize = 192;
/// Instructions after which a block goes on past no further branch, so that what lies behind branches is not translated
/// again and again. Loops of one block are unrolled to as many at most.
const MANY_INSTRUCTIONS: usize = 64;
/// Rounds of a loop in its block at most.
const MOST_ROUNDS: usize = 8;
/// Host bytes that a block may take at most, with much to spare.
const MOST_BYTES: usize = 64 << 10;

/// Numbers of calls for help: a kind in the upper bits, and which.
pub(super) mod number {
    /// Execute the instruction of a site.
    pub(crate) const SITE: u32 = 0;
    /// Follow a link.
    pub(crate) const LINK: u32 = 1 << 29;
    /// Go to the address in the context's RIP; the site is that of the branch.
    pub(crate) const INDIRECT: u32 = 2 << 29;
    /// Attention is asked for, on the way of a link.
    pub(crate) const KICK: u32 = 3 << 29;
    /// Move a window, then follow a link.
    pub(crate) const MISS: u32 = 4 << 29;
    /// The port access of a site was made, and more is to be done before the block may go on.
    pub(crate) const ACCESSED: u32 = 5 << 29;
    /// The bits of the kind.
    pub(crate) const KIND: u32 = 7 << 29;

    /// The link of a [`LINK`].
    pub(crate) fn link(number: u32) -> Option<u32> {
        (number & KIND == LINK).then_some(number & !KIND)
    }
}

/// What translated code may do by itself: part of what blocks are found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Vectors {
    /// `single` executes all vector instructions: they may fault, or MXCSR lets them raise exceptions.
    None,
    Sse,
    Avx,
}

impl Vectors {
    /// What `state` allows.
    fn of(state: &CpuState) -> Self {
        if state.cr0.contains(Cr0::TS) { Self::None } else { Self::unless_switched(state) }
    }

    /// As [`Self::of`], with CR0.TS clear.
    fn unless_switched(state: &CpuState) -> Self {
        let all_masked = state.xsave.mxcsr() & 0xffff_1f80 == 0x1f80;
        if state.cr0.contains(Cr0::EM) || !state.cr4.contains(Cr4::OSFXSR) || !all_masked {
            Self::None
        } else if state.cr4.contains(Cr4::OSXSAVE) && state.xcr0.contains(Xcr0::SSE | Xcr0::AVX) {
            Self::Avx
        } else {
            Self::Sse
        }
    }
}

/// What decides about the meaning of code beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub code: CodeMode,
    pub vectors: Vectors,
    /// The privilege level is 0.
    pub ring0: bool,
    /// Memory is reached through windows, not through the soft TLB.
    pub windows: bool,
    /// In 32-bit code, the segment of the CPU or thread has no end; see [`narrow`].
    pub thread: bool,
}

impl Limits {
    #[inline]
    fn of(state: &CpuState, windows: bool) -> Self {
        let cpl = state.cpl();
        Self {
            code: CodeMode::new(state.code_bits(), cpl == 3),
            vectors: Vectors::of(state),
            ring0: cpl == 0,
            windows,
            thread: !state.is_64bit_code() && narrow::thread_segment_is_whole(state),
        }
    }

    /// Whether it is 32-bit code.
    fn is_narrow(self) -> bool {
        self.code.bits() == 32
    }

    /// The bits of [`Self::number`] that say what vector instructions may do.
    const VECTORS: u64 = 3 << 4;

    /// A small number that is different for each.
    fn number(self) -> u64 {
        u64::from(self.code.number())
            | u64::from(self.thread) << 3
            | (self.vectors as u64) << 4
            | u64::from(self.windows) << 6
            | u64::from(self.ring0) << 7
    }

    /// The bits [`Self::VECTORS`] as they are with CR0.TS clear.
    fn vectors_unless_switched(state: &CpuState) -> u64 {
        (Vectors::unless_switched(state) as u64) << 4
    }

    /// With a guest-virtual address, what blocks are found by.
    fn key(self, rip: u64) -> u64 {
        rip ^ self.number() << 48
    }
}

/// What translating needs beside the code.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    pub asm: Assembler,
    forms: Forms,
    decoded: Vec<Decoded>,
    /// The guest-physical page that the only instruction of the block reaches into.
    second_page: Option<u64>,
    links: Vec<super::code::NewLink>,
    plan: Plan,
    seen: Vec<bool>,
    cold: Vec<(builder::Ways, cold::Cold)>,
    checked: Vec<bool>,
    /// Where each part of the block begins that was made last, if somebody wants to know.
    marks: Option<Marks>,
    cpuid: cpuid::Answers,
    /// Loops of one block leave it at each pass.
    pub leave_loops: bool,
    /// What is left out.
    pub without: Without,
    /// Translated code counts the instructions that it completes.
    pub counts: bool,
    /// `single` reads the time-stamp counter, which who compares wants to be the same twice.
    pub tsc_by_single: bool,
    /// Instructions that a block has at most.
    pub most: Option<usize>,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
    uses: Vec<(u16, u16)>,
    remade: Vec<Option<u16>>,
    factory: Option<InstructionInfoFactory>,
}

impl Workshop {
    /// Plans the block at `rip`, and unrolls it if it is a loop whose further rounds need no checks of their own: the
    /// checks of the first, and the look at whether somebody asks for attention, then answer for all.
    fn plan(&mut self, rip: u64, regs: Option<&[u64; 32]>) {
        let block = &mut self.decoded;
        let together = !self.without.has(Technique::Groups);
        self.plan.make(block, together, regs);
        let (round, groups) = (block.len(), self.plan.groups.len());
        let is_loop = block.last().is_some_and(|last| last.closes_loop(rip));
        let rounds = (MANY_INSTRUCTIONS / round.max(1)).min(MOST_ROUNDS);
        if !is_loop || self.leave_loops || rounds < 2 || self.without.has(Technique::Unrolling) {
            return;
        }
        for _ in 1..rounds {
            block.extend_from_within(..round);
        }
        self.plan.make(block, together, regs);
        if self.plan.groups.len() != groups {
            block.truncate(round);
            self.plan.make(block, together, regs);
        }
    }
}

/// For each instruction whether the flags after it can be seen: by an instruction that reads them, at one that can
/// fault or leave the block, or behind the block.
fn find_seen_flags(decoded: &[Decoded], way: Way, plan: &Plan, seen: &mut Vec<bool>) {
    seen.clear();
    seen.resize(decoded.len(), true);
    let mut matter = true;
    // Groups are in the order of the instructions where they begin.
    let mut checks =
        plan.groups.iter().rev().filter(|group| !group.at_start).map(|group| group.first).peekable();
    for (i, one) in decoded.iter().enumerate().rev() {
        seen[i] = matter;
        let mut checked = false;
        while checks.next_if(|&first| first >= i).is_some() {
            checked = true;
        }
        let memory = one.shape.is_none_or(|shape| shape.modrm.is_some() && !shape.is_register());
        let on_its_way = match (one.form.kind, way) {
            (Kind::Plain | Kind::ShiftByCl | Kind::Multiply | Kind::CompareExchange, Way::Windows { .. }) => {
                one.shape.is_none() || checked
            }
            (Kind::Push | Kind::Pop | Kind::Leave, Way::Windows { .. }) => checked,
            (Kind::Plain | Kind::Multiply | Kind::CompareExchange, Way::Tlb) => memory,
            (Kind::Accumulator | Kind::Nothing | Kind::Lea, _) => false,
            (Kind::OpcodeRegister | Kind::ExchangeAccumulator | Kind::Widen, _) => false,
            _ => true,
        };
        // It is looked up by itself, and may be `single`'s after all.
        let on_its_way = on_its_way || memory && one.form.bit_string;
        if on_its_way || one.flags.reads {
            matter = true;
        } else if one.sets_flags() {
            matter = false;
        }
    }
}

/// Translates the block at `rip`, whose first byte lies at `place` in RAM. `None`: it has to be executed otherwise,
/// because its first instruction crosses into a page that is not RAM or may not be executed. It is about to be entered with `regs`.
pub(crate) fn translate(
    mmu: &mut Mmu,
    regs: &[u64; 32],
    store: &mut CodeStore,
    features: &Features,
    workshop: &mut Workshop,
    limits: Limits,
    (rip, place): (u64, Place),
) -> Option<u32> {
    let mut next = decode(mmu, features, workshop, limits, rip, place);
    if let Some(most) = workshop.most
        && workshop.decoded.len() > most
    {
        workshop.decoded.truncate(most);
        next = workshop.decoded.last().map_or(rip, |last| last.instruction.next_ip());
    }
    if workshop.decoded.is_empty() {
        return None;
    }
    mmu.platform.counters(mmu.vcpu).add(Cause::Translate, workshop.decoded.len() as u64);
    make(regs, store, workshop, limits, (rip, place.gpa.0), next)
}

/// Makes host code of the instructions that were decoded from `rip` on, behind which `next` is, and keeps it as the block
/// at `gpa`.
fn make(
    regs: &[u64; 32],
    store: &mut CodeStore,
    workshop: &mut Workshop,
    limits: Limits,
    (rip, gpa): (u64, u64),
    next: u64,
) -> Option<u32> {
    if !store.has_room(MOST_BYTES) {
        store.clear();
    }
    let stubs = store.stubs();
    let here = store.here();
    let first_link = store.links.len() as u32;
    workshop.asm.restart(here);
    workshop.links.clear();
    let way = if limits.windows && !limits.is_narrow() {
        workshop.plan(rip, limits.code.is_user().then_some(regs));
        Way::Windows { user: limits.code.is_user() }
    } else {
        Way::Tlb
    };
    find_seen_flags(&workshop.decoded, way, &workshop.plan, &mut workshop.seen);
    workshop.remade.clear();
    if workshop.without.has(Technique::LazyFlags) {
        workshop.seen.fill(true);
    } else if way != Way::Tlb {
        remade::find(&workshop.decoded, &workshop.plan, &mut workshop.remade);
    }
    ablation::uses(&workshop.decoded, &mut workshop.factory, workshop.without, &mut workshop.uses);
    let sites = store.sites.len();
    let mut saved = 0;
    let mut may_borrow = true;
    // Once more if flags that were given up turned out to be wanted, or registers that were borrowed.
    for _ in 0..4 {
        let output = Output {
            asm: &mut workshop.asm,
            sites: &mut store.sites,
            links: &mut workshop.links,
            first_link,
            stubs,
        };
        let mut b = Builder::new(output, rip, way, &workshop.plan);
        // Their memory is used again.
        (b.cold, b.checked) = (std::mem::take(&mut workshop.cold), std::mem::take(&mut workshop.checked));
        b.checked.clear();
        b.checked.resize(workshop.plan.groups.len(), false);
        b.marks = workshop.marks.take().map(Marks::emptied);
        b.leave_loops = workshop.leave_loops;
        b.mistake = workshop.mistake;
        b.narrow = limits.is_narrow();
        (b.without, b.uses, b.counts) = (workshop.without, &workshop.uses, workshop.counts);
        b.may_borrow = may_borrow;
        (b.block, b.remade) = (&workshop.decoded, &workshop.remade);
        saved = build(&mut b, &workshop.decoded, &workshop.seen, next, limits, &mut workshop.factory);
        b.cold.clear();
        let (regret, regret_lent, regret_remade) = (b.regret, b.regret_lent, b.regret_remade);
        (workshop.cold, workshop.checked, workshop.marks) = (b.cold, b.checked, b.marks);
        if !regret && !regret_lent && !regret_remade {
            break;
        }
        if regret_remade {
            workshop.remade.clear();
        }
        may_borrow &= !regret_lent;
        if regret {
            workshop.seen.fill(true);
        }
        workshop.asm.restart(here);
        workshop.links.clear();
        store.sites.truncate(sites);
    }
    store.keep(
        workshop.asm.bytes(),
        (gpa, limits.key(rip)),
        workshop.second_page,
        Entries { live: 0, saved },
        &workshop.links,
    )
}

/// Builds a block; gives the offset of the entry for saved flags.
fn build(
    b: &mut Builder,
    block: &[Decoded],
    seen: &[bool],
    next: u64,
    limits: Limits,
    factory: &mut Option<InstructionInfoFactory>,
) -> usize {
    // If the flags will be saved anyway, that is done first, and who comes with saved flags begins behind it.
    let mut first = b.checks_at_start().then_some(Flags::Saved);
    for decoded in block {
        if first.is_none() {
            first = decoded.flags_first();
        }
        if first.is_some() || decoded.sets_flags() {
            break;
        }
    }
    let mut saved = 0;
    if first == Some(Flags::Saved) {
        b.mark(Part::BlockFlags);
        b.save_flags();
        saved = b.asm.position();
    }
    b.mark(Part::BlockChecks);
    if b.way != Way::Tlb && block.iter().any(|one| one.form.vector && one.shape.is_some()) {
        b.need_vectors();
    }
    b.check_at_start();
    if block.last().is_some_and(|last| last.closes_loop(b.rip)) {
        b.borrow(block, factory);
        b.begin_loop();
    }
    let mut ended = false;
    for (index, decoded) in block.iter().enumerate() {
        b.begin(index, decoded.instruction.ip());
        b.mark(Part::Work);
        b.flags_matter = seen[index];
        let place = system::Place {
            ring0: limits.ring0,
            ring3: limits.code.is_user(),
            last: index + 1 == block.len(),
            ends: decoded.form.kind == Kind::SystemEnd,
        };
        b.follower = block.get(index + 1).map(|next| next.instruction.ip());
        b.load_registers();
        if matches!(decoded.form.kind, Kind::Jump | Kind::JumpIf) {
            b.count();
        }
        ended = one(b, decoded, index.checked_sub(1).map(|before| &block[before]), place);
        if ended {
            break;
        }
        if b.mistake == Some(Mistake::Flag)
            && decoded.instruction.mnemonic() == Mnemonic::Inc
            && b.flags == Flags::Live
        {
            // cmc
            b.asm.byte(0xf5);
        }
        b.store_registers();
        b.count();
        b.store_flags(&decoded.instruction);
    }
    if !ended {
        b.mark(Part::Leave);
        b.leave(next);
    }
    b.finish();
    if saved == 0 && b.first_use != Some(FirstUse::Sets) {
        b.mark(Part::SavedEntry);
        saved = b.asm.position();
        super::code::stubs::restore_flags(b.asm);
        b.asm.jump_back(0);
    }
    saved
}

/// Translates one instruction, which follows `before`; says whether it ended the block.
fn one(b: &mut Builder, decoded: &Decoded, before: Option<&Decoded>, place: system::Place) -> bool {
    let Decoded { instruction, shape, form, flags, address } = decoded;
    if form.kind == Kind::End {
        b.end(instruction);
        return true;
    }
    if matches!(form.kind, Kind::System | Kind::SystemEnd) {
        let ended = b.system(instruction, place);
        b.asm.forget_scratch();
        return ended;
    }
    let Some(shape) = shape else {
        b.execute(instruction);
        return false;
    };
    let source = Source { instruction, shape, form, flags: *flags, address };
    let done = match form.kind {
        Kind::Execute => false,
        Kind::String => b.string(instruction),
        Kind::Push | Kind::Pop | Kind::Leave => b.stack(&source),
        Kind::Jump | Kind::JumpIf | Kind::Call | Kind::JumpIndirect | Kind::CallIndirect | Kind::Ret => {
            match b.branch(&source, before) {
                Branch::GoesOn => return false,
                Branch::Ended => return true,
                Branch::Refused => {
                    b.end(instruction);
                    return true;
                }
            }
        }
        _ => b.simple(&source),
    };
    if !done && matches!(form.kind, Kind::Execute | Kind::String) {
        b.execute(instruction);
    } else if !done {
        b.execute_after_all(instruction);
    }
    b.settle(instruction);
    false
}
