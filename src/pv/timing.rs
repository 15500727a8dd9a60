//! How long the engine keeps the guest waiting for one patched instruction.
//!
//! From the moment in which the engine sees the report to that in which it lets the child go on. It is told only
//! where executing that one instruction is all that happened in between: no interrupt was entered, the run was not left,
//! no code was scanned.
use crate::sys::tsc;

/// What happened since the child's last report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Timing {
    /// Something that is not to be timed.
    #[default]
    Spoilt,
    /// Nothing; the TSC then.
    Reported(u64),
    /// A patched instruction was executed.
    Executed {
        /// The TSC at the report.
        since: u64,
        /// Where the instruction is.
        address: u64,
    },
}

impl Timing {
    /// The child has reported, just now.
    pub(super) fn reported() -> Self {
        Self::Reported(tsc::read())
    }

    /// The engine has attempted one instruction, `patched` if that was an execution of a patched one there.
    pub(super) fn attempted(&mut self, patched: Option<u64>) {
        *self = match (*self, patched) {
            (Self::Reported(since), Some(address)) => Self::Executed { since, address },
            _ => Self::Spoilt,
        };
    }

    /// Something else has happened.
    pub(super) fn spoil(&mut self) {
        *self = Self::Spoilt;
    }

    /// The child goes on now: the address of the instruction and the ticks that it took, if they are to be told.
    pub(super) fn released(&mut self) -> Option<(u64, u64)> {
        match std::mem::take(self) {
            Self::Executed { since, address } => Some((address, tsc::read().wrapping_sub(since))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instruction_alone_is_timed() {
        let mut timing = Timing::reported();
        timing.attempted(Some(5));
        assert_eq!(timing.released().map(|(at, _)| at), Some(5));
        assert_eq!(timing.released(), None);
        for spoil in [(|t| t.attempted(None)) as fn(&mut Timing), |t| t.attempted(Some(6)), |t| t.spoil()] {
            let mut timing = Timing::reported();
            timing.attempted(Some(5));
            spoil(&mut timing);
            assert_eq!(timing.released(), None);
        }
        assert_eq!(Timing::reported().released(), None);
    }
}
