//! The text screen: what the registers make of video memory.
use super::glyphs::GLYPHS;
use super::spec::{self, crtc};
use super::{State, Vga};
use crate::arch::Gpa;
use crate::mem::GuestRam;

/// Rows and columns at most: what a terminal may be asked to show.
const MOST_COLUMNS: usize = 256;
const MOST_ROWS: usize = 128;
/// Bytes of video memory in text mode; addresses wrap in it.
const MEMORY: usize = 32 << 10;
/// Where it begins, for a colour and for a monochrome adapter.
const COLOUR: Gpa = Gpa(0xb_8000);
const MONOCHROME: Gpa = Gpa(0xb_0000);

/// One place on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cell {
    /// In code page 437.
    pub character: u8,
    /// Colours: the character's in bits 3–0, the background's in bits 6–4; bit 7 blinks.
    pub attribute: u8,
}

impl Cell {
    /// What it looks like.
    #[must_use]
    pub fn glyph(self) -> char {
        GLYPHS[usize::from(self.character)]
    }
}

/// A screen of text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextScreen {
    /// Characters in a row, at least 1.
    pub columns: usize,
    /// Row by row.
    pub cells: Vec<Cell>,
    /// Row and column of the cursor, if there is one.
    pub cursor: Option<(usize, usize)>,
}

impl TextScreen {
    /// The rows, from the top.
    pub fn rows(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks(self.columns.max(1))
    }

    /// The rows as text, without the blanks at their ends.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.rows()
            .map(|row| row.iter().map(|cell| cell.glyph()).collect::<String>().trim_end().to_owned())
            .collect()
    }
}

impl State {
    fn word(&self, high: usize) -> usize {
        usize::from(self.crtc[high]) << 8 | usize::from(self.crtc[high + 1])
    }

    fn is_graphics(&self) -> bool {
        self.graphics[spec::GRAPHICS_MISC] & 1 != 0
    }

    /// Rows that are displayed: scan lines by a character's height.
    fn rows(&self) -> usize {
        let overflow = usize::from(self.crtc[crtc::OVERFLOW]);
        let lines = usize::from(self.crtc[crtc::DISPLAYED_LINES])
            | (overflow >> 1 & 1) << 8
            | (overflow >> 6 & 1) << 9;
        let height = usize::from(self.crtc[crtc::HEIGHT] & 0x1f) + 1;
        ((lines + 1) / height).clamp(1, MOST_ROWS)
    }
}

impl Vga {
    /// The screen as it is now, with its text in `ram`; `None` in graphics modes, and where there is no such memory.
    #[must_use]
    pub fn text(&self, ram: &GuestRam) -> Option<TextScreen> {
        let s = &self.state;
        if s.is_graphics() {
            return None;
        }
        let from = if s.graphics[spec::GRAPHICS_MISC] >> 2 & 3 == 2 { MONOCHROME } else { COLOUR };
        let mut memory = vec![0; MEMORY];
        ram.read(from, &mut memory).ok()?;
        let columns = (usize::from(s.crtc[crtc::DISPLAYED_COLUMNS]) + 1).min(MOST_COLUMNS);
        let (rows, start) = (s.rows(), s.word(crtc::START_HIGH));
        let pitch = 2 * usize::from(s.crtc[crtc::PITCH]);
        let shown = s.attribute_index & spec::ATTRIBUTE_ON != 0;
        let cell = |row: usize, column: usize| {
            let at = 2 * (start + row * pitch + column) % MEMORY;
            Cell { character: memory[at], attribute: memory[at + 1] }
        };
        let cells = (0..rows * columns)
            .map(|i| if shown { cell(i / columns, i % columns) } else { Cell::default() })
            .collect();
        let visible = s.crtc[crtc::CURSOR_START] & crtc::CURSOR_OFF == 0;
        let cursor = s.word(crtc::CURSOR_HIGH).checked_sub(start).filter(|_| visible && pitch > 0);
        let cursor =
            cursor.map(|at| (at / pitch, at % pitch)).filter(|&(row, column)| row < rows && column < columns);
        Some(TextScreen { columns, cells, cursor })
    }
}
