//! Moves of a guest at given guest times, while it runs.
use super::{Limits, Machine, MachineError, Stop, run};
use crate::clock::Nanos;
use crate::engine::Pair;
use std::time::{Duration, Instant};

/// When a guest is to be moved, in guest time, and where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Itinerary {
    /// At these times since it began, ascending.
    At(Vec<(Duration, Pair)>),
    /// Again and again, so long after the last move, to each of these in turn.
    Every(Duration, Vec<Pair>),
}

/// Moves that were refused for the same reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Where from.
    pub from: Pair,
    /// Where to.
    pub to: Pair,
    /// Why, in one sentence.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// An itinerary under way, of one machine.
#[derive(Clone, Debug)]
pub struct Journey {
    itinerary: Itinerary,
    /// Moves that were due so far.
    done: usize,
    /// Guest time at which the next move is due.
    due: Option<Nanos>,
    refusals: Vec<Refusal>,
}

impl Journey {
    /// The journey of a machine that begins at guest time `now`.
    #[must_use]
    pub fn new(itinerary: Itinerary, now: Nanos) -> Self {
        let mut journey = Self { itinerary, done: 0, due: None, refusals: Vec::new() };
        journey.due = journey.next(now, now);
        journey
    }

    /// Moves that were refused.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// When the next move is due, if the machine began at `began` and the last one was at `now`.
    fn next(&self, began: Nanos, now: Nanos) -> Option<Nanos> {
        let after = |time: Nanos, duration: Duration| {
            time.after(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
        };
        match &self.itinerary {
            Itinerary::At(list) => list.get(self.done).map(|(at, _)| after(began, *at)),
            Itinerary::Every(_, among) if among.is_empty() => None,
            Itinerary::Every(every, _) => Some(after(now, *every)),
        }
    }

    /// Where the move that is due leads from `here`. An engine of a turn in which the guest is already is passed over.
    fn destination(&mut self, here: Pair) -> Option<Pair> {
        let to = match &self.itinerary {
            Itinerary::At(list) => list.get(self.done).map(|(_, to)| *to),
            Itinerary::Every(_, among) => {
                let turns = (0..among.len()).map(|turn| self.done + turn);
                let turn =
                    turns.map(|turn| (turn, among[turn % among.len()])).find(|(_, pair)| *pair != here);
                turn.map(|(turn, pair)| {
                    self.done = turn;
                    pair
                })
            }
        };
        self.done += 1;
        to
    }

    /// Makes the move that is due.
    fn go(&mut self, machine: &mut Machine, began: Nanos, told: &mut dyn FnMut(&Refusal)) {
        let from = machine.pair();
        if let Some(to) = self.destination(from)
            && let Err(error) = machine.move_to(to)
        {
            let reason = error.to_string();
            let same =
                |refusal: &&mut Refusal| (refusal.from, refusal.to, &refusal.reason) == (from, to, &reason);
            match self.refusals.iter_mut().find(same) {
                Some(refusal) => refusal.count += 1,
                None => {
                    let refusal = Refusal { from, to, reason, count: 1 };
                    told(&refusal);
                    self.refusals.push(refusal);
                }
            }
        }
        self.due = self.next(began, machine.platform().clock().now());
    }
}

impl Machine {
    /// As [`Machine::run`], with the moves of `journey` on the way. A move that is refused is `told`, once for each reason,
    /// and the guest goes on where it is.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_on_journey(
        &mut self,
        limits: &Limits,
        journey: &mut Journey,
        told: &mut dyn FnMut(&Refusal),
    ) -> Result<Stop, MachineError> {
        let start = Instant::now();
        let began = self.platform().clock().now();
        loop {
            let now = self.platform().clock().now();
            let left =
                limits.pause_after.map(|after| after.saturating_sub(Duration::from_nanos(now.since(began))));
            let until_move = journey.due.map(|due| Duration::from_nanos(due.since(now)));
            let moves_first = until_move.is_some_and(|until| left.is_none_or(|left| until < left));
            let leg = Limits {
                timeout: limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed())),
                pause_after: if moves_first { until_move } else { left },
                ..*limits
            };
            match self.run(&leg)? {
                Stop::Paused if moves_first => {
                    // Who watches a run looks now and then only, and a leg may be shorter than that.
                    if let Some(reason) = run::from_outside(limits, self.outlet.as_ref(), start) {
                        return reason;
                    }
                    journey.go(self, began, told);
                }
                stop => return Ok(stop),
            }
        }
    }
}
