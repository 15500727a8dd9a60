//! Runs translated code, and answers its calls for help.
//!
//! While translated code runs, the guest's registers are the host's; each call for help brings them to the context and
//! from there to the [`Cx`] that `single` works on, and back. So exceptions, interrupts, device accesses and everything
//! rare are `single`'s business, and there is one of each.
#![expect(unsafe_code, reason = "enters generated code, which calls back with a raw pointer to the session")]
mod lookup;
mod window;

use super::{Workshop, number, system};
use crate::arch::state::gpr;
use crate::arch::{Activity, CpuState, Exception, Gva, Rflags};
use crate::emulator::code;
use crate::emulator::code::context::{Context, Frame};
use crate::emulator::code::{CAPACITY, CodeStore};
use crate::emulator::front::block::CodeMode;
use crate::emulator::front::cache::CodeCache;
use crate::emulator::front::features::Features;
use crate::emulator::interrupt::{self, Event};
use crate::emulator::mmu::Fault;
use crate::emulator::single::cx::{Cx, Flow};
use crate::emulator::single::{Ended, Outcome, Single, lower, step_here};
use crate::emulator::technique::{Technique, Without};
use crate::engine::{Cause, Counters, EngineError, KickCell, Platform, VcpuId};
use crate::mem::GuestRam;
use crate::sys::segment_base;
use iced_x86::{Code, Mnemonic};
use lookup::Epoch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use window::Known;

/// Stands for "an interrupt may wait", where that has to be asked.
static ALWAYS: AtomicBool = AtomicBool::new(true);

type Enter = extern "sysv64" fn(*mut Context, usize);

/// The translator of one vCPU.
pub(crate) struct Translator {
    vcpu: VcpuId,
    single: Single,
    store: Option<CodeStore>,
    workshop: Workshop,
    frame: Box<Frame>,
    cursor: u64,
    epoch: Epoch,
    /// Bytes of code memory.
    capacity: usize,
    /// Blocks that each run may enter, if that is limited; blocks are not linked then.
    #[cfg(test)]
    pub(crate) budget: Option<u32>,
    known: Known,
    /// [`CodeStore::drops`] as of which the stack of returns holds. It also belongs to the context's mark of jumps.
    returns: u64,
}

// SAFETY: the raw addresses in the context are set anew by each run and mean nothing between runs.
unsafe impl Send for Translator {}

impl Translator {
    /// A translator that knows nothing yet.
    pub(crate) fn new(vcpu: VcpuId, ram: Arc<GuestRam>) -> Self {
        Self::with_capacity(vcpu, ram, CAPACITY)
    }

    /// As [`Self::new`], with `capacity` bytes of code memory, at least a few blocks' worth (256 KiB).
    pub(crate) fn with_capacity(vcpu: VcpuId, ram: Arc<GuestRam>, capacity: usize) -> Self {
        let cursor = ram.code().cursor();
        Self {
            vcpu,
            single: Single::new(vcpu, ram),
            store: None,
            workshop: Workshop::default(),
            frame: Frame::new(),
            cursor,
            epoch: Epoch::default(),
            capacity,
            #[cfg(test)]
            budget: None,
            known: Known::default(),
            returns: 0,
        }
    }

    /// Leaves techniques out. To be called before anything is run.
    pub(crate) fn leave_out(&mut self, without: Without) {
        self.workshop.without = without;
    }

    /// Lets translated code count the instructions that it completes, or not. To be called before anything is run.
    pub(crate) fn count_instructions(&mut self, counts: bool) {
        self.workshop.counts = counts;
    }

    /// The translated code, once something was run.
    #[cfg(test)]
    pub(super) fn store(&self) -> Option<&CodeStore> {
        self.store.as_ref()
    }

    /// The interpreter beside it, for single steps and deliveries.
    pub(crate) fn single(&mut self) -> &mut Single {
        &mut self.single
    }

    /// Forgets cached translations and code.
    pub(crate) fn flush(&mut self) {
        self.single.flush();
        if let Some(store) = &mut self.store {
            store.clear();
        }
    }

    /// Executes until something needs attention.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a valid instruction that we lack; [`EngineError::Host`] without code memory.
    pub(crate) fn run(&mut self, state: &mut CpuState, platform: &Platform) -> Result<Ended, EngineError> {
        if let Some(exception) = state.pending_exception.take()
            && self.single.deliver_exception(state, platform, exception)? == Outcome::TripleFault
        {
            return Ok(Ended::TripleFault);
        }
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                let avx = platform.cpuid_table().query(1, 0, crate::arch::Cr4::empty()).ecx >> 28 & 1 != 0;
                // Code that devices write must be noticed by a loop that never comes out.
                platform.ram().code().watch(platform.kick(self.single.vcpu()));
                let made = CodeStore::new(&mut self.workshop.asm, self.capacity, avx, answer);
                self.store.insert(made.map_err(|source| EngineError::Host {
                    what: "cannot map memory for translated code",
                    source,
                })?)
            }
        };
        let without = self.workshop.without;
        self.workshop.leave_loops = without.has(Technique::Chaining);
        #[cfg(test)]
        {
            self.workshop.leave_loops |= self.budget.is_some();
            self.workshop.tsc_by_single = self.budget.is_some();
        }
        let (workshop, frame) = (&mut self.workshop, &mut self.frame);
        let (cursor, epoch, known) = (&mut self.cursor, &mut self.epoch, &mut self.known);
        let returns = &mut self.returns;
        let vcpu = self.vcpu;
        let (kick, pending) = (&**platform.kick(vcpu), platform.interrupt_flag(vcpu));
        let frame: *mut Frame = &raw mut **frame;
        // SAFETY: all else in the context is reached by the raw pointer, field by field; translated code changes the
        // registers while nothing here uses them.
        let (context, regs) = unsafe { (&raw mut (*frame).context, &mut (*frame).context.regs) };
        self.single.with_registers(regs, state, platform, |cx, cache, features| {
            let mut session = Session {
                cx,
                store,
                workshop,
                features,
                frame,
                context,
                kick,
                pending,
                counters: platform.counters(vcpu),
                windows: !without.has(Technique::Windows),
                chains: !without.has(Technique::Chaining),
                cursor,
                epoch,
                known,
                returns,
                end: None,
                error: None,
                #[cfg(test)]
                budget: self.budget,
            };
            session.run(cache)
        })
    }
}

/// Why translated code was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Ended(Ended),
    /// The next instruction needs care: `single` executes it alone.
    Careful,
    /// There is an error.
    Broken,
}

/// What to do after a call for help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Go {
    /// On in the same block.
    Resume,
    /// To a place in translated code.
    To(usize),
    /// To the block at RIP.
    Next,
    /// Out.
    Leave(End),
}

/// One run.
struct Session<'s, 'a> {
    cx: &'s mut Cx<'a>,
    store: &'s mut CodeStore,
    workshop: &'s mut Workshop,
    features: &'s Features,
    frame: *mut Frame,
    context: *mut Context,
    kick: &'s KickCell,
    pending: Option<&'s AtomicBool>,
    counters: &'s Counters,
    /// The usual kind of code uses windows.
    windows: bool,
    /// Ends of blocks are linked.
    chains: bool,
    cursor: &'s mut u64,
    epoch: &'s mut Epoch,
    known: &'s mut Known,
    returns: &'s mut u64,
    end: Option<End>,
    error: Option<EngineError>,
    #[cfg(test)]
    budget: Option<u32>,
}

/// What translated code calls.
extern "sysv64" fn answer(context: *mut Context, number: u32) -> usize {
    // SAFETY: translated code passes the context that it was entered with; its session is the one that entered, which
    // waits on the stack and uses nothing of itself until it is returned to.
    let session = unsafe { &mut *((*context).session as *mut Session<'_, '_>) };
    session.answer(number)
}

/// Whether the next instruction must be executed alone.
#[inline]
fn needs_care(state: &CpuState) -> bool {
    state.interrupt_shadow || state.rflags.contains(Rflags::TF) || !state.is_64bit_code()
}

impl Session<'_, '_> {
    fn run(&mut self, cache: &mut CodeCache) -> Result<Ended, EngineError> {
        self.prepare();
        loop {
            let target = match self.next(self.windows) {
                Ok(target) => target,
                Err(end) => {
                    self.end = Some(end);
                    0
                }
            };
            if target != 0 {
                self.enter(target);
            }
            match self.end.take() {
                Some(End::Ended(ended)) => return Ok(ended),
                Some(End::Broken) => return Err(self.broken()),
                Some(End::Careful) => {
                    let (outcome, retired) = step_here(self.cx, cache, self.features)?;
                    self.count_retired(retired);
                    match outcome {
                        Outcome::Halted => return Ok(Ended::Halted),
                        Outcome::TripleFault => return Ok(Ended::TripleFault),
                        Outcome::Retired | Outcome::Exception(_) => {}
                    }
                    if self.interruptible() {
                        return Ok(Ended::Attention);
                    }
                }
                None => {}
            }
        }
    }

    fn broken(&mut self) -> EngineError {
        let rip = self.cx.state.rip;
        self.error.take().unwrap_or(EngineError::Unsupported { rip, bytes: Vec::new() })
    }

    /// Fills in what does not change during the run.
    fn prepare(&mut self) {
        let kick = self.kick.word().as_ptr() as u64;
        let pending = self.pending.unwrap_or(&ALWAYS).as_ptr() as u64;
        let state = (&raw mut *self.cx.state) as u64;
        let xsave = (&raw mut self.cx.state.xsave) as u64;
        let bank = (&raw mut self.cx.mmu.bank) as u64;
        let without = self.workshop.without;
        let jumps = match without.has(Technique::Chaining) || without.has(Technique::JumpCache) {
            true => code::no_jumps(),
            false => self.store.jumps(),
        };
        let cpuid = self.workshop.cpuid.address();
        if self.cx.platform.trace().is_enabled() {
            self.workshop.cpuid.clear();
        }
        // SAFETY: the frame outlives the session, whose registers are the only part of it that is referred to.
        unsafe {
            (*self.context).kick = kick;
            (*self.context).pending = pending;
            (*self.context).msr_places = system::MSR_PLACES.as_ptr() as u64;
            (*self.context).state = state;
            (*self.context).bank = bank;
            (*self.context).cpuid = cpuid;
            (*self.context).xsave = xsave;
            (*self.context).jumps = jumps;
            (*self.context).vector = 0;
        }
        self.forget_returns();
        segment_base::set_gs(self.context as u64);
    }

    /// Empties the stack of returns.
    fn forget_returns(&mut self) {
        let end = self.store.stubs().no_return;
        // SAFETY: the frame is this session's own, and translated code does not run now.
        unsafe { Frame::forget_returns(self.frame, end) };
    }

    fn enter(&mut self, target: usize) {
        self.write_context();
        let enter = self.store.stubs().enter;
        // SAFETY: the stub is a function of this type.
        let enter: Enter = unsafe { std::mem::transmute::<usize, Enter>(enter) };
        let context = self.context;
        // SAFETY: the context is this session's own.
        unsafe { (*context).session = std::ptr::from_mut(self) as u64 };
        enter(context, target);
        self.count_window_misses();
        self.count_instructions();
    }

    /// Hands the flags back to translated code. The registers are in their place.
    fn write_context(&mut self) {
        // SAFETY: translated code does not run now, and nothing else refers to this field.
        unsafe { (*self.context).flags = self.cx.flags.into() };
    }

    fn answer(&mut self, number: u32) -> usize {
        // SAFETY: as in `write_context`.
        self.cx.flags = unsafe { (*self.context).flags } as u16;
        let index = number & !number::KIND;
        let go = match number & number::KIND {
            number::SITE => {
                self.counters.count(Cause::HelpSingle);
                if self.workshop.counts {
                    // A device may ask for the count.
                    self.count_instructions();
                }
                self.execute(index)
            }
            number::LINK => {
                self.counters.count(Cause::HelpLink);
                self.cx.state.rip = self.store.links[index as usize].rip;
                self.through(index, self.windows)
            }
            number::MISS => {
                self.counters.count(Cause::HelpWindow);
                self.cx.state.rip = self.store.links[index as usize].rip;
                // With a window where there was none the access is tried again.
                if self.move_window(index) {
                    let found = self.remembered().map_or_else(|| self.find_next(true, false), Ok);
                    found.map_or_else(Go::Leave, Go::To)
                } else {
                    // Where it leads by itself, if it does.
                    self.store.links[index as usize].target.map_or_else(|| self.through(index, false), Go::To)
                }
            }
            number::INDIRECT => {
                self.counters.count(Cause::HelpJump);
                self.indirect(index)
            }
            _ => {
                self.counters.count(Cause::HelpKick);
                self.cx.state.rip = self.store.links[index as usize].rip;
                Go::Leave(End::Ended(Ended::Attention))
            }
        };
        let target = match go {
            // SAFETY: as in `write_context`.
            Go::Resume => Ok(unsafe { (*self.context).resume as usize }),
            Go::To(target) => Ok(target),
            Go::Next => self.next(self.windows),
            Go::Leave(end) => Err(end),
        };
        match target {
            Ok(target) => {
                self.write_context();
                target
            }
            Err(end) => {
                self.end = Some(end);
                // SAFETY: as in `write_context`. The vector registers were saved on the way here.
                unsafe { (*self.context).vector = 0 };
                self.store.stubs().leave
            }
        }
    }

    /// `single` executes the instruction of a site.
    fn execute(&mut self, site: u32) -> Go {
        let Some(site) = self.store.sites.get(site as usize) else { return Go::Leave(End::Broken) };
        let instruction = &site.instruction;
        let state = &self.cx.state;
        let op = site.op.get_or_init(|| {
            let mode = CodeMode::new(64, state.cpl() == 3);
            Box::new(lower::lower(instruction, self.features, mode, instruction.ip(), true).op)
        });
        let cx = &mut *self.cx;
        cx.state.rip = instruction.ip();
        cx.mmu.stop = false;
        let (at, next, resumes) = (instruction.ip(), instruction.next_ip(), site.resumes);
        let asked = (instruction.code() == Code::Cpuid)
            .then_some((cx.regs[gpr::RAX] as u32, cx.regs[gpr::RCX] as u32));
        match (op.run)(cx, op) {
            Ok(Flow::Next) if resumes => {
                if let Some(asked) = asked {
                    self.note_cpuid(asked);
                }
                return Go::Resume;
            }
            Ok(Flow::Stop) if resumes && self.undisturbed() => return Go::Resume,
            Ok(Flow::Next) => {
                self.count_retired(1);
                self.cx.state.rip = next;
            }
            Ok(Flow::Stop) => {
                self.count_retired(1);
                self.cx.state.rip = next;
                if self.interruptible() {
                    return Go::Leave(End::Ended(Ended::Attention));
                }
            }
            Ok(Flow::Jump) => self.count_retired(1),
            Ok(flow @ (Flow::Renew | Flow::Again)) => {
                self.count_retired(u32::from(flow == Flow::Renew));
                if self.interruptible() {
                    return Go::Leave(End::Ended(Ended::Attention));
                }
            }
            Ok(Flow::Halt) => {
                self.count_retired(1);
                self.cx.state.activity = Activity::Halted;
                return Go::Leave(End::Ended(Ended::Halted));
            }
            Ok(Flow::Broken) => {
                self.error = self.cx.error.take();
                return Go::Leave(End::Broken);
            }
            Err(Fault) => {
                // INT n goes on before its gate is looked at.
                self.cx.state.rip = at;
                let event = Event::Exception(self.cx.mmu.exception);
                if interrupt::deliver(self.cx, event) == Outcome::TripleFault {
                    return Go::Leave(End::Ended(Ended::TripleFault));
                }
            }
        }
        Go::Next
    }

    /// Remembers what CPUID has just answered, if nobody wants to see each one.
    #[cold]
    fn note_cpuid(&mut self, asked: (u32, u32)) {
        if !self.cx.platform.trace().is_enabled() {
            let answer =
                [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX].map(|register| self.cx.regs[register] as u32);
            self.workshop.cpuid.note(asked, self.cx.state.cr4.bits(), answer);
        }
    }

    /// After a device was accessed or code written: whether the block may go on all the same, because nothing that it
    /// was made of has changed and nobody asks for attention.
    fn undisturbed(&self) -> bool {
        !self.kick.is_raised() && !self.code_was_written() && !self.interruptible()
    }

    /// Counts instructions that `single` has completed, where they are counted.
    fn count_retired(&mut self, retired: u32) {
        if self.workshop.counts {
            self.counters.add(Cause::Instruction, retired.into());
        }
    }

    /// Brings the instructions that translated code has counted to the ledger.
    fn count_instructions(&mut self) {
        // SAFETY: as in `write_context`.
        let executed = std::mem::take(unsafe { &mut (*self.context).executed });
        self.counters.add(Cause::Instruction, executed);
    }

    fn interruptible(&self) -> bool {
        self.cx.state.can_take_interrupt()
            && match self.pending {
                Some(flag) => flag.load(Ordering::Acquire),
                None => self.cx.platform.interrupt_pending(self.cx.mmu.vcpu),
            }
    }

    /// A branch to the address in the context.
    fn indirect(&mut self, site: u32) -> Go {
        // SAFETY: as in `write_context`.
        let rip = unsafe { (*self.context).rip };
        let Some(instruction) = self.store.sites.get(site as usize).map(|site| site.instruction) else {
            return Go::Leave(End::Broken);
        };
        // A system call has happened, wherever it leads.
        if Gva(rip).is_canonical() || matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysretq)
        {
            self.cx.state.rip = rip;
            return Go::Next;
        }
        if self.workshop.counts {
            // It was counted.
            // SAFETY: as in `write_context`.
            unsafe { (*self.context).executed -= 1 };
        }
        // The branch itself must fault: its move of the stack pointer is taken back.
        let moved = i64::from(instruction.stack_pointer_increment());
        let stack = &mut self.cx.regs[crate::arch::state::gpr::RSP];
        *stack = stack.wrapping_sub(moved as u64);
        self.cx.state.rip = instruction.ip();
        // Not executed again: a call may have pushed over its operand.
        if interrupt::deliver(self.cx, Event::Exception(Exception::GP0)) == Outcome::TripleFault {
            return Go::Leave(End::Ended(Ended::TripleFault));
        }
        Go::Next
    }
}
