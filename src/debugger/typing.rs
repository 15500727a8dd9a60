//! What a person types for the guest's console while the session has the guest: it waits here until the guest can have it, and
//! comes to the guest at a position of its own, at which it comes again where the guest does again what it did.
use super::error::DebuggerError;
use super::session::Session;
use crate::machine::{Given, Limits, Machine, Stop};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What was typed and waits. Clones share it; it is written to by another thread than the session's.
#[derive(Clone, Debug, Default)]
pub struct Typing(Arc<Mutex<Vec<u8>>>);

impl Typing {
    /// Bytes that wait at most; further ones are lost.
    pub const MOST: usize = 4096;

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes; false if there is no room for all. The guest has them when it goes on: one that runs is to be called
    /// ([`Machine::bell`]).
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut waiting = self.lock();
        let room = Self::MOST - waiting.len().min(Self::MOST);
        waiting.extend(&bytes[..bytes.len().min(room)]);
        bytes.len() <= room
    }

    /// Hands over as much as the machine takes: what that was.
    fn give(&self, machine: &mut Machine) -> Option<Given> {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return None;
        }
        let mut given = Given::Console(waiting.clone());
        let taken = machine.give(&given);
        let gone = taken.min(waiting.len());
        waiting.drain(..gone);
        (taken > 0).then(|| given.take(taken))
    }
}

impl Session {
    /// What is typed for the guest; `None` where that was recorded, and comes from there.
    #[must_use]
    pub fn typing(&self) -> Option<&Typing> {
        self.tape.end().is_none().then_some(&self.typing)
    }

    /// The guest has what was typed since, where it stands. What it did from here on before, it will not do again.
    pub(super) fn take_typed(&mut self) {
        if self.tape.end().is_some() {
            return;
        }
        let Some(given) = self.typing.give(&mut self.machine) else { return };
        let position = self.position();
        if let Some(timeline) = &mut self.timeline {
            self.tape.put_in(position, given);
            timeline.forget_after(position);
        }
    }

    /// As the tape's run, with what is typed meanwhile.
    pub(super) fn run_with_typed(&mut self, limits: &Limits) -> Result<Stop, DebuggerError> {
        let start = Instant::now();
        let mut goes_on = limits.goes_on;
        loop {
            self.take_typed();
            let timeout = limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let stop =
                self.tape.run_until_called(&mut self.machine, &Limits { goes_on, timeout, ..*limits })?;
            if stop != Stop::Called {
                return Ok(stop);
            }
            goes_on = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded() {
        let typing = Typing::default();
        assert!(typing.push(&[b'a'; Typing::MOST - 1]) && !typing.push(b"bc"));
        let kept = typing.lock().clone();
        assert_eq!((kept.len(), kept.last()), (Typing::MOST, Some(&b'b')));
        assert!(!typing.push(b"d") && typing.push(b""));
    }
}
