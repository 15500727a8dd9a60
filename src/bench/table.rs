//! The terminal table: what was measured by mode, with median, interval and slowdown to native.

use super::dataset::{Cell, Dataset, Means, Measure, Nature, Series, UNMEASURED};
use super::language::Language;
use super::{NATIVE, quantity, reading};

/// How the table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Use ANSI colours.
    pub colour: bool,
    /// Use ASCII only.
    pub ascii: bool,
}

/// One column of text with the colour of each line's cell.
struct Text {
    plain: String,
    colour: Option<u8>,
}

const GREY: u8 = 90;
const RED: u8 = 31;
const YELLOW: u8 = 33;
const GREEN: u8 = 32;

/// Draws all measures of `data`, nano operations first; ends with a newline.
pub fn render(data: &Dataset, style: Style) -> String {
    let mut notes: Vec<String> = Vec::new();
    let mut out = data.disturbance(Language::English).map(|words| format!("{words}\n\n")).unwrap_or_default();
    for (nature, title) in
        [(Nature::Nano, "nano operations: time of one"), (Nature::Task, "tasks: time of one unit of work")]
    {
        let measures: Vec<&Measure> = data.of(nature).collect();
        if !measures.is_empty() {
            section(&mut out, data, &measures, title, style, &mut notes);
        }
    }
    sweeps(&mut out, data, style, &mut notes);
    ablations(&mut out, data);
    for (workload, mode, reason) in &data.failures {
        out.push_str(&format!("{workload} in {mode}: {reason}\n"));
    }
    for (i, note) in notes.iter().enumerate() {
        out.push_str(&format!("[{}] {note}\n", i + 1));
    }
    out.push_str("Median, half width of its 95 % interval, slowdown to native.");
    if let Some(label) = data.fact("kvm label") {
        out.push_str(&format!(" KVM here is: {label}."));
    }
    out.push('\n');
    for sentence in reading::sentences(data, Language::English) {
        out.push_str(&sentence);
        out.push('\n');
    }
    if style.ascii { to_ascii(&out) } else { out }
}

fn section(
    out: &mut String,
    data: &Dataset,
    measures: &[&Measure],
    title: &str,
    style: Style,
    notes: &mut Vec<String>,
) {
    let mut lines: Vec<Vec<Text>> = Vec::new();
    let head = std::iter::once(title).chain(data.modes.iter().map(String::as_str));
    lines.push(head.map(|t| Text { plain: t.to_owned(), colour: None }).collect());
    for measure in measures {
        let mut line = vec![Text { plain: measure.label.clone(), colour: None }];
        for mode in &data.modes {
            line.push(measure.cell(mode).map_or_else(
                || Text { plain: "-".to_owned(), colour: Some(GREY) },
                |cell| cell_text(cell, mode, notes),
            ));
        }
        lines.push(line);
    }
    let first_mean = lines.len();
    if measures[0].nature == Nature::Task {
        lines.extend(mean_lines(data));
    }
    lay_out(out, data, &lines, first_mean, style);
}

/// Lines of text in columns; from line `second_part` on they stand below a rule.
fn lay_out(out: &mut String, data: &Dataset, lines: &[Vec<Text>], second_part: usize, style: Style) {
    let widths: Vec<usize> = (0..=data.modes.len())
        .map(|c| lines.iter().map(|l| l[c].plain.chars().count()).max().unwrap_or(0))
        .collect();
    let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * data.modes.len());
    for (i, line) in lines.iter().enumerate() {
        if i == second_part {
            out.push_str(&rule);
            out.push('\n');
        }
        let mut text = String::new();
        for (c, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.plain.chars().count());
            let shown = match cell.colour.filter(|_| style.colour) {
                Some(code) => format!("\x1b[{code}m{}\x1b[0m", cell.plain),
                None => cell.plain.clone(),
            };
            // Names to the left, figures to the right, so that decimal units line up.
            if c == 0 {
                text.push_str(&format!("{shown}{pad}"));
            } else {
                text.push_str(&format!("  {pad}{shown}"));
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
        if i == 0 {
            out.push_str(&rule);
            out.push('\n');
        }
    }
    out.push('\n');
}

/// Sweeps, a line each: the time at the least size, and at the greatest. The page shows all between.
fn sweeps(out: &mut String, data: &Dataset, style: Style, notes: &mut Vec<String>) {
    let series = data.series();
    if series.is_empty() {
        return;
    }
    let head =
        std::iter::once("sweeps: time of one at both ends").chain(data.modes.iter().map(String::as_str));
    let mut lines = vec![head.map(|t| Text { plain: t.to_owned(), colour: None }).collect::<Vec<Text>>()];
    lines.extend(series.iter().map(|series| {
        let label = Text { plain: series.title(Language::English), colour: None };
        std::iter::once(label).chain(data.modes.iter().map(|mode| ends_text(series, mode, notes))).collect()
    }));
    lay_out(out, data, &lines, usize::MAX, style);
}

fn ends_text(series: &Series<'_>, mode: &str, notes: &mut Vec<String>) -> Text {
    let cells = series.points.iter().filter_map(|(_, point)| point.cell(mode));
    let Some([least, most]) = series.ends(mode) else {
        // Points that have no figure have the same reason, all but always.
        let none = || Text { plain: "-".to_owned(), colour: Some(GREY) };
        return cells.into_iter().next().map_or_else(none, |cell| cell_text(cell, mode, notes));
    };
    let mut plain = format!("{} – {}", quantity::time(least.1), quantity::time(most.1));
    for note in cells.filter_map(|cell| cell.note.as_deref()) {
        let mark = format!(" [{}]", footnote(notes, mode, note));
        if !plain.ends_with(&mark) {
            plain.push_str(&mark);
        }
    }
    Text { plain, colour: None }
}

/// What leaving techniques out costs, a line for each column that does.
fn ablations(out: &mut String, data: &Dataset) {
    let found = data.ablations();
    if found.is_empty() {
        return;
    }
    let head = ["left out: time to the full translator's", "integer", "FP, SIMD", "most"];
    let mean = |mean: Option<f64>| mean.map_or_else(|| "-".to_owned(), quantity::ratio);
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(found.into_iter().map(|one| {
        let most = format!("{} {}", quantity::ratio(one.most.1), one.most.0);
        [one.name, mean(one.integer), mean(one.vector), most]
    }));
    let width = |c: usize| lines.iter().map(|line| line[c].chars().count()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    for (i, [name, integer, vector, most]) in lines.iter().enumerate() {
        let line = format!("{name:<first$}  {integer:>second$}  {vector:>third$}  {most}\n");
        out.push_str(&line);
        if i == 0 {
            out.push_str(&"─".repeat(line.chars().count() - 1));
            out.push('\n');
        }
    }
    out.push('\n');
}

fn cell_text(cell: &Cell, mode: &str, notes: &mut Vec<String>) -> Text {
    let Some(time) = cell.time else {
        let reason = cell.note.as_deref().unwrap_or(UNMEASURED);
        if reason == UNMEASURED {
            return Text { plain: "-".to_owned(), colour: Some(GREY) };
        }
        let colour = if reason.starts_with("diverged") { RED } else { YELLOW };
        let word = if reason.starts_with("diverged") { "diverged" } else { "n/a" };
        return Text { plain: format!("{word} [{}]", footnote(notes, mode, reason)), colour: Some(colour) };
    };
    // With one or two repetitions an interval would only pretend.
    let spread = time.relative_half_width() * 100.0;
    let spread = match cell.samples.len() {
        n @ ..3 => format!("n={n}"),
        _ if spread < 10.0 => format!("±{spread:.1}%"),
        _ => format!("±{spread:>3.0}%"),
    };
    let mut plain = format!("{} {spread:>5}", quantity::time(time.mid));
    let mut colour = None;
    if let Some(slowdown) = cell.slowdown.filter(|_| mode != NATIVE) {
        plain.push_str(&format!(" {:>7}", quantity::ratio(slowdown.mid)));
        colour = match slowdown.mid {
            s if s < 1.5 => Some(GREEN),
            s if s > 10.0 => Some(YELLOW),
            _ => None,
        };
    }
    if let Some(note) = &cell.note {
        plain.push_str(&format!(" [{}]", footnote(notes, mode, note)));
    }
    Text { plain, colour }
}

/// The number of the note, which is added if it is new.
fn footnote(notes: &mut Vec<String>, mode: &str, reason: &str) -> usize {
    let text = format!("{mode}: {reason}");
    notes.iter().position(|n| *n == text).unwrap_or_else(|| {
        notes.push(text);
        notes.len() - 1
    }) + 1
}

/// The geometric means, a line for each set of tasks.
fn mean_lines(data: &Dataset) -> Vec<Vec<Text>> {
    let cell = |mean: &Option<f64>| match mean {
        Some(mean) => Text { plain: quantity::ratio(*mean), colour: None },
        None => Text { plain: "-".to_owned(), colour: Some(GREY) },
    };
    let line = |means: &Means| {
        let label =
            Text { plain: format!("geometric mean ({})", means.count(Language::English)), colour: None };
        std::iter::once(label).chain(means.by_mode.iter().map(cell)).collect()
    };
    data.means().iter().map(line).collect()
}

/// Replaces the few signs beyond ASCII that the table uses.
fn to_ascii(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '─' | '–' => '-',
            '×' => 'x',
            '±' => '~',
            'µ' => 'u',
            '\u{a0}' => ' ',
            c if c.is_ascii() => c,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::{row, synthetic};
    use super::super::record::{self, Row};
    use super::*;

    #[test]
    fn lines_are_aligned_and_notes_numbered() {
        let data = Dataset::from_rows(&synthetic(20)).unwrap();
        let text = render(&data, Style::default());
        let head = text.lines().find(|l| l.contains("tasks:")).unwrap();
        let crc = text.lines().find(|l| l.starts_with("crc32 ")).unwrap();
        let end = |line: &str, word: &str| line[..line.find(word).unwrap() + word.len()].chars().count();
        assert_eq!(end(head, "emu"), end(&crc[..crc.find("× ").unwrap() + 2], "×"), "{text}");
        assert!(text.contains("diverged ["), "{text}");
        assert!(text.contains("pv: unsupported: 0f 01 ca"), "{text}");
        assert!(text.contains("geometric mean (18 tasks)"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn too_few_repetitions_show_their_number_instead_of_an_interval() {
        let rows: Vec<_> = synthetic(2).into_iter().filter(|r| r.repetition <= 2).collect();
        let text = render(&Dataset::from_rows(&rows).unwrap(), Style::default());
        assert!(text.contains(" n=2") && !text.contains('±'), "{text}");
    }

    #[test]
    fn a_sweep_has_one_line_with_both_ends() {
        let mut rows = Vec::new();
        for (size, value) in [(1, 20.0), (64, 30.0), (4096, 5000.0)] {
            let metric = format!("rep_outs[bytes={size}]@ring0");
            for repetition in 1..=3 {
                rows.push(row("sweep_outs", &metric, record::UNIT_POINT, "emu", repetition, value));
            }
            let failed = row("sweep_outs", &metric, record::UNIT_POINT, "pv", 1, value);
            rows.push(Row { valid: false, value: None, reason: "no disk".to_owned(), ..failed });
        }
        let text = render(&Dataset::from_rows(&rows).unwrap(), Style::default());
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("rep_outs")).collect();
        assert_eq!(lines.len(), 1, "{text}");
        let words: Vec<_> = lines[0].split_whitespace().collect();
        let expected = ["rep_outs,", "1", "to", "4096", "bytes", "20", "ns", "–", "5", "µs", "n/a", "[1]"];
        assert_eq!(words, expected, "{text}");
        assert!(text.contains("[1] pv: no disk"), "{text}");
    }

    #[test]
    fn techniques_left_out_have_a_line_each() {
        let mut rows = Vec::new();
        for (metric, repetition) in
            [("crc32@ring3", 1), ("crc32@ring3", 2), ("nbody@ring3", 1), ("nbody@ring3", 2)]
        {
            let workload = metric.trim_end_matches("@ring3");
            rows.push(row(workload, metric, record::UNIT_TASK, "emu", repetition, 10.0));
        }
        assert!(!render(&Dataset::from_rows(&rows).unwrap(), Style::default()).contains("left out"));
        for i in 0..rows.len() {
            let value = rows[i].value.map(|value| value * if i < 2 { 2.0 } else { 4.0 });
            rows.push(Row { mode: "emu/without-groups".to_owned(), value, ..rows[i].clone() });
        }
        let text = render(&Dataset::from_rows(&rows).unwrap(), Style::default());
        let line = text.lines().find(|line| line.starts_with("groups ")).unwrap_or_default();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["groups", "2×", "4×", "4×", "nbody"],
            "{text}"
        );
    }

    #[test]
    fn colour_and_ascii_only_when_told() {
        let data = Dataset::from_rows(&synthetic(3)).unwrap();
        assert!(render(&data, Style { colour: true, ascii: false }).contains("\x1b["));
        assert!(render(&data, Style { colour: false, ascii: true }).is_ascii());
    }
}
