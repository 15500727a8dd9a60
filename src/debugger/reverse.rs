//! Commands that let the guest go back: to a snapshot before, and from there once more to the exact turn.
//!
//! All of them are searches in the past for a position, and [`Session::go_to`] that position. What the guest prints on
//! the way was printed before, and is not shown again. A search runs through the stretches between two moments, the last one
//! first, and takes the last hit that it finds.
use super::error::DebuggerError;
use super::memory::{linear_rip, linear_rsp};
use super::motion::Outcome;
use super::session::{Reply, Session};
use super::timeline::Timeline;
use super::view::disassembly::decode;
use super::watching::Seen;
use crate::arch::{CpuState, Gva};
use crate::engine::{Progress, Watch, WatchHit};
use crate::machine::{Limits, Stop};
use iced_x86::{FlowControl, Instruction};
use std::time::Instant;

/// What a search looks for: code that is reached, and memory that is accessed.
#[derive(Clone, Copy, Default)]
pub(super) struct Sought<'a> {
    pub(super) code: &'a [Gva],
    pub(super) watches: &'a [Watch],
}

impl Session {
    pub(super) fn position(&self) -> u64 {
        self.machine.platform().progress().position()
    }

    /// Runs the guest, and takes moments on the way.
    pub(super) fn run_guest(&mut self, limits: &Limits) -> Result<Stop, DebuggerError> {
        if self.timeline.is_none() {
            return self.run_with_snapshots(limits);
        }
        let start = Instant::now();
        let mut goes_on = limits.goes_on;
        loop {
            self.note_moment()?;
            let here = self.position();
            let next = self.timeline.as_ref().map_or(u64::MAX, |timeline| timeline.next(here));
            let until = limits.until.map_or(next, |until| until.min(next));
            let timeout = limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let limited = Limits { until: Some(until), goes_on, timeout, ..*limits };
            let stop = self.run_with_typed(&limited)?;
            let here = self.position();
            if stop != Stop::Position || limits.until == Some(until) || self.tape.end() == Some(here) {
                return Ok(stop);
            }
            goes_on = true;
        }
    }

    /// The timeline, if there is one, knows where the guest stands, before it moves on.
    fn note_moment(&mut self) -> Result<(), DebuggerError> {
        self.note_snapshot()?;
        self.timeline.as_mut().map_or(Ok(()), |timeline| timeline.note(&mut self.machine))
    }

    /// Whether the guest stands where its recording ends.
    pub(super) fn is_at_end(&self) -> bool {
        self.tape.end().is_some_and(|end| end <= self.position())
    }

    /// Makes one step, with what came from outside before it.
    pub(super) fn step_guest(&mut self) -> Result<Stop, DebuggerError> {
        self.note_moment()?;
        self.tape.feed(&mut self.machine);
        self.take_typed();
        Ok(self.machine.step_of(self.cpu)?)
    }

    /// Somebody changed the guest: what it did before is not how it came here.
    pub(super) fn begin_anew(&mut self) {
        if let Some(timeline) = &mut self.timeline {
            timeline.begin_anew(&self.machine);
        }
    }

    pub(super) fn timeline(&mut self) -> Result<&mut Timeline, DebuggerError> {
        self.timeline.as_mut().ok_or(DebuggerError::NoWayBack(self.no_way_back))
    }

    /// Executes up to `target`, which the guest has passed before. False: the person wants to have the prompt back.
    fn again_to(&mut self, target: u64) -> Result<bool, DebuggerError> {
        while self.position() < target {
            if (self.interrupted)() && !self.goes_home {
                return Ok(false);
            }
            let here = self.position();
            let until = self.timeline()?.next(here).min(target);
            let limits = Limits { until: Some(until), ..Limits::default() };
            if self.tape.run(&mut self.machine, &limits)? != Stop::Position {
                return Err(DebuggerError::Diverged(self.position()));
            }
            if until < target {
                self.note_moment()?;
            }
        }
        Ok(true)
    }

    /// Back to where the guest stood when a search began that the person gave up: that is not to be given up, too.
    pub(super) fn go_home(&mut self, here: u64) -> Result<(), DebuggerError> {
        self.goes_home = true;
        let gone = self.go_to(here);
        self.goes_home = false;
        gone.map(drop)
    }

    /// Puts the guest to a position of its past. False as of [`Self::again_to`].
    pub(super) fn go_to(&mut self, target: u64) -> Result<bool, DebuggerError> {
        self.machine.set_breakpoints(&[])?;
        self.machine.set_watches(&[])?;
        self.told.clear();
        self.told_watches.clear();
        self.put_back_before(target)?;
        // A further step back begins close to here.
        let near = target.saturating_sub(1) / Progress::EPOCH * Progress::EPOCH;
        if near > self.position() {
            if !self.again_to(near)? {
                return Ok(false);
            }
            let timeline = self.timeline.as_mut().ok_or(DebuggerError::NoWayBack(self.no_way_back))?;
            timeline.take(&mut self.machine)?;
        }
        self.again_to(target)
    }

    /// Puts the guest to the last moment that is not after `target`; its number.
    fn put_back_before(&mut self, target: u64) -> Result<usize, DebuggerError> {
        let timeline = self.timeline.as_mut().ok_or(DebuggerError::NoWayBack(self.no_way_back))?;
        let number = timeline.before(target).ok_or(DebuggerError::Beginning)?;
        timeline.put_back(&mut self.machine, number)?;
        self.tape.go_to(self.position());
        Ok(number)
    }

    /// The last position before `end` from which what is sought comes about, and of which `accept` says yes: that of an
    /// instruction in `code`, or of one that accesses what is watched (of which `accept` sees the state behind it). Nothing if
    /// there is none, or the person has no patience. The guest stands anywhere then. Beside it, the access.
    pub(super) fn search(
        &mut self,
        sought: Sought<'_>,
        end: u64,
        accept: impl Fn(&Self, &CpuState, bool) -> bool,
    ) -> Result<Option<(u64, Option<WatchHit>)>, DebuggerError> {
        let mut end = end;
        while let Some(number) = end.checked_sub(1).and_then(|before| self.timeline.as_ref()?.before(before))
        {
            let timeline = self.timeline.as_mut().ok_or(DebuggerError::NoWayBack(self.no_way_back))?;
            timeline.put_back(&mut self.machine, number)?;
            self.tape.go_to(self.position());
            self.machine.set_breakpoints(sought.code)?;
            self.machine.set_watches(sought.watches)?;
            self.told.clear();
            self.told_watches.clear();
            let begin = self.position();
            let (mut last, mut goes_on) = (None, true);
            // An access that was the last turn shows at the end.
            while self.position() < end {
                if (self.interrupted)() {
                    return Ok(None);
                }
                let until = (self.position() + SLICE).min(end);
                let limits = Limits { until: Some(until), goes_on, ..Limits::default() };
                let stop = self.tape.run(&mut self.machine, &limits)?;
                goes_on = true;
                match stop {
                    Stop::Position => {}
                    Stop::Breakpoint(_) | Stop::Watched(_) => {
                        let state = self.state()?;
                        let made = if let Stop::Watched(hit) = stop { Some(hit) } else { None };
                        if accept(self, &state, made.is_some()) {
                            last = Some((self.position() - u64::from(made.is_some()), made));
                        }
                        // Behind an access there may be a breakpoint; from one, the guest goes on.
                        goes_on = made.is_some();
                    }
                    _ => return Err(DebuggerError::Diverged(self.position())),
                }
            }
            if last.is_some() {
                return Ok(last);
            }
            end = begin;
        }
        Ok(None)
    }

    /// Lets the guest go back by `motion`, and says where it stands then.
    pub(super) fn move_back(
        &mut self,
        motion: impl FnOnce(&mut Self) -> Result<Outcome, DebuggerError>,
    ) -> Result<Reply, DebuggerError> {
        let outcome = self.going_back(motion)?;
        self.tell(outcome)
    }

    /// Lets the guest go back by `motion`.
    fn going_back(
        &mut self,
        motion: impl FnOnce(&mut Self) -> Result<Outcome, DebuggerError>,
    ) -> Result<Outcome, DebuggerError> {
        self.note_moment()?;
        self.timeline()?;
        let state = self.state()?;
        self.note_watched(&state);
        let trace = self.machine.platform().trace().is_enabled();
        self.machine.platform().trace().enable(false);
        self.machine.catch_events(Vec::new());
        let outcome = motion(self);
        self.machine.platform().trace().enable(trace);
        self.tell_catches();
        self.ended = None;
        self.before = Some((self.cpu, state));
        self.events.clear();
        self.tell_breakpoints(&[])?;
        self.tell_watches()?;
        outcome
    }

    /// Goes back by one turn.
    pub(super) fn turn_back(&mut self) -> Result<Outcome, DebuggerError> {
        self.going_back(|session| session.back_to(session.position().checked_sub(1)))
    }

    /// Goes back to the last breakpoint, or address of `code`, that was met, or to before the last access to what is watched.
    pub(super) fn run_back(&mut self, code: &[Gva]) -> Result<Outcome, DebuggerError> {
        self.going_back(|session| session.reverse_run(code))
    }

    /// Goes to `target`, or to the beginning if that lies before it.
    fn back_to(&mut self, target: Option<u64>) -> Result<Outcome, DebuggerError> {
        let beginning = self.timeline()?.beginning().ok_or(DebuggerError::Beginning)?;
        let (target, outcome) = match target {
            Some(target) if target >= beginning => (target, Outcome::Done),
            _ => (beginning, Outcome::Beginning),
        };
        Ok(if self.go_to(target)? { outcome } else { Outcome::Interrupted })
    }

    pub(super) fn reverse_step(&mut self, count: u64) -> Result<Reply, DebuggerError> {
        self.move_back(|session| session.back_to(session.position().checked_sub(count)))
    }

    pub(super) fn reverse_next(&mut self, count: u64) -> Result<Reply, DebuggerError> {
        self.move_back(|session| {
            let mut outcome = Outcome::Done;
            for _ in 0..count {
                outcome = session.one_next_back()?;
                if outcome != Outcome::Done {
                    break;
                }
            }
            Ok(outcome)
        })
    }

    /// To the turn before, over what was called and has come back meanwhile.
    fn one_next_back(&mut self) -> Result<Outcome, DebuggerError> {
        let (here, state) = (self.position(), self.state()?);
        let outcome = self.back_to(here.checked_sub(1))?;
        if outcome != Outcome::Done {
            return Ok(outcome);
        }
        let before = self.state()?;
        let last = decode(&self.memory(&before), before.code_bits(), linear_rip(&before));
        let Some(last) = last.filter(ends_call) else { return Ok(Outcome::Done) };
        let mut candidates = self.calls_before(&state);
        // What an interrupt's handler went back to was there before.
        candidates.push(Gva(linear_rip(&state)));
        let rsp = linear_rsp(&state);
        let found =
            self.search(Sought { code: &candidates, watches: &[] }, here, |_, at, _| linear_rsp(at) == rsp)?;
        if (self.interrupted)() {
            return Ok(Outcome::Interrupted);
        }
        let Some(found) = found else { return self.back_to(here.checked_sub(1)) };
        let outcome = self.back_to(Some(found.0))?;
        let again = linear_rip(&self.state()?) == linear_rip(&state);
        if outcome == Outcome::Done && again && last.mnemonic() == iced_x86::Mnemonic::Iretq {
            return self.one_next_back();
        }
        Ok(outcome)
    }

    /// The calls that could have come back to where `state` stands: instructions that end there.
    fn calls_before(&mut self, state: &CpuState) -> Vec<Gva> {
        let rip = linear_rip(state);
        let memory = self.memory(state);
        let starts = (1..=15).filter_map(|length| rip.checked_sub(length));
        let calls = starts.filter(|&at| {
            decode(&memory, state.code_bits(), at)
                .is_some_and(|call| call.next_ip() == rip && super::motion::comes_back(&call))
        });
        calls.map(Gva).collect()
    }

    pub(super) fn reverse_continue(&mut self) -> Result<Reply, DebuggerError> {
        self.move_back(|session| session.reverse_run(&[]))
    }

    /// Goes back to the last breakpoint whose condition held, or address of `code`, that was met, or to before the last
    /// access to what is watched.
    fn reverse_run(&mut self, code: &[Gva]) -> Result<Outcome, DebuggerError> {
        let (here, watches) = (self.position(), self.watches());
        let all = self.breakpoints.addresses(code);
        let found = if all.is_empty() && watches.is_empty() {
            None
        } else {
            self.search(Sought { code: &all, watches: &watches }, here, |session, state, accessed| {
                let at = Gva(linear_rip(state));
                accessed || code.contains(&at) || !session.met_at(at, state).is_empty()
            })?
        };
        if (self.interrupted)() {
            self.go_home(here)?;
            return Ok(Outcome::Interrupted);
        }
        let outcome = self.back_to(found.map(|found| found.0))?;
        if outcome != Outcome::Done {
            return Ok(outcome);
        }
        if let Some((_, Some(hit))) = found {
            return self.accessed(hit, Seen::Before);
        }
        let rip = Gva(linear_rip(&self.state()?));
        Ok(match self.meet(rip) {
            met if met.is_empty() => Outcome::Done,
            met => Outcome::Breakpoints(met),
        })
    }
}

/// Turns between two looks for the person's Ctrl-C.
const SLICE: u64 = 16 * Progress::EPOCH;

/// Whether an instruction comes back from what was called or interrupted.
fn ends_call(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Return
}
