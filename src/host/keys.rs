//! What a person types at a terminal, as strokes of a keyboard with a US layout.
use crate::device::i8042::KeyStroke;

/// Codes of set 1 of what is not printed.
const ESCAPE: u8 = 0x01;
const BACKSPACE: u8 = 0x0e;
const TAB: u8 = 0x0f;
const ENTER: u8 = 0x1c;
const CONTROL: u8 = 0x1d;
const SHIFT: u8 = 0x2a;
const ALT: u8 = 0x38;

/// The rows of the keyboard: code of the first key, what is on the keys, and what is with shift.
const ROWS: [(u8, &[u8], &[u8]); 6] = [
    (0x02, b"1234567890-=", b"!@#$%^&*()_+"),
    (0x10, b"qwertyuiop[]", b"QWERTYUIOP{}"),
    (0x1e, b"asdfghjkl;'`", b"ASDFGHJKL:\"~"),
    (0x2b, b"\\zxcvbnm,./", b"|ZXCVBNM<>?"),
    (0x39, b" ", b" "),
    (TAB, b"\t", b"\t"),
];

/// What follows ESC [ or ESC O, the key's code, and whether it is an extended one.
const SEQUENCES: [(&[u8], u8, bool); 30] = [
    (b"A", 0x48, true),
    (b"B", 0x50, true),
    (b"C", 0x4d, true),
    (b"D", 0x4b, true),
    (b"H", 0x47, true),
    (b"F", 0x4f, true),
    (b"1~", 0x47, true),
    (b"2~", 0x52, true),
    (b"3~", 0x53, true),
    (b"4~", 0x4f, true),
    (b"5~", 0x49, true),
    (b"6~", 0x51, true),
    (b"P", 0x3b, false),
    (b"Q", 0x3c, false),
    (b"R", 0x3d, false),
    (b"S", 0x3e, false),
    (b"11~", 0x3b, false),
    (b"12~", 0x3c, false),
    (b"13~", 0x3d, false),
    (b"14~", 0x3e, false),
    (b"15~", 0x3f, false),
    (b"17~", 0x40, false),
    (b"18~", 0x41, false),
    (b"19~", 0x42, false),
    (b"20~", 0x43, false),
    (b"21~", 0x44, false),
    (b"23~", 0x57, false),
    (b"24~", 0x58, false),
    (b"7~", 0x47, true),
    (b"8~", 0x4f, true),
];

/// The strokes for what was typed first of `bytes`, and of how many bytes that is; nothing of no bytes. What no key
/// makes has no strokes.
#[must_use]
pub fn first(bytes: &[u8]) -> Option<(usize, Vec<KeyStroke>)> {
    let (&byte, rest) = bytes.split_first()?;
    if byte != 0x1b {
        return Some((1, printed(byte)));
    }
    if let Some(introduced) = rest.strip_prefix(b"[").or_else(|| rest.strip_prefix(b"O")) {
        let found = SEQUENCES.iter().find(|(sequence, ..)| introduced.starts_with(sequence));
        return Some(match found {
            Some(&(sequence, code, extended)) => (2 + sequence.len(), pressed(&[], code, extended)),
            // One that is not known, up to its last byte.
            None => {
                let end = introduced.iter().position(|byte| matches!(byte, 0x40..=0x7e));
                (2 + end.map_or(introduced.len(), |end| end + 1), vec![])
            }
        });
    }
    match rest.first() {
        // A terminal says so of a key that is pressed with Alt.
        Some(&with) if with != 0x1b => {
            let mut strokes = vec![stroke(ALT, false, true)];
            strokes.extend(printed(with));
            strokes.push(stroke(ALT, false, false));
            Some((2, strokes))
        }
        _ => Some((1, pressed(&[], ESCAPE, false))),
    }
}

fn stroke(code: u8, extended: bool, down: bool) -> KeyStroke {
    KeyStroke { code, extended, down }
}

/// A key that is pressed and released while others are held.
fn pressed(held: &[u8], code: u8, extended: bool) -> Vec<KeyStroke> {
    let down = held.iter().map(|&code| stroke(code, false, true));
    let up = held.iter().rev().map(|&code| stroke(code, false, false));
    down.chain([stroke(code, extended, true), stroke(code, extended, false)]).chain(up).collect()
}

fn printed(byte: u8) -> Vec<KeyStroke> {
    let find = |byte: u8| {
        ROWS.iter().find_map(|(first, plain, shifted)| {
            let at = |keys: &[u8]| keys.iter().position(|&key| key == byte).map(|i| first + i as u8);
            at(plain).map(|code| (code, false)).or_else(|| at(shifted).map(|code| (code, true)))
        })
    };
    match byte {
        b'\r' | b'\n' => pressed(&[], ENTER, false),
        0x08 | 0x7f => pressed(&[], BACKSPACE, false),
        0x01..=0x1a if byte != b'\t' => {
            find(byte | 0x60).map_or(vec![], |(code, _)| pressed(&[CONTROL], code, false))
        }
        _ => find(byte)
            .map_or(vec![], |(code, shift)| pressed(if shift { &[SHIFT] } else { &[] }, code, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of set 1, as the keys would send them.
    fn codes(bytes: &[u8]) -> (usize, Vec<u8>) {
        let (length, strokes) = first(bytes).unwrap();
        (length, strokes.iter().map(|s| s.code | if s.down { 0 } else { 0x80 }).collect())
    }

    #[test]
    fn characters_are_keys_with_or_without_shift() {
        assert_eq!(codes(b"ab"), (1, vec![0x1e, 0x9e]));
        assert_eq!(codes(b"A"), (1, vec![0x2a, 0x1e, 0x9e, 0xaa]));
        assert_eq!(codes(b"?"), (1, vec![0x2a, 0x35, 0xb5, 0xaa]));
        assert_eq!(codes(b" "), (1, vec![0x39, 0xb9]));
        assert_eq!(codes(b"\n"), (1, vec![0x1c, 0x9c]));
        assert_eq!(codes(b"\t"), (1, vec![0x0f, 0x8f]));
        assert_eq!(codes(b"\x7f"), (1, vec![0x0e, 0x8e]));
        assert_eq!(codes(b"\x04"), (1, vec![0x1d, 0x20, 0xa0, 0x9d]), "Ctrl-D");
        assert_eq!(codes("ä".as_bytes()), (1, vec![]));
        for byte in 0x20..0x7f_u8 {
            assert!(!codes(&[byte]).1.is_empty(), "{byte:#x}");
        }
        assert_eq!(first(b""), None);
    }

    #[test]
    fn escape_sequences_are_keys() {
        assert_eq!(codes(b"\x1b"), (1, vec![0x01, 0x81]));
        assert_eq!(codes(b"\x1b\x1b"), (1, vec![0x01, 0x81]));
        assert_eq!(codes(b"\x1b[Ax"), (3, vec![0x48, 0xc8]));
        assert_eq!(codes(b"\x1bOP"), (3, vec![0x3b, 0xbb]));
        assert_eq!(codes(b"\x1b[24~"), (5, vec![0x58, 0xd8]));
        assert_eq!(codes(b"\x1bx"), (2, vec![0x38, 0x2d, 0xad, 0xb8]), "Alt");
        assert_eq!(codes(b"\x1b[1;5Cx"), (6, vec![]), "not known");
        assert!(first(b"\x1b[A").unwrap().1.iter().all(|stroke| stroke.extended));
    }
}
