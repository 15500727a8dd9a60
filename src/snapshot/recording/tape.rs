//! What came from outside, handed to a machine again where it came.
use super::{Input, position};
use crate::machine::{Limits, Machine, MachineError, Stop};
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

    /// As [`Machine::run`], with what came on the way; stops where somebody ended the recorded run, too, with
    /// [`Stop::Position`].
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run(&mut self, machine: &mut Machine, limits: &Limits) -> Result<Stop, MachineError> {
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
