//! Colours, markers and hatches: told apart by the colour-blind, on paper and in grey.
//!
//! The palette is Okabe and Ito's ("Color Universal Design", 2008). No meaning rests on colour alone: modes also differ in
//! the shape of their marker, causes in their hatch.

use super::scene::{Anchor, Colour, Shape};
use crate::bench::{MODE_ORDER, base_mode};

/// Background.
pub(super) const PAPER: Colour = Colour(0xff, 0xff, 0xff);
/// Text and axes.
pub(super) const INK: Colour = Colour(0x1a, 0x1a, 0x1a);
/// Secondary text.
pub(super) const MUTED: Colour = Colour(0x5c, 0x5c, 0x5c);
/// Grid lines.
pub(super) const GRID: Colour = Colour(0xd8, 0xd8, 0xd8);
/// Every second row's background.
pub(super) const STRIPE: Colour = Colour(0xf3, 0xf3, 0xf3);

const ORANGE: Colour = Colour(0xe6, 0x9f, 0x00);
const SKY: Colour = Colour(0x56, 0xb4, 0xe9);
const GREEN: Colour = Colour(0x00, 0x9e, 0x73);
const YELLOW: Colour = Colour(0xf0, 0xe4, 0x42);
const BLUE: Colour = Colour(0x00, 0x72, 0xb2);
const VERMILION: Colour = Colour(0xd5, 0x5e, 0x00);
const PURPLE: Colour = Colour(0xcc, 0x79, 0xa7);
const BLACK: Colour = Colour(0x22, 0x22, 0x22);

/// The column of emu's interpreter, where engines stand side by side.
const INTERPRETER: &str = "emu/single";

/// Shape of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
    /// ▼
    TriangleDown,
    /// ✕
    Cross,
    /// ⬟
    Pentagon,
    /// ⧗
    Hourglass,
    /// ✚
    Plus,
    /// ✦
    Star,
    /// ⬢
    Hexagon,
}

/// Colour and marker of a mode; those not known share the last ones. Of engines side by side in mode emu the interpreter
/// has one of its own, and any other has that of emu. A pair that is no mode has its engine's colour and a marker of its
/// own.
pub(super) fn of_mode(mode: &str) -> (Colour, Marker) {
    const STYLES: [(Colour, Marker); 7] = [
        (BLACK, Marker::Cross),
        (VERMILION, Marker::Circle),
        (BLUE, Marker::Square),
        (BLUE, Marker::Hourglass),
        (GREEN, Marker::Triangle),
        (PURPLE, Marker::Diamond),
        (SKY, Marker::TriangleDown),
    ];
    if mode == INTERPRETER {
        return (ORANGE, Marker::Pentagon);
    }
    match mode {
        "emu/pv" => return (VERMILION, Marker::Plus),
        "direct/pv" => return (BLUE, Marker::Star),
        "kvm/pv" => return (GREEN, Marker::Hexagon),
        _ => {}
    }
    MODE_ORDER.iter().position(|m| *m == base_mode(mode)).map_or((MUTED, Marker::Cross), |i| STYLES[i])
}

/// The shapes that draw a marker of radius `r` at `(x, y)`; outlined instead of filled if not `filled`.
pub(super) fn marker(kind: Marker, x: f64, y: f64, r: f64, colour: Colour, filled: bool) -> Vec<Shape> {
    let polygon = |corners: &[(f64, f64)]| {
        let points = corners.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect();
        vec![Shape::Polygon { points, colour, filled }]
    };
    match kind {
        Marker::Circle => vec![Shape::Circle { centre: (x, y), radius: r, colour, filled }],
        Marker::Square => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        Marker::Triangle => polygon(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
        Marker::TriangleDown => polygon(&[(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)]),
        Marker::Diamond => polygon(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        Marker::Pentagon => polygon(&[(0.0, -1.2), (1.15, -0.35), (0.7, 1.0), (-0.7, 1.0), (-1.15, -0.35)]),
        Marker::Hourglass => polygon(&[(-1.0, -1.1), (1.0, -1.1), (-1.0, 1.1), (1.0, 1.1)]),
        Marker::Plus => {
            let (arm, half) = (1.2, 0.4);
            polygon(&[
                (-half, -arm),
                (half, -arm),
                (half, -half),
                (arm, -half),
                (arm, half),
                (half, half),
                (half, arm),
                (-half, arm),
                (-half, half),
                (-arm, half),
                (-arm, -half),
                (-half, -half),
            ])
        }
        Marker::Star => polygon(&[
            (0.0, -1.4),
            (0.35, -0.35),
            (1.4, 0.0),
            (0.35, 0.35),
            (0.0, 1.4),
            (-0.35, 0.35),
            (-1.4, 0.0),
            (-0.35, -0.35),
        ]),
        Marker::Hexagon => {
            polygon(&[(1.1, 0.0), (0.55, 0.95), (-0.55, 0.95), (-1.1, 0.0), (-0.55, -0.95), (0.55, -0.95)])
        }
        // A cross has no inside: it is outlined by a ring.
        Marker::Cross => [(-1.0, -1.0), (-1.0, 1.0)]
            .into_iter()
            .map(|(dx, dy): (f64, f64)| Shape::Line {
                points: vec![(x + dx * r, y + dy * r), (x - dx * r, y - dy * r)],
                colour,
                width: 1.6,
            })
            .chain((!filled).then_some(Shape::Circle {
                centre: (x, y),
                radius: r * 1.6,
                colour,
                filled: false,
            }))
            .collect(),
    }
}

/// Pattern over a bar's colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hatch {
    /// None.
    Solid,
    /// Rising to the right.
    Rising,
    /// Falling to the right.
    Falling,
    /// Upright lines.
    Upright,
}

/// Colour and hatch of the `index`-th cause: neighbours differ in both, and 28 go by before one repeats.
pub(super) fn of_cause(index: usize) -> (Colour, Hatch) {
    const COLOURS: [Colour; 7] = [BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW];
    const HATCHES: [Hatch; 4] = [Hatch::Solid, Hatch::Rising, Hatch::Upright, Hatch::Falling];
    (COLOURS[index % 7], HATCHES[(index + index / 28) % 4])
}

/// A bar filled with colour and hatch.
pub(super) fn bar(area: (f64, f64, f64, f64), colour: Colour, hatch: Hatch) -> Vec<Shape> {
    let (x, y, w, h) = area;
    let mut shapes = vec![Shape::Rect { area, fill: colour }];
    let step = 5.0;
    let slant = match hatch {
        Hatch::Solid => return shapes,
        Hatch::Upright => 0.0,
        Hatch::Rising | Hatch::Falling => h,
    };
    let mut left = x - slant;
    while left < x + w {
        // The stroke runs from (left, low) to (left + slant, high); clip it to the bar.
        let (from, to) = (left.max(x), (left + slant).min(x + w));
        if left + slant >= x && (slant == 0.0 || from < to) {
            let rise = |at: f64| {
                if slant == 0.0 { 0.0 } else { (at - left) / slant * h }
            };
            let (low, high) = match hatch {
                Hatch::Upright => (y + h, y),
                Hatch::Falling => (y + rise(from), y + rise(to)),
                _ => (y + h - rise(from), y + h - rise(to)),
            };
            shapes.push(Shape::Line { points: vec![(from, low), (to, high)], colour: PAPER, width: 1.0 });
        }
        left += step;
    }
    shapes
}

/// A text shape in the usual ink.
pub(super) fn text(
    at: (f64, f64),
    anchor: Anchor,
    size: f64,
    colour: Colour,
    text: impl Into<String>,
) -> Shape {
    Shape::Text { at, anchor, size, colour, bold: false, text: text.into() }
}
