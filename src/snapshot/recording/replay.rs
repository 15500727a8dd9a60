//! Runs a recording again, and compares.
use super::{How, MARK, Recording, RecordingError, checksum_of_cpu, end_of, position};
use crate::machine::{Limits, Machine, SavedMachine, Stop};
use std::time::Instant;

/// How running a recording again ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// As the recorded run did, everything being the same.
    Same(How),
    /// A limit came before.
    Stopped(Stop),
}

impl Recording {
    /// Runs a machine, which this recording has built, to the recording's end.
    ///
    /// # Errors
    /// [`RecordingError::Diverged`] if it does something else.
    pub fn replay(&self, machine: &mut Machine, limits: &Limits) -> Result<Replayed, RecordingError> {
        let log = &self.log;
        let (start, mut tape, mut agreed) = (Instant::now(), self.tape(), 0);
        let mut marks = log.marks.iter().peekable();
        let stop = loop {
            let mark = marks.peek().map(|mark| mark.position);
            let timeout = limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            // Without a mark: so that one that never comes to its end is found out.
            let until = mark.unwrap_or(u64::MAX).min(position(machine).saturating_add(MARK));
            let stop =
                tape.run(machine, &Limits { until: Some(until), timeout, goes_on: true, ..*limits })?;
            if stop != Stop::Position {
                break stop;
            }
            let here = position(machine);
            if let Some(mark) = marks.next_if(|mark| mark.position == here) {
                if checksum_of_cpu(machine)? != mark.cpu {
                    let what = "its registers are others".to_owned();
                    return Err(RecordingError::Diverged { agreed, position: here, what });
                }
                agreed = here;
            }
            if tape.end().is_some_and(|end| here >= end) {
                // What came at the very end.
                tape.feed(machine);
                break stop;
            }
            if here > log.end.position {
                break stop;
            }
        };
        if matches!(stop, Stop::Timeout | Stop::Interrupted | Stop::Paused) {
            return Ok(Replayed::Stopped(stop));
        }
        let how = How::of(stop);
        let diverged = |position, what: String| RecordingError::Diverged { agreed, position, what };
        let at = position(machine);
        // A guest that has ended does so at its last turn.
        if at != log.end.position || how != log.end.how {
            let then = (log.end.position, log.end.how);
            return Err(diverged(at, format!("it ended ({how:?}), and not at {} ({:?})", then.0, then.1)));
        }
        let end = end_of(machine, how)?;
        match difference(&end.state, &log.end.state) {
            Some(what) => Err(diverged(at, format!("{what} is another"))),
            None if end.ram != log.end.ram => Err(diverged(at, "its memory is another".to_owned())),
            None => Ok(Replayed::Same(how)),
        }
    }
}

/// What is different about two states.
fn difference(a: &SavedMachine, b: &SavedMachine) -> Option<String> {
    let part = a.parts.iter().zip(&b.parts).find(|(a, b)| a != b);
    match () {
        () if a.cpus != b.cpus => Some("the state of its CPU".to_owned()),
        () if a.clock != b.clock => Some("its time".to_owned()),
        () => part
            .map(|(part, _)| format!("the state of {}", part.name))
            .or_else(|| (a != b).then(|| "its state".to_owned())),
    }
}
