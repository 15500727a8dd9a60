//! Reads Rust sources just well enough for the architecture test: without comments and strings, and as paths.
use std::fs;
use std::path::Path;

/// One source file.
pub(crate) struct Source {
    /// From the package's root, with `/`.
    pub(crate) path: String,
    /// The text with comments and the contents of strings taken out; lines stay lines.
    pub(crate) code: String,
    /// How many lines it has.
    pub(crate) lines: usize,
    /// Whether the whole file is for tests, by its name or folder. Test modules at the end of a file are not told apart.
    pub(crate) is_test: bool,
}

/// A path `crate::<room>` or, in the binary, `trivisor::<room>`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// The first word.
    pub(crate) room: String,
    /// The word after it, if there is exactly one: none before a brace.
    pub(crate) next: Option<String>,
    /// Where, from 1.
    pub(crate) line: usize,
}

/// The room that a file of `src/` belongs to: its folder, or its own name.
pub(crate) fn room_of(path: &str) -> Option<String> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

impl Source {
    /// All `.rs` files below `folder`.
    pub(crate) fn read_all(root: &Path, folder: &Path) -> Vec<Self> {
        let mut all = vec![];
        let entries = fs::read_dir(root.join(folder)).expect("a folder of the package can be read");
        for entry in entries {
            let name = entry.expect("a folder of the package can be read").file_name();
            let path = folder.join(&name);
            if root.join(&path).is_dir() {
                if name != "target" {
                    all.extend(Self::read_all(root, &path));
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(root.join(&path)).expect("a source is UTF-8");
                all.push(Self::new(&path.to_string_lossy(), &text));
            }
        }
        all
    }

    /// A source with this text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let stem = path.trim_end_matches(".rs");
        Self {
            path: path.to_owned(),
            code: code_of(text),
            lines: text.lines().count(),
            is_test: stem.split('/').any(|part| part == "tests" || part.ends_with("_tests")),
        }
    }

    /// Whether a text stands in the code.
    pub(crate) fn has_word(&self, text: &str) -> bool {
        self.code.contains(text)
    }

    /// The first line that has `word` as a whole word.
    pub(crate) fn line_of_word(&self, word: &str) -> Option<usize> {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let found = self.code.match_indices(word).find(|(at, _)| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        });
        found.map(|(at, _)| self.line_at(at))
    }

    fn line_at(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// All paths into rooms.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let prefixes: &[&str] =
            if self.path == "src/main.rs" { &["crate::", "trivisor::"] } else { &["crate::"] };
        let mut all = vec![];
        for (at, prefix) in prefixes.iter().flat_map(|p| self.code.match_indices(p)) {
            let line = self.line_at(at);
            let rest = &self.code[at + prefix.len()..];
            for item in items(rest) {
                let mut words = item.split("::").map(str::trim);
                let room = word_at_start(words.next().unwrap_or_default());
                let next = words.next().map(word_at_start).filter(|w| !w.is_empty());
                if !room.is_empty() {
                    all.push(Import { room, next, line });
                }
            }
        }
        all
    }
}

fn word_at_start(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The items of a path: one, or those of a brace, whose own braces stay with them.
fn items(rest: &str) -> Vec<&str> {
    let trimmed = rest.trim_start();
    let Some(inside) = trimmed.strip_prefix('{') else {
        // Up to what ends a path. The second word matters too, the rest does not.
        let end = trimmed.find(|c: char| !(c.is_alphanumeric() || "_:{ ".contains(c)));
        return vec![&trimmed[..end.unwrap_or(trimmed.len())]];
    };
    let (mut depth, mut from, mut all) = (0_u32, 0, vec![]);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                all.push(&inside[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    all
}

/// The text without comments and without what stands in strings and characters.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    // Copies line ends only, so that lines keep their numbers.
    let blank = |code: &mut String, from: usize, to: usize| {
        code.extend(text[from..to].chars().filter(|c| *c == '\n'));
        code.push(' ');
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw_string(rest, code.chars().next_back()) {
            at + length
        } else if rest.starts_with('"') {
            at + quoted(rest, b'"')
        } else if let Some(length) = character(rest) {
            at + length
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            code.push(c);
            at += c.len_utf8();
            continue;
        };
        blank(&mut code, at, end);
        at = end;
    }
    code
}

/// Length of a block comment, which may hold others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a raw string at the start, with its prefix; `before` is the character in front of it.
fn raw_string(rest: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let prefix = ["br", "cr", "r"].into_iter().find(|p| rest.starts_with(p))?;
    let hashes = rest[prefix.len()..].bytes().take_while(|b| *b == b'#').count();
    let body = prefix.len() + hashes;
    if !rest[body..].starts_with('"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let length = rest[body + 1..].find(&close).map_or(rest.len(), |at| body + 1 + at + close.len());
    Some(length)
}

/// Length of a quoted text at the start.
fn quoted(rest: &str, quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest.as_bytes()[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character at the start, as against a lifetime.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted(rest, b'\''));
    }
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(text: &str) -> Vec<(String, Option<String>, usize)> {
        Source::new("src/x/mod.rs", text).imports().into_iter().map(|i| (i.room, i.next, i.line)).collect()
    }

    fn import(room: &str, next: Option<&str>, line: usize) -> (String, Option<String>, usize) {
        (room.to_owned(), next.map(str::to_owned), line)
    }

    #[test]
    fn paths_are_found_in_each_form() {
        assert_eq!(imports("use crate::arch::{Gpa, Gva};"), [import("arch", None, 1)]);
        assert_eq!(imports("\nfn f() { crate::sys::tsc::read() }"), [import("sys", Some("tsc"), 2)]);
        assert_eq!(imports("use crate::abi;"), [import("abi", None, 1)]);
        assert_eq!(
            imports("pub use crate::{arch, bus::{self, Bus},\n mem::ram::Slot};"),
            [import("arch", None, 1), import("bus", None, 1), import("mem", Some("ram"), 1)]
        );
        assert_eq!(imports("macro_rules! m { () => { $crate::pv::f() } }"), [import("pv", Some("f"), 1)]);
        assert_eq!(imports("vec![crate::bus::Bus]"), [import("bus", Some("Bus"), 1)]);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = r####"// crate::a
/* crate::b /* crate::c */ crate::d
*/ let s = "crate::e \" crate::f"; let r = r#"crate::g " "#; let c = '"'; let q = '\'';
fn f<'a>(x: &'a str) { crate::h::i(x) } // unsafe
let b = b"crate::j"; let other = br"crate::k";"####;
        assert_eq!(imports(text), [import("h", Some("i"), 4)]);
        assert_eq!(Source::new("x", text).line_of_word("unsafe"), None);
    }

    #[test]
    fn words_are_whole() {
        let source = Source::new("x", "unsafe_code\n not_unsafe\n{ unsafe{} }");
        assert_eq!(source.line_of_word("unsafe"), Some(3));
    }

    #[test]
    fn rooms_are_folders_or_files() {
        assert_eq!(room_of("src/abi.rs").as_deref(), Some("abi"));
        assert_eq!(room_of("src/device/cmos/mod.rs").as_deref(), Some("device"));
        assert_eq!(room_of("tests/modes.rs"), None);
    }

    #[test]
    fn test_files_are_known_by_their_names() {
        let is_test = |path: &str| Source::new(path, "").is_test;
        assert!(is_test("src/a/tests.rs") && is_test("src/a/tests/rig.rs") && is_test("src/a/b_tests.rs"));
        assert!(!is_test("src/a/mod.rs"));
    }
}
