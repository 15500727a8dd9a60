//! What the guest printed, counted, so that it is shown once: a guest that went back prints the same again.
use crate::machine::ConsoleSink;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The count of a guest's printed bytes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Printed(Arc<Mutex<Count>>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Bytes up to where the guest stands.
    at: u64,
    /// Bytes that were shown.
    shown: u64,
}

impl Printed {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A console that passes each byte on to `sink` once. The guest that it is for has printed nothing yet.
    #[must_use]
    pub fn once(&self, sink: Box<dyn ConsoleSink>) -> Box<dyn ConsoleSink> {
        *self.count() = Count::default();
        Box::new(Once { printed: self.clone(), sink })
    }

    /// How much the guest has printed where it stands.
    pub(super) fn at(&self) -> u64 {
        self.count().at
    }

    /// The guest stands where it had printed `at` bytes.
    pub(super) fn go_to(&self, at: u64) {
        self.count().at = at;
    }

    /// What the guest prints from here on is new.
    pub(super) fn begin_anew(&self) {
        let mut count = self.count();
        count.shown = count.at;
    }
}

struct Once {
    printed: Printed,
    sink: Box<dyn ConsoleSink>,
}

impl ConsoleSink for Once {
    fn transmit(&mut self, bytes: &[u8]) {
        let known = {
            let mut count = self.printed.count();
            let known = count.shown.saturating_sub(count.at).min(bytes.len() as u64) as usize;
            count.at += bytes.len() as u64;
            count.shown = count.shown.max(count.at);
            known
        };
        if known < bytes.len() {
            self.sink.transmit(&bytes[known..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Capture;

    #[test]
    fn what_is_printed_again_is_shown_once() {
        let (printed, capture) = (Printed::default(), Capture::new(1000));
        let mut console = printed.once(Box::new(capture.clone()));
        console.transmit(b"one two ");
        printed.go_to(4);
        console.transmit(b"tw");
        console.transmit(b"o three");
        assert_eq!(capture.text(), "one two three");
        printed.go_to(4);
        printed.begin_anew();
        console.transmit(b"more");
        assert_eq!((capture.text().as_str(), printed.at()), ("one two threemore", 8));
    }
}
