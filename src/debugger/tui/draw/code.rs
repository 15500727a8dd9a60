//! The disassembly.
use super::super::app::App;
use super::super::layout::Pane;
use crate::debugger::view::disassembly::Line as Instruction;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

/// From this width on the instructions' bytes are shown.
const BYTES_FROM: u16 = 60;
/// Bytes that are shown; of longer instructions the rest is left out.
const BYTES: usize = 8;
/// The column, after the bytes, at which operands begin.
const MNEMONIC: usize = 8;

impl App {
    pub(super) fn draw_code(&mut self, area: Rect, buffer: &mut Buffer) {
        let has_bytes = area.width >= BYTES_FROM;
        let last = self.picture.code.last().map_or(0, |line| line.address.0);
        let digits = format!("{last:x}").len().max(6);
        let runs = self.runs_noticeably();
        let mut rows = Vec::new();
        let mut y = area.y;
        for (number, line) in self.picture.code.iter().enumerate() {
            if y >= area.bottom() {
                break;
            }
            rows.push(y - area.y);
            if let Some(label) = &line.label {
                Span::styled(format!("{label}:"), self.theme.symbol().add_modifier(Modifier::BOLD))
                    .render(Rect { y, height: 1, ..area }, buffer);
                y += 1;
                if y >= area.bottom() {
                    // A name alone is no line to select.
                    rows.pop();
                    break;
                }
            }
            let row = Rect { y, height: 1, ..area };
            let is_here = line.next && !runs;
            let is_selected = !runs && number == self.line && self.focus == Pane::Code;
            self.instruction(line, is_here, digits, has_bytes).render(row, buffer);
            if is_here {
                buffer.set_style(row, self.theme.here());
            } else if is_selected {
                buffer.set_style(row, self.theme.selected());
            }
            if line.breakpoint && (is_here || is_selected) {
                // It stays red.
                let red = Style { bg: None, ..self.theme.breakpoint() };
                buffer.set_style(Rect { width: 1, ..row }, red);
            }
            y += 1;
        }
        if runs {
            buffer.set_style(area, self.theme.quiet());
        }
        self.drawn.code_rows = rows;
    }

    fn instruction(
        &self,
        line: &Instruction,
        is_here: bool,
        digits: usize,
        has_bytes: bool,
    ) -> Line<'static> {
        let theme = self.theme;
        let point = if line.breakpoint { "●" } else { " " };
        let arrow = if line.next { "▶" } else { " " };
        let mut spans = vec![
            Span::styled(point, theme.breakpoint()),
            Span::styled(arrow, theme.changed()),
            Span::styled(format!(" {:0digits$x}  ", line.address.0), theme.address()),
        ];
        if has_bytes {
            let bytes = if line.bytes.len() > 2 * BYTES {
                format!("{}…", line.bytes.get(..2 * BYTES - 1).unwrap_or_default())
            } else {
                line.bytes.clone()
            };
            spans.push(Span::styled(format!("{bytes:width$}  ", width = 2 * BYTES), theme.quiet()));
        }
        match &line.text {
            Some(text) => {
                let (mnemonic, operands) = text.split_once(' ').unwrap_or((text, ""));
                let operands = operands.trim_start();
                let is_name =
                    is_branch(mnemonic) && !operands.starts_with(|c: char| c.is_ascii_digit() || c == '[');
                let style = if is_name { theme.symbol() } else { Style::new() };
                spans.push(Span::styled(format!("{mnemonic:width$}", width = MNEMONIC), theme.mnemonic()));
                spans.push(Span::styled(operands.to_owned(), style));
            }
            None if line.bytes.is_empty() => {
                spans.push(Span::styled("?? (not mapped to RAM)", theme.error()))
            }
            None => spans.push(Span::styled("(bad)", theme.error())),
        }
        if let Some(note) = &line.patch {
            let count = note.count.map(|count| format!(", {count}×")).unwrap_or_default();
            spans.push(Span::styled(format!("  ; pv: {}{count}", note.patch), theme.quiet()));
        }
        if is_here {
            // On the bar all is of the bar's colour.
            spans.iter_mut().skip(1).for_each(|span| span.style = Style::new());
        }
        Line::from(spans)
    }
}

fn is_branch(mnemonic: &str) -> bool {
    mnemonic == "call" || mnemonic.starts_with('j') || mnemonic.starts_with("loop")
}
