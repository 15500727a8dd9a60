//! Panes of text: the view, the log, the guest's console; and how text is coloured, cut and wrapped.
use super::super::app::App;
use super::super::layout::Pane;
use super::super::log::Kind;
use super::super::theme::Theme;
use super::walk;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget};

/// Lines of the log and console that can be scrolled back to.
const MOST_LINES: usize = 2000;

impl App {
    pub(super) fn draw_view(&mut self, area: Rect, buffer: &mut Buffer) {
        let lines: Vec<Line<'static>> = match &self.picture.walk {
            Some(walk) => walk::lines(walk, self.theme, usize::from(area.width)),
            None => self.picture.view.lines().map(|line| owned(&highlighted(line, self.theme))).collect(),
        };
        if self.grows_below(Pane::View) {
            self.render_from_below(Pane::View, &lines, area, buffer);
        } else {
            self.render_scrolled(Pane::View, &lines, area, buffer);
        }
    }

    pub(super) fn draw_log(&mut self, area: Rect, buffer: &mut Buffer) {
        let rows = self.rows_back(Pane::Log, area);
        let theme = self.theme;
        let width = usize::from(area.width);
        let lines: Vec<Line<'_>> = self
            .log
            .last(rows)
            .flat_map(|(kind, text)| {
                let (before, style) = match kind {
                    Kind::Written => ("(trivisor) ", theme.written()),
                    Kind::Said => ("", Style::new()),
                    Kind::Failed => ("", theme.error()),
                };
                let pieces = wrapped(&format!("{before}{text}"), width);
                let line = |piece: String| match kind {
                    Kind::Said => owned(&highlighted(&piece, theme)),
                    _ => Line::styled(piece, style),
                };
                pieces.into_iter().map(line).collect::<Vec<_>>()
            })
            .collect();
        self.render_from_below(Pane::Log, &lines, area, buffer);
    }

    pub(super) fn draw_console(&mut self, area: Rect, buffer: &mut Buffer) {
        let rows = self.rows_back(Pane::Console, area);
        let printed = self.console.last(rows);
        if printed.is_empty() {
            Line::styled("what the guest prints", self.theme.quiet()).render(area, buffer);
            return;
        }
        let width = usize::from(area.width);
        let lines: Vec<Line<'_>> =
            printed.iter().flat_map(|text| wrapped(text, width)).map(Line::from).collect();
        self.render_from_below(Pane::Console, &lines, area, buffer);
    }

    /// Lines that are laid out: all that can be seen, and some beyond so that one can scroll on.
    fn rows_back(&mut self, pane: Pane, area: Rect) -> usize {
        (self.scroll_of(pane).rows + 3 * usize::from(area.height)).min(MOST_LINES)
    }

    /// Renders lines from the first, scrolled as far as there is something to be seen.
    pub(super) fn render_scrolled(
        &mut self,
        pane: Pane,
        lines: &[Line<'_>],
        area: Rect,
        buffer: &mut Buffer,
    ) {
        let most = lines.len().saturating_sub(usize::from(area.height));
        self.drawn.most.push((pane, most));
        let scroll = self.scroll_of(pane);
        scroll.rows = scroll.rows.min(most);
        let scroll = *scroll;
        for (line, y) in lines.iter().skip(scroll.rows).zip(area.y..area.bottom()) {
            render_from(line, scroll.columns, Rect { y, height: 1, ..area }, buffer);
        }
    }

    /// Renders the last lines, the newest below.
    fn render_from_below(&mut self, pane: Pane, lines: &[Line<'_>], area: Rect, buffer: &mut Buffer) {
        let height = usize::from(area.height);
        let most = lines.len().saturating_sub(height);
        self.drawn.most.push((pane, most));
        let scroll = self.scroll_of(pane);
        scroll.rows = scroll.rows.min(most);
        let first = most - scroll.rows;
        let columns = scroll.columns;
        for (line, y) in lines.iter().skip(first).zip(area.y..area.bottom()) {
            render_from(line, columns, Rect { y, height: 1, ..area }, buffer);
        }
    }
}

/// Renders a line without its first `hidden` columns.
pub(super) fn render_from(line: &Line<'_>, hidden: usize, area: Rect, buffer: &mut Buffer) {
    if hidden == 0 {
        line.render(area, buffer);
    } else {
        let hidden = u16::try_from(hidden).unwrap_or(u16::MAX);
        Paragraph::new(line.clone()).scroll((0, hidden)).render(area, buffer);
    }
}

fn owned(line: &Line<'_>) -> Line<'static> {
    line.spans.iter().map(|span| Span::styled(span.content.clone().into_owned(), span.style)).collect()
}

/// Breaks a line into pieces of at most `width` columns, at blanks where there are some.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut columns = 0;
    for c in text.chars() {
        let wide = Span::raw(c.to_string()).width();
        if columns + wide > width && !piece.is_empty() {
            let blank = piece.rfind(' ').filter(|at| *at >= piece.len() / 2);
            let rest = blank.map(|at| piece.split_off(at + 1)).unwrap_or_default();
            pieces.push(std::mem::replace(&mut piece, rest));
            columns = Span::raw(&piece).width();
        }
        piece.push(c);
        columns += wide;
    }
    pieces.push(piece);
    pieces
}

/// Colours addresses, symbols, marks of change, and what is amiss.
pub(super) fn highlighted(text: &str, theme: Theme) -> Line<'_> {
    let mut spans = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (length, style) = token(rest, theme);
        let (piece, more) = rest.split_at(length);
        spans.push(Span::styled(piece, style));
        rest = more;
    }
    Line::from(spans)
}

const AMISS: [&str; 4] = ["not present", "#PF", "#GP", "no execute"];

/// The bytes of the first token, and how it looks.
fn token(text: &str, theme: Theme) -> (usize, Style) {
    if let Some(word) = AMISS.iter().find(|word| text.starts_with(**word)) {
        return (word.len(), theme.error());
    }
    if text.starts_with('<')
        && let Some(end) = text.find('>')
    {
        return (end + 1, theme.symbol());
    }
    for (start, style) in [("=>", theme.changed()), ("└", theme.quiet()), ("│", theme.quiet())] {
        if text.starts_with(start) {
            return (start.len(), style);
        }
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    if end == 0 {
        return (text.chars().next().map_or(1, char::len_utf8), Style::new());
    }
    let word = &text[..end];
    let is_number = word.starts_with("0x") || word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
    match (is_number, text[end..].starts_with('*')) {
        (true, true) => (end + 1, theme.changed()),
        (true, false) => (end, theme.address()),
        _ => (end, Style::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two ", "three"]);
        assert_eq!(wrapped("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("ab", 0), ["a", "b"]);
        assert_eq!(wrapped("日本", 3), ["日", "本"]);
    }

    #[test]
    fn colours_leave_the_text_as_it_is() {
        let theme = Theme { colours: true };
        for text in ["0x200000 <pvh_start>: é < 5 not present", "rax 0000000000000005* └ ", "<", ""] {
            let line = highlighted(text, theme);
            assert_eq!(line.spans.iter().map(|span| span.content.as_ref()).collect::<String>(), text);
        }
        let line = highlighted("rax 0000000000000005*", theme);
        assert_eq!(line.spans.last().map(|span| span.style), Some(theme.changed()));
    }
}
