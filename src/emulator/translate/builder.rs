//! What one block is built with: the flags' whereabouts, memory operands, the ways out, and what lies off the hot path.
//!
//! Between guest instructions RAX and RCX are free and the guest's flags are either in the host's or saved in the
//! context ([`Flags`]). Glue that changes flags saves them first, so that every instruction that can fault finds them
//! exact. Whatever goes wrong on the fast path of an instruction has changed nothing yet; it jumps to a cold piece that
//! lets `single` execute the instruction and comes back behind it.
use super::Decoded;
use super::address::Address;
use super::carriers::{Carrier, Lent};
use super::cold::Cold;
use super::groups::{Access, Plan};
use super::marks::Marks;
use super::number;
use crate::arch::LONGEST_INSTRUCTION;
use crate::arch::address::PAGE_SIZE;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::home;
use crate::emulator::code::stubs::{Stubs, compare_entry, field, restore_flags, save_flags};
use crate::emulator::code::{NewLink, Site};
use crate::emulator::emit::{Alu, Assembler, Condition, Forward, Mem, RAX, RCX, Reg};
use crate::emulator::mistake::Mistake;
use crate::emulator::mmu::tlb::ENTRY_ADDEND;
use crate::emulator::technique::Without;
use crate::engine::Part;
use iced_x86::Instruction;
use smallvec::{SmallVec, smallvec};

/// Where the guest's status flags are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flags {
    /// In the host's.
    Live,
    /// In the context; the host's hold rubbish.
    Saved,
    /// Nowhere: nobody wants them but checks that fail, which make them again as this instruction of the block has.
    Remade(u16),
}

/// The first thing that a block does with the flags that it was entered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FirstUse {
    /// Reads them, keeps some of them, or hands them on.
    Needs,
    /// Overwrites all.
    Sets,
}

/// The ways to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Each access looks up the soft TLB.
    Tlb,
    /// Groups of accesses are checked against a window of the user or the supervisor.
    Windows { user: bool },
}

/// Whether an instruction at `rip` may reach into the next page.
pub(super) fn may_cross(rip: u64) -> bool {
    rip % PAGE_SIZE + LONGEST_INSTRUCTION as u64 > PAGE_SIZE
}

/// Jumps to one place that is not known yet.
pub(super) type Ways = SmallVec<[Forward; 4]>;

/// Where a block's parts go.
pub(super) struct Output<'a> {
    pub asm: &'a mut Assembler,
    pub sites: &'a mut Vec<Site>,
    pub links: &'a mut Vec<NewLink>,
    /// Number of the first of `links`.
    pub first_link: u32,
    pub stubs: Stubs,
}

/// Builds one block.
pub(super) struct Builder<'a> {
    pub asm: &'a mut Assembler,
    pub sites: &'a mut Vec<Site>,
    pub links: &'a mut Vec<NewLink>,
    /// Number of the first of `links`.
    pub first_link: u32,
    pub stubs: Stubs,
    pub flags: Flags,
    pub first_use: Option<FirstUse>,
    /// As `first_use`, after what is done at the start of the block.
    pub(super) body_use: Option<FirstUse>,
    /// Where what is done at the start of the block ends.
    pub(super) body: usize,
    /// Start of the block.
    pub rip: u64,
    pub way: Way,
    /// Which accesses are checked together.
    pub(super) plan: &'a Plan,
    /// The block's instructions.
    pub(super) block: &'a [Decoded],
    /// For each of them, see [`super::remade::find`].
    pub(super) remade: &'a [Option<u16>],
    /// Flags that were not saved were wanted: the block must be built again.
    pub(super) regret_remade: bool,
    /// It is 32-bit code: addresses are cut, and the stack has words of four bytes.
    pub narrow: bool,
    /// Loops of one block leave it at each pass.
    pub leave_loops: bool,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
    /// What is left out.
    pub(super) without: Without,
    /// Instructions are counted.
    pub(super) counts: bool,
    /// The instruction that was counted last.
    pub(super) counted: Option<usize>,
    /// For each instruction which registers it reads and which it writes, if they are not pinned.
    pub(super) uses: &'a [(u16, u16)],
    /// All instructions so far were translated as the plan expects them to be.
    pub(super) plan_holds: bool,
    /// Groups that were checked.
    pub(super) checked: Vec<bool>,
    /// Registers that the block has borrowed.
    pub(super) lent: SmallVec<[Lent; 4]>,
    /// It may borrow some.
    pub(super) may_borrow: bool,
    /// It has, and cannot do with them: it must be built again.
    pub(super) regret_lent: bool,
    /// What RAX and RCX carry for accesses, as of versions of the registers.
    pub(super) carried: [Option<(Carrier, u32)>; 2],
    /// The current instruction does not use RAX once its operand is known.
    pub(super) keeps_rax: bool,
    /// The flags after the current instruction can be seen: by a later one, or where one may fault.
    pub flags_matter: bool,
    /// The host's flags count as the guest's though some are wrong, because nobody will see them.
    pub(super) flags_spoilt: bool,
    /// Somebody wanted to see them all the same: the block must be built again.
    pub regret: bool,
    /// Index and address of the current instruction.
    pub(super) current: (usize, u64),
    /// Address of the instruction that the block goes on with.
    pub(super) follower: Option<u64>,
    /// The block has made sure that the vector registers are loaded.
    pub vectors: bool,
    /// Jumps of the current instruction to its cold piece.
    pending: Ways,
    pub(super) cold: Vec<(Ways, Cold)>,
    /// Where each part begins, if somebody wants to know.
    pub(super) marks: Option<Marks>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(output: Output<'a>, rip: u64, way: Way, plan: &'a Plan) -> Self {
        let Output { asm, sites, links, first_link, stubs } = output;
        Self {
            asm,
            sites,
            links,
            first_link,
            stubs,
            flags: Flags::Live,
            first_use: None,
            body_use: None,
            body: 0,
            rip,
            way,
            plan,
            block: &[],
            remade: &[],
            regret_remade: false,
            narrow: false,
            leave_loops: false,
            mistake: None,
            without: Without::NOTHING,
            counts: false,
            counted: None,
            uses: &[],
            plan_holds: true,
            checked: Vec::new(),
            lent: SmallVec::new(),
            may_borrow: true,
            regret_lent: false,
            carried: [None; 2],
            keeps_rax: false,
            flags_matter: true,
            flags_spoilt: false,
            regret: false,
            current: (0, rip),
            follower: None,
            vectors: false,
            pending: Ways::new(),
            cold: Vec::new(),
            marks: None,
        }
    }

    fn use_flags(&mut self, first: FirstUse) {
        self.regret_remade |= first == FirstUse::Needs && matches!(self.flags, Flags::Remade(_));
        self.first_use.get_or_insert(first);
        self.body_use.get_or_insert(first);
    }

    /// From here on glue may change the host's flags. Changes RAX.
    pub(super) fn save_flags(&mut self) {
        self.use_flags(FirstUse::Needs);
        self.regret |= self.flags_spoilt;
        if self.flags == Flags::Live {
            self.part(Part::Flags, |b| save_flags(b.asm));
            self.flags = Flags::Saved;
        }
    }

    /// Puts the guest's flags into the host's. Changes RAX.
    pub(super) fn restore_flags(&mut self) {
        self.use_flags(FirstUse::Needs);
        self.regret |= self.flags_spoilt;
        if self.flags == Flags::Saved {
            self.part(Part::Flags, |b| restore_flags(b.asm));
            self.flags = Flags::Live;
        }
    }

    /// Prepares for an instruction that changes some flags and keeps others. Changes RAX.
    pub(super) fn merge_flags(&mut self) {
        if self.flags_matter {
            self.restore_flags();
        } else {
            self.regret_remade |= matches!(self.flags, Flags::Remade(_));
            self.flags_spoilt = true;
        }
    }

    /// The host's flags are the guest's from here on; `all` says that none was kept.
    pub(super) fn flags_written(&mut self, all: bool) {
        if all {
            self.flags_spoilt = false;
        }
        self.use_flags(FirstUse::Sets);
        self.flags = Flags::Live;
    }

    /// Makes sure that the guest's vector registers are in the host's. Changes RCX, no flags that are live.
    pub(super) fn need_vectors(&mut self) {
        if self.vectors {
            return;
        }
        self.vectors = true;
        if self.flags != Flags::Live {
            self.asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
            let absent = self.asm.jump_if(Condition::EQUAL);
            self.cold.push((smallvec![absent], Cold::Vectors { resume: self.asm.position() }));
            self.asm.forget_scratch();
            return;
        }
        self.asm.load32(RCX, field(Context::VECTOR));
        let absent = self.asm.jump_if_rcx_zero();
        // jmp over the call
        self.asm.raw(&[0xeb, 5]);
        self.asm.bind_short(absent);
        self.asm.call(self.stubs.load_vectors);
    }

    /// A register as an operand: its host register, or `scratch` with its value.
    pub(super) fn value(&mut self, guest: u8, scratch: Reg) -> Reg {
        match home(guest) {
            Some(reg) => reg,
            None => {
                self.asm.load(scratch, field(Context::register(guest)));
                scratch
            }
        }
    }

    /// The next instruction is this one.
    pub(super) fn begin(&mut self, index: usize, rip: u64) {
        self.current = (index, rip);
    }

    /// Puts an address of 32-bit code, all registers of which are pinned, into RCX. Changes no flags, and RAX only for one
    /// with a segment.
    fn put_narrow_address(&mut self, address: &Address) {
        match address.direct() {
            Some(mem) if mem.base.is_some() || mem.index.is_some() => self.asm.op(false, 0x8d, RCX.0, mem),
            _ => self.asm.mov_imm(RCX, u64::from(address.disp as u32)),
        }
        if let Some(slot) = address.segment {
            self.asm.load(RAX, field(Context::register(slot)));
            self.asm.op(false, 0x8d, RCX.0, Mem { base: Some(RCX), index: Some((RAX, 0)), disp: 0 });
        }
    }

    /// Puts an address into RCX. Changes RAX, no flags.
    pub(super) fn put_address(&mut self, address: &Address) {
        if self.narrow {
            self.put_narrow_address(address);
            return;
        }
        if let Some(mem) = address.direct() {
            if mem.base.is_none() && mem.index.is_none() {
                self.asm.mov_imm(RCX, address.disp as u64);
            } else {
                self.asm.lea(RCX, mem);
            }
        } else {
            match address.base {
                Some(base) => {
                    let base = self.value(base, RCX);
                    if base != RCX {
                        self.asm.mov(RCX, base);
                    }
                }
                None if address.index.is_some() => self.asm.mov_imm(RCX, 0),
                None => {}
            }
            let index = address.index.map(|(index, scale)| (self.value(index, RAX), scale));
            match (i32::try_from(address.disp), index) {
                (Ok(disp), index) if address.base.is_some() || index.is_some() => {
                    self.asm.lea(RCX, Mem { base: Some(RCX), index, disp });
                }
                // A group's distance from its registers may be more than an instruction can say.
                (Err(_), index) if address.base.is_some() || index.is_some() => {
                    if index.is_some() {
                        self.asm.lea(RCX, Mem { base: Some(RCX), index, disp: 0 });
                    }
                    self.asm.mov_imm(RAX, address.disp as u64);
                    self.asm.lea(RCX, Mem { base: Some(RCX), index: Some((RAX, 0)), disp: 0 });
                }
                _ => self.asm.mov_imm(RCX, address.disp as u64),
            }
        }
        if let Some(slot) = address.segment {
            self.asm.load(RAX, field(Context::register(slot)));
            self.asm.lea(RCX, Mem { base: Some(RCX), index: Some((RAX, 0)), disp: 0 });
        }
    }

    /// A way to the cold piece of the current instruction.
    pub(super) fn cold_if(&mut self, condition: Condition) {
        self.regret_remade |= matches!(self.flags, Flags::Remade(_));
        let forward = self.asm.jump_if(condition);
        self.pending.push(forward);
    }

    /// The host's place of `size` bytes at a guest address, for reading or writing. Leaves the hot path unless that is
    /// known to be allowed; flags may have to be saved for that. RCX belongs to the operand until it was used, RAX is
    /// free.
    pub(super) fn memory(&mut self, address: &Address, size: usize, write: bool, alignment: u64) -> Mem {
        match self.way {
            Way::Tlb => self.part(Part::Lookup, |b| b.look_up_page(address, size, write, alignment)),
            Way::Windows { user } => {
                let access = Access { address: *address, size, write, alignment };
                self.through_window(user, &access)
            }
        }
    }

    /// As [`Self::memory`], by the soft TLB. Flags are saved.
    fn look_up_page(&mut self, address: &Address, size: usize, write: bool, alignment: u64) -> Mem {
        self.save_flags();
        self.put_address(address);
        if alignment > 1 {
            self.asm.test8(RCX, (alignment - 1) as u8);
            self.cold_if(Condition::NOT_EQUAL);
        }
        self.find_entry(size, write);
        let simple = address.direct().filter(|_| address.segment.is_none());
        if self.narrow && simple.is_some() {
            self.put_address(address);
            self.asm.alu(Alu::Add, RCX, Mem::at(RAX, ENTRY_ADDEND));
            return Mem::at(RCX, 0);
        }
        match simple {
            Some(Mem { base: Some(base), index: None, disp }) => {
                self.asm.load(RCX, Mem::at(RAX, ENTRY_ADDEND));
                Mem { base: Some(base), index: Some((RCX, 0)), disp }
            }
            Some(Mem { base, index: Some(index), disp }) => {
                self.asm.load(RCX, Mem::at(RAX, ENTRY_ADDEND));
                if let Some(base) = base {
                    self.asm.alu(Alu::Add, RCX, base);
                }
                Mem { base: Some(RCX), index: Some(index), disp }
            }
            _ => {
                // RAX may be needed for the index: the addend goes through the context's scratch place.
                self.asm.load(RAX, Mem::at(RAX, ENTRY_ADDEND));
                self.asm.store(field(Context::RESUME), RAX);
                self.put_address(address);
                self.asm.alu(Alu::Add, RCX, field(Context::RESUME));
                Mem::at(RCX, 0)
            }
        }
    }

    /// The host's place, in RAX, of `size` bytes at the guest address in RCX, by the soft TLB; else the cold way. Flags are
    /// saved. Changes RCX.
    pub(super) fn look_up_computed(&mut self, size: usize, write: bool) {
        self.asm.store(field(Context::RESUME), RCX);
        self.find_entry(size, write);
        self.asm.load(RAX, Mem::at(RAX, ENTRY_ADDEND));
        self.asm.alu(Alu::Add, RAX, field(Context::RESUME));
    }

    /// The soft TLB's entry, in RAX, for `size` bytes at the guest address in RCX; else the cold way. Changes RCX and flags.
    pub(super) fn find_entry(&mut self, size: usize, write: bool) {
        compare_entry(self.asm, RAX, size, write);
        self.cold_if(Condition::NOT_EQUAL);
    }

    /// A new site for an instruction.
    pub(super) fn site(&mut self, instruction: &Instruction, resumes: bool) -> u32 {
        self.sites.push(Site { instruction: *instruction, op: std::cell::OnceCell::new(), resumes });
        (self.sites.len() - 1) as u32
    }

    /// Ends the current instruction: if something can go wrong in it, makes its cold piece.
    pub(super) fn settle(&mut self, instruction: &Instruction) {
        if self.pending.is_empty() {
            return;
        }
        self.regret_lent |= !self.lent.is_empty();
        let site = self.site(instruction, true);
        self.asm.forget_scratch();
        let from = std::mem::take(&mut self.pending);
        let cold = Cold::Execute { site, resume: self.asm.position(), live: self.flags == Flags::Live };
        self.cold.push((from, cold));
    }

    /// As [`Self::settle`], for an instruction after which the block does not go on.
    pub(super) fn settle_last(&mut self, instruction: &Instruction) -> u32 {
        let site = self.site(instruction, false);
        self.store_registers();
        self.count();
        let from = std::mem::take(&mut self.pending);
        if !from.is_empty() {
            self.cold.push((from, Cold::Ask { number: number::SITE | site, live: false, target: false }));
        }
        site
    }

    /// `single` executes the instruction, and the block goes on.
    pub(super) fn execute(&mut self, instruction: &Instruction) {
        self.regret_lent |= !self.lent.is_empty();
        self.save_flags();
        let site = self.site(instruction, true);
        self.asm.mov_imm(RAX, (number::SITE | site).into());
        // Not by a host call, whose return would be missed by the host's prediction.
        let behind = self.asm.lea_forward(RCX);
        self.asm.jump_to(self.stubs.execute);
        self.asm.bind(behind);
    }

    /// As [`Self::execute`], for an instruction that the plan of accesses took for one that runs as itself.
    pub(super) fn execute_after_all(&mut self, instruction: &Instruction) {
        self.execute(instruction);
        self.plan_holds = false;
    }

    /// `single` executes the instruction, and the block ends.
    pub(super) fn end(&mut self, instruction: &Instruction) {
        self.save_flags();
        let site = self.site(instruction, false);
        self.asm.mov_imm(RAX, (number::SITE | site).into());
        self.asm.jump_to(self.stubs.help);
    }

    pub(super) fn link(&mut self, rip: u64, saved: bool) -> u32 {
        self.links.push(NewLink { rip, displacement: None, mark: None, stub: 0, saved, miss: None });
        self.first_link + (self.links.len() - 1) as u32
    }

    /// Whether the code at `rip` begins and ends in the page of this block, whatever it is.
    pub(super) fn is_near(&self, rip: u64) -> bool {
        self.rip >> 12 == rip >> 12 && !may_cross(rip)
    }

    /// The link of this number, which belongs to this block.
    pub(super) fn new_link(&mut self, link: u32) -> &mut NewLink {
        &mut self.links[(link - self.first_link) as usize]
    }

    /// A jump or call goes where a link leads, once it is patched; until then it asks for help.
    pub(super) fn goes(&mut self, from: Forward, link: u32, live: bool) {
        self.new_link(link).displacement = Some(from.0);
        self.cold.push((smallvec![from], Cold::Ask { number: number::LINK | link, live, target: false }));
    }

    /// Whether going on at `rip` after the current instruction may close a loop. From the last address the next one is
    /// the first, which lies back too.
    pub(super) fn is_back(&self, rip: u64) -> bool {
        rip <= self.current.1
    }

    /// Leaves the block for `rip` if `condition` holds. The flags are live and stay so.
    pub(super) fn leave_if(&mut self, condition: Condition, rip: u64) {
        self.use_flags(FirstUse::Needs);
        self.regret |= self.flags_spoilt;
        let from = self.asm.jump_if(condition);
        if self.lent.is_empty() && self.is_near(rip) {
            let link = self.link(rip, false);
            self.goes(from, link, true);
        } else {
            self.cold.push((smallvec![from], Cold::Away { rip, heed: self.is_back(rip) }));
        }
    }

    /// Leaves the block for `rip`. If that may close a loop, attention is looked at.
    pub(super) fn leave(&mut self, rip: u64) {
        self.go_on_at(rip, self.is_back(rip));
    }

    /// Leaves the block for `rip`; `heed` says that attention is looked at.
    pub(super) fn go_on_at(&mut self, rip: u64, heed: bool) {
        self.use_flags(FirstUse::Needs);
        self.regret |= self.flags_spoilt;
        self.give_back();
        if !self.is_near(rip) {
            self.save_flags();
            let link = self.link(rip, true);
            if heed {
                self.heed_kicks(link);
            }
            self.jump_far(link, rip);
            return;
        }
        let saved = self.flags == Flags::Saved;
        let link = self.link(rip, saved);
        if heed {
            // Without a change of flags.
            self.asm.load_byte(RCX, field(Context::ATTENTION));
            let calm = self.asm.jump_if_rcx_zero();
            let kicked = self.asm.jump();
            self.asm.bind_short(calm);
            self.cold.push((
                smallvec![kicked],
                Cold::Ask { number: number::KICK | link, live: !saved, target: false },
            ));
        }
        let from = self.asm.jump();
        self.goes(from, link, !saved);
    }
}
