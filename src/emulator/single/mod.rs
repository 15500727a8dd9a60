//! The interpreter of one vCPU: executes prepared instructions on [`CpuState`].
//!
//! Mechanism: [`Single`] finds the block at RIP (`super::front`), copies the general registers and status flags into a
//! [`cx::Cx`], calls one handler after the other and copies them back when it comes out. A handler that cannot finish
//! returns [`super::mmu::Fault`]; nothing architectural has changed then, and the exception is delivered with RIP at
//! the instruction. Kicks are looked at between blocks.
//!
//! Instruction families, each a file: [`alu`], [`moves`], [`stack`], [`branch`], [`atomic`] and so on; [`lower`] asks
//! them in turn for a handler when code is decoded.
pub(crate) mod address;
mod alu;
mod atomic;
mod bits;
mod branch;
mod control;
pub(crate) mod cx;
pub(crate) mod debug;
pub(crate) mod far;
pub(crate) mod flags;
mod gate;
mod hints;
mod host_fpu;
mod hypercall;
pub(crate) mod int;
pub(crate) mod io;
mod keys;
mod legacy;
pub(crate) mod lower;
mod moves;
mod msr;
mod muldiv;
pub(crate) mod op;
mod operand;
mod run;
pub(crate) mod segment;
pub(crate) mod stack;
mod status;
mod string;
pub(crate) mod task;
#[cfg(test)]
pub(super) mod tests;
mod vector;

use super::front::cache::CodeCache;
use super::front::features::Features;
use super::mmu::Tlb;
use crate::arch::paging::PagingMode;
use crate::arch::{CpuState, Exception, Vector};
use crate::engine::{
    Boundary, DebugEvent, EngineError, Exit, Platform, Translations, VcpuId, Watch, WatchHit,
};
use crate::mem::{GuestRam, Watcher};
use cx::Handler;
use host_fpu::HostFpu;
pub(crate) use host_fpu::operand_alignment;
use iced_x86::Instruction;
pub(crate) use run::{Ended, run_legacy, step_here};
use std::sync::Arc;

/// What became of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The instruction was executed; a repeated string instruction may have done only a part, with RIP still at it.
    Retired,
    /// An exception was delivered: the handler's first instruction is next. (An interrupt counts as retired.)
    Exception(Vector),
    /// HLT was executed; `state.activity` says so.
    Halted,
    /// An exception could not be delivered, nor the double fault; `state.activity` is shutdown.
    TripleFault,
}

impl Outcome {
    /// How a step of [`crate::engine::DebugVcpu`] that had this outcome ends.
    #[must_use]
    pub fn ends_step(self) -> Exit {
        match self {
            Self::Halted => Exit::Halted,
            Self::TripleFault => Exit::TripleFault,
            Self::Retired | Self::Exception(_) => Exit::Debug(DebugEvent::Step),
        }
    }
}

/// The interpreter of one vCPU: what it remembers of translations and code. The architectural state is the caller's.
pub struct Single {
    vcpu: VcpuId,
    ram: Arc<GuestRam>,
    tlb: Tlb,
    cache: CodeCache,
    features: Option<Features>,
    fpu: Option<HostFpu>,
    /// The paging registers that the TLB belongs to.
    paging: Option<PagingMode>,
    /// Its part in the watch over code that other vCPUs and devices write.
    watcher: Option<Arc<Watcher>>,
    /// What a debugger wants to hear accesses of.
    watched: Vec<Watch>,
    /// The first of them since somebody asked.
    met: Option<WatchHit>,
}

impl std::fmt::Debug for Single {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Single").field("vcpu", &self.vcpu).finish_non_exhaustive()
    }
}

impl Single {
    /// An interpreter that knows nothing yet.
    #[must_use]
    pub fn new(vcpu: VcpuId, ram: Arc<GuestRam>) -> Self {
        let cursor = ram.code().cursor();
        Self {
            vcpu,
            ram,
            tlb: Tlb::default(),
            cache: CodeCache::new(cursor),
            features: None,
            fpu: None,
            paging: None,
            watcher: None,
            watched: Vec::new(),
            met: None,
        }
    }

    /// Executes exactly one instruction, or delivers the exception that is pending in `state`. Exceptions that the
    /// instruction raises are delivered into the guest: frame pushed, RIP at the handler.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a valid instruction that we lack; `state` is as before then.
    pub fn step(&mut self, state: &mut CpuState, platform: &Platform) -> Result<Outcome, EngineError> {
        self.step_one(state, platform)
    }

    /// One step as [`crate::engine::DebugVcpu::step`] has it, of a vCPU whose whole state is `state`.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_vcpu(&mut self, state: &mut CpuState, platform: &Platform) -> Result<Exit, EngineError> {
        self.end_epoch(platform);
        let outcome = match platform.at_boundary(self.vcpu, state) {
            Boundary::Leave(exit) => return Ok(exit),
            Boundary::Interrupt(vector) => self.deliver_interrupt(state, platform, vector)?,
            Boundary::Nmi => self.deliver_nmi(state, platform)?,
            Boundary::Execute => self.step(state, platform)?,
        };
        Ok(self.end_step(outcome))
    }

    /// How a step of [`crate::engine::DebugVcpu`] ends that had this outcome, and perhaps accessed what is watched.
    pub fn end_step(&mut self, outcome: Outcome) -> Exit {
        match (outcome.ends_step(), self.take_watched()) {
            (Exit::Debug(DebugEvent::Step), Some(hit)) => Exit::Debug(DebugEvent::Watched(hit)),
            (exit, _) => exit,
        }
    }

    /// Enters the guest's handler for an external interrupt. The caller has seen that the state allows it; a halted
    /// CPU wakes.
    ///
    /// # Errors
    /// None today; the signature is that of [`Self::step`].
    pub fn deliver_interrupt(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
        vector: u8,
    ) -> Result<Outcome, EngineError> {
        platform.count_turn();
        Ok(self.deliver(state, platform, super::interrupt::Event::External(vector)))
    }

    /// Enters the guest's handler for an NMI; others are blocked until IRET. A halted CPU wakes.
    ///
    /// # Errors
    /// None today; the signature is that of [`Self::step`].
    pub fn deliver_nmi(&mut self, state: &mut CpuState, platform: &Platform) -> Result<Outcome, EngineError> {
        state.nmi_blocked = true;
        self.deliver_interrupt(state, platform, Vector::Nmi as u8)
    }

    /// Delivers an exception, with the escalation to #DF and triple fault.
    ///
    /// # Errors
    /// None today; the signature is that of [`Self::step`].
    pub fn deliver_exception(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
        exception: Exception,
    ) -> Result<Outcome, EngineError> {
        Ok(self.deliver(state, platform, super::interrupt::Event::Exception(exception)))
    }

    /// Watches memory, in place of what was watched before.
    pub fn watch(&mut self, watches: &[Watch]) {
        self.met = None;
        if self.watched != watches {
            self.watched = watches.to_vec();
            // Pages that are watched must not stay in the TLB.
            self.tlb.flush_all();
        }
    }

    /// The first access to what is watched, since the last call.
    pub fn take_watched(&mut self) -> Option<WatchHit> {
        self.met.take()
    }

    /// Forgets cached translations where an epoch of the machine's [`crate::engine::Progress`] ends. To be called before the
    /// vCPU looks at its surroundings.
    pub fn end_epoch(&mut self, platform: &Platform) {
        if platform.progress().takes_epoch() {
            self.tlb.flush_all();
        }
    }

    /// Forgets cached translations: page tables were changed from outside, and nothing else.
    pub fn forget_translations(&mut self) {
        self.tlb.flush_all();
    }

    /// What is remembered of the guest's page tables.
    pub(crate) fn held(&self) -> Translations {
        Translations { what: "soft TLB", spaces: self.tlb.held_spaces(), list: self.tlb.held() }
    }

    /// The soft TLB.
    pub(crate) fn tlb(&self) -> &Tlb {
        &self.tlb
    }

    /// The guest's RAM.
    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Forgets cached translations and decoded code: page tables, code or state were changed from outside.
    pub fn flush(&mut self) {
        self.tlb.flush_all();
        self.cache.clear();
    }
}

/// Gives the handler of an instruction, if it is of the family.
type Lower = fn(&Instruction) -> Option<Handler>;

/// The families outside the fast ones, each with its handlers' file, in the order in which they are asked.
const RARE: [(&str, Lower); 14] = [
    ("bits", bits::lower),
    ("status", status::lower),
    ("hints", hints::lower),
    ("string", string::lower),
    ("stack", stack::lower_rare),
    ("control", control::lower),
    ("keys", keys::lower),
    ("debug", debug::lower),
    ("hypercall", hypercall::lower),
    ("msr", msr::lower),
    ("io", io::lower),
    ("far", far::lower),
    ("segment", segment::lower),
    ("legacy", legacy::lower),
];

/// The handler of an instruction outside the fast families, and its family.
fn rare(instruction: &Instruction) -> Option<(&'static str, Handler)> {
    RARE.iter().find_map(|(family, lower)| lower(instruction).map(|handler| (*family, handler)))
}

/// Whether the instruction, though not a branch, must end its block.
fn changes_state(instruction: &Instruction) -> bool {
    control::changes_state(instruction) || debug::changes_state(instruction)
}
