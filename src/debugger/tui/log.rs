//! Commands and their answers, as the prompt would show them.
use std::collections::VecDeque;

/// Lines that are kept.
const MOST: usize = 10_000;

/// Whose a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A person's.
    Written,
    /// The debugger's.
    Said,
    /// The debugger's, of what could not be done.
    Failed,
}

/// Lines, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    lines: VecDeque<(Kind, String)>,
    /// Counts what came.
    pub(super) version: u64,
}

impl Log {
    pub(super) fn written(&mut self, line: &str) {
        self.add(Kind::Written, line.trim());
    }

    pub(super) fn said(&mut self, text: &str) {
        text.lines().for_each(|line| self.add(Kind::Said, line));
    }

    pub(super) fn failed(&mut self, text: &str) {
        text.lines().for_each(|line| self.add(Kind::Failed, line));
    }

    fn add(&mut self, kind: Kind, line: &str) {
        if self.lines.len() == MOST {
            self.lines.pop_front();
        }
        self.lines.push_back((kind, line.to_owned()));
        self.version += 1;
    }

    /// The last `count` lines, oldest first.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &(Kind, String)> {
        self.lines.range(self.lines.len().saturating_sub(count)..)
    }
}
