//! The vCPU of the `pv` mode: guest code runs in the child until it traps; the engine then does what the trap asks.
//!
//! There are two children at a time, one for the kernel and one for the user ([`super::sides`]); which one runs follows from
//! the privilege level. For SYSCALL, SYSRETQ and IRETQ they hand over to each other without the engine, so the one that
//! reports need not be the one that was let go.
//!
//! The architectural state is whole in `state` whenever the children wait, but for the vector registers, which stay in
//! a child until someone needs them (`vectors`). A trap is only a reason to look: whatever it was, the state is
//! at an instruction that has not been executed, so an interrupt may be taken or `run` left first, and the trap comes
//! again later. What the mirror of the page tables cannot settle is executed by `emulator::single`, which raises the
//! guest's exceptions too.
mod explicit;
mod report;

use super::Options;
use super::child::{Awake, Who};
use super::layout::at;
use super::patch::Patches;
use super::sides::{Side, Sides, who};
use super::space::{Kind, is_guest_page};
use super::text::Text;
use super::timing::Timing;
use super::trap::{self, Cause as Why};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access, PagingMode, Privilege};
use crate::arch::{CpuState, Cr0, Gva, Rflags, Vector};
use crate::emulator::single::{Outcome, Single};
use crate::engine::{
    Attention, Boundary, Cause, DebugEvent, DebugVcpu, EngineError, Exit, Hypercalls, Interface, Occasion,
    Platform, Sites, Translations, Vcpu, VcpuId, Watch,
};
use crate::mem::{CodeChanges, GuestRam};
use crate::sys::cpuid_faulting::CpuidFaulting;
use std::collections::HashSet;
use std::sync::Arc;

/// How often the same instruction may fault on its mappings before `single` executes it.
const PATIENCE: u32 = 4;
/// How often a child that was kicked inside a thunk is let go on before that counts as an attack.
const MOST_RELEASES: u32 = 64;

/// One vCPU.
pub(super) struct PvVcpu {
    id: VcpuId,
    ram: Arc<GuestRam>,
    state: CpuState,
    single: Single,
    sides: Sides,
    patches: Patches,
    /// The child whose vector registers are newer than those in `state`.
    vectors: Option<Who>,
    /// Where the user's program goes on when the handler that the engine is about to enter returns, mostly.
    user_next: Option<u64>,
    /// Why the child stopped last, not yet attended to.
    why: Option<Why>,
    /// Native code ran since `single` last forgot what it had decoded.
    ran_natively: bool,
    /// Where the log of code changes was read to.
    code_cursor: u64,
    /// The instruction that faulted last with the registers it had, and how often in a row. The same instruction with
    /// other registers is a loop that makes progress.
    repeated: ((u64, [u64; 16]), u32),
    /// Linear addresses.
    breakpoints: HashSet<u64>,
    /// A debugger watches memory.
    watches: bool,
    /// What is being timed, where sites are counted.
    timing: Timing,
}

impl PvVcpu {
    /// A vCPU in `state`, with a child of its own. `counts` says whether it keeps account of what it patches, or, where
    /// the guest sees no interface of ours, leaves alone.
    pub(super) fn new(
        id: VcpuId,
        ram: Arc<GuestRam>,
        state: CpuState,
        interface: Interface,
        options: Options,
    ) -> Result<Self, EngineError> {
        let text = Text::new(ram.size())?;
        let sides = Sides::new(Arc::clone(&ram), &text, options)?;
        Ok(Self {
            id,
            sides,
            patches: Patches::new(Arc::clone(&ram), text, interface != Interface::None, options.counts),
            code_cursor: ram.code().cursor(),
            single: Single::new(id, Arc::clone(&ram)),
            ram,
            state,
            vectors: None,
            user_next: None,
            why: None,
            ran_natively: false,
            repeated: ((0, [0; 16]), 0),
            breakpoints: HashSet::new(),
            watches: false,
            timing: Timing::default(),
        })
    }

    /// What is patched.
    #[cfg(test)]
    pub(super) fn patched(&self) -> Vec<super::Site> {
        self.patches.sites().cloned().collect()
    }

    /// Whether a program can read the key of its process.
    #[cfg(test)]
    pub(super) fn shows_a_key(&self) -> bool {
        self.sides.shows_a_key()
    }

    /// The process id of the kernel's child, for tests.
    #[cfg(test)]
    pub(super) fn child_pid(&mut self) -> i32 {
        self.sides.side(Who::Kernel).child.pid()
    }

    /// Whether the state is one that the child can execute.
    fn runs_natively(&self) -> bool {
        objection(&self.state).is_none() && self.breakpoints.is_empty() && !self.watches
    }

    /// Text that someone wrote to is data again.
    fn follow_code_changes(&mut self) -> Result<(), EngineError> {
        match self.ram.written_code(&mut self.code_cursor) {
            None => {}
            Some(CodeChanges::Pages(pages)) => {
                for offset in pages.into_iter().filter_map(|page| self.ram.offset(page, PAGE_SIZE)) {
                    if let Some(at) = self.patches.text_at(offset) {
                        self.sides.drop_text(offset)?;
                        self.patches.drop_page(at);
                    }
                }
            }
            Some(CodeChanges::Everything) => {
                self.sides.clear()?;
                self.patches.clear();
            }
        }
        Ok(())
    }

    /// Lets the child run until it reports. Returns an exit if the platform wants the vCPU to leave.
    fn run_child(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        self.follow_code_changes()?;
        let waits = platform.interrupt_pending(self.id);
        let who = who(&self.state);
        let mode = PagingMode::of(&self.state);
        if who == Who::User {
            self.sides.enter(&mode)?;
        }
        if self.vectors.is_some_and(|holder| holder != who) {
            self.fetch_vectors()?;
        }
        let Self { sides, patches, .. } = self;
        let text = |sides: &mut Sides, who, rip| match sides.side(who).space.find(rip) {
            Some((Kind::Text, offset)) => Some(offset & !(PAGE_SIZE - 1)),
            _ => None,
        };
        let at_rip = text(sides, who, self.state.rip);
        if let Some(offset) = at_rip {
            // Wherever an exception, a return or a system call leads is code.
            if patches.learn(&self.state, self.state.rip, offset, Occasion::Entry) {
                self.timing.spoil();
            }
        }
        let start = patches.native_rip(self.state.rip, at_rip);
        let lstar = self.state.msrs.lstar;
        let entry = text(sides, Who::Kernel, lstar).map(|offset| {
            if patches.learn(&self.state, lstar, offset, Occasion::Entry) {
                self.timing.spoil();
            }
            patches.native_rip(lstar, Some(offset))
        });
        let settled = sides.settle_requests(who)?;
        sides.keep_up(patches.generation());
        sides.check_next(|guest, offset| patches.native_rip(guest, Some(offset)));
        if let Some(rip) = self.user_next.take()
            && who == Who::Kernel
            && let Some(offset) = text(sides, Who::User, rip)
        {
            sides.expect_user_at(rip, patches.native_rip(rip, Some(offset)));
        }
        if waits || patches.is_counting() || !settled {
            sides.shut_ways();
        } else {
            sides.open_ways(&self.state, entry);
        }
        let calls = platform.hypercalls().is_some_and(Hypercalls::are_on);
        sides.side(Who::Kernel).child.shared().put(at::VMCALL_SLOW, (!calls).into());
        let child = &mut sides.side(who).child;
        let mut commands = child.load_registers(&self.state, start, waits);
        if self.vectors.is_none() {
            commands |= child.load_vectors(&self.state.xsave);
            self.vectors = Some(who);
        }
        platform.enters_guest(self.id);
        sides.release(who, commands)?;
        if let Some((address, ticks)) = self.timing.released() {
            patches.time(address, ticks);
        }
        self.ran_natively = true;
        let mut exit = None;
        while sides.wait(platform.kick(self.id))? == Awake::Attention {
            match platform.attend(self.id) {
                Attention::Leave(e) => {
                    exit = Some(e);
                    sides.interrupt(true);
                    sides.await_report()?;
                    sides.stop_no_more();
                    break;
                }
                Attention::Resume => {
                    if platform.interrupt_pending(self.id) {
                        sides.interrupt(false);
                    }
                }
            }
        }
        platform.leaves_guest(self.id);
        if patches.is_counting() && exit.is_none() {
            self.timing = Timing::reported();
        }
        platform.counters(self.id).count(Cause::HostExit);
        let report = self.take_report()?;
        self.leave_zone(report, platform)?;
        // An STI thunk cannot cast a shadow: whoever finds the CPU behind one finds the shadow in the state, and the
        // instruction there goes first, alone.
        self.state.interrupt_shadow =
            self.state.rflags.contains(Rflags::IF) && self.patches.follows_sti(self.state.rip);
        Ok(exit)
    }

    /// Maps what a fault of the mirror asks for; `false` if that cannot settle it.
    fn fill(&mut self, platform: &Platform, address: u64, access: Access) -> Result<bool, EngineError> {
        if !is_guest_page(address) {
            return Ok(false);
        }
        let faulted = (self.state.rip, self.state.gpr);
        self.repeated = (faulted, if self.repeated.0 == faulted { self.repeated.1 + 1 } else { 0 });
        if self.repeated.1 >= PATIENCE {
            return Ok(false);
        }
        let mode = PagingMode::of(&self.state);
        let privilege = if self.state.cpl() == 3 { Privilege::User } else { Privilege::Supervisor };
        let Ok(translation) = paging::walk(&*self.ram, &mode, Gva(address), access, privilege) else {
            return Ok(false);
        };
        let Some(offset) = self.ram.offset(translation.gpa.page(), PAGE_SIZE) else { return Ok(false) };
        let Self { sides, patches, .. } = self;
        let who = who(&self.state);
        if who == Who::User {
            sides.enter(&mode)?;
        }
        platform.counters(self.id).count(Cause::PageTableSync);
        let Side { child, space } = sides.side(who);
        space.note_size(child, address, &translation)?;
        let page = address & !(PAGE_SIZE - 1);
        if access == Access::Execute {
            if self.ram.code().mark(offset, PAGE_SIZE) {
                // `single` must notice its own writes to the page from now on.
                self.single.flush();
            }
            // The fetch may have failed in the middle of an instruction that began on the page before.
            if patches.is_full() {
                sides.clear()?;
                patches.clear();
            }
            // Another page was text here, in another address space: it shares the addresses of its thunks with this one.
            if let Some(other) = patches.offset_at(page).filter(|&other| other != offset) {
                sides.drop_text(other)?;
            }
            // What one side has prepared the other executes as it is.
            let fits = patches.text_at(offset) == Some(page)
                || patches.prepare_page(&self.state, page, offset, self.state.rip);
            if fits {
                sides.make_text(page, offset)?;
                let Side { child, space } = sides.side(who);
                space.map_text(child, page, offset)?;
                patches.learn(&self.state, self.state.rip, offset, Occasion::Entry);
            }
            return Ok(fits);
        }
        let text = patches.text_at(offset);
        let mut kind = Kind::Read;
        if access == Access::Write {
            if let Some(at) = text {
                sides.drop_text(offset)?;
                patches.drop_page(at);
            }
            self.ram.code().note_write(offset, PAGE_SIZE);
            kind = Kind::Write;
        } else if translation.dirty && translation.writable && text.is_none() {
            kind = Kind::Write;
        }
        let Side { child, space } = sides.side(who);
        if kind == Kind::Read && text == Some(page) && translation.executable {
            // As text it is readable there too.
            space.map_text(child, page, offset)?;
            return Ok(true);
        }
        if kind == Kind::Read && text.is_some() {
            space.map_alias(child, page, offset)?;
            return Ok(true);
        }
        space.map_data(child, &mode, address, &translation, kind, |offset| {
            patches.text_at(offset).is_some()
        })?;
        Ok(true)
    }

    /// Executes one instruction by `single`, and keeps the mirror in step with what it did. What came as a hypercall is
    /// counted as that already, and is not one event more for being privileged.
    fn step_one(&mut self, platform: &Platform, hypercall: bool) -> Result<Outcome, EngineError> {
        if self.ran_natively && !self.rip_is_text() {
            // Native code may have changed code that `single` remembers.
            self.single.flush();
            self.ran_natively = false;
        }
        let facts = trap::facts(&self.state, &self.ram);
        // Behind a write to CR3 the user's process may be another one.
        if facts.vectors || facts.flushes && self.vectors == Some(Who::User) {
            self.fetch_vectors()?;
        }
        let before = PagingMode::of(&self.state);
        if facts.privileged && !hypercall {
            platform.counters(self.id).count(Cause::Privileged);
        }
        if let Some(length) = facts.calls {
            let at = self.state.rip;
            if self.explicit_call(platform, length, hypercall)? {
                self.account(Some(at), Outcome::Retired);
                return Ok(Outcome::Retired);
            }
        }
        let was_at = self.state.pending_exception.is_none().then_some(self.state.rip);
        if who(&self.state) == Who::User {
            self.user_next = Some(facts.goes_on_at.unwrap_or(self.state.rip));
        }
        let outcome = self.single.step(&mut self.state, platform)?;
        self.account(was_at, outcome);
        let after = PagingMode::of(&self.state);
        let changed = (before.cr0, before.cr3, before.cr4, before.efer)
            != (after.cr0, after.cr3, after.cr4, after.efer);
        if changed || facts.flushes {
            platform.counters(self.id).count(Cause::PageTableSync);
            self.sides.validate(&after)?;
            self.sides.enforce()?;
        } else if let Some(address) = facts.invalidates {
            platform.counters(self.id).count(Cause::PageTableSync);
            self.sides.invalidate(&after, address)?;
            self.sides.enforce()?;
        }
        Ok(outcome)
    }

    /// Counts an execution of a patched instruction, where that is asked for. `at` is where the instruction was, if it was
    /// one.
    fn account(&mut self, at: Option<u64>, outcome: Outcome) {
        if !self.patches.is_counting() {
            return;
        }
        // A fault comes instead of the instruction, #DB (single step) behind it.
        let executed =
            matches!(outcome, Outcome::Retired | Outcome::Halted | Outcome::Exception(Vector::Debug));
        let rip = self.state.rip;
        let patched = at.filter(|&at| executed && self.patches.count(at, at != rip));
        self.timing.attempted(patched);
    }

    fn rip_is_text(&mut self) -> bool {
        let page = self.state.rip & !(PAGE_SIZE - 1);
        matches!(self.sides.side(who(&self.state)).space.find(page), Some((Kind::Text, _)))
    }

    /// Makes `state.xsave` current and the engine its owner.
    fn fetch_vectors(&mut self) -> Result<(), EngineError> {
        if let Some(holder) = self.vectors.take() {
            self.sides.side(holder).child.save_vectors(&mut self.state.xsave)?;
        }
        Ok(())
    }

    /// Enters the guest's handler for an interrupt. What the child stopped for comes again later.
    fn deliver(&mut self, platform: &Platform, vector: u8) -> Result<Outcome, EngineError> {
        self.why = None;
        self.timing.spoil();
        self.user_next = Some(self.state.rip).filter(|_| who(&self.state) == Who::User);
        self.single.deliver_interrupt(&mut self.state, platform, vector)
    }

    /// As [`Self::deliver`], for an NMI.
    fn deliver_nmi(&mut self, platform: &Platform) -> Result<Outcome, EngineError> {
        self.state.nmi_blocked = true;
        self.deliver(platform, Vector::Nmi as u8)
    }

    /// One instruction, or the exception that is pending.
    fn execute(&mut self, platform: &Platform) -> Result<Outcome, EngineError> {
        let hypercall = self.why.take() == Some(Why::Hypercall);
        self.step_one(platform, hypercall)
    }

    /// Goes on for a while; an exit if that ended the run.
    fn turn(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        match self.why {
            Some(Why::Page { address, access }) => {
                self.why = None;
                if self.fill(platform, address, access)? {
                    return Ok(None);
                }
            }
            Some(Why::Execute | Why::Hypercall) => {}
            None if self.runs_natively() => return self.run_child(platform),
            None => {}
        }
        // A HLT is for the next boundary to see; whoever waits for the interrupt that ends it counts it (`machine::run`).
        Ok((self.execute(platform)? == Outcome::TripleFault).then_some(Exit::TripleFault))
    }
}

/// Why the child cannot execute what comes next in `state`.
#[inline]
pub(super) fn objection(state: &CpuState) -> Option<&'static str> {
    if !state.is_64bit_code() || !state.cr0.contains(Cr0::PG) {
        Some("only 64-bit code runs natively")
    } else if state.cr0.intersects(Cr0::TS | Cr0::EM) {
        Some("CR0.TS or CR0.EM is set, which the process cannot have")
    } else if state.rflags.intersects(Rflags::TF | Rflags::VM) {
        Some("the guest single-steps itself")
    } else if state.interrupt_shadow || state.pending_exception.is_some() {
        Some("an interrupt shadow or a pending exception comes first")
    } else if !is_guest_page(state.rip) {
        Some("its address is the monitor's in the process")
    } else {
        None
    }
}

impl Vcpu for PvVcpu {
    fn run(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut first = true;
        platform.begins(self.id);
        // The children have it: see `sys::cpuid_faulting`. Nothing in here asks the host's CPU what it is.
        let _alike = CpuidFaulting::begin();
        self.sides.settle();
        loop {
            if let Some(hit) = self.single.take_watched() {
                return Ok(Exit::Debug(DebugEvent::Watched(hit)));
            }
            let outcome = match platform.at_boundary(self.id, &self.state) {
                Boundary::Leave(exit) => {
                    self.timing.spoil();
                    self.sides.stand()?;
                    return Ok(exit);
                }
                Boundary::Interrupt(vector) => self.deliver(platform, vector)?,
                Boundary::Nmi => self.deliver_nmi(platform)?,
                Boundary::Execute => Outcome::Retired,
            };
            if outcome == Outcome::TripleFault {
                return Ok(Exit::TripleFault);
            }
            if platform.trace().catches() && platform.kick(self.id).is_raised() {
                // What was delivered was caught: nothing goes before that is looked at.
                continue;
            }
            let rip = self.state.linear_rip();
            if !first && self.breakpoints.contains(&rip) {
                return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(rip))));
            }
            first = false;
            if let Some(exit) = self.turn(platform)? {
                return Ok(exit);
            }
        }
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        if let Some(holder) = self.vectors {
            self.sides.side(holder).child.save_vectors(&mut self.state.xsave)?;
        }
        Ok(self.state.clone())
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        self.vectors = None;
        self.why = None;
        self.single.flush();
        self.sides.clear()?;
        self.sides.switch(&PagingMode::of(state))?;
        self.patches.clear();
        Ok(())
    }

    fn leave(&mut self) -> Result<(), EngineError> {
        self.sides.leave()
    }

    fn sites(&self) -> Option<Sites> {
        self.patches.report()
    }

    fn translations(&self) -> Option<Translations> {
        Some(self.sides.held(who(&self.state)))
    }

    fn as_debug(&mut self) -> Option<&mut dyn DebugVcpu> {
        Some(self)
    }
}

impl DebugVcpu for PvVcpu {
    fn step(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let outcome = match platform.at_boundary(self.id, &self.state) {
            Boundary::Leave(exit) => return Ok(exit),
            Boundary::Interrupt(vector) => self.deliver(platform, vector)?,
            Boundary::Nmi => self.deliver_nmi(platform)?,
            Boundary::Execute => self.execute(platform)?,
        };
        Ok(self.single.end_step(outcome))
    }

    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError> {
        self.breakpoints = at.iter().map(|gva| gva.0).collect();
        Ok(())
    }

    fn set_watches(&mut self, watches: &[Watch]) -> Result<(), EngineError> {
        // The children's own debug registers are out of reach in their sandbox: the interpreter looks.
        self.single.watch(watches);
        self.watches = !watches.is_empty();
        Ok(())
    }
}
