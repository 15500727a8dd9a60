//! Shows a text screen on a terminal: what has changed since the last time, by ECMA-48's control sequences.
use crate::device::vga::{Cell, TextScreen};
use std::fmt::Write;

/// A terminal's numbers of the VGA's colours, of which the first eight are in the order blue, green, red.
const COLOURS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// What a terminal shows of a screen.
#[derive(Debug, Default)]
pub struct Painter {
    shown: Option<TextScreen>,
}

impl Painter {
    /// What to print so that a terminal switches to a screen of its own for this.
    pub const BEGIN: &str = "\x1b[?1049h\x1b[2J";
    /// What to print so that it is again as it was before.
    pub const END: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

    /// What to print so that the terminal shows `screen`; empty if it does.
    pub fn paint(&mut self, screen: TextScreen) -> String {
        let old = self
            .shown
            .take()
            .filter(|old| old.columns == screen.columns && old.cells.len() == screen.cells.len());
        let mut text = String::new();
        if old.is_none() {
            text.push_str("\x1b[0m\x1b[2J");
        }
        let mut attribute = None;
        for (row, cells) in screen.rows().enumerate() {
            let before =
                old.as_ref().and_then(|old| old.cells.get(row * screen.columns..)).unwrap_or_default();
            let mut column = 0;
            while column < cells.len() {
                let changed = |at: usize| before.get(at) != cells.get(at);
                if !changed(column) {
                    column += 1;
                    continue;
                }
                let _never = write!(text, "\x1b[{};{}H", row + 1, column + 1);
                while column < cells.len() && changed(column) {
                    put(&mut text, cells[column], &mut attribute);
                    column += 1;
                }
            }
        }
        if attribute.is_some() {
            text.push_str("\x1b[0m");
        }
        if !text.is_empty() || old.as_ref().is_none_or(|old| old.cursor != screen.cursor) {
            let _never = match screen.cursor {
                Some((row, column)) => write!(text, "\x1b[{};{}H\x1b[?25h", row + 1, column + 1),
                None => write!(text, "\x1b[?25l"),
            };
        }
        self.shown = Some(screen);
        text
    }
}

fn put(text: &mut String, cell: Cell, attribute: &mut Option<u8>) {
    if attribute.replace(cell.attribute) != Some(cell.attribute) {
        let (front, back) = (cell.attribute & 0xf, cell.attribute >> 4 & 7);
        let bright = if front & 8 != 0 { 90 } else { 30 };
        let _never = write!(
            text,
            "\x1b[{};{}m",
            bright + COLOURS[usize::from(front & 7)],
            40 + COLOURS[usize::from(back)]
        );
    }
    text.push(cell.glyph());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(lines: [&str; 2], cursor: Option<(usize, usize)>) -> TextScreen {
        let cells = lines
            .iter()
            .flat_map(|line| format!("{line:6}").into_bytes())
            .map(|character| Cell { character, attribute: 0x1e })
            .collect();
        TextScreen { columns: 6, cells, cursor }
    }

    #[test]
    fn only_what_changed_is_painted() {
        let mut painter = Painter::default();
        let whole = painter.paint(screen(["ab", "cd"], Some((1, 2))));
        assert_eq!(whole, "\x1b[0m\x1b[2J\x1b[1;1H\x1b[93;44mab    \x1b[2;1Hcd    \x1b[0m\x1b[2;3H\x1b[?25h");
        assert_eq!(painter.paint(screen(["ab", "cd"], Some((1, 2)))), "");
        assert_eq!(painter.paint(screen(["ab", "cd"], None)), "\x1b[?25l");
        let change = painter.paint(screen(["ab", "cx"], None));
        assert_eq!(change, "\x1b[2;2H\x1b[93;44mx\x1b[0m\x1b[?25l");
        let narrower = TextScreen { columns: 3, ..screen(["ab", "cd"], None) };
        assert!(painter.paint(narrower).starts_with("\x1b[0m\x1b[2J"));
    }
}
