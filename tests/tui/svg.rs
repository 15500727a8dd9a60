//! A terminal's screen as a picture: text with control sequences for its looks (ECMA-48, SGR) becomes SVG.
use std::fmt::Write;

/// Size of a cell, and of the type in it, in pixels.
const CELL: (f64, f64) = (8.4, 18.0);
const TYPE: f64 = 14.0;
/// Room around the screen.
const MARGIN: f64 = 12.0;
const FOREGROUND: &str = "#d6dbe4";
const BACKGROUND: &str = "#12161f";
/// The terminal's sixteen colours.
const COLOURS: [&str; 16] = [
    "#2a3040", "#e0606a", "#8fc46b", "#e3b760", "#2b62b8", "#c58adf", "#56b6c8", "#b8c0cf", "#68748a",
    "#ff7b86", "#a5dc80", "#f2cd7c", "#79b0ff", "#dba4f2", "#74d3e4", "#ffffff",
];
/// Blue is a background here, and as text would be hard to read on black.
const BLUE_TEXT: &str = "#82aaff";

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Look {
    text: Option<u8>,
    back: Option<u8>,
    bold: bool,
    dim: bool,
    underlined: bool,
    reversed: bool,
}

/// The picture of a captured screen.
pub(crate) fn draw(captured: &str) -> String {
    let rows: Vec<Vec<(char, Look)>> =
        captured.lines().scan(Look::default(), |look, line| Some(cells(line, look))).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns as f64 * CELL.0 + 2.0 * MARGIN, rows.len() as f64 * CELL.1 + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"{TYPE}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (number, row) in rows.iter().enumerate() {
        let y = MARGIN + number as f64 * CELL.1;
        for (start, run) in runs(row) {
            draw_run(&mut svg, MARGIN + start as f64 * CELL.0, y, run);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line's characters with their looks; `look` is left as the line leaves it.
fn cells(line: &str, look: &mut Look) -> Vec<(char, Look)> {
    let mut cells = Vec::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(sequence) = rest.strip_prefix("\x1b[") {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(sequence.len());
            let (parameters, after) = sequence.split_at(end);
            if after.starts_with('m') {
                apply(parameters, look);
            }
            rest = after.get(1..).unwrap_or("");
            continue;
        }
        cells.push((c, *look));
        rest = &rest[c.len_utf8()..];
    }
    cells
}

fn apply(parameters: &str, look: &mut Look) {
    let mut numbers = parameters.split([';', ':']).map(|number| number.parse::<u8>().unwrap_or(0));
    while let Some(number) = numbers.next() {
        match number {
            0 => *look = Look::default(),
            1 => look.bold = true,
            2 => look.dim = true,
            4 => look.underlined = true,
            7 => look.reversed = true,
            22 => (look.bold, look.dim) = (false, false),
            24 => look.underlined = false,
            27 => look.reversed = false,
            30..=37 => look.text = Some(number - 30),
            90..=97 => look.text = Some(number - 90 + 8),
            39 => look.text = None,
            40..=47 => look.back = Some(number - 40),
            100..=107 => look.back = Some(number - 100 + 8),
            49 => look.back = None,
            38 | 48 => {
                // Of 256 colours only the first sixteen are used.
                let colour = numbers.nth(1).filter(|colour| *colour < 16);
                if number == 38 { look.text = colour } else { look.back = colour }
            }
            _ => {}
        }
    }
}

/// Pieces of equal looks.
fn runs(row: &[(char, Look)]) -> impl Iterator<Item = (usize, &[(char, Look)])> {
    row.chunk_by(|one, other| one.1 == other.1).scan(0, |start, run| {
        let here = *start;
        *start += run.len();
        Some((here, run))
    })
}

fn draw_run(svg: &mut String, x: f64, y: f64, run: &[(char, Look)]) {
    let look = run[0].1;
    let colour =
        |number: Option<u8>, otherwise| number.map_or(otherwise, |number| COLOURS[usize::from(number)]);
    let (mut text, mut back) =
        (colour(look.text, FOREGROUND), look.back.map(|back| COLOURS[usize::from(back)]));
    if look.text == Some(4) {
        text = BLUE_TEXT;
    }
    if look.reversed {
        (text, back) = (back.unwrap_or(BACKGROUND), Some(text));
    }
    let width = run.len() as f64 * CELL.0;
    if let Some(back) = back {
        writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{back}\"/>",
            CELL.1
        )
        .unwrap();
    }
    for (number, (c, _)) in run.iter().enumerate() {
        if let Some(path) = line_of(*c) {
            let at = x + number as f64 * CELL.0;
            writeln!(
                svg,
                "<path transform=\"translate({at:.1} {y:.1})\" d=\"{path}\" fill=\"none\" stroke=\"{text}\"/>"
            )
            .unwrap();
        }
    }
    let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
    let faint = if look.dim { " opacity=\"0.6\"" } else { "" };
    let under = if look.underlined { " text-decoration=\"underline\"" } else { "" };
    // Words are placed one by one, so that each stands in its columns whatever the font.
    let mut number = 0;
    for word in run.chunk_by(|one, other| is_drawn_as_text(one.0) == is_drawn_as_text(other.0)) {
        if is_drawn_as_text(word[0].0) {
            let at = x + number as f64 * CELL.0;
            let length = word.len() as f64 * CELL.0;
            let base = y + 13.5;
            let letters: String = word.iter().map(|cell| escaped(cell.0)).collect();
            writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{base:.1}\" textLength=\"{length:.1}\" fill=\"{text}\"{weight}{faint}{under}>{letters}</text>"
            )
            .unwrap();
        }
        number += word.len();
    }
}

fn is_drawn_as_text(c: char) -> bool {
    c != ' ' && line_of(c).is_none()
}

fn escaped(c: char) -> String {
    match c {
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        c => c.to_string(),
    }
}

/// Lines of frames and trees as paths in their cell, so that they meet.
fn line_of(c: char) -> Option<&'static str> {
    Some(match c {
        '─' => "M0 9H8.4",
        '│' => "M4.2 0V18",
        '╭' => "M8.4 9Q4.2 9 4.2 18",
        '╮' => "M0 9Q4.2 9 4.2 18",
        '╰' => "M4.2 0Q4.2 9 8.4 9",
        '╯' => "M4.2 0Q4.2 9 0 9",
        '└' => "M4.2 0V9H8.4",
        _ => return None,
    })
}
