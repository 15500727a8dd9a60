//! When some words first came out of a guest's console.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Looks for words in a stream. Their first letter must not come again in them.
#[derive(Debug)]
pub(super) struct Lookout {
    words: &'static [u8],
    /// How many bytes of them came last.
    matched: usize,
    seen: Sighting,
}

/// When the words came, if they have. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sighting(Arc<OnceLock<Instant>>);

impl Lookout {
    /// Looks for `words`; the sighting is for whoever wants to know.
    pub(super) fn new(words: &'static str) -> (Lookout, Sighting) {
        let seen = Sighting::default();
        (Lookout { words: words.as_bytes(), matched: 0, seen: seen.clone() }, seen)
    }

    /// Takes bytes that have just come.
    pub(super) fn look(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.matched == self.words.len() {
                return;
            }
            let fits = *byte == self.words[self.matched];
            // No beginning of the words is in their midst.
            self.matched = if fits { self.matched + 1 } else { usize::from(*byte == self.words[0]) };
            if self.matched == self.words.len() {
                // Nobody else sets it.
                let _first = self.seen.0.set(Instant::now());
            }
        }
    }
}

impl Sighting {
    /// When the words came.
    pub(super) fn at(&self) -> Option<Instant> {
        self.0.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_are_found_however_they_come(text in "[abcx]{0,30}", sizes in prop::collection::vec(1usize..5, 30)) {
            let (mut lookout, seen) = Lookout::new("abcb");
            let mut rest = text.as_bytes();
            for size in sizes {
                let (now, later) = rest.split_at(size.min(rest.len()));
                lookout.look(now);
                rest = later;
            }
            lookout.look(rest);
            prop_assert_eq!(seen.at().is_some(), text.contains("abcb"));
        }
    }
}
