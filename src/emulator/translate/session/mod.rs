//! Runs translated code, and answers its calls for help.
//!
//! While translated code runs, the guest's registers are the host's; each call for help brings them to the context and
//! from there to the [`Cx`] that `single` works on, and back. So exceptions, interrupts, device accesses and everything
//! rare are `single`'s business, and there is one of each.
#![expect(unsafe_code, reason = "enters generated code, which calls back with a raw pointer to the session")]
mod held;
mod help;
mod lookup;
mod port;
mod window;

use super::{Workshop, narrow, system};
use crate::arch::{CpuState, Exception, Rflags};
use crate::emulator::code;
use crate::emulator::code::context::{Context, Frame};
use crate::emulator::code::stubs::Callees;
use crate::emulator::code::{CAPACITY, CodeStore};
use crate::emulator::front::cache::CodeCache;
use crate::emulator::front::features::Features;
use crate::emulator::interrupt::{self, Event};
use crate::emulator::mistake::Mistake;
use crate::emulator::single::cx::Cx;
use crate::emulator::single::{Ended, Outcome, Single, debug, run_legacy, step_here};
use crate::emulator::technique::{Technique, Without};
use crate::engine::{Cause, Counters, EngineError, KickCell, Platform, VcpuId};
use crate::mem::GuestRam;
use crate::sys::segment_base;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
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
    /// [`crate::emulator::mmu::Tlb::eras`] as of which links' marks hold.
    era: u64,
    /// Bytes of code memory.
    capacity: usize,
    /// Blocks that each run may enter, if that is limited, so that it can be compared; blocks are not linked then.
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
            era: 0,
            capacity,
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

    /// Has it make a mistake. To be called before anything is run.
    pub(crate) fn err(&mut self, mistake: Mistake) {
        self.workshop.mistake = Some(mistake);
    }

    /// Lets blocks have so many instructions at most, and forgets those that there are.
    pub(crate) fn cut_blocks(&mut self, most: Option<usize>) {
        self.workshop.most = most;
        self.flush();
    }

    /// Forgets cached translations and code.
    pub(crate) fn flush(&mut self) {
        self.single.flush();
        if let Some(store) = &mut self.store {
            store.clear();
        }
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
                let made = CodeStore::new(&mut self.workshop.asm, self.capacity, avx, CALLEES);
                self.store.insert(made.map_err(|source| EngineError::Host {
                    what: "cannot map memory for translated code",
                    source,
                })?)
            }
        };
        let without = self.workshop.without;
        self.workshop.leave_loops = without.has(Technique::Chaining);
        self.workshop.leave_loops |= self.budget.is_some();
        self.workshop.tsc_by_single = self.budget.is_some();
        let (workshop, frame) = (&mut self.workshop, &mut self.frame);
        let (cursor, era, known) = (&mut self.cursor, &mut self.era, &mut self.known);
        let returns = &mut self.returns;
        let vcpu = self.vcpu;
        let (kick, pending) = (platform.kick(vcpu), platform.interrupt_flag(vcpu));
        let bound = (!kick.is_bound_here()).then(|| kick.bind()).transpose();
        let _bound = bound.map_err(|source| EngineError::Host { what: "cannot set up kicks", source })?;
        let frame: *mut Frame = &raw mut **frame;
        // SAFETY: all else in the context is reached by the raw pointer, field by field; translated code changes the
        // registers while nothing here uses them.
        let (context, regs) = unsafe { (&raw mut (*frame).context, &mut (*frame).context.regs) };
        // SAFETY: the frame outlives this function, whose end takes the byte back.
        let _mirrored = unsafe { kick.mirror_in(Session::attention(context)) };
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
                era,
                known,
                returns,
                end: None,
                error: None,
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
    era: &'s mut u64,
    known: &'s mut Known,
    returns: &'s mut u64,
    end: Option<End>,
    error: Option<EngineError>,
    budget: Option<u32>,
}

/// What translated code calls.
const CALLEES: Callees = Callees { answer, access_port: port::access };

/// Answers a call for help.
extern "sysv64" fn answer(context: *mut Context, number: u32) -> usize {
    // SAFETY: translated code passes the context that it was entered with; its session is the one that entered, which
    // waits on the stack and uses nothing of itself until it is returned to.
    let session = unsafe { &mut *((*context).session as *mut Session<'_, '_>) };
    if session.cx.platform.times_stays(session.cx.mmu.vcpu) {
        session.traced(|session| session.answer(number))
    } else {
        session.answer(number)
    }
}

/// Whether the next instruction must be executed alone.
#[inline]
fn needs_care(state: &CpuState) -> bool {
    state.interrupt_shadow
        || state.rflags.contains(Rflags::TF)
        || !narrow::is_translatable(state)
        || debug::is_armed(state)
}

impl Session<'_, '_> {
    /// What translated code has called for, with the trace and the ledger told how long it takes.
    #[cold]
    fn traced<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        self.cx.platform.leaves_guest(self.cx.mmu.vcpu);
        let result = act(self);
        // If it is to leave, it goes on where translated code is entered again.
        if self.end.is_none() {
            self.cx.platform.enters_guest(self.cx.mmu.vcpu);
        }
        result
    }

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
            if matches!(self.end, Some(End::Careful)) {
                // The interpreter goes on with guest code.
                self.cx.platform.trace().begins();
                self.counters.ledger().enters_guest();
            }
            match self.end.take() {
                Some(End::Ended(ended)) => return Ok(ended),
                Some(End::Broken) => return Err(self.broken()),
                Some(End::Careful) if self.runs_legacy() => {
                    let (ended, retired) =
                        run_legacy(self.cx, cache, self.features, narrow::is_translatable)?;
                    self.counters.ledger().leaves_guest();
                    if self.workshop.counts {
                        self.counters.add(Cause::Instruction, retired);
                    }
                    if let Some(ended) = ended {
                        return Ok(ended);
                    }
                }
                Some(End::Careful) => {
                    let (outcome, retired) = step_here(self.cx, cache, self.features)?;
                    self.counters.ledger().leaves_guest();
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

    /// Whether `single` is to go on with code that is not translated.
    fn runs_legacy(&self) -> bool {
        if self.budget.is_some() {
            return false;
        }
        !narrow::is_translatable(self.cx.state)
    }

    fn broken(&mut self) -> EngineError {
        let rip = self.cx.state.rip;
        self.error.take().unwrap_or(EngineError::Unsupported { rip, bytes: Vec::new() })
    }

    /// Fills in what does not change during the run.
    fn prepare(&mut self) {
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
        self.cx.platform.enters_guest(self.cx.mmu.vcpu);
        self.hold_cpuid();
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

    /// Forgets answers of CPUID that an MSR has changed. To be called before translated code goes on after a WRMSR.
    fn hold_cpuid(&mut self) {
        self.workshop.cpuid.hold_for(self.cx.platform.has_apic(self.cx.mmu.vcpu));
    }

    /// The byte by which translated code is asked for attention.
    fn attention(context: *mut Context) -> *mut u8 {
        context.cast::<u8>().wrapping_add(Context::ATTENTION as usize)
    }

    /// Hands the flags back to translated code, and whether it is asked for attention. The registers are in their place.
    fn write_context(&mut self) {
        let attention = Self::attention(self.context);
        // SAFETY: translated code does not run now, and nothing else refers to these fields but the handler of the signal,
        // on this thread. It writes the byte too: it is cleared before the cell is looked at.
        unsafe {
            (*self.context).flags = self.cx.flags.into();
            attention.write_volatile(0);
            compiler_fence(Ordering::SeqCst);
            if self.kick.is_raised() {
                attention.write_volatile(1);
            }
        }
    }

    /// Enters the handler of an exception; `Err` if the guest has none that could be entered.
    fn deliver(&mut self, exception: Exception) -> Result<(), End> {
        match interrupt::deliver(self.cx, Event::Exception(exception)) {
            Outcome::TripleFault => Err(End::Ended(Ended::TripleFault)),
            _ => Ok(()),
        }
    }
}
