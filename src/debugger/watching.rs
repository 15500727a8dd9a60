//! Commands about memory that is watched, and what a person is told when it was accessed.
use super::culprit;
use super::error::DebuggerError;
use super::expression::Expression;
use super::memory::{Space, linear_rip};
use super::motion::Outcome;
use super::session::{Reply, Session};
use super::view::{Hex, disassembly};
use super::watchpoints::{Watchpoint, value, verb};
use crate::arch::{CpuState, Gva};
use crate::engine::{Watch, WatchHit, WatchKind};
use serde_json::{Value, json};

/// An access that stopped the guest, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WatchReport {
    pub(super) text: String,
    pub(super) data: Value,
}

/// From where an access is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// The guest has gone back to before it.
    Before,
    /// From behind, by one who does not know the instruction.
    Behind,
    /// From behind, by one who does.
    Exactly,
}

impl Session {
    /// Watches memory from now on.
    pub(super) fn set_watchpoint(
        &mut self,
        kind: WatchKind,
        at: &Expression,
        length: Option<&Expression>,
    ) -> Result<Reply, DebuggerError> {
        let address = Gva(self.evaluate(at)?);
        let length = length.map_or(Ok(Watchpoint::USUAL), |length| self.evaluate(length))?;
        if !(1..=Watchpoint::MOST).contains(&length) {
            let most = Watchpoint::MOST;
            return Err(DebuggerError::TooMuch { what: "a length of", asked: length, most });
        }
        let state = self.state()?;
        let seen = self.watched_bytes(&state, address, length);
        let now = value(seen.get(..Watchpoint::USUAL as usize).unwrap_or(&seen));
        let point =
            Watchpoint { number: 0, at: address, length, kind, written: at.to_string(), hits: 0, seen };
        let number = self.breakpoints.add_watch(point);
        if let Err(error) = self.tell_watches() {
            self.breakpoints.remove(number);
            return Err(error);
        }
        let label = self.symbols.label(address.0);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let mut reply =
            Reply::said(format!("watchpoint {number}: {length} bytes at {address}{place}, now {now}"));
        reply.data = json!({"number": number, "at": Hex(address.0), "length": length, "symbol": label});
        if self.machine.breakpoints_are_interpreted() {
            self.note_interpreter(&mut reply);
        }
        Ok(reply)
    }

    /// Watches one place, or all, no longer.
    pub(super) fn unwatch(&mut self, number: Option<u32>) -> Result<Reply, DebuggerError> {
        let is_one = |number| self.breakpoints.watchpoints().iter().any(|w| w.number == number);
        let text = match number {
            Some(number) if is_one(number) => {
                self.breakpoints.remove(number);
                format!("watchpoint {number} deleted")
            }
            Some(number) => return Err(DebuggerError::NoBreakpoint(number)),
            None => match self.breakpoints.clear_watches() {
                0 => "there are no watchpoints".to_owned(),
                1 => "one watchpoint deleted".to_owned(),
                count => format!("{count} watchpoints deleted"),
            },
        };
        self.tell_watches()?;
        Ok(Reply::said(text))
    }

    /// Everything that is watched: a person's watchpoints, and GDB's.
    pub(super) fn watches(&self) -> Vec<Watch> {
        let own = self.breakpoints.watchpoints().iter().map(Watchpoint::watch);
        own.chain(self.watched.iter().copied()).collect()
    }

    /// Tells the engine what is watched; nothing if it already knows that.
    pub(super) fn tell_watches(&mut self) -> Result<(), DebuggerError> {
        let wanted = self.watches();
        if wanted != self.told_watches {
            self.machine.set_watches(&wanted)?;
            self.told_watches = wanted;
        }
        Ok(())
    }

    fn watched_bytes(&self, state: &CpuState, at: Gva, length: u64) -> Vec<u8> {
        // At most [`Watchpoint::MOST`].
        self.memory(state).read_prefix(Space::Virtual, at.0, length as usize)
    }

    /// Looks at what is watched before the guest goes on in `state`: that is the old value of what it changes.
    pub(super) fn note_watched(&mut self, state: &CpuState) {
        let places: Vec<_> =
            self.breakpoints.watchpoints().iter().map(|w| (w.number, w.at, w.length)).collect();
        for (number, at, length) in places {
            let now = self.watched_bytes(state, at, length);
            self.breakpoints.see(number, now);
        }
    }

    /// What is to be said of an access to what is watched.
    pub(super) fn accessed(&mut self, hit: WatchHit, seen: Seen) -> Result<Outcome, DebuggerError> {
        let state = self.state()?;
        let rip = linear_rip(&state);
        let before = seen == Seen::Before;
        let by = match (seen, hit.by) {
            (Seen::Before, _) => Some(Gva(rip)),
            (Seen::Exactly, by) | (_, by @ Some(_)) => by,
            (Seen::Behind, None) => culprit::find((&self.memory(&state), &self.symbols), &state, &hit),
        };
        let (mut lines, mut points) = (Vec::new(), Vec::new());
        for point in self.breakpoints.watchpoints().to_vec() {
            let now = self.watched_bytes(&state, point.at, point.length);
            if !point.is_met_by(&hit, &now) {
                continue;
            }
            let shown = point.shown(&hit, &now);
            let (old, new) = (value(&point.seen[shown.clone()]), value(&now[shown.clone()]));
            let place = if shown.len() < now.len() {
                format!(", bytes {} to {}", shown.start, shown.end - 1)
            } else {
                String::new()
            };
            lines.push(format!("watchpoint {}: {} {}{place}", point.number, verb(point.kind), point.written));
            if point.kind != WatchKind::Write && old == new {
                lines.push(format!("value = {new}"));
            } else {
                lines.extend([format!("old value = {old}"), format!("new value = {new}")]);
            }
            points.push(json!({"number": point.number, "at": Hex(point.at.0), "old": old, "new": new}));
            self.breakpoints.count(&[point.number]);
            self.breakpoints.see(point.number, now);
        }
        let by = by.map(|by| self.described(&state, by));
        let verb = match hit.kind {
            WatchKind::Write => "written",
            WatchKind::Read => "read",
            WatchKind::Access => "accessed",
        };
        match &by {
            Some((text, _)) if before => lines.push(format!("about to be {verb} by {text}")),
            Some((text, _)) => lines.push(format!("{verb} by {text}")),
            None if seen == Seen::Exactly => lines.push(format!("{verb} by the entry to a handler")),
            None => lines.push(format!("{verb} by an instruction before this one")),
        }
        let met = if before { Vec::new() } else { self.meet(Gva(rip)) };
        if !met.is_empty() {
            let list: Vec<String> = met.iter().map(u32::to_string).collect();
            lines.push(format!("breakpoint {}", list.join(", ")));
        }
        let data = json!({
            "at": Hex(hit.at.0), "watchpoints": points, "by": by.map(|(_, data)| data), "breakpoints": met,
        });
        Ok(Outcome::Watched(hit, Box::new(WatchReport { text: lines.join("\n"), data })))
    }

    /// An instruction with its place.
    fn described(&self, state: &CpuState, at: Gva) -> (String, Value) {
        let line = disassembly::lines(&self.code(state, &[], &[]), at.0, 1).lines.pop();
        let instruction = line.and_then(|line| line.text);
        let label = self.symbols.label(at.0);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let text = format!("{at}{place}: {}", instruction.as_deref().unwrap_or("??"));
        (text, json!({"address": Hex(at.0), "symbol": label, "instruction": instruction}))
    }
}
