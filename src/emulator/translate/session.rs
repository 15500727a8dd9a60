//! Runs translated code, and answers its calls for help.
//!
//! While translated code runs, the guest's registers are the host's; each call for help brings them to the context and
//! from there to the [`Cx`] that `single` works on, and back. So exceptions, interrupts, device accesses and everything
//! rare are `single`'s business, and there is one of each.
#![expect(unsafe_code, reason = "enters generated code, which calls back with a raw pointer to the session")]
use super::{Limits, Workshop, number, translate};
use crate::arch::{Activity, CpuState, Gva, Rflags};
use crate::emulator::code::context::{Context, Frame};
use crate::emulator::code::{CAPACITY, CodeStore};
use crate::emulator::front::block::CodeMode;
use crate::emulator::front::cache::CodeCache;
use crate::emulator::front::features::Features;
use crate::emulator::interrupt::{self, Event};
use crate::emulator::mmu::{Bank, Fault};
use crate::emulator::single::cx::{Cx, Flow};
use crate::emulator::single::{Ended, Outcome, Single, lower, step_here};
use crate::engine::{EngineError, KickCell, Platform, VcpuId};
use crate::mem::{CodeChanges, GuestRam};
use crate::sys::segment_base;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Misses of windows between two attempts to move one.
const MISSES: u32 = 64;
/// As [`MISSES`], after an attempt that changed nothing.
const MISSES_IN_VAIN: u32 = 4096;
/// As [`MISSES`], after an attempt that failed.
const MISSES_AFTER_FAILURE: u32 = 16;
/// Exceptions in a row that the fetch of code may raise before the surroundings are looked at.
const MOST_FAULTS: usize = 16;

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
    pub(super) budget: Option<u32>,
    known: Known,
    returns: Returns,
}

/// What the windows in the context were found under.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Known {
    generation: u32,
    protections: u32,
    /// For the supervisor and for the user.
    banks: [Option<Bank>; 2],
}

/// What the stack of returns belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Returns {
    tag: u64,
    drops: u64,
}

/// Counts generations of translations without end.
#[derive(Clone, Copy, Default, Debug)]
struct Epoch {
    number: u64,
    generation: u32,
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
            returns: Returns::default(),
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
        #[cfg(test)]
        {
            self.workshop.leave_loops = self.budget.is_some();
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
    cursor: &'s mut u64,
    epoch: &'s mut Epoch,
    known: &'s mut Known,
    returns: &'s mut Returns,
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
            let target = match self.next(true) {
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
                    let (outcome, _) = step_here(self.cx, cache, self.features)?;
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
        let jumps = self.store.jumps();
        // SAFETY: the frame outlives the session, whose registers are the only part of it that is referred to.
        unsafe {
            (*self.context).kick = kick;
            (*self.context).pending = pending;
            (*self.context).state = state;
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
            number::SITE => self.execute(index),
            number::LINK => {
                self.cx.state.rip = self.store.links[index as usize].rip;
                self.through(index, true)
            }
            number::MISS => {
                self.cx.state.rip = self.store.links[index as usize].rip;
                // With a window where there was none the access is tried again.
                let moved = self.move_window(index);
                if moved {
                    self.find_next(true, false).map_or_else(Go::Leave, Go::To)
                } else {
                    self.through(index, false)
                }
            }
            number::INDIRECT => self.indirect(index),
            _ => {
                self.cx.state.rip = self.store.links[index as usize].rip;
                Go::Leave(End::Ended(Ended::Attention))
            }
        };
        let target = match go {
            // SAFETY: as in `write_context`.
            Go::Resume => Ok(unsafe { (*self.context).resume as usize }),
            Go::To(target) => Ok(target),
            Go::Next => self.next(true),
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
        let next = instruction.next_ip();
        match (op.run)(cx, op) {
            Ok(Flow::Next) if site.resumes => return Go::Resume,
            Ok(Flow::Next | Flow::Stop) => cx.state.rip = next,
            Ok(Flow::Jump) => {}
            Ok(Flow::Renew | Flow::Again) => {
                if self.interruptible() {
                    return Go::Leave(End::Ended(Ended::Attention));
                }
            }
            Ok(Flow::Halt) => {
                cx.state.activity = Activity::Halted;
                return Go::Leave(End::Ended(Ended::Halted));
            }
            Ok(Flow::Broken) => {
                self.error = cx.error.take();
                return Go::Leave(End::Broken);
            }
            Err(Fault) => {
                let event = Event::Exception(cx.mmu.exception);
                if interrupt::deliver(cx, event) == Outcome::TripleFault {
                    return Go::Leave(End::Ended(Ended::TripleFault));
                }
            }
        }
        Go::Next
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
        if Gva(rip).is_canonical() {
            self.cx.state.rip = rip;
            return Go::Next;
        }
        // The branch itself must fault: its move of the stack pointer is taken back, and it is executed again.
        let Some(instruction) = self.store.sites.get(site as usize).map(|site| site.instruction) else {
            return Go::Leave(End::Broken);
        };
        let moved = i64::from(instruction.stack_pointer_increment());
        let stack = &mut self.cx.regs[crate::arch::state::gpr::RSP];
        *stack = stack.wrapping_sub(moved as u64);
        self.execute(site)
    }

    /// Drops what was made of code that has been written since.
    fn drop_written(&mut self) {
        let code = self.cx.mmu.ram.code();
        if *self.cursor == code.cursor() {
            return;
        }
        let (changes, cursor) = code.changes_since(*self.cursor);
        *self.cursor = cursor;
        match changes {
            CodeChanges::Everything => self.store.clear(),
            CodeChanges::Pages(pages) => {
                for page in pages {
                    if let Some(gpa) = self.cx.mmu.ram.gpa_of(page * crate::arch::address::PAGE_SIZE) {
                        self.store.drop_page(gpa.0);
                    }
                }
            }
        }
    }

    /// The mark of jumps that hold now.
    fn tag(&mut self, limits: Limits) -> u64 {
        let generation = self.cx.mmu.tlb.code_generation;
        if self.epoch.generation != generation {
            *self.epoch = Epoch { number: self.epoch.number + 1, generation };
        }
        self.epoch.number << 8 | limits.number()
    }

    /// Where the block at RIP can be entered with saved flags. Makes it if need be, and takes over what translated code
    /// must know of the CPU's mode.
    #[inline]
    fn next(&mut self, windows: bool) -> Result<usize, End> {
        if windows
            && !self.kick.is_raised()
            && *self.cursor == self.cx.mmu.ram.code().cursor()
            && !needs_care(self.cx.state)
        {
            self.cx.mmu.stop = false;
            // RF only holds off instruction breakpoints, of which there are none in translated code.
            self.cx.state.rflags.remove(Rflags::RF);
            let tag = self.tag(Limits::of(self.cx.state, true));
            if let Some(target) = self.store.jump(self.cx.state.rip, tag) {
                self.take_over(tag);
                return Ok(target);
            }
        }
        self.find_next(windows, windows)
    }

    /// As [`Self::next`], where the jump cache does not know. After an access that missed its window kicks wait: its
    /// instruction may be in the shadow of STI, and is executed first.
    #[inline(never)]
    fn find_next(&mut self, windows: bool, heed_kicks: bool) -> Result<usize, End> {
        for _ in 0..MOST_FAULTS {
            if heed_kicks && self.kick.is_raised() {
                return Err(End::Ended(Ended::Attention));
            }
            #[cfg(test)]
            if heed_kicks && let Some(left) = &mut self.budget {
                if *left == 0 {
                    return Err(End::Ended(Ended::Attention));
                }
                *left -= 1;
            }
            self.cx.mmu.stop = false;
            self.drop_written();
            self.cx.state.rflags.remove(Rflags::RF);
            if needs_care(self.cx.state) {
                return Err(End::Careful);
            }
            let limits = Limits::of(self.cx.state, windows);
            let rip = self.cx.state.rip;
            // Jumps are looked up by code that uses windows, and lead to such code.
            let tag = self.tag(Limits { windows: true, ..limits });
            let place = match self.cx.mmu.fetch_place(rip) {
                Ok(place) => place,
                Err(Fault) => {
                    let event = Event::Exception(self.cx.mmu.exception);
                    if interrupt::deliver(self.cx, event) == Outcome::TripleFault {
                        return Err(End::Ended(Ended::TripleFault));
                    }
                    continue;
                }
            };
            if place.host.is_none() {
                return Err(End::Careful);
            }
            let known = self.store.find(place.gpa.0, limits.key(rip));
            let block = known.or_else(|| {
                translate(&mut self.cx.mmu, self.store, self.features, self.workshop, limits, rip, place)
            });
            let entries = block.and_then(|block| self.store.entries(block)).ok_or(End::Careful)?;
            #[cfg(test)]
            let limited = self.budget.is_some();
            #[cfg(not(test))]
            let limited = false;
            if windows && !limited {
                self.store.note_jump(rip, tag, entries.saved);
            }
            self.take_over(tag);
            return Ok(entries.saved);
        }
        Err(End::Ended(Ended::Attention))
    }

    /// Takes over what translated code must know of the CPU's mode.
    fn take_over(&mut self, tag: u64) {
        self.drop_windows();
        let tlb = self.cx.mmu.tlb.bank_address(self.cx.mmu.bank);
        // SAFETY: as in `write_context`.
        unsafe {
            (*self.context).tag = tag;
            (*self.context).tlb = tlb;
        }
        let returns = Returns { tag, drops: self.store.drops };
        if *self.returns != returns {
            *self.returns = returns;
            self.forget_returns();
        }
    }

    /// Drops windows that do not hold any more.
    fn drop_windows(&mut self) {
        let (tlb, bank) = (&self.cx.mmu.tlb, self.cx.mmu.bank);
        let set = usize::from(matches!(bank, Bank::User | Bank::UserAligned));
        let mut now =
            Known { generation: tlb.generation, protections: tlb.protections, banks: self.known.banks };
        now.banks[set] = Some(bank);
        if *self.known == now {
            return;
        }
        // SAFETY: as in `write_context`.
        let windows = unsafe { &mut (*self.context).windows };
        if self.known.generation != now.generation {
            *windows = Default::default();
        }
        if self.known.banks[set] != now.banks[set] {
            windows[set] = Default::default();
        }
        if self.known.protections != now.protections {
            windows[0][1] = Default::default();
            windows[1][1] = Default::default();
        }
        *self.known = now;
    }

    /// Moves the window that an access missed to where the access goes; says whether there was none before.
    fn move_window(&mut self, link: u32) -> bool {
        let Some(miss) = self.store.links.get(link as usize).and_then(|link| link.miss) else { return false };
        let at = miss.address.value(&self.cx.regs);
        let found = self.cx.mmu.window(at, miss.write);
        let set = usize::from(self.cx.state.cpl() == 3);
        // SAFETY: as in `write_context`.
        let (misses, windows) = unsafe { (&mut (*self.context).misses, &mut (*self.context).windows) };
        let Some(found) = found else {
            *misses = MISSES_AFTER_FAILURE;
            return false;
        };
        let window = &mut windows[set][usize::from(miss.write)][miss.class];
        // Two accesses that want one window could go on taking it from each other, and one that still misses could go
        // on for ever; a window that was not there yet is taken from nobody, and once.
        let before = *window;
        let empty = before.is_empty();
        window.replace(found);
        *misses = match () {
            () if empty => 0,
            // It was in its place, and the access reaches beyond its end.
            () if before == *window => MISSES_IN_VAIN,
            () => MISSES,
        };
        empty
    }

    /// Follows a link to the block at RIP.
    fn through(&mut self, link: u32, windows: bool) -> Go {
        match self.next(windows) {
            Ok(target) => {
                self.follow(link, target, windows);
                Go::To(target)
            }
            Err(end) => Go::Leave(end),
        }
    }

    /// Lets a link go straight to the block whose entry with saved flags is `target`.
    fn follow(&mut self, link: u32, target: usize, windows: bool) {
        // Making the block may have emptied the store, and an exception may have led elsewhere.
        let rip = self.cx.state.rip;
        if self.store.links.get(link as usize).is_none_or(|link| link.rip != rip) {
            return;
        }
        let limits = Limits::of(self.cx.state, windows);
        let Ok(place) = self.cx.mmu.fetch_place(rip) else { return };
        if let Some(block) = self.store.find(place.gpa.0, limits.key(rip))
            && self.store.entries(block).is_some_and(|entries| entries.saved == target)
        {
            self.store.connect(link, block);
        }
    }
}
