//! The vCPU of the `pv` mode: guest code runs in the child until it traps; the engine then does what the trap asks.
//!
//! The architectural state is whole in `state` whenever the child waits, but for the vector registers, which stay in
//! the child until someone needs them (`vectors_live`). A trap is only a reason to look: whatever it was, the state is
//! at an instruction that has not been executed, so an interrupt may be taken or `run` left first, and the trap comes
//! again later. What the mirror of the page tables cannot settle is executed by `emulator::single`, which raises the
//! guest's exceptions too.
mod explicit;

use super::child::{Awake, Child, Report, Trap, crash, stub};
use super::layout::{COUNTERS, COUNTERS_SIZE, POPF_SLOWLY, TEXT_FD, ZONE, at};
use super::patch::{Patches, Point};
use super::space::{Kind, Space, in_zone, is_guest_page};
use super::text::Text;
use super::timing::Timing;
use super::trap::{self, Cause as Why};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access, PagingMode, Privilege};
use crate::arch::{CpuState, Cr0, Gva, Rflags, Vector};
use crate::emulator::single::{Outcome, Single};
use crate::engine::{
    Attention, Boundary, Cause, DebugEvent, DebugVcpu, EngineError, Exit, Interface, Occasion, Platform,
    Sites, Vcpu, VcpuId,
};
use crate::mem::{CodeChanges, GuestRam};
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
    child: Child,
    space: Space,
    patches: Patches,
    /// The vector registers in the child are newer than those in `state`.
    vectors_live: bool,
    /// Why the child stopped last, not yet attended to.
    why: Option<Why>,
    /// Native code ran since `single` last forgot what it had decoded.
    ran_natively: bool,
    /// Where the log of code changes was read to.
    code_cursor: u64,
    /// The instruction that faulted last with the registers it had, and how often in a row. The same instruction with
    /// other registers is a loop that makes progress.
    repeated: ((u64, [u64; 16]), u32),
    breakpoints: HashSet<u64>,
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
        counts: bool,
    ) -> Result<Self, EngineError> {
        let text = Text::new(ram.size())?;
        let mut child = Child::start(ram.file(), text.file(), text.zone_offset())?;
        if counts {
            let rights = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
            let offset = text.zone_offset() + (COUNTERS - ZONE);
            child
                .request(libc::SYS_mmap, [COUNTERS, COUNTERS_SIZE, rights, flags, TEXT_FD.into(), offset])?;
            child.flush()?;
        }
        Ok(Self {
            id,
            child,
            space: Space::new(Arc::clone(&ram)),
            patches: Patches::new(Arc::clone(&ram), text, interface != Interface::None, counts),
            code_cursor: ram.code().cursor(),
            single: Single::new(id, Arc::clone(&ram)),
            ram,
            state,
            vectors_live: false,
            why: None,
            ran_natively: false,
            repeated: ((0, [0; 16]), 0),
            breakpoints: HashSet::new(),
            timing: Timing::default(),
        })
    }

    /// What is patched.
    #[cfg(test)]
    pub(super) fn patched(&self) -> Vec<super::Site> {
        self.patches.sites().cloned().collect()
    }

    /// The child's process id, for tests.
    #[cfg(test)]
    pub(super) fn child_pid(&self) -> i32 {
        self.child.pid()
    }

    /// Whether the state is one that the child can execute.
    fn runs_natively(&self) -> bool {
        let state = &self.state;
        state.is_64bit_code()
            && state.cr0.contains(Cr0::PG)
            && !state.cr0.intersects(Cr0::TS | Cr0::EM)
            && !state.rflags.intersects(Rflags::TF | Rflags::VM)
            && !state.interrupt_shadow
            && state.pending_exception.is_none()
            && is_guest_page(state.rip)
            && self.breakpoints.is_empty()
    }

    /// Text that someone wrote to is data again.
    fn follow_code_changes(&mut self) -> Result<(), EngineError> {
        match self.ram.written_code(&mut self.code_cursor) {
            None => {}
            Some(CodeChanges::Pages(pages)) => {
                for offset in pages.into_iter().filter_map(|page| self.ram.offset(page, PAGE_SIZE)) {
                    if let Some(at) = self.space.text_at(offset) {
                        self.space.drop_text(&mut self.child, offset)?;
                        self.patches.drop_page(at);
                    }
                }
            }
            Some(CodeChanges::Everything) => {
                self.space.clear(&mut self.child)?;
                self.patches.clear();
            }
        }
        Ok(())
    }

    /// Lets the child run until it reports. Returns an exit if the platform wants the vCPU to leave.
    fn run_child(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        self.follow_code_changes()?;
        let waits = platform.interrupt_pending(self.id);
        let Self { child, patches, space, .. } = self;
        let text = match space.find(self.state.rip) {
            Some((Kind::Text, offset)) => Some(offset & !(PAGE_SIZE - 1)),
            _ => None,
        };
        if let Some(offset) = text {
            // Wherever an exception, a return or a system call leads is code.
            if patches.learn(&self.state, self.state.rip, offset, Occasion::Entry) {
                self.timing.spoil();
            }
        }
        let start = patches.native_rip(self.state.rip, text);
        let mut commands = child.load_registers(&self.state, start, waits);
        if !self.vectors_live {
            commands |= child.load_vectors(&self.state.xsave);
            self.vectors_live = true;
        }
        let calls = state_takes_calls(&self.state, platform);
        child.shared().put(at::VMCALL_SLOW, (!calls).into());
        child.shared().put(at::STOP, 0);
        child.release(commands);
        if let Some((address, ticks)) = self.timing.released() {
            patches.time(address, ticks);
        }
        self.ran_natively = true;
        let mut exit = None;
        while child.wait(platform.kick(self.id))? == Awake::Attention {
            match platform.attend(self.id) {
                Attention::Leave(e) => {
                    exit = Some(e);
                    child.shared().set(at::STOP, 1);
                    child.signal();
                    child.await_report()?;
                    break;
                }
                Attention::Resume => {
                    if platform.interrupt_pending(self.id) {
                        child.shared().set(at::STI_SLOW, 1);
                        child.shared().set(at::POPF_SLOW, POPF_SLOWLY);
                        child.signal();
                    }
                }
            }
        }
        if patches.is_counting() && exit.is_none() {
            self.timing = Timing::reported();
        }
        platform.counters(self.id).count(Cause::HostExit);
        let report = child.report()?;
        child.save_registers(&mut self.state);
        self.leave_zone(report, platform)?;
        // An STI thunk cannot cast a shadow: whoever finds the CPU behind one finds the shadow in the state, and the
        // instruction there goes first, alone.
        self.state.interrupt_shadow =
            self.state.rflags.contains(Rflags::IF) && self.patches.follows_sti(self.state.rip);
        Ok(exit)
    }

    /// Brings RIP out of the thunk zone, and notes why the child stopped.
    fn leave_zone(&mut self, mut report: Report, platform: &Platform) -> Result<(), EngineError> {
        let Self { child, patches, .. } = self;
        if in_zone(self.state.rip)
            || matches!(report, Report::Trap(t) if t.vector == 3 && in_zone(self.state.rip.wrapping_sub(1)))
        {
            // A kick in the middle of a sequence: let it come to its end, where a breakpoint or a hypercall waits. A second
            // kick may already be on its way, so more than one release may be needed.
            let mut releases = 0;
            while report == Report::Kicked
                && let Some(point @ (Point::Inside(_) | Point::Tail)) = patches.point(self.state.rip)
            {
                releases += 1;
                if releases > MOST_RELEASES {
                    return Err(crash("it does not come out of the monitor's thunks"));
                }
                let end = if let Point::Inside(next) = point { Some(next) } else { None };
                if let Some(next) = end {
                    patches.set_breakpoint(next, true);
                }
                child.load_general(&self.state, self.state.rip);
                child.release(0);
                child.await_report()?;
                if let Some(next) = end {
                    patches.set_breakpoint(next, false);
                }
                platform.counters(self.id).count(Cause::HostExit);
                report = child.report()?;
                child.save_registers(&mut self.state);
                if let Some(next) = end
                    && matches!(report, Report::Trap(t) if t.vector == 3)
                    && self.state.rip == next + 1
                {
                    report = Report::Kicked;
                    self.state.rip = next;
                }
            }
            if in_zone(self.state.rip) {
                match patches.point(self.state.rip) {
                    Some(Point::Clean(rip)) => self.state.rip = rip,
                    _ => return Err(crash("it jumped into the monitor's thunks")),
                }
            }
        }
        let entries = stub::entries();
        if report != Report::Kicked && (entries.begin..entries.end).contains(&self.state.rip) {
            return Err(crash("it jumped into the monitor's code"));
        }
        self.why = match report {
            Report::Kicked => None,
            Report::Done => return Err(crash("its process reported something that nobody asked for")),
            Report::Hypercall => {
                platform.counters(self.id).count(Cause::Hypercall);
                Some(Why::Hypercall)
            }
            Report::Trap(t) => Some(self.classify(t)),
        };
        Ok(())
    }

    fn classify(&mut self, trap: Trap) -> Why {
        let mode = PagingMode::of(&self.state);
        let patched = |rip| self.patches.is_patched(rip);
        let (why, back) = trap::classify(&trap, self.state.rip, &mode, &self.ram, patched);
        self.state.rip = self.state.rip.wrapping_sub(back);
        if why == Why::Execute
            && let Some((Kind::Text, text)) = self.space.find(self.state.rip & !(PAGE_SIZE - 1))
            && self.patches.learn(&self.state, self.state.rip, text, Occasion::Trap)
        {
            self.timing.spoil();
        }
        why
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
        let Self { child, space, patches, .. } = self;
        platform.counters(self.id).count(Cause::PageTableSync);
        space.note_size(child, address, &translation)?;
        let page = address & !(PAGE_SIZE - 1);
        if access == Access::Execute {
            if self.ram.code().mark(offset, PAGE_SIZE) {
                // `single` must notice its own writes to the page from now on.
                self.single.flush();
            }
            // The fetch may have failed in the middle of an instruction that began on the page before.
            if patches.is_full() {
                space.clear(child)?;
                patches.clear();
            }
            let fits = patches.prepare_page(&self.state, page, offset, self.state.rip);
            if fits {
                space.map_text(child, page, offset)?;
            }
            return Ok(fits);
        }
        let text = space.text_at(offset);
        let mut kind = Kind::Read;
        if access == Access::Write {
            if let Some(at) = text {
                space.drop_text(child, offset)?;
                patches.drop_page(at);
            }
            self.ram.code().note_write(offset, PAGE_SIZE);
            kind = Kind::Write;
        } else if translation.dirty && translation.writable && text.is_none() {
            kind = Kind::Write;
        }
        if kind == Kind::Read && text == Some(page) {
            // It is readable there already: the mapping was lost.
            space.map_text(child, page, offset)?;
            return Ok(true);
        }
        if kind == Kind::Read && text.is_some() {
            space.map_alias(child, page, offset)?;
            return Ok(true);
        }
        space.map_data(child, &mode, address, &translation, kind)?;
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
        if facts.vectors {
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
        let outcome = self.single.step(&mut self.state, platform)?;
        self.account(was_at, outcome);
        let after = PagingMode::of(&self.state);
        let changed = (before.cr0, before.cr3, before.cr4, before.efer)
            != (after.cr0, after.cr3, after.cr4, after.efer);
        {
            let Self { child, space, .. } = self;
            if changed || facts.flushes {
                platform.counters(self.id).count(Cause::PageTableSync);
                space.validate(child, &after)?;
            } else if let Some(address) = facts.invalidates {
                platform.counters(self.id).count(Cause::PageTableSync);
                space.invalidate(child, &after, address)?;
            }
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

    fn rip_is_text(&self) -> bool {
        let page = self.state.rip & !(PAGE_SIZE - 1);
        matches!(self.space.find(page), Some((Kind::Text, _)))
    }

    /// Makes `state.xsave` current and the engine its owner.
    fn fetch_vectors(&mut self) -> Result<(), EngineError> {
        if self.vectors_live {
            self.child.save_vectors(&mut self.state.xsave)?;
        }
        self.vectors_live = false;
        Ok(())
    }

    /// Enters the guest's handler for an interrupt. What the child stopped for comes again later.
    fn deliver(&mut self, platform: &Platform, vector: u8) -> Result<Outcome, EngineError> {
        self.why = None;
        self.timing.spoil();
        self.single.deliver_interrupt(&mut self.state, platform, vector)
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

/// Whether a VMCALL is a hypercall.
fn state_takes_calls(state: &CpuState, platform: &Platform) -> bool {
    state.cpl() == 0 && platform.hypercalls().is_some_and(crate::engine::Hypercalls::are_on)
}

impl Vcpu for PvVcpu {
    fn run(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut first = true;
        self.child.settle();
        loop {
            match platform.at_boundary(self.id, &self.state) {
                Boundary::Leave(exit) => {
                    self.timing.spoil();
                    return Ok(exit);
                }
                Boundary::Interrupt(vector) => {
                    if self.deliver(platform, vector)? == Outcome::TripleFault {
                        return Ok(Exit::TripleFault);
                    }
                }
                Boundary::Execute => {}
            }
            if !first && self.breakpoints.contains(&self.state.rip) {
                return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(self.state.rip))));
            }
            first = false;
            if let Some(exit) = self.turn(platform)? {
                return Ok(exit);
            }
        }
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        if self.vectors_live {
            self.child.save_vectors(&mut self.state.xsave)?;
        }
        Ok(self.state.clone())
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        self.vectors_live = false;
        self.why = None;
        self.single.flush();
        self.space.clear(&mut self.child)?;
        self.patches.clear();
        Ok(())
    }

    fn sites(&self) -> Option<Sites> {
        self.patches.report()
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
            Boundary::Execute => self.execute(platform)?,
        };
        Ok(outcome.ends_step())
    }

    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError> {
        self.breakpoints = at.iter().map(|gva| gva.0).collect();
        Ok(())
    }
}
