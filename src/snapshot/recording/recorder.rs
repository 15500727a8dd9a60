//! Records a run: inputs are handed over where the machine stands still, and that place is noted.
use super::file::Unwritten;
use super::{End, How, Input, Log, MARK, Mark, Recording, RecordingError, checksum_of_cpu, end_of, position};
use crate::engine::Progress;
use crate::machine::{Bell, Given, Limits, Machine, MachineError, Stop};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Inputs, counted in bytes and keys, that one recording keeps.
const MOST: usize = 16 << 20;
/// Turns after which an input that the machine had no room for is offered again.
const AGAIN: u64 = 4 * Progress::EPOCH;

/// Takes what comes from outside for a machine whose run is recorded, from any thread.
#[derive(Clone, Debug)]
pub struct Mailbox {
    waiting: Arc<Mutex<Option<Given>>>,
    bell: Bell,
}

impl Mailbox {
    fn waiting(&self) -> MutexGuard<'_, Option<Given>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers something; false if what was offered before has not been taken yet.
    #[must_use]
    pub fn offer(&self, given: Given) -> bool {
        let mut waiting = self.waiting();
        let free = waiting.is_none();
        if free {
            *waiting = Some(given);
        }
        drop(waiting);
        self.bell.ring();
        free
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct Recorder {
    file: Unwritten,
    mailbox: Mailbox,
    name: String,
    inputs: Vec<Input>,
    length: usize,
    marks: Vec<Mark>,
}

impl Recorder {
    /// Begins to record a machine that counts its time, and stands. The recording gets its name when it is finished.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn begin(machine: &mut Machine, path: &Path, name: &str) -> Result<Self, RecordingError> {
        let file = Unwritten::begin(machine, path)?;
        let mailbox = Mailbox { waiting: Arc::default(), bell: machine.bell() };
        Ok(Self { file, mailbox, name: name.to_owned(), inputs: vec![], length: 0, marks: vec![] })
    }

    /// Where what comes from outside is to be put.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Hands over what waits, as far as there is room, and notes where. Whether something is left.
    fn deliver(&mut self, machine: &mut Machine) -> bool {
        let mut waiting = self.mailbox.waiting();
        let Some(given) = waiting.as_mut() else { return false };
        let taken = machine.give(given);
        if taken > 0 {
            let (position, given) = (position(machine), given.take(taken));
            self.inputs.push(Input { position, given });
            self.length += taken;
        }
        if given.length() == 0 {
            *waiting = None;
        }
        waiting.is_some()
    }

    /// As [`Machine::run`], and records it.
    ///
    /// # Errors
    /// As [`Machine::run`]; [`RecordingError::Full`].
    pub fn run(&mut self, machine: &mut Machine, limits: &Limits) -> Result<Stop, RecordingError> {
        let start = std::time::Instant::now();
        loop {
            let left = self.deliver(machine);
            if self.length > MOST {
                return Err(RecordingError::Full(self.file.path().to_owned()));
            }
            let here = position(machine);
            let mark = (here / MARK + 1).saturating_mul(MARK);
            let again = if left { here + AGAIN } else { u64::MAX };
            let timeout = limits.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let until = Some(mark.min(again));
            let stop = machine.run(&Limits { until, timeout, goes_on: true, ..*limits })?;
            match stop {
                Stop::Position if position(machine) == mark => {
                    self.marks.push(Mark { position: mark, cpu: checksum_of_cpu(machine)? });
                }
                Stop::Position | Stop::Called => {}
                stop => return Ok(stop),
            }
        }
    }

    /// Writes the recording, of a run that ended so, under its name.
    ///
    /// # Errors
    /// [`RecordingError`]; no recording is there then.
    pub fn finish(self, machine: &mut Machine, stop: Stop) -> Result<(), RecordingError> {
        let end =
            end_of(machine, How::of(stop)).map_err(|error: MachineError| RecordingError::from(error))?;
        let Self { file, name, inputs, marks, .. } = self;
        file.finish(&Log { name, inputs, marks, end })
    }
}

impl Recording {
    /// What came from outside, to be handed over again.
    #[must_use]
    pub fn tape(&self) -> super::Tape {
        let End { position, how, .. } = self.log.end;
        super::Tape::new(self.log.inputs.clone(), (how == How::Stopped).then_some(position))
    }
}
