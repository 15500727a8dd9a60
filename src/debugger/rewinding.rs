//! Going back in modes that do not do the same twice: pv, kvm, and emu by the host's clock.
//!
//! While such a guest goes on, snapshots in memory are kept, of which `rewind` takes one: the guest stands where it was
//! taken, in mode emu with counted time, and does the same again from there however often. What it did since the snapshot it
//! did by another clock; it may do something else now.
use super::error::DebuggerError;
use super::printed::Printed;
use super::session::{Reply, Session};
use super::timeline::{MOST_BYTES, Timeline};
use super::view::stats;
use crate::engine::Engine;
use crate::machine::{Limits, Machine, SavedShape, Stop};
use crate::snapshot::{self, Memory};
use serde_json::json;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Makes a machine in mode emu, with counted time, that stands where the snapshot was taken of a machine of this shape.
pub type CountedBuilder = Box<dyn FnMut(&SavedShape, &Memory) -> Result<Machine, DebuggerError>>;

/// Guest time between two snapshots, in nanoseconds.
const SPACING: u64 = 10_000_000;
/// How long a guest runs until another one is due.
const SLICE: Duration = Duration::from_secs(1);
/// How many times as long as a snapshot takes it runs at least.
const SELDOM: u32 = 25;
/// Snapshots that are kept; the first one, the guest's beginning, stays.
const MOST: usize = 8;

struct Kept {
    /// Guest time, in nanoseconds.
    at: u64,
    memory: Memory,
}

/// The snapshots of one session, the oldest first.
pub(super) struct Snapshots {
    build: CountedBuilder,
    printed: Printed,
    kept: VecDeque<Kept>,
    /// When another one may be taken without being asked for: they are to take little of the time.
    next: Option<Instant>,
}

impl Snapshots {
    pub(super) fn new(build: CountedBuilder, printed: Printed) -> Self {
        Self { build, printed, kept: VecDeque::new(), next: None }
    }

    /// The guest's life begins anew.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.next = None;
    }

    /// How long it is until another one may be taken.
    fn wait(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Keeps where the guest stands, if it has gone on since the last snapshot, and that is long enough ago.
    pub(super) fn note(&mut self, machine: &mut Machine) -> Result<(), DebuggerError> {
        let now = machine.platform().clock().now().0;
        let is_due = |last: &Kept| now.saturating_sub(last.at) >= SPACING;
        if self.wait().is_zero() && self.kept.back().is_none_or(is_due) { self.take(machine) } else { Ok(()) }
    }

    /// Keeps where the guest stands; in place of the last one if no guest time has passed since. Where all of them together
    /// keep more than [`MOST_BYTES`], the first and the last stay.
    fn take(&mut self, machine: &mut Machine) -> Result<(), DebuggerError> {
        let begun = Instant::now();
        let at = machine.platform().clock().now().0;
        let memory = Memory::take(machine, self.kept.back().map(|last| &last.memory))?;
        if self.kept.back().is_some_and(|last| last.at == at) {
            self.kept.pop_back();
        }
        self.kept.push_back(Kept { at, memory });
        while self.kept.len() > 2
            && (self.kept.len() > MOST
                || snapshot::kept(self.kept.iter().map(|one| &one.memory)) > MOST_BYTES)
        {
            self.kept.remove(1);
        }
        self.next = Some(Instant::now() + SLICE.max(begun.elapsed() * SELDOM));
        Ok(())
    }
}

/// A time in nanoseconds for people.
fn milliseconds(time: u64) -> String {
    format!("{:.3} ms", time as f64 / 1e6)
}

impl Session {
    /// The snapshots, of a guest that needs them to go back.
    fn snapshots(&mut self) -> Result<&mut Snapshots, DebuggerError> {
        if self.timeline.is_some() {
            return Err(DebuggerError::GoesBack);
        }
        self.snapshots.as_mut().ok_or(DebuggerError::NoWayBack(self.no_way_back))
    }

    /// Keeps where the guest stands, if it cannot go back by itself and may be rewound: to be called before it goes on.
    pub(super) fn note_snapshot(&mut self) -> Result<(), DebuggerError> {
        match (&self.timeline, &mut self.snapshots) {
            (None, Some(snapshots)) => snapshots.note(&mut self.machine),
            _ => Ok(()),
        }
    }

    /// Runs a guest that does not go back by itself, and keeps snapshots on the way, so seldom that it is not much slower.
    pub(super) fn run_with_snapshots(&mut self, limits: &Limits) -> Result<Stop, DebuggerError> {
        if self.snapshots.is_none() {
            return self.run_with_typed(limits);
        }
        let start = Instant::now();
        let mut goes_on = limits.goes_on;
        loop {
            self.note_snapshot()?;
            let wait = self.snapshots.as_ref().map_or(SLICE, Snapshots::wait);
            let slice = wait.max(Duration::from_nanos(SPACING));
            let left = limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let until = left.map_or(slice, |left| left.min(slice));
            let limited = Limits { timeout: Some(until), goes_on, ..*limits };
            let stop = self.run_with_typed(&limited)?;
            if stop != Stop::Timeout || left.is_some_and(|left| left <= slice) {
                return Ok(stop);
            }
            goes_on = true;
        }
    }

    /// Keeps where the guest stands, and lists what is kept.
    pub(super) fn keep_snapshot(&mut self) -> Result<Reply, DebuggerError> {
        self.snapshots()?;
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.take(&mut self.machine)?;
        }
        self.list_snapshots()
    }

    /// The snapshots that `rewind` can go to.
    pub(super) fn list_snapshots(&mut self) -> Result<Reply, DebuggerError> {
        let kept = &self.snapshots()?.kept;
        let lines = kept.iter().enumerate().map(|(i, one)| format!("{:>3}  {}", i + 1, milliseconds(one.at)));
        let bytes = snapshot::kept(kept.iter().map(|one| &one.memory));
        let text = std::iter::once("  #  guest time".to_owned())
            .chain(lines)
            .chain([format!("together they keep {} KiB", bytes >> 10)]);
        let data = kept.iter().enumerate().map(|(i, one)| json!({"number": i + 1, "guest_ns": one.at}));
        let data = json!({"snapshots": data.collect::<Vec<_>>(), "bytes": bytes});
        Ok(Reply { data, ..Reply::said(text.collect::<Vec<_>>().join("\n")) })
    }

    /// Puts the guest to a snapshot, the last if none is named, in mode emu with counted time.
    pub(super) fn rewind(&mut self, number: Option<u32>) -> Result<Reply, DebuggerError> {
        let shape = self.machine.shape().clone();
        let snapshots = self.snapshots()?;
        let count = snapshots.kept.len();
        let number = number.map_or(count, |number| number as usize);
        let Some(kept) = number.checked_sub(1).and_then(|index| snapshots.kept.get(index)) else {
            return Err(if count == 0 {
                DebuggerError::Beginning
            } else {
                DebuggerError::NoSnapshot(number)
            });
        };
        let at = kept.at;
        let machine = (snapshots.build)(&shape, &kept.memory)?;
        let printed = snapshots.printed.clone();
        snapshots.clear();
        let from = self.machine.pair();
        let tracing = self.machine.platform().trace().is_enabled();
        self.machine = machine;
        self.counted = stats::Counts::default();
        let platform = self.machine.platform();
        platform.clock().pause();
        platform.trace().enable(tracing);
        self.timeline = Some(Timeline::new(&self.machine, printed));
        let how = if from.engine == Engine::Emu {
            "by counted time".to_owned()
        } else {
            format!("in emu instead of {from}")
        };
        let mut reply = self.arrive(&format!(
            "the guest stands where it was after {} of its time, and goes on {how}, forwards and back; 'restart' starts it as before",
            milliseconds(at)
        ))?;
        reply.data["guest_ns"] = json!(at);
        Ok(reply)
    }
}
