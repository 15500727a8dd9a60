//! A figure as a list of shapes in logical pixels, and the two ways to draw it: SVG and PNG.
//!
//! Figures are laid out once, in a space of their own, and drawn twice; so both files show the same, and a test can measure
//! whether labels overlap. Text is placed by its baseline. Text of the SVG names a list of families; the PNG uses the
//! embedded Noto Sans (SIL Open Font Licence 1.1), with which all widths are measured too.

use crate::bench::BenchError;
use crate::bench::language::Language;
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text as TextElement};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font};
use std::path::Path;
use std::sync::OnceLock;

/// Pixels of the PNG for one logical pixel: enough for print at the size of a page.
pub(super) const PNG_SCALE: f64 = 2.0;

/// A colour without transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

/// Which end of a text stands at its x coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// Something to draw, in logical pixels; y grows downward.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A filled rectangle.
    Rect {
        /// Left, top, width, height.
        area: (f64, f64, f64, f64),
        /// Its colour.
        fill: Colour,
    },
    /// An open line through points.
    Line {
        /// The points.
        points: Vec<(f64, f64)>,
        /// Its colour.
        colour: Colour,
        /// Its width.
        width: f64,
    },
    /// A closed polygon, filled or outlined.
    Polygon {
        /// The corners.
        points: Vec<(f64, f64)>,
        /// Its colour.
        colour: Colour,
        /// Filled, or outline only.
        filled: bool,
    },
    /// A circle, filled or outlined.
    Circle {
        /// Its centre.
        centre: (f64, f64),
        /// Its radius.
        radius: f64,
        /// Its colour.
        colour: Colour,
        /// Filled, or outline only.
        filled: bool,
    },
    /// A line of text.
    Text {
        /// Where the anchor stands; y is the baseline.
        at: (f64, f64),
        /// Which end that is.
        anchor: Anchor,
        /// Size of the em.
        size: f64,
        /// Its colour.
        colour: Colour,
        /// Bold.
        bold: bool,
        /// The words.
        text: String,
    },
}

/// A figure, laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// Shapes, in order of drawing.
    pub shapes: Vec<Shape>,
}

impl Scene {
    /// Draws as SVG text.
    ///
    /// # Errors
    /// [`BenchError::Figure`] with the drawing library's words.
    pub fn svg(&self, figure: &str, language: Language) -> Result<String, BenchError> {
        fonts(figure)?;
        let mut out = String::new();
        {
            let size = (self.width.ceil() as u32, self.height.ceil() as u32);
            let root = SVGBackend::with_string(&mut out, size).into_drawing_area();
            let pen = Pen { scale: 1.0, size_factor: 1.24, baseline: |size| 0.76 * size / 1.24 };
            self.draw(&root, &pen).map_err(|e| failed(figure, &e))?;
            root.present().map_err(|e| failed(figure, &e))?;
        }
        Ok(with_fonts(&out, language))
    }

    /// Draws as a PNG file at `path`.
    ///
    /// # Errors
    /// [`BenchError::Figure`] with the drawing library's words.
    pub fn png(&self, figure: &str, path: &Path) -> Result<(), BenchError> {
        fonts(figure)?;
        let size = ((self.width * PNG_SCALE).ceil() as u32, (self.height * PNG_SCALE).ceil() as u32);
        let root = BitMapBackend::new(path, size).into_drawing_area();
        let pen = Pen { scale: PNG_SCALE, size_factor: EM_TO_HEIGHT, baseline: |size| size / 2.0 };
        self.draw(&root, &pen).map_err(|e| failed(figure, &e))?;
        root.present().map_err(|e| failed(figure, &e))
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        pen: &Pen,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        root.fill(&super::palette::PAPER.rgb())?;
        let style = |colour: &Colour, filled: bool, width: f64| ShapeStyle {
            color: colour.rgb().to_rgba(),
            filled,
            stroke_width: (width * pen.scale).round().max(1.0) as u32,
        };
        for shape in &self.shapes {
            match shape {
                Shape::Rect { area: (x, y, w, h), fill } => {
                    root.draw(&Rectangle::new(
                        [pen.at(*x, *y), pen.at(x + w, y + h)],
                        style(fill, true, 1.0),
                    ))?;
                }
                Shape::Line { points, colour, width } => {
                    let points: Vec<_> = points.iter().map(|(x, y)| pen.at(*x, *y)).collect();
                    root.draw(&PathElement::new(points, style(colour, false, *width)))?;
                }
                Shape::Polygon { points, colour, filled } => {
                    let mut points: Vec<_> = points.iter().map(|(x, y)| pen.at(*x, *y)).collect();
                    if *filled {
                        root.draw(&Polygon::new(points, style(colour, true, 1.0)))?;
                    } else {
                        points.extend(points.first().copied());
                        root.draw(&PathElement::new(points, style(colour, false, 1.0)))?;
                    }
                }
                Shape::Circle { centre: (x, y), radius, colour, filled } => {
                    let radius = (radius * pen.scale).round() as i32;
                    root.draw(&Circle::new(pen.at(*x, *y), radius, style(colour, *filled, 1.0)))?;
                }
                Shape::Text { at: (x, y), anchor, size, colour, bold, text } => {
                    let height = size * pen.size_factor * pen.scale;
                    let h = match anchor {
                        Anchor::Start => HPos::Left,
                        Anchor::Middle => HPos::Center,
                        Anchor::End => HPos::Right,
                    };
                    let rgb = colour.rgb();
                    let style = TextStyle::from(("sans-serif", height, font_style(*bold)).into_font())
                        .color(&rgb)
                        .pos(Pos::new(h, VPos::Top));
                    let (px, py) = (x * pen.scale, y * pen.scale - (pen.baseline)(height));
                    let at = (px.round() as i32, py.round() as i32);
                    root.draw(&TextElement::new(text.clone(), at, style))?;
                }
            }
        }
        Ok(())
    }
}

/// How one backend turns logical pixels into its own, and text sizes into what it calls a size.
struct Pen {
    scale: f64,
    /// The backend's size of a text whose em is 1.
    size_factor: f64,
    /// Distance from the top at which the backend puts a text of that size to its baseline.
    baseline: fn(f64) -> f64,
}

impl Pen {
    fn at(&self, x: f64, y: f64) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }
}

/// Ascent plus descent of Noto Sans, in ems (its `hhea` table): the glyph renderer scales by this height.
const EM_TO_HEIGHT: f64 = 1.362;

impl Colour {
    /// The drawing library's form.
    fn rgb(self) -> RGBColor {
        RGBColor(self.0, self.1, self.2)
    }
}

fn font_style(bold: bool) -> FontStyle {
    if bold { FontStyle::Bold } else { FontStyle::Normal }
}

fn failed(figure: &str, error: &dyn std::fmt::Display) -> BenchError {
    BenchError::Figure { figure: figure.to_owned(), what: error.to_string() }
}

/// Registers the embedded font under the generic name; done once in a process.
fn fonts(figure: &str) -> Result<(), BenchError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| {
        register_font("sans-serif", FontStyle::Normal, notosans::REGULAR_TTF).is_ok()
            && register_font("sans-serif", FontStyle::Bold, notosans::BOLD_TTF).is_ok()
    });
    if done { Ok(()) } else { Err(failed(figure, &"the embedded font cannot be read")) }
}

/// An SVG document that says its language and, once, its fonts: whichever of them the reader has, so that no character is
/// missing. The library names a font at each text, as the first thing of a line of its own.
fn with_fonts(svg: &str, language: Language) -> String {
    let mut out = String::with_capacity(svg.len());
    for line in svg.split_inclusive('\n') {
        if line.starts_with("<text ") {
            out.push_str(&line.replacen(" font-family=\"sans-serif\"", "", 1));
        } else {
            out.push_str(line);
        }
    }
    let root = format!("<svg xml:lang=\"{}\" font-family=\"{FONTS}\" ", language.tag());
    out.replacen("<svg ", &root, 1)
}

/// Fonts of the SVG, the embedded one first; those that follow have Chinese characters.
const FONTS: &str = "Noto Sans, sans-serif, Noto Sans CJK SC, Noto Sans SC, PingFang SC, Microsoft YaHei, \
                     WenQuanYi Micro Hei";

/// Whether a character is as wide as the em: Chinese ones and their punctuation, which the embedded font does not have.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ff60}')
}

/// Width of a text in logical pixels.
pub(super) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    let wide = text.chars().filter(|c| is_wide(*c)).count();
    if wide > 0 {
        let rest: String = text.chars().filter(|c| !is_wide(*c)).collect();
        return wide as f64 * size + text_width(&rest, size, bold);
    }
    // Measured at ten times the size: the library rounds down to whole pixels.
    let measured = fonts("").ok().and_then(|()| {
        ("sans-serif", size * EM_TO_HEIGHT * 10.0, font_style(bold)).into_font().box_size(text).ok()
    });
    measured.map_or(text.chars().count() as f64 * size * 0.6, |(w, _)| f64::from(w) / 10.0)
}

/// The text, cut with an ellipsis so that it is no wider than `width`.
pub(super) fn fit(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size, false) <= width {
        return text.to_owned();
    }
    let mut cut: Vec<char> = text.chars().collect();
    while cut.pop().is_some() {
        let candidate = format!("{}…", cut.iter().collect::<String>().trim_end());
        if text_width(&candidate, size, false) <= width {
            return candidate;
        }
    }
    String::new()
}
