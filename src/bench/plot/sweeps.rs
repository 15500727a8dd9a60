//! Time over work size: a panel for each sweep, a line for each mode, both axes logarithmic.
//!
//! Panels stand two in a row. Faint lines of slope 1 show what grows in proportion to size; modes that have no figure at a
//! size leave it out, and the table behind the figure has the reason.

use super::axis::LogAxis;
use super::dots::{round_label, shown_modes};
use super::frame::{Frame, LABEL, MARGIN, SMALL, WIDTH};
use super::palette::{self, GRID, INK, MUTED};
use super::scene::{Anchor, Scene, Shape, fit, text_width};
use crate::bench::dataset::{Dataset, Series};
use crate::bench::language::{Language, figures as words};
use crate::bench::stats::Interval;

/// Panels in a row.
const COLUMNS: usize = 2;
/// Air between them.
const GUTTER: f64 = 26.0;
/// Width of the labels of a panel's upright axis.
const TIMES: f64 = 58.0;
/// Height of a panel's plotting area.
const HEIGHT: f64 = 190.0;
/// Height of a panel's title, and of what stands below its area.
const HEAD: f64 = 26.0;
const FOOT: f64 = 52.0;
/// Least air between two labels of an axis.
const CLEAR: f64 = 7.0;

/// Where a panel's values stand.
struct Panel {
    x: LogAxis,
    y: LogAxis,
    /// Left, top, right, bottom of the plotting area.
    area: (f64, f64, f64, f64),
}

/// The figure; `None` if no sweep has a line.
pub(super) fn sweeps(data: &Dataset, language: Language) -> Option<Scene> {
    let all = data.series();
    let modes = shown_modes(data);
    let has_line = |series: &&Series<'_>| modes.iter().any(|mode| !line(series, mode).is_empty());
    let drawn: Vec<&Series<'_>> = all.iter().filter(has_line).collect();
    if drawn.is_empty() {
        return None;
    }
    let present: Vec<&str> =
        modes.into_iter().filter(|mode| drawn.iter().any(|series| !line(series, mode).is_empty())).collect();
    let mut frame = Frame::begin(words::SWEEPS_SCENE, data, language);
    frame.mode_legend(&present);
    frame.absent_modes(data);
    frame.y += 16.0;
    let width = (WIDTH - 2.0 * MARGIN - GUTTER * (COLUMNS - 1) as f64) / COLUMNS as f64;
    for row in drawn.chunks(COLUMNS) {
        for (column, series) in row.iter().enumerate() {
            let left = MARGIN + column as f64 * (width + GUTTER);
            let top = frame.y + HEAD;
            draw(&mut frame, series, &present, (left + TIMES, top, left + width, top + HEIGHT));
        }
        frame.y += HEAD + HEIGHT + FOOT;
    }
    Some(frame.end())
}

/// The points of one mode: size and time.
fn line(series: &Series<'_>, mode: &str) -> Vec<(f64, Interval)> {
    let figure = |(size, measure): &(u64, &crate::bench::dataset::Measure)| {
        Some((*size as f64, measure.cell(mode)?.time?))
    };
    series.points.iter().filter_map(figure).collect()
}

fn draw(frame: &mut Frame, series: &Series<'_>, modes: &[&str], area: (f64, f64, f64, f64)) {
    let (left, top, right, bottom) = area;
    let lines: Vec<(&str, Vec<(f64, Interval)>)> =
        modes.iter().map(|mode| (*mode, line(series, mode))).collect();
    let points = || lines.iter().flat_map(|(_, line)| line);
    let panel = Panel {
        x: LogAxis::holding(series.points.iter().map(|(size, _)| *size as f64), left, right),
        // Upwards: the axis's far end is at the top.
        y: LogAxis::holding(points().flat_map(|(_, time)| [time.low, time.high]), bottom, top),
        area,
    };
    let at = (left - TIMES, top - 10.0);
    let text = fit(&series.title(frame.language), LABEL, right - at.0);
    frame.push(Shape::Text { at, anchor: Anchor::Start, size: LABEL, colour: INK, bold: true, text });
    axes(frame, series, &panel);
    for (mode, line) in &lines {
        let (colour, kind) = palette::of_mode(mode);
        let places: Vec<(f64, f64)> =
            line.iter().map(|(size, time)| (panel.x.at(*size), panel.y.at(time.mid))).collect();
        if places.len() > 1 {
            frame.push(Shape::Line { points: places.clone(), colour, width: 1.6 });
        }
        for ((x, y), (_, time)) in places.into_iter().zip(line) {
            let (low, high) = (panel.y.at(time.low), panel.y.at(time.high));
            if low - high > 1.0 {
                frame.push(Shape::Line { points: vec![(x, low), (x, high)], colour, width: 1.6 });
                for end in [low, high] {
                    frame.push(Shape::Line {
                        points: vec![(x - 3.0, end), (x + 3.0, end)],
                        colour,
                        width: 1.2,
                    });
                }
            }
            frame.extend(palette::marker(kind, x, y, 4.0, colour, true));
        }
    }
}

/// Grid, labels and the names of both axes.
fn axes(frame: &mut Frame, series: &Series<'_>, panel: &Panel) {
    let (left, top, right, bottom) = panel.area;
    for (value, labelled) in panel.y.ticks() {
        let y = panel.y.at(value);
        frame.push(Shape::Line { points: vec![(left, y), (right, y)], colour: GRID, width: 1.0 });
        if labelled {
            let words = round_label(&frame.language.time(value));
            let at = (left - 7.0, y + SMALL * 0.36);
            frame.push(palette::text(at, Anchor::End, SMALL, MUTED, words));
        }
    }
    let mut free = f64::NEG_INFINITY;
    for (size, _) in &series.points {
        let (x, words) = (panel.x.at(*size as f64), size.to_string());
        frame.push(Shape::Line { points: vec![(x, top), (x, bottom)], colour: GRID, width: 1.0 });
        let half = text_width(&words, SMALL, false) / 2.0;
        if x - half >= free {
            frame.push(palette::text((x, bottom + 15.0), Anchor::Middle, SMALL, MUTED, words));
            free = x + half + CLEAR;
        }
    }
    proportional(frame, panel);
    let name = words::SWEEPS_AXES.with(frame.language, &[("what", &series.what)]);
    let name = fit(&name, SMALL, right - left);
    frame.push(palette::text((f64::midpoint(left, right), bottom + 32.0), Anchor::Middle, SMALL, INK, name));
}

/// Lines along which time grows in proportion to size, a decade of time apart.
fn proportional(frame: &mut Frame, panel: &Panel) {
    let (left, top, right, bottom) = panel.area;
    let upwards = -panel.y.decade();
    let slope = upwards / panel.x.decade();
    let lowest = bottom + (right - left) * slope;
    let mut begins = bottom - upwards / 2.0;
    while begins > top {
        begins -= upwards;
    }
    while begins < lowest {
        // From (left, begins) up to the right, as far as the area goes.
        let from = if begins > bottom { left + (begins - bottom) / slope } else { left };
        let to = (left + (begins - top) / slope).min(right);
        let height = |x: f64| begins - (x - left) * slope;
        if to - from > 2.0 {
            let points = vec![(from, height(from)), (to, height(to))];
            frame.push(Shape::Line { points, colour: GRID, width: 1.0 });
        }
        begins += upwards;
    }
}
