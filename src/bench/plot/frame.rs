//! What all figures share: title, legend, row labels, grid, notes on empty columns.

use super::palette::{self, GRID, INK, MUTED, PAPER, STRIPE};
use super::scene::{Anchor, Colour, Scene, Shape, fit, text_width};
use crate::bench::dataset::Dataset;
use crate::bench::language::{Language, Text, figures, terms};

/// Width of every figure in logical pixels.
pub(super) const WIDTH: f64 = 1080.0;
/// Margin around it.
pub(super) const MARGIN: f64 = 18.0;
/// Size of the text of row labels and legends.
pub(super) const LABEL: f64 = 12.5;
/// Size of small text.
pub(super) const SMALL: f64 = 10.5;
/// Widest a row label may be.
const MAX_LABEL_WIDTH: f64 = 230.0;

/// A figure under construction: shapes so far, and how far down they reach.
pub(super) struct Frame {
    shapes: Vec<Shape>,
    /// The language of its words.
    pub(super) language: Language,
    /// Where the next thing goes.
    pub(super) y: f64,
}

impl Frame {
    /// Begins a figure with its title and provenance.
    pub(super) fn begin(title: Text, data: &Dataset, language: Language) -> Frame {
        let mut frame = Frame { shapes: Vec::new(), language, y: MARGIN + 18.0 };
        frame.push(Shape::Text {
            at: (MARGIN, frame.y),
            anchor: Anchor::Start,
            size: 18.0,
            colour: INK,
            bold: true,
            text: title.of(language).to_owned(),
        });
        frame.y += 20.0;
        let provenance = fit(&data.provenance(language), LABEL, WIDTH - 2.0 * MARGIN);
        frame.push(palette::text((MARGIN, frame.y), Anchor::Start, LABEL, MUTED, provenance));
        frame.y += 12.0;
        frame
    }

    /// Adds a shape.
    pub(super) fn push(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    /// Adds shapes.
    pub(super) fn extend(&mut self, shapes: impl IntoIterator<Item = Shape>) {
        self.shapes.extend(shapes);
    }

    /// A legend: each entry is drawn by `sample` in a field 18 pixels wide, followed by its name; wraps.
    pub(super) fn legend<T>(&mut self, entries: &[(String, T)], sample: impl Fn(&T, f64, f64) -> Vec<Shape>) {
        let mut x = MARGIN;
        self.y += 12.0;
        for (name, key) in entries {
            // Browsers may use a wider font than the one measured with.
            let width = 24.0 + text_width(name, LABEL, false) * 1.1 + 20.0;
            if x > MARGIN && x + width > WIDTH - MARGIN {
                x = MARGIN;
                self.y += 19.0;
            }
            self.shapes.extend(sample(key, x + 9.0, self.y - 4.0));
            self.shapes.push(palette::text((x + 24.0, self.y), Anchor::Start, LABEL, INK, name.clone()));
            x += width;
        }
        self.y += 8.0;
    }

    /// A legend of modes with their markers.
    pub(super) fn mode_legend(&mut self, modes: &[&str]) {
        let entries: Vec<(String, String)> =
            modes.iter().map(|m| ((*m).to_owned(), (*m).to_owned())).collect();
        self.legend(&entries, |mode, x, y| {
            let (colour, kind) = palette::of_mode(mode);
            palette::marker(kind, x, y, 4.5, colour, true)
        });
    }

    /// Names the modes that could not run, with the reason, a line each.
    pub(super) fn absent_modes(&mut self, data: &Dataset) {
        for (mode, reason) in &data.absent {
            self.y += 14.0;
            let values = [("mode", &**mode), ("why", terms::note(reason, self.language))];
            let words = figures::EMPTY_BECAUSE.with(self.language, &values);
            let line = fit(&words, SMALL, WIDTH - 2.0 * MARGIN);
            self.push(palette::text((MARGIN, self.y), Anchor::Start, SMALL, MUTED, line));
        }
    }

    /// A line of remark in small muted text.
    pub(super) fn remark(&mut self, words: Text) {
        self.y += 16.0;
        let line = fit(words.of(self.language), SMALL, WIDTH - 2.0 * MARGIN);
        self.push(palette::text((MARGIN, self.y), Anchor::Start, SMALL, MUTED, line));
    }

    /// Every second row gets a background from margin to margin.
    pub(super) fn stripe(&mut self, index: usize, top: f64, height: f64) {
        if index % 2 == 1 {
            let area = (MARGIN, top, WIDTH - 2.0 * MARGIN, height);
            self.push(Shape::Rect { area, fill: ground(index) });
        }
    }

    /// Small text that begins at `x` in the row `index`, centred on `y`, on a patch of the row's background, so that no
    /// grid line runs through it.
    pub(super) fn words(&mut self, (x, y): (f64, f64), index: usize, colour: Colour, words: String) {
        if words.is_empty() {
            return;
        }
        let area = (x - 2.0, y - SMALL * 0.5, text_width(&words, SMALL, false) + 4.0, SMALL);
        self.push(Shape::Rect { area, fill: ground(index) });
        self.push(palette::text((x, y + SMALL * 0.36), Anchor::Start, SMALL, colour, words));
    }

    /// Upright grid lines with labels above and below the rows.
    pub(super) fn grid(&mut self, ticks: &[(f64, String)], top: f64, bottom: f64) {
        for (x, label) in ticks {
            let points = vec![(*x, top), (*x, bottom)];
            self.push(Shape::Line { points, colour: GRID, width: 1.0 });
            if !label.is_empty() {
                for y in [top - 6.0, bottom + 15.0] {
                    self.push(palette::text((*x, y), Anchor::Middle, SMALL, MUTED, label.clone()));
                }
            }
        }
    }

    /// A row's label, right-aligned before `x`, centred on `y`.
    pub(super) fn row_label(&mut self, label: &str, x: f64, y: f64, bold: bool) {
        let text = fit(label, LABEL, MAX_LABEL_WIDTH);
        let at = (x, y + LABEL * 0.35);
        self.push(Shape::Text { at, anchor: Anchor::End, size: LABEL, colour: INK, bold, text });
    }

    /// Ends the figure with the name of its axis.
    pub(super) fn finish(mut self, axis: Text, middle: f64) -> Scene {
        self.y += 34.0;
        self.push(palette::text((middle, self.y), Anchor::Middle, LABEL, INK, axis.of(self.language)));
        self.end()
    }

    /// Ends a figure whose axes have their names.
    pub(super) fn end(self) -> Scene {
        Scene { width: WIDTH, height: self.y + MARGIN, shapes: self.shapes }
    }
}

/// The background of row `index`.
fn ground(index: usize) -> Colour {
    if index % 2 == 1 { STRIPE } else { PAPER }
}

/// Where the plotting area begins if these are the row labels.
pub(super) fn label_column<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let widest = labels.map(|l| text_width(l, LABEL, true)).fold(60.0, f64::max);
    // Readers' fonts, bold ones most of all, are wider than the one measured with.
    MARGIN + widest.min(MAX_LABEL_WIDTH) * 1.15 + 12.0
}
