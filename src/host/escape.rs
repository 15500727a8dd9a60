//! Keys that the terminal keeps for itself, for the guest: Ctrl-] and then a letter stands for Ctrl with that letter.
use std::io::{self, Read};

/// Ctrl-].
const PREFIX: u8 = 0x1d;

/// What is read from a terminal, with [`PREFIX`] and what follows it replaced.
#[derive(Debug)]
pub struct Escaped<R> {
    typed: R,
    /// The prefix was typed last.
    prefixed: bool,
}

impl<R: Read> Escaped<R> {
    /// What is typed at `typed`.
    pub fn new(typed: R) -> Self {
        Self { typed, prefixed: false }
    }
}

/// What a key stands for behind the prefix: Ctrl with it if there is such a character, else itself.
fn with_control(key: u8) -> u8 {
    match key {
        b'@'..=b'_' | b'a'..=b'z' => key & 0x1f,
        other => other,
    }
}

impl<R: Read> Read for Escaped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.typed.read(buffer)?;
            let mut kept = 0;
            for at in 0..length {
                let key = buffer[at];
                if std::mem::take(&mut self.prefixed) {
                    buffer[kept] = with_control(key);
                } else if key == PREFIX {
                    self.prefixed = true;
                    continue;
                } else {
                    buffer[kept] = key;
                }
                kept += 1;
            }
            // Nothing at all means the end.
            if kept > 0 || length == 0 {
                return Ok(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out at most so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(buffer.len()).min(self.0.len());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn read(typed: &[u8], at_a_time: usize) -> Vec<u8> {
        let mut all = Vec::new();
        Escaped::new(Slow(typed, at_a_time)).read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn letters_behind_the_prefix_are_control_characters() {
        for (typed, guest) in [
            (&b"a\x1dcb"[..], &b"a\x03b"[..]),
            (b"\x1dC\x1dz\x1d\\", b"\x03\x1a\x1c"),
            (b"\x1d]\x1d\x1d", b"\x1d\x1d"),
            (b"\x1d1\x1d\xc3x", b"1\xc3x"),
            (b"\x1d", b""),
        ] {
            assert_eq!(read(typed, 100), guest, "{typed:?}");
        }
    }

    proptest! {
        #[test]
        fn how_keys_arrive_does_not_matter(typed in prop::collection::vec(prop_oneof![Just(PREFIX), any::<u8>()], 0..40), n in 1usize..5) {
            prop_assert_eq!(read(&typed, n), read(&typed, 100));
        }

        #[test]
        fn all_else_stays(typed in "[^\u{1d}]{0,40}") {
            prop_assert_eq!(read(typed.as_bytes(), 7), typed.as_bytes());
        }
    }
}
