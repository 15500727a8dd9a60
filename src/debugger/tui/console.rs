//! What the guest prints, as lines of plain text: a guest does not write to the terminal.
use crate::machine::ConsoleSink;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines that are kept.
const MOST_LINES: usize = 2000;
/// Bytes of a line; the rest goes to the next one.
const LONGEST: usize = 1000;
const TAB: usize = 8;

/// The guest's printed lines. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Mutex<Text>>);

#[derive(Debug, Default)]
struct Text {
    lines: VecDeque<String>,
    /// The line that is being written, and where in it.
    line: Vec<u8>,
    column: usize,
    escape: Escape,
    /// Counts what came.
    version: u64,
}

/// How much of a control sequence (ECMA-48) was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Escape {
    #[default]
    None,
    /// ESC.
    Begun,
    /// CSI: up to a letter.
    Control,
    /// OSC and the like: up to BEL, or ESC \.
    String,
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever something is printed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The last `count` lines, oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<String> {
        let text = self.lock();
        let unfinished = (!text.line.is_empty()).then(|| plain(&text.line));
        let whole = count.saturating_sub(usize::from(unfinished.is_some()));
        let lines = text.lines.range(text.lines.len().saturating_sub(whole)..).cloned();
        lines.chain(unfinished).collect()
    }
}

impl ConsoleSink for Console {
    fn transmit(&mut self, bytes: &[u8]) {
        let mut text = self.lock();
        text.version += 1;
        bytes.iter().for_each(|&byte| text.take(byte));
    }
}

impl Text {
    fn take(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (Escape::None, 0x1b) => Escape::Begun,
            (Escape::None, _) => {
                self.print(byte);
                Escape::None
            }
            (Escape::Begun, b'[') => Escape::Control,
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => Escape::String,
            (Escape::Begun, 0x20..=0x2f) => Escape::Begun,
            (Escape::Begun, _) => Escape::None,
            (Escape::Control, b'K') => {
                self.line.truncate(self.column);
                Escape::None
            }
            (Escape::Control, 0x40..=0x7e) => Escape::None,
            (Escape::Control, _) => Escape::Control,
            (Escape::String, 0x07) => Escape::None,
            (Escape::String, 0x1b) => Escape::Begun,
            (Escape::String, _) => Escape::String,
        };
    }

    fn print(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => self.column = 0,
            0x08 => self.column = self.column.saturating_sub(1),
            b'\t' => {
                for _ in self.column % TAB..TAB {
                    self.put(b' ');
                }
            }
            0..=0x1f | 0x7f => {}
            byte => self.put(byte),
        }
    }

    fn put(&mut self, byte: u8) {
        if self.column >= LONGEST {
            self.end_line();
        }
        match self.line.get_mut(self.column) {
            Some(place) => *place = byte,
            None => self.line.push(byte),
        }
        self.column += 1;
    }

    fn end_line(&mut self) {
        if self.lines.len() == MOST_LINES {
            self.lines.pop_front();
        }
        let line = plain(&self.line);
        self.lines.push_back(line);
        self.line.clear();
        self.column = 0;
    }
}

/// UTF-8 without what is left of control characters.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> Vec<String> {
        let mut console = Console::default();
        console.transmit(text);
        console.last(100)
    }

    #[test]
    fn lines_are_kept_as_a_terminal_shows_them() {
        assert_eq!(shown(b"one\r\ntwo"), ["one", "two"]);
        assert_eq!(shown(b"10%\r20%\r\n"), ["20%"]);
        assert_eq!(shown(b"abc\x08d\n\tx"), ["abd", "        x"]);
        assert_eq!(shown("\u{fc}ber \u{2502}".as_bytes()), ["\u{fc}ber \u{2502}"]);
        assert_eq!(Console::default().last(3), [""; 0]);
    }

    #[test]
    fn control_sequences_do_not_reach_the_terminal() {
        assert_eq!(shown(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b(By\x1b[2J\x1b]t\x1b\\z"), ["red xyz"]);
        assert_eq!(shown(b"abc\rx\x1b[K"), ["x"]);
        assert!(shown(b"\x9b\xff\x00\x7fa\xc2\x9b1m").concat().chars().all(|c| !c.is_control()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut console = Console::default();
        console.transmit(&b"x\n".repeat(3 * MOST_LINES));
        assert_eq!(console.last(usize::MAX).len(), MOST_LINES);
        console.transmit(&[b'y'; 3 * LONGEST]);
        assert!(console.last(3).iter().all(|line| line.len() <= LONGEST));
        assert_eq!(console.last(1), ["y".repeat(LONGEST)]);
    }
}
