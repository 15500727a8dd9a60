//! What the user sees while a run goes on: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// Told how far a run has come. Called between measurements only, never in a timed region.
pub trait Progress {
    /// `total` runs are planned.
    fn begin(&mut self, total: usize);
    /// `done` runs are over; `next` says what comes.
    fn step(&mut self, done: usize, next: &str);
    /// Something the user should read at once.
    fn note(&mut self, words: &str);
    /// The run is over.
    fn end(&mut self);
}

/// Shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: usize) {}
    fn step(&mut self, _: usize, _: &str) {}
    fn note(&mut self, _: &str) {}
    fn end(&mut self) {}
}

/// A bar on standard error, with notes above it; without a terminal only the notes, a line each.
#[derive(Debug)]
pub struct Bar {
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Bar {
    /// A bar if standard error is a terminal.
    pub fn on_stderr() -> Bar {
        Bar { bar: None, terminal: io::stderr().is_terminal() }
    }
}

impl Progress for Bar {
    fn begin(&mut self, total: usize) {
        if self.terminal {
            let bar = ProgressBar::new(total as u64);
            // The bar draws on `step` alone: a drawing thread would disturb what is measured.
            if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {eta:>4} {wide_msg}") {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, done: usize, next: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(next.to_owned());
            bar.set_position(done as u64);
        }
    }

    fn note(&mut self, words: &str) {
        match &self.bar {
            Some(bar) => bar.println(words),
            // That nobody reads it is no reason to stop measuring.
            None => drop(writeln!(io::stderr(), "{words}")),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
