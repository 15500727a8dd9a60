//! The command line: editing, what was written before, and completion.
use crate::debugger::catalogue;
use crate::debugger::symbols::Symbols;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Lines that are remembered.
const MOST: usize = 500;
/// Characters of a line.
const LONGEST: usize = 1000;
/// Candidates that are told.
const CANDIDATES: usize = 40;

/// What came of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Typed {
    /// It changed the line, or nothing.
    Taken,
    /// The line is done.
    Line(String),
    /// There are several ways to go on.
    Candidates(Vec<String>),
    /// It is not for the line.
    NotMine,
}

/// A line that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Prompt {
    text: Vec<char>,
    cursor: usize,
    history: Vec<String>,
    /// The place in `history` of what is shown, and what was written before.
    recalled: Option<(usize, Vec<char>)>,
}

impl Prompt {
    /// What is written.
    pub(super) fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// Characters before the cursor.
    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Whether nothing is written.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Writes this in place of what is there.
    pub(super) fn write(&mut self, text: &str) {
        self.text = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        self.cursor = self.text.len();
        self.recalled = None;
    }

    /// Puts in what was pasted, up to its first line end.
    pub(super) fn paste(&mut self, text: &str) {
        text.chars().take_while(|&c| c != '\n' && c != '\r').for_each(|c| self.insert(c));
    }

    fn insert(&mut self, c: char) {
        if !c.is_control() && self.text.len() < LONGEST {
            self.text.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    /// Takes a key. Symbols are for completion.
    pub(super) fn key(&mut self, key: KeyEvent, symbols: &Symbols) -> Typed {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return self.control(key.code);
        }
        match key.code {
            KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::ALT) => self.insert(c),
            KeyCode::Enter => return self.enter(),
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
            }
            KeyCode::Delete if self.cursor < self.text.len() => {
                self.text.remove(self.cursor);
            }
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Up => self.recall(true),
            KeyCode::Down => self.recall(false),
            KeyCode::Tab if !self.is_empty() => return self.complete(symbols),
            KeyCode::Backspace | KeyCode::Delete => {}
            _ => return Typed::NotMine,
        }
        Typed::Taken
    }

    /// Readline's.
    fn control(&mut self, code: KeyCode) -> Typed {
        match code {
            KeyCode::Char('a') => self.cursor = 0,
            KeyCode::Char('e') => self.cursor = self.text.len(),
            KeyCode::Char('k') => self.text.truncate(self.cursor),
            KeyCode::Char('u') => {
                self.text.drain(..self.cursor);
                self.cursor = 0;
            }
            KeyCode::Char('w') => {
                let before = &self.text[..self.cursor];
                let end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
                let start = before[..end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1);
                self.text.drain(start..self.cursor);
                self.cursor = start;
            }
            KeyCode::Char('p') => self.recall(true),
            KeyCode::Char('n') => self.recall(false),
            _ => return Typed::NotMine,
        }
        Typed::Taken
    }

    fn enter(&mut self) -> Typed {
        let line = self.text();
        self.write("");
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            if self.history.len() == MOST {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        Typed::Line(line)
    }

    fn recall(&mut self, earlier: bool) {
        let (place, written) = match self.recalled.take() {
            Some(recalled) => recalled,
            None => (self.history.len(), self.text.clone()),
        };
        let place = if earlier { place.saturating_sub(1) } else { (place + 1).min(self.history.len()) };
        match self.history.get(place) {
            Some(line) => {
                let line = line.clone();
                self.write(&line);
                self.recalled = Some((place, written));
            }
            None => {
                self.text = written;
                self.cursor = self.text.len();
            }
        }
    }

    /// Completes the word before the cursor: a command if it is the first one, else a symbol.
    fn complete(&mut self, symbols: &Symbols) -> Typed {
        let before: String = self.text[..self.cursor].iter().collect();
        let start = before.trim_end_matches(is_of_word).len();
        let word = &before[start..];
        let mut found: Vec<String> = if before[..start].trim().is_empty() {
            catalogue::ROWS
                .iter()
                .map(|row| row.name.to_owned())
                .filter(|name| name.starts_with(word))
                .collect()
        } else if word.is_empty() {
            return Typed::Taken;
        } else {
            symbols
                .matching(word)
                .map(|symbol| symbol.name.clone())
                .filter(|name| name.starts_with(word))
                .collect()
        };
        found.sort();
        found.dedup();
        let Some(mut shared) = found.first().cloned() else { return Typed::Taken };
        for name in &found {
            let same = shared.chars().zip(name.chars()).take_while(|(one, other)| one == other).count();
            shared = shared.chars().take(same).collect();
        }
        if found.len() == 1 && self.cursor == self.text.len() {
            shared.push(' ');
        }
        let known = word.chars().count();
        let more: Vec<char> = shared.chars().skip(known).collect();
        if more.is_empty() && found.len() > 1 {
            let left = found.len().saturating_sub(CANDIDATES);
            found.truncate(CANDIDATES);
            if left > 0 {
                found.push(format!("and {left} more"));
            }
            return Typed::Candidates(found);
        }
        more.into_iter().for_each(|c| self.insert(c));
        Typed::Taken
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | ':' | '.' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debugger::symbols::tests::sample;

    fn type_keys(prompt: &mut Prompt, keys: &str) -> Typed {
        let mut last = Typed::Taken;
        for c in keys.chars() {
            let (code, modifiers) = match c {
                '\n' => (KeyCode::Enter, KeyModifiers::NONE),
                '\t' => (KeyCode::Tab, KeyModifiers::NONE),
                '<' => (KeyCode::Left, KeyModifiers::NONE),
                '^' => (KeyCode::Up, KeyModifiers::NONE),
                '~' => (KeyCode::Down, KeyModifiers::NONE),
                '\x08' => (KeyCode::Backspace, KeyModifiers::NONE),
                '\x01'..='\x1a' => (KeyCode::Char(char::from(c as u8 + b'a' - 1)), KeyModifiers::CONTROL),
                c => (KeyCode::Char(c), KeyModifiers::NONE),
            };
            last = prompt.key(KeyEvent::new(code, modifiers), &sample());
        }
        last
    }

    #[test]
    fn a_line_is_edited() {
        let mut prompt = Prompt::default();
        type_keys(&mut prompt, "stpe<<\x08\x08\x08\x08x<");
        assert_eq!((prompt.text().as_str(), prompt.cursor()), ("xpe", 0));
        type_keys(&mut prompt, "\x05 3 4\x17");
        assert_eq!(prompt.text(), "xpe 3 ");
        type_keys(&mut prompt, "\x01\x0bstep 2");
        assert_eq!(type_keys(&mut prompt, "\n"), Typed::Line("step 2".to_owned()));
        assert!(prompt.is_empty());
        prompt.paste("break \u{1b}main\nrm");
        assert_eq!(prompt.text(), "break main");
    }

    #[test]
    fn what_was_written_before_comes_back() {
        let mut prompt = Prompt::default();
        type_keys(&mut prompt, "one\none\ntwo\n\nnew");
        type_keys(&mut prompt, "^");
        assert_eq!(prompt.text(), "two");
        type_keys(&mut prompt, "^^^");
        assert_eq!(prompt.text(), "one");
        type_keys(&mut prompt, "~~");
        assert_eq!(prompt.text(), "new");
    }

    #[test]
    fn commands_and_symbols_are_completed() {
        let mut prompt = Prompt::default();
        type_keys(&mut prompt, "disas\t");
        assert_eq!(prompt.text(), "disassemble ");
        type_keys(&mut prompt, "work\t");
        assert_eq!(prompt.text(), "disassemble workload_main ");
        prompt.write("reverse-");
        let candidates = ["reverse-continue", "reverse-next", "reverse-step"].map(str::to_owned).to_vec();
        assert_eq!(type_keys(&mut prompt, "\t"), Typed::Candidates(candidates));
        prompt.write("zzz");
        assert_eq!(type_keys(&mut prompt, "\t"), Typed::Taken);
        assert_eq!(prompt.text(), "zzz");
        prompt.write("{\u{dc80b}work");
        type_keys(&mut prompt, "\t");
        assert_eq!(prompt.text(), "{\u{dc80b}workload_main ");
    }
}
