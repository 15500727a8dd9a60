//! The help: keys, views, mouse, and the prompt's commands.
use super::super::app::{App, VIEWS};
use super::super::keys::BINDINGS;
use crate::debugger::catalogue;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};

/// Columns of the help: those of the list of commands, and its frame.
const WIDTH: u16 = 84;
/// Columns of the names of keys.
const KEYS: usize = 16;
const MOUSE: &str = "A click gives a pane the keys, or selects a line of code; a click left of the line, or two on it, \
                     sets a breakpoint there or deletes it. The wheel scrolls. Hold Shift to mark text.";

impl App {
    pub(super) fn draw_help(&mut self, area: Rect, buffer: &mut Buffer) {
        let width = WIDTH.min(area.width);
        let height = area.height.saturating_sub(2).max(area.height.min(3));
        let place = Rect {
            x: area.x + (area.width - width) / 2,
            y: area.y + (area.height - height) / 2,
            width,
            height,
        };
        Clear.render(place, buffer);
        let framed = place.width > 4 && place.height > 4;
        let inner = if framed {
            let block = Block::bordered()
                .border_type(BorderType::Rounded)
                .border_style(self.theme.focus())
                .title(" help ")
                .title_bottom(" ↑ ↓ scroll, any other key goes back ");
            let inner = block.inner(place);
            block.render(place, buffer);
            inner
        } else {
            place
        };
        let lines = self.help_lines(usize::from(inner.width));
        let most = lines.len().saturating_sub(usize::from(inner.height));
        let Some(help) = &mut self.help else { return };
        help.rows = help.rows.min(most);
        for (line, y) in lines.iter().skip(help.rows).zip(inner.y..inner.bottom()) {
            line.render(Rect { y, height: 1, ..inner }, buffer);
        }
    }

    fn help_lines(&self, width: usize) -> Vec<Line<'static>> {
        let theme = self.theme;
        let title = |text: &'static str| Line::styled(text, theme.title());
        let row = |key: &str, about: &str| {
            Line::from(vec![Span::styled(format!("  {key:KEYS$}"), theme.key()), Span::raw(about.to_owned())])
        };
        let mut lines = vec![title("Keys, where no line is being written (Esc leaves the command line)")];
        let named = BINDINGS.iter().filter(|binding| !binding.names.is_empty());
        lines.extend(named.map(|binding| row(binding.names, binding.about)));
        lines.extend([Line::default(), title("Views")]);
        lines.extend(VIEWS.iter().map(|view| row(&view.key.to_string(), view.name)));
        lines.extend([Line::default(), title("Mouse")]);
        let inset = width.saturating_sub(2);
        lines.extend(
            super::text::wrapped(MOUSE, inset).into_iter().map(|text| Line::from(format!("  {text}"))),
        );
        lines.extend([Line::default(), title("Commands, as at the prompt (Tab completes, ↑ brings back)")]);
        lines.extend(catalogue::overview().lines().map(|line| Line::from(line.to_owned())));
        lines
    }
}
