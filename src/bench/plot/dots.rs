//! Dot plots with interval bars on a log axis: slowdown to native per task, and cost per nano operation.
//!
//! Each measure is a band, each mode a line of its own within it, so that markers, intervals and their values never
//! overlap, however many modes there are; a mode without a figure says why on its line.

use super::axis::LogAxis;
use super::frame::{Frame, MARGIN, SMALL, WIDTH, label_column};
use super::palette::{self, INK, MUTED};
use super::scene::{Scene, Shape, fit, text_width};
use crate::bench::NATIVE;
use crate::bench::dataset::{Cell, Dataset, Means, Measure, Nature, TaskSet, UNMEASURED};
use crate::bench::language::{Language, Text, figures as words, terms};
use crate::bench::stats::Interval;

/// Height of one mode's line.
const LINE: f64 = 13.0;
/// Air between bands.
const GAP: f64 = 7.0;
/// Room for a value to the right of the axis's end.
const VALUE_ROOM: f64 = 74.0;

/// Least distance of a value from the reference line.
const CLEAR: f64 = 4.0;

/// What a dot plot shows.
struct Spec {
    title: Text,
    axis: Text,
    language: Language,
    figure: fn(&Cell) -> Option<Interval>,
    value: fn(Language, f64) -> String,
    /// A value that gets an upright line of its own.
    reference: Option<f64>,
}

/// One line of a band.
struct Line<'a> {
    mode: &'a str,
    figure: Option<Interval>,
    note: Option<&'a str>,
}

/// Slowdown to native of every task. `None` if no task has a native figure.
pub(super) fn slowdown(data: &Dataset, language: Language) -> Option<Scene> {
    let spec = Spec {
        title: words::SLOWDOWN_SCENE,
        axis: words::SLOWDOWN_AXIS,
        language,
        figure: |cell| cell.slowdown,
        value: Language::ratio,
        reference: Some(1.0),
    };
    let modes: Vec<&str> = shown_modes(data).into_iter().filter(|m| *m != NATIVE).collect();
    let means = data.means();
    let labels: Vec<String> = means.iter().map(|m| mean_label(m, language)).collect();
    let extra = means.iter().zip(&labels).map(|(means, label)| {
        let by_mode = data.modes.iter().zip(&means.by_mode);
        let lines = by_mode.filter(|(mode, _)| modes.contains(&mode.as_str())).filter_map(|(mode, mean)| {
            let mid = (*mean)?;
            Some(Line { mode, figure: Some(Interval { mid, low: mid, high: mid }), note: None })
        });
        (label.as_str(), lines.collect())
    });
    draw(data, &data.of(Nature::Task).collect::<Vec<_>>(), &modes, &spec, extra.collect())
}

/// Cost of every nano operation. `None` if none was measured.
pub(super) fn nano(data: &Dataset, language: Language) -> Option<Scene> {
    let spec = Spec {
        title: words::NANO_SCENE,
        axis: words::NANO_AXIS,
        language,
        figure: |cell| cell.time,
        value: Language::time,
        reference: None,
    };
    draw(data, &data.of(Nature::Nano).collect::<Vec<_>>(), &shown_modes(data), &spec, Vec::new())
}

/// A name of a mean that fits beside its row.
fn mean_label(means: &Means, language: Language) -> String {
    let text = match means.set {
        TaskSet::All => words::MEAN_OF_TASKS,
        TaskSet::Integer => words::MEAN_OF_INTEGER,
        TaskSet::Vector => words::MEAN_OF_VECTOR,
    };
    text.with(language, &[("count", &means.tasks.to_string())])
}

/// Modes that could run at all.
pub(super) fn shown_modes(data: &Dataset) -> Vec<&str> {
    data.modes.iter().map(String::as_str).filter(|m| !data.absent.contains_key(*m)).collect()
}

fn draw(
    data: &Dataset,
    measures: &[&Measure],
    modes: &[&str],
    spec: &Spec,
    extra: Vec<(&str, Vec<Line<'_>>)>,
) -> Option<Scene> {
    let mut bands: Vec<(&str, Vec<Line<'_>>)> = measures
        .iter()
        .map(|measure| {
            let lines = modes.iter().filter_map(|mode| {
                let cell = measure.cell(mode)?;
                let figure = (spec.figure)(cell);
                // A mode that was never meant to run this (native has no ring 0) needs no line.
                let note = cell.note.as_deref().filter(|n| *n != UNMEASURED);
                let unrelated = figure.is_none() && cell.time.is_some();
                let note = note.or_else(|| unrelated.then_some(words::NO_NATIVE.of(spec.language)));
                (figure.is_some() || note.is_some()).then_some(Line { mode, figure, note })
            });
            (measure.label.as_str(), lines.collect())
        })
        .filter(|(_, lines): &(&str, Vec<Line<'_>>)| lines.iter().any(|l| l.figure.is_some()))
        .collect();
    if bands.is_empty() {
        return None;
    }
    let present: Vec<&str> =
        modes.iter().copied().filter(|m| bands.iter().any(|b| b.1.iter().any(|l| l.mode == *m))).collect();
    let first_extra = bands.len();
    bands.extend(extra);
    let mut frame = Frame::begin(spec.title, data, spec.language);
    frame.mode_legend(&present);
    frame.absent_modes(data);
    frame.y += 28.0;
    let left = label_column(bands.iter().map(|b| b.0));
    let right = WIDTH - MARGIN - VALUE_ROOM;
    let ends = bands.iter().flat_map(|b| &b.1).filter_map(|l| l.figure).flat_map(|f| [f.low, f.high]);
    let axis = LogAxis::holding(ends.chain(spec.reference), left, right);
    let top = frame.y;
    let heights: Vec<f64> = bands.iter().map(|b| b.1.len() as f64 * LINE + GAP).collect();
    let bottom = top + heights.iter().sum::<f64>();
    let mut y = top;
    for (i, height) in heights.iter().enumerate() {
        frame.stripe(i, y, *height);
        y += height;
    }
    let ticks: Vec<(f64, String)> = axis
        .ticks()
        .into_iter()
        .map(|(v, labelled)| {
            (axis.at(v), if labelled { round_label(&(spec.value)(spec.language, v)) } else { String::new() })
        })
        .collect();
    frame.grid(&ticks, top, bottom);
    if let Some(reference) = spec.reference {
        let x = axis.at(reference);
        frame.push(Shape::Line { points: vec![(x, top), (x, bottom)], colour: INK, width: 1.4 });
    }
    let mut y = top;
    for (row, ((label, lines), height)) in bands.iter().zip(&heights).enumerate() {
        frame.row_label(label, left - 10.0, y + height / 2.0, row >= first_extra);
        for (i, line) in lines.iter().enumerate() {
            let middle = y + GAP / 2.0 + (i as f64 + 0.5) * LINE;
            draw_line(&mut frame, line, (row, middle), &axis, spec, (left, right));
        }
        y += height;
    }
    frame.y = bottom;
    Some(frame.finish(spec.axis, f64::midpoint(left, right)))
}

fn draw_line(
    frame: &mut Frame,
    line: &Line<'_>,
    (row, y): (usize, f64),
    axis: &LogAxis,
    spec: &Spec,
    (left, right): (f64, f64),
) {
    let (colour, kind) = palette::of_mode(line.mode);
    let Some(figure) = line.figure else {
        let why =
            line.note.map_or(words::NO_FIGURE.of(spec.language), |note| terms::note(note, spec.language));
        let note = format!("{}{}{why}", line.mode, terms::COLON.of(spec.language));
        let left = spec.reference.map_or(left, |r| axis.at(r));
        frame.extend(palette::marker(kind, left + 8.0, y, 3.0, colour, false));
        let note = fit(&note, SMALL, right - left - 24.0);
        frame.words((left + 18.0, y), row, MUTED, note);
        return;
    };
    let (low, high) = (axis.at(figure.low), axis.at(figure.high));
    if high - low > 1.0 {
        frame.push(Shape::Line { points: vec![(low, y), (high, y)], colour, width: 1.6 });
        for x in [low, high] {
            frame.push(Shape::Line { points: vec![(x, y - 3.0), (x, y + 3.0)], colour, width: 1.2 });
        }
    }
    frame.extend(palette::marker(kind, axis.at(figure.mid), y, 4.0, colour, true));
    let mut text = (spec.value)(spec.language, figure.mid);
    let mut x = high.max(axis.at(figure.mid)) + 9.0;
    if let Some(reference) = spec.reference.map(|r| axis.at(r)) {
        // The reference line stays whole: what would cross it stands behind it.
        if (x - CLEAR..=x + text_width(&text, SMALL, false) * 1.1 + CLEAR).contains(&reference) {
            x = reference + CLEAR + 1.0;
        }
    }
    if let Some(note) = line.note {
        let room = WIDTH - MARGIN - x - 11.0 - text_width(&text, SMALL, false);
        let more = fit(&format!(" ({})", terms::note(note, spec.language)), SMALL, room);
        text.push_str(&more);
    }
    frame.words((x, y), row, INK, text);
}

/// `1.00 µs` as a grid label is `1 µs`.
pub(super) fn round_label(text: &str) -> String {
    let mut text = text.to_owned();
    for point in ['.', ','] {
        text = text.replace(&format!("{point}00"), "");
        for digit in [1, 2, 5] {
            text = text.replace(&format!("0{point}{digit}0"), &format!("0{point}{digit}"));
        }
    }
    text
}
