//! Who wrote to an address last: `who-wrote`.
//!
//! Stores of the CPU through that address are seen by the watch over it, also those that change nothing. What a device
//! wrote, or somebody through another address, shows by the bytes only: between two moments that differ in them, the turn
//! at which they changed is found by halving.
use super::error::DebuggerError;
use super::expression::Expression;
use super::memory::Space;
use super::motion::Outcome;
use super::reverse::Sought;
use super::session::{Reply, Session};
use super::view::Hex;
use crate::arch::{CpuState, Gpa, Gva, address::PAGE_SIZE};
use crate::engine::{Watch, WatchKind};
use serde_json::json;

/// Bytes that are asked about if nothing else is said, and at most.
const USUAL: u64 = 8;
const MOST: u64 = PAGE_SIZE;

/// How a write was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// The instruction at this position stored there.
    Stored(u64),
    /// At this position the bytes changed by something else.
    Changed(u64),
}

impl Found {
    fn position(self) -> u64 {
        match self {
            Self::Stored(position) | Self::Changed(position) => position,
        }
    }
}

/// Bytes in RAM, within one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bytes {
    at: Gpa,
    length: usize,
}

impl Session {
    /// Goes to before the instruction that wrote to an address last.
    pub(super) fn who_wrote(
        &mut self,
        address: &Expression,
        length: Option<&Expression>,
    ) -> Result<Reply, DebuggerError> {
        let at = self.evaluate(address)?;
        let length = length.map_or(Ok(USUAL), |length| self.evaluate(length))?;
        if !(1..=MOST).contains(&length) {
            return Err(DebuggerError::TooMuch { what: "a length of", asked: length, most: MOST });
        }
        let state = self.state()?;
        let place = self.physical(&state, at).ok_or(DebuggerError::NotRam(at))?;
        let in_page = length.min(PAGE_SIZE - place.page_offset());
        let bytes = Bytes { at: place, length: in_page as usize };
        let (mut found, mut given_up) = (None, false);
        let mut reply = self.move_back(|session| {
            let here = session.position();
            found = session.last_write((at, length), bytes, here)?;
            if (session.interrupted)() {
                given_up = true;
                found = None;
                session.go_home(here)?;
                return Ok(Outcome::Interrupted);
            }
            let arrived = session.go_to(found.map_or(here, Found::position))?;
            Ok(if arrived && !(session.interrupted)() { Outcome::Done } else { Outcome::Interrupted })
        })?;
        let what = match found {
            Some(Found::Stored(_)) => format!("this instruction wrote {} last:\n", Hex(at)),
            Some(Found::Changed(_)) => {
                format!("here {} changed last, by a device or through another address:\n", Hex(at))
            }
            None if given_up => "stopped before it was found\n".to_owned(),
            None => format!("nothing has written {} since the beginning of what is known\n", Hex(at)),
        };
        reply.text.insert_str(0, &what);
        reply.data["found"] = json!(found.is_some());
        Ok(reply)
    }

    /// Where RAM has what is at a linear address.
    fn physical(&self, state: &CpuState, at: u64) -> Option<Gpa> {
        let memory = self.memory(state);
        memory.locate(Space::Virtual, at).filter(|gpa| memory.ram().offset(*gpa, 1).is_some())
    }

    fn read_now(&self, bytes: Bytes) -> Vec<u8> {
        let mut read = vec![0; bytes.length];
        // They are RAM.
        let _all = self.machine.platform().ram().read(bytes.at, &mut read);
        read
    }

    /// The last write before `end` to what is at a linear address and now in RAM there.
    fn last_write(
        &mut self,
        (at, length): (u64, u64),
        bytes: Bytes,
        end: u64,
    ) -> Result<Option<Found>, DebuggerError> {
        let now = self.read_now(bytes);
        let same = |session: &Self, state: &CpuState, _: bool| session.physical(state, at) == Some(bytes.at);
        let watch = Watch { at: Gva(at), length, kind: WatchKind::Write };
        let stored = self.search(Sought { code: &[], watches: &[watch] }, end, same)?;
        if (self.interrupted)() {
            return Ok(None);
        }
        if let Some((position, _)) = stored {
            self.go_to(position + 1)?;
            if self.read_now(bytes) == now {
                return Ok(Some(Found::Stored(position)));
            }
        }
        // Something else came after it.
        let begin = stored.map(|(position, _)| position + 1);
        Ok(self.last_change(bytes, &now, begin, end)?.map(Found::Changed))
    }

    /// The position between `begin`, at which the bytes are others, and `end` from which they became what they are `now`.
    fn last_change(
        &mut self,
        bytes: Bytes,
        now: &[u8],
        begin: Option<u64>,
        end: u64,
    ) -> Result<Option<u64>, DebuggerError> {
        let offset = self.machine.platform().ram().offset(bytes.at, bytes.length as u64);
        let Some(offset) = offset else { return Ok(None) };
        let timeline = self.timeline()?;
        let other = timeline.last_with(end, |memory| memory.bytes(offset, bytes.length) != now);
        let (Some(mut low), mut high) = (other.max(begin), end) else { return Ok(None) };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if !self.go_to(middle)? {
                return Ok(None);
            }
            if self.read_now(bytes) == now {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(Some(low))
    }
}
