//! Commands that let the guest go on: step, next, continue, until, finish.
//!
//! Guest time runs only while one of these lasts. What is built from breakpoints (next, until, finish) uses temporary
//! ones, and tells its own from a deeper call's by RSP: a call that is left has RSP at or above where it was.
use super::error::DebuggerError;
use super::expression::Expression;
use super::memory::{linear_rip, linear_rsp};
use super::session::{Reply, Session};
use super::unwind;
use super::view::Hex;
use super::view::disassembly::decode;
use super::watching::{Seen, WatchReport};
use crate::arch::state::gpr;
use crate::arch::{Activity, CpuState, Gva};
use crate::engine::WatchHit;
use crate::machine::Stop;
use iced_x86::{FlowControl, Instruction, Mnemonic};
use serde_json::json;
use std::time::Instant;

/// Why a command came back to the prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It did what it should.
    Done,
    /// It met breakpoints.
    Breakpoints(Vec<u32>),
    /// It accessed what is watched; in words.
    Watched(WatchHit, Box<WatchReport>),
    /// It made an event that these catch; in words.
    Caught(Vec<u32>, String),
    /// Ctrl-C.
    Interrupted,
    /// The time limit.
    Timeout,
    /// It went back to where what is known begins.
    Beginning,
    /// It is where its recording ends.
    RecordingEnds,
    /// The guest ended; one sentence.
    Ended(String),
}

impl Session {
    pub(super) fn step(&mut self, count: u64) -> Result<Reply, DebuggerError> {
        self.move_on(|session, state| session.repeat_steps(count, state, Self::one_step))
    }

    pub(super) fn next(&mut self, count: u64) -> Result<Reply, DebuggerError> {
        self.move_on(|session, state| {
            session.repeat_steps(count, state, |session, state| {
                let at = linear_rip(state);
                let instruction = decode(&session.memory(state), state.code_bits(), at);
                match instruction.filter(comes_back) {
                    Some(call) => session.run_to(Gva(call.next_ip()), Some(linear_rsp(state))),
                    None => session.one_step(state),
                }
            })
        })
    }

    /// Moves `count` times by `motion` from `state`, unless something stops the guest earlier. The state is asked for
    /// once each time, because some engines are slow to hand it out.
    fn repeat_steps(
        &mut self,
        count: u64,
        state: &CpuState,
        motion: impl Fn(&mut Self, &CpuState) -> Result<Outcome, DebuggerError>,
    ) -> Result<Outcome, DebuggerError> {
        let mut outcome = motion(self, state)?;
        for _ in 1..count {
            if outcome != Outcome::Done {
                break;
            }
            if (self.interrupted)() {
                return Ok(Outcome::Interrupted);
            }
            let state = self.state()?;
            let met = self.meet(Gva(linear_rip(&state)));
            if !met.is_empty() {
                return Ok(Outcome::Breakpoints(met));
            }
            outcome = motion(self, &state)?;
        }
        Ok(outcome)
    }

    pub(super) fn go_on(&mut self) -> Result<Reply, DebuggerError> {
        self.move_on(|session, _| {
            if !session.breakpoints.list().is_empty() {
                session.tell_breakpoints(&[])?;
            }
            session.tell_watches()?;
            session.run()
        })
    }

    pub(super) fn until(&mut self, at: &Expression) -> Result<Reply, DebuggerError> {
        let at = Gva(self.evaluate(at)?);
        self.move_on(|session, _| session.run_to(at, None))
    }

    pub(super) fn finish(&mut self) -> Result<Reply, DebuggerError> {
        let state = self.state()?;
        let frame = unwind::innermost(&state);
        let known = state.is_64bit_code();
        let caller = known.then(|| unwind::caller(&self.memory(&state), &self.symbols, &frame)).flatten();
        let caller = caller.ok_or(DebuggerError::NoCaller)?;
        let mut done = false;
        let mut reply = self.move_on(|session, _| {
            let outcome = session.run_to(Gva(caller.rip), Some(caller.rsp))?;
            done = outcome == Outcome::Done;
            Ok(outcome)
        })?;
        if done {
            let rax = self.state()?.gpr[gpr::RAX];
            reply.text.push_str(&format!("\nrax = {rax:#x}"));
            reply.data["rax"] = json!(Hex(rax));
        }
        Ok(reply)
    }

    /// Lets the guest go on by `motion`, guest time running, and says where it stands then.
    fn move_on(
        &mut self,
        motion: impl FnOnce(&mut Self, &CpuState) -> Result<Outcome, DebuggerError>,
    ) -> Result<Reply, DebuggerError> {
        if let Some(why) = &self.ended {
            return Err(DebuggerError::Ended(why.clone()));
        }
        let state = self.state()?;
        self.machine.platform().clock().resume();
        self.sought = false;
        self.note_watched(&state);
        let began = self.cpu;
        let outcome = motion(self, &state);
        self.before = Some((began, state));
        self.machine.platform().clock().pause();
        self.events.collect(self.machine.platform().trace(), None);
        let mut reply = self.tell(outcome?)?;
        if self.sought {
            self.note_interpreter(&mut reply);
        }
        Ok(reply)
    }

    /// Says why the guest stopped, and where.
    pub(super) fn tell(&mut self, outcome: Outcome) -> Result<Reply, DebuggerError> {
        let (reason, head) = match &outcome {
            Outcome::Done => ("done", String::new()),
            Outcome::Breakpoints(numbers) => {
                let list: Vec<String> = numbers.iter().map(u32::to_string).collect();
                ("breakpoint", format!("breakpoint {}\n", list.join(", ")))
            }
            Outcome::Caught(numbers, what) => {
                let list: Vec<String> = numbers.iter().map(u32::to_string).collect();
                ("caught", format!("catchpoint {}, {what}\n", list.join(", ")))
            }
            Outcome::Watched(_, report) => ("watchpoint", format!("{}\n", report.text)),
            Outcome::Interrupted => ("interrupted", "stopped by Ctrl-C\n".to_owned()),
            Outcome::Beginning => {
                ("beginning", "this is the beginning of what can be gone back to\n".to_owned())
            }
            Outcome::RecordingEnds => ("recording ends", "this is the end of the recording\n".to_owned()),
            Outcome::Timeout => ("timeout", "stopped, because --timeout was over\n".to_owned()),
            Outcome::Ended(why) => {
                self.ended = Some(why.clone());
                let data = json!({"stopped": "ended", "why": why});
                return Ok(Reply { data, ..Reply::said(why.clone()) });
            }
        };
        let place = self.location()?;
        let mut reply = Reply::view(&place);
        let cpu = if self.has_several_cpus() { format!("CPU {}: ", self.cpu.0) } else { String::new() };
        reply.text = format!("{cpu}{head}{place}");
        reply.data["cpu"] = json!(self.cpu.0);
        reply.data["stopped"] = json!(reason);
        match outcome {
            Outcome::Breakpoints(numbers) => reply.data["breakpoints"] = json!(numbers),
            Outcome::Watched(_, report) => reply.data["watch"] = report.data,
            Outcome::Caught(numbers, what) => {
                reply.data["catchpoints"] = json!(numbers);
                reply.data["event"] = json!(what);
            }
            _ => {}
        }
        Ok(reply)
    }

    /// Tells the engine all breakpoints, and `temporary` ones; nothing if it already knows these.
    pub(super) fn tell_breakpoints(&mut self, temporary: &[Gva]) -> Result<(), DebuggerError> {
        let wanted = self.breakpoints.addresses(temporary);
        if wanted.is_empty() && self.told.is_empty() && temporary.is_empty() {
            // An engine without the ability need not be asked for nothing, except to learn that.
            return Ok(self.machine.set_breakpoints(&[])?);
        }
        if wanted != self.told {
            self.machine.set_breakpoints(&wanted)?;
            self.told = wanted;
        }
        Ok(())
    }

    /// Executes the instruction at which `state`, the present one, stands.
    fn one_step(&mut self, state: &CpuState) -> Result<Outcome, DebuggerError> {
        let rip = linear_rip(state);
        self.interpreted |= self.machine.has_own_way();
        if self.is_at_end() {
            return Ok(Outcome::RecordingEnds);
        }
        let stop = self.step_guest()?;
        let tracing = self.machine.platform().trace();
        let waits = state.activity == Activity::Halted;
        self.events.collect(tracing, (!waits).then_some(rip));
        self.outcome(stop, true)
    }

    fn run(&mut self) -> Result<Outcome, DebuggerError> {
        let (start, began) = (Instant::now(), self.cpu);
        loop {
            let stop = self.run_machine()?;
            match self.outcome(stop, self.sought)? {
                // No condition is true here.
                Outcome::Breakpoints(met) if met.is_empty() => self.turn_to(began),
                outcome => return Ok(outcome),
            }
            if let Some(ended) = self.is_enough(start) {
                return Ok(ended);
            }
        }
    }

    /// Whether a command that began at `start` has run for long enough, where runs are too short to notice that.
    fn is_enough(&self, start: Instant) -> Option<Outcome> {
        let late = self.limits.timeout.is_some_and(|timeout| start.elapsed() >= timeout);
        if (self.interrupted)() { Some(Outcome::Interrupted) } else { late.then_some(Outcome::Timeout) }
    }

    /// Runs the machine, and takes notice if breakpoints make that the interpreter's work.
    fn run_machine(&mut self) -> Result<Stop, DebuggerError> {
        let stops = !self.told.is_empty() || !self.told_watches.is_empty();
        let breakpoints = stops && self.machine.breakpoints_are_interpreted();
        if breakpoints || self.machine.catches_are_interpreted() {
            self.interpreted = true;
            self.sought = true;
        }
        let limits = self.limits;
        let stop = self.run_guest(&limits)?;
        self.turn_to_stopped(stop);
        Ok(stop)
    }

    /// Runs to `target`; with `above`, only when RSP is at least that there.
    fn run_to(&mut self, target: Gva, above: Option<u64>) -> Result<Outcome, DebuggerError> {
        self.tell_breakpoints(&[target])?;
        let outcome = self.run_to_told(target, above);
        let cleared = self.tell_breakpoints(&[]);
        let outcome = outcome?;
        cleared?;
        Ok(outcome)
    }

    fn run_to_told(&mut self, target: Gva, above: Option<u64>) -> Result<Outcome, DebuggerError> {
        let (start, began) = (Instant::now(), self.cpu);
        loop {
            let stop = self.run_machine()?;
            let outcome = self.outcome(stop, self.sought)?;
            if !matches!(&outcome, Outcome::Breakpoints(met) if met.is_empty()) {
                return Ok(outcome);
            }
            if let Some(ended) = self.is_enough(start) {
                return Ok(ended);
            }
            // Another CPU may come by, too.
            let came_by = self.cpu;
            self.turn_to(began);
            if stop != Stop::Breakpoint(target) || came_by != began {
                continue;
            }
            let state = self.state()?;
            if above.is_none_or(|rsp| linear_rsp(&state) >= rsp) {
                return Ok(Outcome::Done);
            }
        }
    }

    /// What a stop means; `interpreted` says who executed the last instruction.
    fn outcome(&mut self, stop: Stop, interpreted: bool) -> Result<Outcome, DebuggerError> {
        Ok(match stop {
            Stop::Position if self.is_at_end() => Outcome::RecordingEnds,
            Stop::Stepped | Stop::Paused | Stop::Position | Stop::Called => Outcome::Done,
            Stop::Watched(hit) if interpreted || !self.machine.has_own_way() => {
                self.accessed(hit, Seen::Exactly)?
            }
            Stop::Watched(hit) => self.accessed(hit, Seen::Behind)?,
            Stop::Breakpoint(at) => Outcome::Breakpoints(self.meet(at)),
            Stop::Caught(event) => {
                let (numbers, what) = self.caught(&event);
                Outcome::Caught(numbers, what)
            }
            Stop::Interrupted => Outcome::Interrupted,
            Stop::Timeout => Outcome::Timeout,
            Stop::PowerOff(status) => {
                Outcome::Ended(format!("the guest switched off with status {}", Stop::value_of(status)))
            }
            Stop::Reset => Outcome::Ended("the guest asked for a reset".to_owned()),
            Stop::TripleFault => Outcome::Ended(Stop::CRASHED.to_owned()),
        })
    }
}

/// Whether an instruction goes elsewhere and usually comes back to the one after it, or takes its time.
pub(super) fn comes_back(instruction: &Instruction) -> bool {
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let control = instruction.flow_control();
    matches!(control, FlowControl::Call | FlowControl::IndirectCall)
        || control == FlowControl::Interrupt && instruction.mnemonic() != Mnemonic::Ud2
        || matches!(instruction.mnemonic(), Mnemonic::Hlt | Mnemonic::Syscall | Mnemonic::Sysenter)
        || repeated && instruction.is_string_instruction()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn what_next_steps_over() {
        for (bytes, over) in [
            (&[0xe8, 0, 0, 0, 0][..], true), // call
            (&[0xff, 0xd0], true),           // call rax
            (&[0xcd, 0x80], true),           // int 0x80
            (&[0x0f, 0x05], true),           // syscall
            (&[0xf4], true),                 // hlt
            (&[0xf3, 0xa4], true),           // rep movsb
            (&[0xa4], false),                // movsb
            (&[0xf3, 0x90], false),          // pause
            (&[0xc3], false),                // ret
            (&[0xeb, 0], false),             // jmp
            (&[0x0f, 0x0b], false),          // ud2
        ] {
            let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
            assert_eq!(comes_back(&instruction), over, "{instruction:?}");
        }
    }
}
