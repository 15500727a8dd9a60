//! Moments of a guest's past, from which its states in between are reached by executing once more.
//!
//! Moments are snapshots in memory, at positions (see [`Progress`]) where an epoch ends. They lie the closer the nearer they
//! are to where the guest stands, so that a step back is quick and a long past fits: of two that are needless for that the
//! farther goes first. The first one stays, being the beginning of what can be gone back to.
use super::error::DebuggerError;
use super::printed::Printed;
use crate::engine::Progress;
use crate::machine::Machine;
use crate::snapshot::{self, Memory, Series};

/// Turns between two moments while the guest goes on: some hundredths of a second.
const SPACING: u64 = 16 * Progress::EPOCH;
/// Gaps grow to this part of the distance from where the guest stands.
const PART: u64 = 8;
/// Bytes of guest memory that all moments together keep, but for the first and the last.
pub(super) const MOST_BYTES: u64 = 1 << 30;

struct Moment {
    position: u64,
    printed: u64,
    memory: Memory,
}

/// The moments of one guest, ascending.
pub(super) struct Timeline {
    series: Series,
    moments: Vec<Moment>,
    printed: Printed,
}

impl Timeline {
    /// A timeline that begins where this machine stands when it goes on.
    pub(super) fn new(machine: &Machine, printed: Printed) -> Self {
        Self { series: Series::new(machine), moments: Vec::new(), printed }
    }

    /// What was is not the past of what is now: the guest was changed, or is another one.
    pub(super) fn begin_anew(&mut self, machine: &Machine) {
        self.moments.clear();
        // The host tells one watcher at a time.
        self.series.stop_watching();
        self.series = Series::new(machine);
        self.printed.begin_anew();
    }

    /// From `position` on the guest does something else than it did.
    pub(super) fn forget_after(&mut self, position: u64) {
        self.moments.retain(|moment| moment.position <= position);
        self.printed.begin_anew();
    }

    /// The earliest position that can be gone back to.
    pub(super) fn beginning(&self) -> Option<u64> {
        self.moments.first().map(|moment| moment.position)
    }

    /// The number of the last moment that is not after `position`.
    pub(super) fn before(&self, position: u64) -> Option<usize> {
        self.moments.partition_point(|moment| moment.position <= position).checked_sub(1)
    }

    /// The position of the last moment before `end` of whose memory `is` says yes.
    pub(super) fn last_with(&self, end: u64, is: impl Fn(&Memory) -> bool) -> Option<u64> {
        let before = self.moments.iter().rev().filter(|moment| moment.position < end);
        before.into_iter().find(|moment| is(&moment.memory)).map(|moment| moment.position)
    }

    /// Where the next moment is due for a guest that is at `position`.
    pub(super) fn next(&self, position: u64) -> u64 {
        let last = self.before(position).map_or(0, |number| self.moments[number].position);
        Progress::epoch_after(position).max(Progress::epoch_after(last.saturating_add(SPACING - 1)))
    }

    /// Takes the moment at which the guest stands, if it is the first, or due.
    pub(super) fn note(&mut self, machine: &mut Machine) -> Result<(), DebuggerError> {
        let position = machine.platform().progress().position();
        let due = self.before(position).is_none_or(|number| {
            let last = self.moments[number].position;
            position.is_multiple_of(Progress::EPOCH) && position - last >= SPACING
        });
        if due { self.take(machine) } else { Ok(()) }
    }

    /// Takes the moment at which the guest stands, unless it is there. But for the first, an epoch ends there.
    pub(super) fn take(&mut self, machine: &mut Machine) -> Result<(), DebuggerError> {
        let position = machine.platform().progress().position();
        let place = self.moments.partition_point(|moment| moment.position < position);
        if self.moments.get(place).is_some_and(|moment| moment.position == position) {
            return Ok(());
        }
        let memory = self.series.take(machine)?;
        self.moments.insert(place, Moment { position, printed: self.printed.at(), memory });
        self.thin(position);
        Ok(())
    }

    /// Puts the guest back to a moment.
    pub(super) fn put_back(&mut self, machine: &mut Machine, number: usize) -> Result<(), DebuggerError> {
        let Some(moment) = self.moments.get(number) else { return Err(DebuggerError::Beginning) };
        self.series.put_back(machine, &moment.memory)?;
        machine.platform().progress().set_position(moment.position);
        self.printed.go_to(moment.printed);
        Ok(())
    }

    /// Drops moments that lie closer than they need to, seen from `here`, and more where they take too much memory.
    fn thin(&mut self, here: u64) {
        let mut i = 1;
        while i + 1 < self.moments.len() {
            if self.gap(i) <= self.distance(i, here) / PART {
                self.moments.remove(i);
            } else {
                i += 1;
            }
        }
        // Counting is work, too.
        if !self.moments.len().is_multiple_of(4) {
            return;
        }
        while let [first, .., last] = &self.moments[..]
            && self.moments.len() > 2
            && snapshot::kept(self.moments.iter().map(|moment| &moment.memory))
                > MOST_BYTES + snapshot::kept([&first.memory, &last.memory].into_iter())
        {
            let needless = |&i: &usize| self.gap(i) * 1000 / (self.distance(i, here) + 1);
            let Some(i) = (1..self.moments.len() - 1).min_by_key(needless) else { break };
            self.moments.remove(i);
        }
    }

    /// Turns between the neighbours of a moment.
    fn gap(&self, i: usize) -> u64 {
        self.moments[i + 1].position - self.moments[i - 1].position
    }

    fn distance(&self, i: usize, here: u64) -> u64 {
        self.moments[i].position.abs_diff(here)
    }
}
