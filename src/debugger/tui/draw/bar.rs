//! The status bar and the line of hints.
use super::super::app::App;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;
use ratatui::widgets::Widget;
use std::time::Duration;

/// Commands that take longer than this are told of; shorter ones would only flicker.
const NOTICED: Duration = Duration::from_millis(150);

/// With less room the mode's label would say nothing.
const LABEL: u16 = 16;

/// Keys that a beginner needs, the most needed first.
const HINTS: [(&str, &str); 13] = [
    ("?", "help"),
    ("s", "step"),
    ("n", "next"),
    ("c", "continue"),
    ("f", "finish"),
    ("r", "back"),
    ("b", "breakpoint"),
    (":", "command"),
    ("Tab", "pane"),
    ("v", "view"),
    ("m", "memory"),
    ("g", "go to"),
    ("q", "quit"),
];

impl App {
    /// Whether a command has been under way for so long that the screen says so.
    pub(super) fn runs_noticeably(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.since.elapsed() >= NOTICED)
    }

    pub(super) fn draw_bar(&self, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let theme = self.theme;
        buffer.set_style(area, theme.bar());
        let status = &self.picture.status;
        let (state, style) = self.state();
        let quiet = Style::new();
        let mut parts =
            vec![(format!(" {} ", if status.mode.is_empty() { "…" } else { &status.mode }), theme.mode())];
        parts.push((format!(" {state} "), style));
        if let Some(failure) = &self.failure {
            parts.push((format!(" {failure} "), theme.stopped()));
        }
        if self.runs_noticeably() {
            if let Some(now) = self.live.time() {
                parts.push((format!(" {} ", time(now)), quiet));
            }
        } else {
            let place = status.symbol.clone().unwrap_or_else(|| format!("{:#x}", status.rip));
            let place = status.cpu.map(|cpu| format!("CPU {cpu}: ")).unwrap_or_default() + &place;
            parts.push((format!(" {place}{} ", if status.halted { ", halted" } else { "" }), quiet));
            parts.push((format!(" {} ", time(status.time)), quiet));
            if let Some(turns) = status.turns {
                parts.push((format!(" {} instructions ", thousands(turns)), quiet));
            }
        }
        let mut x = area.x;
        for (text, style) in parts {
            let span = Span::styled(text, style);
            // The first two are cut off rather than left out.
            let left = area.right().saturating_sub(x);
            let width = u16::try_from(span.width()).unwrap_or(u16::MAX);
            if left == 0 || width > left && style == quiet {
                return;
            }
            let width = width.min(left);
            span.render(Rect { x, width, ..area }, buffer);
            x += width;
        }
        // What the mode truly is here, as much of it as fits.
        let left = area.right().saturating_sub(x);
        let label = Span::raw(format!(" {} ", status.label));
        let width = u16::try_from(label.width()).unwrap_or(u16::MAX).min(left);
        if width >= LABEL.min(u16::try_from(label.width()).unwrap_or(u16::MAX)) {
            label.render(Rect { x: area.right() - width, width, ..area }, buffer);
        }
    }

    /// What the guest does, or why it stands.
    fn state(&self) -> (String, Style) {
        if let Some(busy) = self.busy.as_ref().filter(|_| self.runs_noticeably()) {
            let seconds = busy.since.elapsed().as_secs_f64();
            return (
                format!("running {seconds:.1} s, Ctrl-C stops: {}", busy.line.trim()),
                self.theme.running(),
            );
        }
        if let Some(why) = &self.picture.status.ended {
            return (why.clone(), self.theme.stopped());
        }
        (format!("stopped: {}", self.why), self.theme.stopped())
    }

    pub(super) fn draw_hints(&self, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let mut x = area.x;
        for (key, about) in HINTS {
            let (key, about) = (
                Span::styled(key, self.theme.key()),
                Span::styled(format!(" {about}  "), self.theme.quiet()),
            );
            let width = u16::try_from(key.width() + about.width()).unwrap_or(u16::MAX);
            if width > area.right().saturating_sub(x) {
                return;
            }
            let keys = u16::try_from(key.width()).unwrap_or(0);
            key.render(Rect { x, width: keys, ..area }, buffer);
            about.render(Rect { x: x + keys, width: width - keys, ..area }, buffer);
            x += width;
        }
    }
}

/// Nanoseconds for people.
fn time(nanos: u64) -> String {
    let (unit, part) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => ("µs", 1e3),
        1_000_000..1_000_000_000 => ("ms", 1e6),
        _ => ("s", 1e9),
    };
    format!("{:.3} {unit}", nanos as f64 / part)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            ["7", "1 234", "1 234 567"],
            [7, 1234, 1_234_567].map(thousands).each_ref().map(String::as_str)
        );
        let all = [999, 1_500, 2_345_678, 61_000_000_000].map(time);
        assert_eq!(all, ["999 ns", "1.500 µs", "2.346 ms", "61.000 s"]);
    }
}
