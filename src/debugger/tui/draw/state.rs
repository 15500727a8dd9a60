//! Registers, stack, callers and memory.
use super::super::app::App;
use super::super::layout::Pane;
use super::text::render_from;
use crate::debugger::unwind::Evidence;
use crate::debugger::view::registers::Register;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Columns of a register in its grid.
const CELL: usize = 21;
/// General registers in the grid; what follows has a line each.
const IN_GRID: usize = 16;

impl App {
    pub(super) fn draw_registers(&mut self, area: Rect, buffer: &mut Buffer) {
        let general = &self.picture.registers.general;
        let (grid, others) = general.split_at(general.len().min(IN_GRID));
        let width = usize::from(area.width);
        let columns = (width / CELL).clamp(1, 4);
        let rows = grid.len().div_ceil(columns);
        let gap = (width.saturating_sub(columns * CELL) / columns).min(3);
        let mut lines: Vec<Line<'_>> = (0..rows)
            .map(|row| {
                let cells = (0..columns).filter_map(|column| grid.get(column * rows + row));
                Line::from_iter(cells.flat_map(|register| self.register(register, 16, gap)))
            })
            .collect();
        for register in others {
            let digits = if register.name == "rflags" { 8 } else { 16 };
            let mut spans = self.register(register, digits, 1);
            let (first, more) = register.meaning.split_once("; ").unwrap_or((&register.meaning, ""));
            let style = if register.name == "rip" { self.theme.symbol() } else { Style::new() };
            spans.push(Span::styled(first.trim_start_matches('<').trim_end_matches('>').to_owned(), style));
            lines.push(Line::from(spans));
            if !more.is_empty() {
                lines.push(Line::styled(format!("       {more}"), self.theme.quiet()));
            }
        }
        self.render_scrolled(Pane::Registers, &lines, area, buffer);
    }

    /// Name, value and mark of a register, and so many blanks.
    fn register(&self, register: &Register, digits: usize, gap: usize) -> Vec<Span<'static>> {
        let theme = self.theme;
        let text = format!("{:0digits$x}", register.value.0);
        let zeros = text.len() - text.trim_start_matches('0').len();
        let (zeros, value) = text.split_at(zeros.min(text.len() - 1));
        let (style, mark) = if register.changed { (theme.changed(), "*") } else { (Style::new(), " ") };
        vec![
            Span::styled(format!("{:>3} ", register.name), theme.address()),
            Span::styled(zeros.to_owned(), theme.quiet()),
            Span::styled(value.to_owned(), style),
            Span::styled(format!("{mark}{:gap$}", ""), style),
        ]
    }

    pub(super) fn draw_stack(&mut self, area: Rect, buffer: &mut Buffer) {
        let theme = self.theme;
        let lines: Vec<Line<'_>> = self
            .picture
            .stack
            .iter()
            .enumerate()
            .map(|(number, word)| {
                let mark = if number == 0 { "▶ " } else { "  " };
                let (text, style) = match word.value {
                    Some(value) => (format!("{value:0width$x}", width = 2 * self.picture.word), Style::new()),
                    None => ("?".repeat(2 * self.picture.word), theme.error()),
                };
                Line::from(vec![
                    Span::styled(mark, theme.changed()),
                    Span::styled(format!("{:012x}  ", word.at), theme.address()),
                    Span::styled(format!("{text}  "), style),
                    Span::styled(word.symbol.clone().unwrap_or_default(), theme.symbol()),
                ])
            })
            .collect();
        self.render_scrolled(Pane::Stack, &lines, area, buffer);
    }

    pub(super) fn draw_callers(&mut self, area: Rect, buffer: &mut Buffer) {
        let theme = self.theme;
        let lines: Vec<Line<'_>> = self
            .picture
            .callers
            .iter()
            .map(|frame| {
                let note = match frame.evidence {
                    Evidence::Here | Evidence::Code => "",
                    Evidence::Pointer => "  by frame pointer",
                    Evidence::Search => "  a guess",
                };
                Line::from(vec![
                    Span::styled(format!("#{:<2} ", frame.number), theme.quiet()),
                    Span::styled(format!("{:012x}  ", frame.rip.0), theme.address()),
                    Span::styled(frame.symbol.clone().unwrap_or_else(|| "??".to_owned()), theme.symbol()),
                    Span::styled(note, theme.quiet()),
                ])
            })
            .collect();
        self.render_scrolled(Pane::Callers, &lines, area, buffer);
    }

    pub(super) fn draw_memory(&mut self, area: Rect, buffer: &mut Buffer) {
        let theme = self.theme;
        if let Some(error) = &self.picture.memory_error {
            let lines = [Line::styled(error.clone(), theme.error())];
            return self.render_scrolled(Pane::Memory, &lines, area, buffer);
        }
        let at = self.picture.memory_at;
        let row = bytes_in_row(area.width, at) as usize;
        let digits = digits(at);
        let mut lines = Vec::new();
        for (number, bytes) in self.picture.memory.chunks(row).enumerate() {
            let address = at.wrapping_add((number * row) as u64);
            let mut spans = vec![Span::styled(format!("{address:0digits$x} "), theme.address())];
            for byte in bytes {
                spans.push(match byte {
                    Some(0) => Span::styled(" 00", theme.quiet()),
                    Some(byte) => Span::raw(format!(" {byte:02x}")),
                    None => Span::styled(" ??", theme.error()),
                });
            }
            let text = bytes.iter().map(|byte| match byte {
                Some(b @ 0x20..0x7f) => char::from(*b),
                Some(_) => '·',
                None => '?',
            });
            spans.push(Span::raw(" ".repeat(1 + 3 * (row - bytes.len()))));
            spans.push(Span::styled(text.collect::<String>(), theme.symbol()));
            lines.push(Line::from(spans));
        }
        let columns = self.scroll_of(Pane::Memory).columns;
        for (line, y) in lines.iter().zip(area.y..area.bottom()) {
            render_from(line, columns, Rect { y, height: 1, ..area }, buffer);
        }
    }
}

const fn digits(at: u64) -> usize {
    if at >> 48 == 0 { 12 } else { 16 }
}

/// Bytes of a row of memory for which there is room.
pub(super) fn bytes_in_row(width: u16, at: u64) -> u64 {
    let fits = |bytes: &u64| digits(at) as u64 + 2 + 4 * bytes <= u64::from(width);
    [32, 16, 8, 4].into_iter().find(fits).unwrap_or(4)
}
