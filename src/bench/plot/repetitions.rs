//! Scatter of repetitions: each as its deviation from the median of its own mode.

use super::axis::LinearAxis;
use super::dots::shown_modes;
use super::frame::{Frame, MARGIN, WIDTH, label_column};
use super::palette::{self, INK};
use super::scene::{Scene, Shape};
use crate::bench::dataset::{Dataset, Measure, Nature};
use crate::bench::language::{Language, figures as words};

/// Height of one mode's line.
const LINE: f64 = 11.0;
/// Air between bands.
const GAP: f64 = 7.0;
/// The axis ends at this multiple of the deviation that 90 % of repetitions keep below …
const CLIP_FACTOR: f64 = 3.0;
/// … but not closer than this many percent. What lies beyond is drawn at the edge, with its figure.
const CLIP_LEAST: f64 = 5.0;
/// Room for the figures of what was clipped.
const EDGE: f64 = 92.0;

/// The figure for measures of one nature; `None` if no mode has two repetitions.
pub(super) fn repetitions(data: &Dataset, nature: Nature, language: Language) -> Option<Scene> {
    let title = match nature {
        Nature::Nano => words::SCATTER_SCENE_NANO,
        Nature::Task => words::SCATTER_SCENE_TASKS,
        // Sweeps have a figure of their own.
        Nature::Point => return None,
    };
    let measures: Vec<&Measure> =
        data.of(nature).filter(|m| m.cells.values().any(|c| c.samples.len() > 1)).collect();
    let modes: Vec<&str> =
        shown_modes(data).into_iter().filter(|mode| measures.iter().any(|m| has_samples(m, mode))).collect();
    let all: Vec<f64> = measures
        .iter()
        .flat_map(|m| m.cells.values())
        .filter_map(|c| Some((c.time?.mid, &c.samples)))
        .flat_map(|(mid, samples)| samples.iter().map(move |s| deviation(s.value, mid)))
        .collect();
    if measures.is_empty() || all.is_empty() {
        return None;
    }
    let mut frame = Frame::begin(title, data, language);
    frame.mode_legend(&modes);
    frame.remark(words::SCATTER_REMARK);
    frame.y += 28.0;
    let left = label_column(measures.iter().map(|m| m.label.as_str()));
    let right = WIDTH - MARGIN - EDGE;
    let mut far: Vec<f64> = all.iter().map(|d| d.abs()).collect();
    far.sort_by(f64::total_cmp);
    let clip = (far[(far.len() - 1) * 9 / 10] * CLIP_FACTOR).max(CLIP_LEAST);
    let low = all.iter().copied().fold(-2.0, f64::min).max(-clip);
    let high = all.iter().copied().fold(2.0, f64::max).min(clip);
    let axis = LinearAxis::new(low, high, left + 6.0, right - 6.0);
    let heights: Vec<f64> = measures
        .iter()
        .map(|m| modes.iter().filter(|mode| has_samples(m, mode)).count() as f64 * LINE + GAP)
        .collect();
    let top = frame.y;
    let bottom = top + heights.iter().sum::<f64>();
    let mut y = top;
    for (i, height) in heights.iter().enumerate() {
        frame.stripe(i, y, *height);
        y += height;
    }
    let ticks: Vec<(f64, String)> =
        axis.ticks().into_iter().map(|v| (axis.at(v), percent(v, language))).collect();
    frame.grid(&ticks, top, bottom);
    frame.push(Shape::Line {
        points: vec![(axis.at(0.0), top), (axis.at(0.0), bottom)],
        colour: INK,
        width: 1.4,
    });
    let mut y = top;
    for (row, (measure, height)) in measures.iter().zip(&heights).enumerate() {
        frame.row_label(&measure.label, left - 10.0, y + height / 2.0, false);
        for (i, mode) in modes.iter().filter(|mode| has_samples(measure, mode)).enumerate() {
            let middle = y + GAP / 2.0 + (i as f64 + 0.5) * LINE;
            draw_line(&mut frame, measure, mode, (row, middle), &axis, (low, high));
        }
        y += height;
    }
    frame.y = bottom;
    Some(frame.finish(words::SCATTER_AXIS, f64::midpoint(left, right)))
}

fn has_samples(measure: &Measure, mode: &str) -> bool {
    measure.cell(mode).is_some_and(|c| c.samples.len() > 1)
}

fn draw_line(
    frame: &mut Frame,
    measure: &Measure,
    mode: &str,
    (row, y): (usize, f64),
    axis: &LinearAxis,
    (low, high): (f64, f64),
) {
    let Some((cell, time)) = measure.cell(mode).and_then(|c| Some((c, c.time?))) else {
        return;
    };
    let (colour, kind) = palette::of_mode(mode);
    let (mut least, mut most) = (0.0f64, 0.0f64);
    for sample in &cell.samples {
        let off = deviation(sample.value, time.mid);
        (least, most) = (least.min(off), most.max(off));
        frame.extend(palette::marker(kind, axis.at(off), y, 3.0, colour, !sample.outlier));
    }
    let beyond: Vec<String> = [(least < low, least), (most > high, most)]
        .into_iter()
        .filter(|b| b.0)
        .map(|b| percent(b.1, frame.language))
        .collect();
    if !beyond.is_empty() {
        frame.words((axis.at(high) + 12.0, y), row, INK, beyond.join(", "));
    }
}

/// Deviation from the median in percent.
fn deviation(value: f64, median: f64) -> f64 {
    (value / median - 1.0) * 100.0
}

fn percent(value: f64, language: Language) -> String {
    if value == 0.0 {
        words::MEDIAN.of(language).to_owned()
    } else if value.abs() < 1.0 {
        language.number(format!("{value:+.1} %"))
    } else {
        format!("{value:+.0} %")
    }
}
