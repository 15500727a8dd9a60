//! What came from outside, handed to a machine again where it came.
use super::{Input, position};
use crate::machine::{Given, Limits, Machine, MachineError, Stop};
use std::sync::Arc;

/// Inputs, and which of them come next.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    inputs: Arc<[Input]>,
    next: usize,
    /// The position at which somebody ended the recorded run.
    end: Option<u64>,
}

impl Tape {
    pub(super) fn new(inputs: Vec<Input>, end: Option<u64>) -> Self {
        Self { inputs: inputs.into(), next: 0, end }
    }

    /// Where somebody ended the recorded run. One that the guest ended ends by itself.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// The machine stands at another position now, before anything came there.
    pub fn go_to(&mut self, position: u64) {
        self.next = self.inputs.partition_point(|input| input.position < position);
    }

    /// Hands over all that came where the machine stands; false if it did not take what it took then.
    pub fn feed(&mut self, machine: &mut Machine) -> bool {
        let here = position(machine);
        let mut all = true;
        while let Some(input) = self.inputs.get(self.next).filter(|input| input.position <= here) {
            all &= input.position == here && machine.give(&input.given) == input.given.length();
            self.next += 1;
        }
        all
    }

    /// From now on this comes at `position`, where the machine stands and has it already, and nothing that came later does.
    pub fn put_in(&mut self, position: u64, given: Given) {
        let kept = self.inputs.partition_point(|input| input.position <= position);
        self.inputs = self.inputs[..kept].iter().cloned().chain([Input { position, given }]).collect();
        self.next = self.inputs.len();
    }

    /// As [`Machine::run`], with what came on the way; stops where somebody ended the recorded run, too, with
    /// [`Stop::Position`]. A call ([`crate::machine::Bell`]) is not heeded.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run(&mut self, machine: &mut Machine, limits: &Limits) -> Result<Stop, MachineError> {
        let mut limits = *limits;
        loop {
            let stop = self.run_until_called(machine, &limits)?;
            if stop != Stop::Called {
                return Ok(stop);
            }
            limits.goes_on = true;
        }
    }

    /// As [`Self::run`]; a call ends it with [`Stop::Called`].
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_until_called(&mut self, machine: &mut Machine, limits: &Limits) -> Result<Stop, MachineError> {
        let mut goes_on = limits.goes_on;
        loop {
            self.feed(machine);
            let next = self.inputs.get(self.next).map(|input| input.position);
            let last = [limits.until, self.end].into_iter().flatten().min();
            let until = [last, next].into_iter().flatten().min();
            let stop = machine.run(&Limits { until, goes_on, ..*limits })?;
            if stop != Stop::Position || until == last {
                return Ok(stop);
            }
            goes_on = true;
        }
    }
}
