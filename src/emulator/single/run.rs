//! The loop: block after block until something needs attention.
use super::address::linear;
use super::cx::{Cx, Flow};
use super::{Outcome, Single, debug};
use crate::arch::paging::PagingMode;
use crate::arch::{Activity, CpuState, Exception, Rflags, SegmentRegister};
use crate::clock::ClockSource;
use crate::emulator::front::block::{Block, CodeMode, Link};
use crate::emulator::front::cache::CodeCache;
use crate::emulator::front::features::Features;
use crate::emulator::front::{self, Found};
use crate::emulator::interrupt::{self, Event};
use crate::emulator::mmu::watch::Watches;
use crate::emulator::mmu::{Bank, Fault, Mmu, Tlb};
use crate::engine::{Cause, EngineError, Platform};
use crate::mem::{Close, CodeChanges};
use std::sync::Arc;

/// Why the loop came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The kick cell is raised, an interrupt can be taken, or a deadline of the counted clock is reached.
    Attention,
    /// HLT.
    Halted,
    /// Shut down.
    TripleFault,
    /// The next instruction is at a breakpoint.
    Breakpoint,
    /// What a debugger watches was accessed: [`Single::take_watched`] says how.
    Watched,
    /// The target of the machine's progress is reached, or an epoch ends.
    Position,
}

/// How the operations of one block ended.
struct Part {
    /// Instructions that were completed.
    retired: u32,
    flow: Result<Flow, Fault>,
}

/// Executes operations of a block until one leaves, or `limit` instructions are done. Sets RIP. With `COUNTED` the clock and
/// the position go on with every instruction, so that what it reads of time is exact wherever its block began.
#[inline(always)]
fn execute<const COUNTED: bool>(cx: &mut Cx, block: &Block, limit: usize) -> Part {
    let mut result = Ok(Flow::Next);
    let mut left = block.ops.len();
    let ops = &block.ops[..limit.min(left)];
    let (clock, mut told) = (cx.platform.clock(), ops.len());
    for (i, op) in ops.iter().enumerate() {
        result = (op.run)(cx, op);
        if result != Ok(Flow::Next) {
            (left, told) = (i, i);
            break;
        }
        if COUNTED {
            clock.retire(1);
        }
    }
    let done = left as u32;
    let part = match result {
        Ok(Flow::Jump) => Part { retired: (done + 1).min(block.count), flow: result },
        Ok(Flow::Renew | Flow::Halt) => Part { retired: done + 1, flow: result },
        _ => execute_rest(cx, block, limit, left, result),
    };
    if COUNTED {
        clock.retire(u64::from(part.retired).saturating_sub(told as u64));
        // What was begun and not completed was a turn, too: a fault, or a part of a repeated instruction.
        let unfinished = matches!(part.flow, Err(Fault) | Ok(Flow::Again));
        cx.platform.progress().advance(u64::from(part.retired) + u64::from(unfinished));
    }
    part
}

#[cold]
fn execute_rest(cx: &mut Cx, block: &Block, limit: usize, left: usize, result: Result<Flow, Fault>) -> Part {
    let (at, retired, past) = match result {
        // The limit was reached.
        Ok(Flow::Next) => (limit.min(block.ops.len()).saturating_sub(1), limit, true),
        Ok(Flow::Stop) => (left, left + 1, true),
        _ => (left, left, false),
    };
    if let Some(op) = block.ops.get(at) {
        let length = if past { u64::from(op.length) } else { 0 };
        cx.state.rip = block.rip.wrapping_add(u64::from(op.offset)).wrapping_add(length);
    }
    Part { retired: retired as u32, flow: result }
}

/// Drops blocks whose code was written since the last look; says whether any was.
#[inline]
fn drop_written(cache: &mut CodeCache, cx: &Cx) -> bool {
    let changes = cx.mmu.ram.written_code(&mut cache.cursor);
    changes.map(|changes| drop_changes(cache, changes)).is_some()
}

/// Closes a page, where another vCPU has found code, to stores that are not noticed.
#[cold]
fn close(tlb: &mut Tlb, what: Close) {
    match what {
        Close::Page(page) => tlb.protect(page.0),
        Close::All => tlb.flush_all(),
    }
}

#[cold]
fn drop_changes(cache: &mut CodeCache, changes: CodeChanges) {
    match changes {
        CodeChanges::Everything => cache.clear(),
        CodeChanges::Pages(pages) => pages.into_iter().for_each(|page| cache.drop_page(page.0)),
    }
}

impl Single {
    /// Runs `work` with the state taken over into a [`Cx`].
    pub(crate) fn with<R>(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
        work: impl FnOnce(&mut Cx, &mut CodeCache, &Features) -> R,
    ) -> R {
        self.with_registers(&mut [0; 32], state, platform, work)
    }

    /// As [`Self::with`], with a place for the registers, the unused ones of which are zero.
    pub(crate) fn with_registers<R>(
        &mut self,
        regs: &mut [u64; 32],
        state: &mut CpuState,
        platform: &Platform,
        work: impl FnOnce(&mut Cx, &mut CodeCache, &Features) -> R,
    ) -> R {
        let features = self.features.get_or_insert_with(|| Features::of(platform.cpuid_table()));
        let paging = PagingMode { physical_bits: features.physical_bits(), ..PagingMode::of(state) };
        // Someone else changed the paging registers since the last run.
        let ac = |mode: PagingMode| PagingMode { ac: false, ..mode };
        if self.paging.is_none_or(|before| ac(before) != ac(paging)) {
            self.tlb.flush_all();
            self.tlb.load_space(paging.pcid(), false);
        }
        let watch = || self.ram.watch_code(platform.kick(self.vcpu));
        // Code that others write must be noticed by a loop that never comes out.
        let watcher = Arc::clone(self.watcher.get_or_insert_with(watch));
        watcher.begin(&self.ram, |what| close(&mut self.tlb, what));
        let mut cx = Cx {
            regs,
            flags: 0,
            mmu: Mmu {
                tlb: &mut self.tlb,
                bank: Bank::Supervisor,
                exception: Exception::UD,
                stop: false,
                watches: Watches::of_outside(&self.watched),
                mode: paging,
                ram: &self.ram,
                platform,
                vcpu: self.vcpu,
                watcher: &watcher,
            },
            state,
            platform,
            fpu: &mut self.fpu,
            error: None,
            no_trap: false,
        };
        cx.enter();
        drop_written(&mut self.cache, &cx);
        let result = work(&mut cx, &mut self.cache, features);
        cx.leave();
        // Translated code changes CR0.TS without a word.
        cx.mmu.refresh(cx.state);
        self.paging = Some(cx.mmu.mode);
        self.met = self.met.or(cx.mmu.watches.outside_hit);
        watcher.end(&self.ram, |what| close(&mut self.tlb, what));
        result
    }

    pub(super) fn deliver(&mut self, state: &mut CpuState, platform: &Platform, event: Event) -> Outcome {
        self.with(state, platform, |cx, _, _| interrupt::deliver(cx, event))
    }

    pub(super) fn step_one(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
    ) -> Result<Outcome, EngineError> {
        if let Some(exception) = state.pending_exception.take() {
            platform.count_turn();
            return Ok(self.deliver(state, platform, Event::Exception(exception)));
        }
        self.with(state, platform, |cx, cache, features| {
            let clock = cx.platform.clock();
            let (outcome, retired) = match clock.source() {
                ClockSource::Real => step_as::<false>(cx, cache, features)?,
                ClockSource::Counted { .. } => step_as::<true>(cx, cache, features)?,
            };
            let due = |deadline| clock.source() != ClockSource::Real && deadline <= clock.now();
            if cx.platform.timers().next_deadline().is_some_and(due) {
                cx.platform.kick(cx.mmu.vcpu).poke();
            }
            cx.platform.counters(cx.mmu.vcpu).add(Cause::Instruction, retired.into());
            Ok(outcome)
        })
    }

    /// Executes until something needs attention. Stops before an instruction at one of `breakpoints`, linear addresses that
    /// ascend, but for the first one while `fresh` is set; that is taken down when it has run.
    pub(crate) fn run(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
        breakpoints: &[u64],
        fresh: &mut bool,
    ) -> Result<Ended, EngineError> {
        if let Some(exception) = state.pending_exception.take() {
            platform.count_turn();
            if self.deliver(state, platform, Event::Exception(exception)) == Outcome::TripleFault {
                return Ok(Ended::TripleFault);
            }
        }
        self.with(state, platform, |cx, cache, features| {
            let mut retired = 0_u64;
            let all = |_: &CpuState| true;
            let ended = run_blocks(cx, cache, features, (breakpoints, fresh), &mut retired, all);
            cx.platform.counters(cx.mmu.vcpu).add(Cause::Instruction, retired);
            Ok(ended?.unwrap_or(Ended::Attention))
        })
    }
}

/// Executes until `ends` says of the state that somebody else is to go on, and gives `None` then; also says how many
/// instructions were completed.
pub(crate) fn run_legacy(
    cx: &mut Cx,
    cache: &mut CodeCache,
    features: &Features,
    ends: impl Fn(&CpuState) -> bool,
) -> Result<(Option<Ended>, u64), EngineError> {
    let mut retired = 0;
    let none = (&[][..], &mut true);
    let ended = run_blocks(cx, cache, features, none, &mut retired, |state| !ends(state))?;
    Ok((ended, retired))
}

/// Executes the one instruction at RIP; also says how many were completed. Whoever counts them tells the clock.
pub(crate) fn step_here(
    cx: &mut Cx,
    cache: &mut CodeCache,
    features: &Features,
) -> Result<(Outcome, u32), EngineError> {
    step_as::<false>(cx, cache, features)
}

/// The same; with `COUNTED` the clock goes on.
fn step_as<const COUNTED: bool>(
    cx: &mut Cx,
    cache: &mut CodeCache,
    features: &Features,
) -> Result<(Outcome, u32), EngineError> {
    drop_written(cache, cx);
    let mode = cache.mode(cx.state).single();
    let found = match front::find(cache, &mut cx.mmu, features, mode, cx.state.rip) {
        Ok(found) => found,
        Err(Fault) => {
            cx.platform.count_turn();
            return Ok((interrupt::deliver(cx, Event::Exception(cx.mmu.exception)), 0));
        }
    };
    let outcome = match &found {
        Found::Once(block) => one::<COUNTED>(cx, block),
        Found::Kept(number) => match cache.get(*number) {
            Some(block) => one::<COUNTED>(cx, block),
            None => Ok((Outcome::Retired, 0)),
        },
    };
    if cx.mmu.stop {
        drop_written(cache, cx);
        cx.mmu.stop = false;
    }
    outcome
}

/// One instruction, with its interrupt shadow and single-step trap.
fn one<const COUNTED: bool>(cx: &mut Cx, block: &Block) -> Result<(Outcome, u32), EngineError> {
    if let Some(exception) = debug::before(cx) {
        cx.platform.count_turn();
        cx.state.interrupt_shadow = false;
        return Ok((interrupt::deliver(cx, Event::Exception(exception)), 0));
    }
    cx.state.interrupt_shadow = false;
    cx.no_trap = false;
    let trap = cx.state.rflags.contains(Rflags::TF);
    // It holds for this instruction only; IRET may set it for the next one.
    cx.state.rflags.remove(Rflags::RF);
    let at = linear(cx.state, SegmentRegister::Cs, block.rip);
    let part = execute::<COUNTED>(cx, block, 1);
    cx.mmu.watches.made_by(|| at);
    if part.flow == Ok(Flow::Again) {
        // The breakpoint at a repeated instruction has been met already.
        cx.state.rflags.insert(Rflags::RF);
    }
    let outcome = settle(cx, &part)?;
    if !matches!(outcome, Outcome::Retired | Outcome::Halted) {
        // What the instruction did before it failed is no hit.
        cx.mmu.watches.hit = 0;
    } else if cx.state.interrupt_shadow && cx.no_trap {
        // After a load of SS the trap waits for the next instruction, as interrupts do.
    } else if let Some(exception) = debug::after(cx, trap && part.flow != Ok(Flow::Again) && !cx.no_trap) {
        cx.state.activity = Activity::Running;
        return Ok((interrupt::deliver(cx, Event::Exception(exception)), part.retired));
    }
    Ok((outcome, part.retired))
}

/// Brings the way in which a block ended to its end: exceptions are delivered.
fn settle(cx: &mut Cx, part: &Part) -> Result<Outcome, EngineError> {
    match part.flow {
        Ok(Flow::Halt) => {
            cx.state.activity = Activity::Halted;
            Ok(Outcome::Halted)
        }
        Ok(Flow::Broken) => {
            Err(cx.error.take().unwrap_or(EngineError::Unsupported { rip: cx.state.rip, bytes: Vec::new() }))
        }
        Ok(_) => match cx.state.pending_exception.take() {
            Some(exception) => Ok(interrupt::deliver(cx, Event::Exception(exception))),
            None => Ok(Outcome::Retired),
        },
        Err(Fault) => Ok(interrupt::deliver(cx, Event::Exception(cx.mmu.exception))),
    }
}

/// Whether an interrupt waits that the state lets through.
fn interruptible(cx: &Cx) -> bool {
    cx.state.can_take_interrupt() && cx.platform.interrupt_pending(cx.mmu.vcpu)
}

/// How many instructions may run before the counted clock reaches a deadline.
fn budget(cx: &Cx) -> u64 {
    cx.platform
        .timers()
        .next_deadline()
        .map_or(u64::MAX, |deadline| cx.platform.clock().instructions_until(deadline).unwrap_or(u64::MAX))
}

/// How many instructions of a block may run before one of `breakpoints`, the first instruction aside.
/// The block begins at the linear address `start`.
fn before_breakpoint(block: &Block, start: u64, breakpoints: &[u64]) -> u64 {
    let behind = breakpoints.partition_point(|&at| at <= start);
    let last = block.ops.last().map_or(0, |op| op.offset);
    let within = |at: u64| at.wrapping_sub(start) <= u64::from(last);
    let candidates = breakpoints[behind..].iter().take_while(|&&at| within(at));
    let place = |at: u64| {
        block.ops.iter().position(|op| u64::from(op.offset) == at.wrapping_sub(start)).filter(|&i| i > 0)
    };
    candidates.filter_map(|&at| place(at)).min().map_or(u64::MAX, |i| i as u64)
}

/// Executes block after block while `stays` says so of the state; `None` when it does not any more.
#[inline(never)]
fn run_blocks(
    cx: &mut Cx,
    cache: &mut CodeCache,
    features: &Features,
    (breakpoints, fresh): (&[u64], &mut bool),
    total: &mut u64,
    stays: impl Fn(&CpuState) -> bool,
) -> Result<Option<Ended>, EngineError> {
    let kick = cx.platform.kick(cx.mmu.vcpu);
    let clock = cx.platform.clock();
    let counted = clock.source() != ClockSource::Real;
    // Everything that decides about code is looked at anew when this loop turns.
    loop {
        cx.mmu.stop = false;
        drop_written(cache, cx);
        if !stays(cx.state) {
            return Ok(None);
        }
        let mode = cache.mode(cx.state);
        let careful = cx.state.interrupt_shadow
            || cx.state.rflags.intersects(Rflags::TF | Rflags::RF)
            || debug::is_armed(cx.state)
            || cx.mmu.watches.are_on_reads()
            || cx.platform.trace().catches();
        let mut previous: Option<u32> = None;
        // Block after block of the same mode.
        loop {
            if kick.is_raised() {
                return Ok(Some(Ended::Attention));
            }
            let rip = cx.state.rip;
            let (mut limit, mut due) = (u64::MAX, u64::MAX);
            if counted {
                let left = cx.platform.progress().left();
                if left == 0 {
                    return Ok(Some(Ended::Position));
                }
                due = budget(cx);
                limit = due.min(left);
            }
            // Other code segments have other bases, and begin where the outer loop turns.
            let start = linear(cx.state, SegmentRegister::Cs, rip);
            if !*fresh && breakpoints.binary_search(&start).is_ok() {
                return Ok(Some(Ended::Breakpoint));
            }
            *fresh = false;
            let generation = cache.generation(cx.mmu.tlb.local_code());
            let key = mode.key(rip);
            let known =
                previous.and_then(|p| cache.get(p)).and_then(|block| block.successor(key, generation));
            let found = match known {
                Some(number) => Found::Kept(number),
                None => match locate(cx, cache, features, mode, previous, careful) {
                    Ok(found) => found,
                    Err(Fault) => {
                        cx.platform.count_turn();
                        let event = Event::Exception(cx.mmu.exception);
                        if interrupt::deliver(cx, event) == Outcome::TripleFault {
                            return Ok(Some(Ended::TripleFault));
                        }
                        if cx.mmu.watches.outside_hit.is_some() {
                            return Ok(Some(Ended::Watched));
                        }
                        break;
                    }
                },
            };
            let (number, block) = match &found {
                Found::Kept(number) => match cache.get(*number) {
                    Some(block) => (Some(*number), block),
                    None => break,
                },
                Found::Once(block) => (None, &**block),
            };
            if careful {
                let (outcome, retired) =
                    if counted { one::<true>(cx, block)? } else { one::<false>(cx, block)? };
                *total += u64::from(retired);
                if u64::from(retired) >= due {
                    kick.poke();
                }
                if let Some(ended) = end_of(cx, outcome) {
                    return Ok(Some(ended));
                }
                // The shadow may have gone, or the flag come.
                if interruptible(cx) {
                    return Ok(Some(Ended::Attention));
                }
                break;
            }
            if !breakpoints.is_empty() {
                limit = limit.min(before_breakpoint(block, start, breakpoints));
            }
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let part =
                if counted { execute::<true>(cx, block, limit) } else { execute::<false>(cx, block, limit) };
            *total += u64::from(part.retired);
            cx.mmu.watches.made_by(|| start.wrapping_add(last_of(block, &part)));
            if u64::from(part.retired) >= due {
                // The deadline is reached: timers are due before the next instruction.
                kick.poke();
            }
            previous = number;
            if part.flow == Ok(Flow::Jump) && !cx.mmu.stop {
                if drop_written(cache, cx) {
                    previous = None;
                }
                continue;
            }
            let outcome = settle(cx, &part)?;
            if let Some(ended) = end_of(cx, outcome) {
                return Ok(Some(ended));
            }
            if interruptible(cx) {
                return Ok(Some(Ended::Attention));
            }
            break;
        }
    }
}

/// Where in its block the instruction is that ended a part of it.
fn last_of(block: &Block, part: &Part) -> u64 {
    let unfinished = matches!(part.flow, Err(Fault) | Ok(Flow::Again));
    let number = (part.retired as usize).saturating_sub(usize::from(!unfinished));
    block.ops.get(number).map_or(0, |op| op.offset.into())
}

fn end_of(cx: &Cx, outcome: Outcome) -> Option<Ended> {
    match outcome {
        Outcome::TripleFault => Some(Ended::TripleFault),
        _ if cx.mmu.watches.outside_hit.is_some() => Some(Ended::Watched),
        Outcome::Halted => Some(Ended::Halted),
        Outcome::Retired | Outcome::Exception(_) => None,
    }
}

/// Finds the block at RIP without help from the block before, and remembers the way.
fn locate(
    cx: &mut Cx,
    cache: &mut CodeCache,
    features: &Features,
    mode: CodeMode,
    previous: Option<u32>,
    careful: bool,
) -> Result<Found, Fault> {
    let rip = cx.state.rip;
    if careful {
        return front::find(cache, &mut cx.mmu, features, mode.single(), rip);
    }
    let key = mode.key(rip);
    let generation = cache.generation(cx.mmu.tlb.local_code());
    let number = match cache.jump(key, generation) {
        Some(number) => number,
        None => match front::find(cache, &mut cx.mmu, features, mode, rip)? {
            Found::Kept(number) => number,
            once @ Found::Once(_) => return Ok(once),
        },
    };
    // Decoding may have dropped blocks, and with them the generation.
    let link = Link { key, generation: cache.generation(cx.mmu.tlb.local_code()), block: number };
    cache.note_jump(link);
    if let Some(block) = previous.and_then(|p| cache.get(p)) {
        block.link(link);
    }
    Ok(Found::Kept(number))
}
