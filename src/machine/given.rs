//! What comes to a machine from outside while it runs, handed over at a position of its own, so that it can be handed over
//! there again.
use super::Machine;
use super::run::Asked;
use crate::device::i8042::KeyStroke;
use serde::{Deserialize, Serialize};

/// Something that a person gives the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Given {
    /// Typed at its console.
    Console(Vec<u8>),
    /// Keys of its keyboard, which takes all of them or none.
    Keys(Vec<KeyStroke>),
}

impl Given {
    /// How much it is: bytes or strokes.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Console(bytes) => bytes.len(),
            Self::Keys(strokes) => strokes.len(),
        }
    }

    /// Parts it behind `length` bytes or strokes; the second part stays.
    #[must_use]
    pub fn take(&mut self, length: usize) -> Self {
        match self {
            Self::Console(bytes) => Self::Console(bytes.drain(..length.min(bytes.len())).collect()),
            Self::Keys(strokes) => Self::Keys(strokes.drain(..length.min(strokes.len())).collect()),
        }
    }
}

impl Machine {
    /// Hands something to the machine, which stands; timers that are due fire before. Says how much it took: no more than
    /// there is room for.
    pub fn give(&mut self, given: &Given) -> usize {
        self.fire_timers();
        match given {
            Given::Console(bytes) => self.pc.console_input().receive(bytes),
            Given::Keys(strokes) => {
                let taken = self.pc.screen().is_some_and(|screen| screen.strike(strokes));
                if taken { strokes.len() } else { 0 }
            }
        }
    }

    /// Fires the timers that are due, as the boot CPU does before its next turn.
    pub fn fire_timers(&mut self) {
        self.platform.timers().run_due(self.platform.clock().now());
    }

    /// For calling the machine out of a run.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell(self.pause.asked())
    }
}

/// Calls a machine out of its run, from any thread: it stops with [`super::Stop::Called`], the run under way or the next one.
#[derive(Clone, Debug)]
pub struct Bell(Asked);

impl Bell {
    /// Calls it.
    pub fn ring(&self) {
        self.0.ask();
    }
}
