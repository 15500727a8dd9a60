//! A page-table walk: from CR3 level by level to the page, each entry with its flags below it.
use super::super::theme::Theme;
use super::text::wrapped;
use crate::debugger::view::paging::{Step, Walk};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Columns by which each level is set in.
const INDENT: usize = 3;
/// What stands between flags.
const BETWEEN: &str = " · ";

/// The walk in lines of about `width` columns.
pub(super) fn lines(walk: &Walk, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let symbol = walk.symbol.as_ref().map(|symbol| format!(" {symbol}")).unwrap_or_default();
    let mut head = vec![
        Span::styled(walk.address.to_string(), theme.address()),
        Span::styled(symbol, theme.symbol()),
        Span::raw(format!("  {}", walk.paging)),
    ];
    if !walk.steps.is_empty() {
        head.push(Span::styled(", CR3 ", theme.quiet()));
        head.push(Span::styled(walk.cr3.to_string(), theme.address()));
    }
    let mut lines = vec![Line::from(head)];
    for (level, step) in walk.steps.iter().enumerate() {
        lines.extend(entry(step, INDENT * level, theme, width));
    }
    let indent = INDENT * walk.steps.len();
    let style = if walk.physical.is_some() { theme.sound() } else { theme.error() };
    for (number, piece) in wrapped(&walk.outcome, width.saturating_sub(indent + 2)).into_iter().enumerate() {
        let before = if number == 0 { "= " } else { "  " };
        lines.push(Line::from(vec![
            Span::styled(format!("{:indent$}{before}", ""), theme.quiet()),
            Span::styled(piece, style),
        ]));
    }
    lines
}

/// The entry, and its flags in as many lines as they need.
fn entry(step: &Step, indent: usize, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let name = format!("{}[{}]", step.table, step.index);
    let value = Line::from(vec![
        Span::styled(format!("{:indent$}└─ ", ""), theme.quiet()),
        Span::styled(format!("{name:10}"), theme.mnemonic()),
        Span::styled(" at ", theme.quiet()),
        Span::styled(format!("{:#010x}", step.entry_at.0), theme.address()),
        Span::styled(" = ", theme.quiet()),
        Span::raw(format!("{:016x}", step.entry.0)),
    ]);
    // The line of the level below passes by the flags.
    let bar = if step.leaf { " " } else { "│" };
    let begin = || Line::from(Span::styled(format!("{:indent$}   {bar} ", ""), theme.quiet()));
    let (mut lines, mut flags, mut is_first) = (vec![value], begin(), true);
    for flag in &step.flags {
        if !is_first && flags.width() + BETWEEN.chars().count() + flag.chars().count() > width {
            lines.push(std::mem::replace(&mut flags, begin()));
            is_first = true;
        }
        if !is_first {
            flags.push_span(Span::styled(BETWEEN, theme.quiet()));
        }
        flags.push_span(Span::styled(flag.clone().into_owned(), look(flag, theme)));
        is_first = false;
    }
    lines.push(flags);
    lines
}

fn look(flag: &str, theme: Theme) -> Style {
    match flag {
        "present" => theme.sound(),
        "not present" => theme.error(),
        "accessed" | "dirty" => theme.quiet(),
        "no-execute" | "read-only" | "supervisor" => theme.changed(),
        _ => Style::new(),
    }
}
