//! Figures are whole, within their frame, and their labels do not overlap.

use super::super::dataset::Dataset;
use super::super::dataset::tests::{row, synthetic};
use super::super::record;
use super::scene::{Anchor, Shape, text_width};
use super::*;

/// Left, top, right, bottom.
type Box = (f64, f64, f64, f64);

/// Boxes of all texts.
fn text_boxes(scene: &Scene) -> Vec<(Box, &str)> {
    scene
        .shapes
        .iter()
        .filter_map(|shape| {
            let Shape::Text { at: (x, y), anchor, size, bold, text, .. } = shape else {
                return None;
            };
            let width = text_width(text, *size, *bold);
            let left = match anchor {
                Anchor::Start => *x,
                Anchor::Middle => x - width / 2.0,
                Anchor::End => x - width,
            };
            // Capitals and digits; descenders may touch the line below without harm.
            Some(((left, y - size * 0.72, left + width, *y), text.as_str()))
        })
        .collect()
}

fn check(scene: &Scene) {
    let boxes = text_boxes(scene);
    for (i, (a, words)) in boxes.iter().enumerate() {
        assert!(
            a.0 >= 0.0 && a.1 >= 0.0 && a.2 <= scene.width && a.3 <= scene.height,
            "outside: {words} {a:?}"
        );
        for (b, other) in &boxes[i + 1..] {
            let apart = a.2 <= b.0 || b.2 <= a.0 || a.3 <= b.1 || b.3 <= a.1;
            assert!(apart, "overlap: {words:?} {a:?} and {other:?} {b:?}");
        }
    }
}

/// Sweeps of realistic spread: exits that cost from nanoseconds to milliseconds, one flat, one with a single size.
fn sweeps() -> Vec<record::Row> {
    let mut rows = synthetic(3);
    let shapes: [(&str, &str, &[u64], f64); 5] = [
        ("rep_outs", "bytes", &[1, 8, 64, 512, 4096], 1.0),
        ("fault_storm", "pages", &[1, 4, 16, 64, 256, 1024], 0.9),
        ("space_switch", "spaces", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 0.0),
        ("virtio_read", "bytes", &[512, 131_072], 0.2),
        ("lone", "things", &[7], 1.0),
    ];
    for (base, what, sizes, power) in shapes {
        for (m, mode) in ["emu", "pv", "kvm", "qemu-tcg"].iter().enumerate() {
            for size in sizes {
                for repetition in 1..=5 {
                    let time = 20.0 * 30f64.powi(m as i32) * (1.0 + (*size as f64).powf(power));
                    let time = time * (1.0 + f64::from(repetition) * 0.04);
                    let metric = format!("{base}[{what}={size}]@ring0");
                    let workload = format!("sweep_{base}");
                    rows.push(row(&workload, &metric, record::UNIT_POINT, mode, repetition, time));
                }
            }
        }
    }
    rows
}

#[test]
fn a_panel_for_each_sweep_with_a_line_for_each_mode() {
    let data = Dataset::from_rows(&sweeps()).unwrap();
    let figure = figures(&data, Language::English).into_iter().find(|f| f.name == "sweeps").unwrap();
    for language in Language::ALL {
        for figure in figures(&data, language) {
            check(&figure.scene);
            figure.pixels.iter().for_each(check);
        }
    }
    assert_eq!(crossed(&figure.scene), Vec::<String>::new());
    let lines = |length: usize| {
        let is_line = |shape: &&Shape| matches!(shape, Shape::Line { points, width, .. } if points.len() == length && *width == 1.6);
        figure.scene.shapes.iter().filter(is_line).count()
    };
    assert_eq!((lines(5), lines(6), lines(16)), (4, 4, 4), "a line is drawn for each mode");
    let texts: Vec<_> = text_boxes(&figure.scene).into_iter().map(|(_, words)| words).collect();
    for title in ["rep_outs, 1 to 4096 bytes", "fault_storm, 1 to 1024 pages", "lone, 7 to 7 things"] {
        assert!(texts.contains(&title), "{title} in {texts:?}");
    }
    assert!(figure.alt.starts_with("5 line plots") && figure.alt.contains("kvm"), "{}", figure.alt);
    // The other figures are those of a run without sweeps.
    let without = figures(&Dataset::from_rows(&synthetic(3)).unwrap(), Language::English);
    let with = figures(&data, Language::English);
    for other in without {
        assert_eq!(with.iter().find(|f| f.name == other.name), Some(&other), "{}", other.name);
    }
}

#[test]
fn points_in_proportion_to_size_stand_on_a_line_of_slope_one() {
    let mut rows = Vec::new();
    for size in [1_u32, 10, 100, 1000] {
        let metric = format!("copy[bytes={size}]@ring0");
        rows.push(row("sweep", &metric, record::UNIT_POINT, "emu", 1, f64::from(size) * 7.0));
    }
    let scene = figures(&Dataset::from_rows(&rows).unwrap(), Language::English).remove(0).scene;
    let slopes = |wanted: &dyn Fn(&Shape) -> bool| -> Vec<f64> {
        let ends = |shape: &Shape| match shape {
            Shape::Line { points, .. } => Some((points[0], *points.last()?)),
            _ => None,
        };
        let slope = |((x, y), (to, end)): ((f64, f64), (f64, f64))| (y - end) / (to - x);
        scene.shapes.iter().filter(|shape| wanted(shape)).filter_map(ends).map(slope).collect()
    };
    let measured = slopes(&|shape| matches!(shape, Shape::Line { points, .. } if points.len() == 4));
    let guides = slopes(
        &|shape| matches!(shape, Shape::Line { points, .. } if points.len() == 2 && points[0].0 != points[1].0 && points[0].1 != points[1].1),
    );
    assert!(measured.len() == 1 && guides.len() > 2, "{measured:?} {guides:?}");
    assert!(guides.iter().all(|slope| (slope - measured[0]).abs() < 1e-6), "{measured:?} {guides:?}");
}

#[test]
fn labels_stay_apart_and_inside() {
    for tasks in [1, 20, 34] {
        let data = Dataset::from_rows(&synthetic(tasks)).unwrap();
        for language in Language::ALL {
            let figures = figures(&data, language);
            assert_eq!(figures.len(), 6);
            for figure in &figures {
                check(&figure.scene);
            }
        }
    }
}

/// Upright lines drawn before a text, and not painted over behind it, that run through it.
fn crossed(scene: &Scene) -> Vec<String> {
    let mut lines: Vec<Box> = Vec::new();
    let mut patches: Vec<(usize, Box)> = Vec::new();
    let mut found = Vec::new();
    for shape in &scene.shapes {
        match shape {
            Shape::Line { points, .. } if points.len() == 2 && points[0].0 == points[1].0 => {
                let (x, (top, bottom)) = (points[0].0, (points[0].1, points[1].1));
                lines.push((x, top.min(bottom), x, top.max(bottom)));
            }
            Shape::Rect { area: (x, y, w, h), .. } => patches.push((lines.len(), (*x, *y, x + w, y + h))),
            _ => {}
        }
        let lone = Scene { width: scene.width, height: scene.height, shapes: vec![shape.clone()] };
        for (text, words) in text_boxes(&lone) {
            let middle = f64::midpoint(text.1, text.3);
            for (number, line) in lines.iter().enumerate() {
                let runs_through = text.0 < line.0 && line.0 < text.2 && line.1 < middle && middle < line.3;
                let painted_over = patches.iter().any(|(drawn, patch)| {
                    *drawn > number
                        && patch.0 <= text.0
                        && text.2 <= patch.2
                        && patch.1 < middle
                        && middle < patch.3
                });
                if runs_through && !painted_over {
                    found.push(format!("{words:?} at {text:?} by the line at {}", line.0));
                }
            }
        }
    }
    found
}

#[test]
fn no_line_runs_through_a_value() {
    let data = Dataset::from_rows(&synthetic(34)).unwrap();
    for figure in figures(&data, Language::English) {
        assert_eq!(crossed(&figure.scene), Vec::<String>::new(), "{}", figure.name);
    }
}

#[test]
fn values_near_native_speed_leave_the_reference_line_whole() {
    let mut rows = Vec::new();
    for (number, ratio) in [0.5, 0.62, 0.68, 0.7, 0.75, 0.8, 0.9, 0.97, 1.0, 1.02].into_iter().enumerate() {
        let name = format!("task{number}");
        for repetition in 1..=3 {
            let metric = format!("{name}@ring3");
            rows.push(row(&name, &metric, record::UNIT_TASK, "native", repetition, 1000.0));
            rows.push(row(&name, &metric, record::UNIT_TASK, "pv", repetition, 1000.0 * ratio));
            rows.push(row(&name, &metric, record::UNIT_TASK, "emu", repetition, 30_000.0));
        }
    }
    for row in &mut rows {
        row.fingerprint = format!("same-{}", row.mode);
    }
    let data = Dataset::from_rows(&rows).unwrap();
    let scene = figures(&data, Language::English).into_iter().find(|f| f.name == "slowdown").unwrap().scene;
    let reference = |shape: &&Shape| matches!(shape, Shape::Line { width, points, .. } if *width == 1.4 && points.len() == 2);
    let Some(Shape::Line { points, .. }) = scene.shapes.iter().find(reference) else { panic!("no line") };
    let x = points[0].0;
    let over: Vec<_> = text_boxes(&scene)
        .into_iter()
        .filter(|(text, words)| words.ends_with('×') && text.3 > points[0].1 && text.1 < points[1].1)
        .filter(|(text, _)| text.0 - 1.0 < x && x < text.2 + 1.0)
        .collect();
    assert!(over.is_empty(), "{over:?} on the line at {x}");
    check(&scene);
}

#[test]
fn long_names_and_reasons_stay_inside() {
    let mut rows = synthetic(3);
    for row in &mut rows {
        if row.workload == "crc32" {
            row.workload = "w".repeat(64);
        }
        if !row.valid && !row.reason.is_empty() {
            row.reason = "reason ".repeat(50);
        }
    }
    for figure in figures(&Dataset::from_rows(&rows).unwrap(), Language::English) {
        check(&figure.scene);
    }
}

#[test]
fn both_files_are_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = Dataset::from_rows(&synthetic(4)).unwrap();
    let figures = figures(&data, Language::English);
    let svgs = write(&figures, dir.path()).unwrap();
    for (figure, svg) in figures.iter().zip(&svgs) {
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        let png = std::fs::read(dir.path().join(figure.name).with_extension("png")).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 5000);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2 * figures.len(), "nothing is left over");
    // The host's name has signs that mean something in XML.
    assert!(svgs[0].contains("Made-up &lt;CPU&gt; &amp; Co."));
}

#[test]
fn pixels_show_only_what_the_embedded_font_has() {
    let data = Dataset::from_rows(&synthetic(4)).unwrap();
    for figure in figures(&data, Language::Chinese) {
        let pixels = figure.pixels.unwrap();
        let chinese = |words: &str| words.chars().any(|c| ('\u{3000}'..='\u{9fff}').contains(&c));
        assert!(text_boxes(&figure.scene).iter().any(|(_, words)| chinese(words)), "{}", figure.name);
        assert!(!text_boxes(&pixels).iter().any(|(_, words)| chinese(words)), "{}", figure.name);
        check(&pixels);
    }
    assert!(figures(&data, Language::German).iter().all(|figure| figure.pixels.is_none()));
}

#[test]
fn the_document_names_its_language_and_fonts_once() {
    let data = Dataset::from_rows(&synthetic(4)).unwrap();
    for language in Language::ALL {
        for figure in figures(&data, language) {
            let svg = figure.scene.svg(figure.name, language).unwrap();
            assert!(svg.starts_with(&format!("<svg xml:lang=\"{}\" font-family=\"", language.tag())));
            assert_eq!(svg.matches("font-family").count(), 1);
        }
    }
}

#[test]
fn little_data_gives_few_figures_and_no_panic() {
    let lone = [row("a", "a@ring3", record::UNIT_TASK, "emu", 1, 5.0)];
    assert!(figures(&Dataset::from_rows(&lone).unwrap(), Language::English).is_empty());
    let nano = [row("a", "a@ring0", record::UNIT_NANO, "emu", 1, 5.0)];
    let names: Vec<&str> =
        figures(&Dataset::from_rows(&nano).unwrap(), Language::English).iter().map(|f| f.name).collect();
    assert_eq!(names, ["nano"]);
}
