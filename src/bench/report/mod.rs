//! The page that shows a run: `index.html`, which stands alone, and the figures beside it.
//!
//! Everything is made again from one CSV file (the side file only adds fingerprints spelled out). The page loads nothing:
//! figures are inlined as SVG, style is in the page, there is no script, and the page forbids the browser to load anything.

mod adams_agesen;
mod html;
mod labs;
mod page;

use super::dataset::Dataset;
use super::error::BenchError;
use super::language::Language;
use super::side::SideFile;
use super::{plot, record};
use std::path::{Path, PathBuf};

/// What a report consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The page.
    pub page: PathBuf,
    /// The CSV file that it shows.
    pub csv: PathBuf,
    /// Figures drawn, each as SVG and PNG.
    pub figures: usize,
}

/// Draws the newest run below `out` (in `out/data/*.csv`) into `out`.
///
/// # Errors
/// [`BenchError::NoData`] if there is no run; else those of [`generate_from`].
pub fn generate(out: &Path, language: Language) -> Result<Report, BenchError> {
    generate_from(&record::newest(out)?, out, language)
}

/// Draws the run in `csv` into `out`: figures first, then the page, each file whole or not at all.
///
/// # Errors
/// A CSV file that is not ours, with file and line; what the file system says; a figure that cannot be drawn.
pub fn generate_from(csv: &Path, out: &Path, language: Language) -> Result<Report, BenchError> {
    let data = Dataset::load(csv)?;
    let side = SideFile::load(csv);
    let figures = plot::figures(&data, language);
    let svgs = plot::write(&figures, out)?;
    let source = csv.strip_prefix(out).unwrap_or(csv).display().to_string();
    let text =
        page::render(&data, &figures, &svgs, side.as_ref(), &source, labs::near(out).as_deref(), language);
    let page = out.join("index.html");
    record::replace_file(&page, text.as_bytes())?;
    Ok(Report { page, csv: csv.to_owned(), figures: figures.len() })
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::{row, synthetic};
    use super::super::language;
    use super::*;

    fn written(tasks: usize) -> (tempfile::TempDir, String) {
        written_in(tasks, Language::English)
    }

    fn written_in(tasks: usize, language: Language) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let csv = record::data_dir(dir.path()).join("20260101T120000Z.csv");
        record::Writer::create(&csv).unwrap().append(&synthetic(tasks)).unwrap();
        let report = generate(dir.path(), language).unwrap();
        (dir, std::fs::read_to_string(report.page).unwrap())
    }

    #[test]
    fn the_page_stands_alone() {
        let (_dir, page) = written(6);
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        for word in ["http://", "https://", "src=", "<script", "@import", "url(", "<link"] {
            assert!(!outside.contains(word), "{word}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("default-src 'none'"));
        assert_eq!(page.matches("<svg").count(), 6);
        assert_eq!(page.matches("role=\"img\"").count(), 6);
    }

    #[test]
    fn a_page_is_in_one_language() {
        for language in [Language::German, Language::Chinese] {
            let (_dir, page) = written_in(20, language);
            assert!(page.contains(&format!("<html lang=\"{}\">", language.tag())));
            // Sentences; single words may be names in the data, or alike.
            let sentences = language::all().filter(|(_, text)| text.en.split(' ').count() > 2);
            for (name, text) in sentences.filter(|(_, text)| !text.en.contains('{')) {
                assert!(!page.contains(&html::escape(text.en)), "{name} is English in {}", language.name());
            }
        }
    }

    #[test]
    fn a_page_without_native_shows_the_times() {
        let dir = tempfile::tempdir().unwrap();
        let csv = record::data_dir(dir.path()).join("20260101T120000Z.csv");
        let rows: Vec<_> = synthetic(20).into_iter().filter(|r| r.mode != "native").collect();
        record::Writer::create(&csv).unwrap().append(&rows).unwrap();
        let page = std::fs::read_to_string(generate(dir.path(), Language::English).unwrap().page).unwrap();
        let times = &page[page.find("id=\"times\"").unwrap()..];
        for name in ["forkwait", "console-bytewise", "crc32", "cpuid"] {
            let row = &times[times.find(&format!("<th scope=\"row\">{name}</th>")).unwrap()..];
            assert!(row[..row.find("</tr>").unwrap()].contains(" ["), "{name} has its interval");
        }
    }

    #[test]
    fn sweeps_have_a_figure_with_all_points_in_a_table_and_are_no_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let csv = record::data_dir(dir.path()).join("20260101T120000Z.csv");
        let mut rows = synthetic(3);
        for (size, repetition) in [(1, 1), (1, 2), (64, 1), (64, 2), (4096, 1), (4096, 2)] {
            let metric = format!("rep_outs[bytes={size}]@ring0");
            let point = |mode, value| row("sweep_outs", &metric, record::UNIT_POINT, mode, repetition, value);
            rows.push(point("emu", f64::from(size) * 9.0));
            let failed = record::Row { reason: "no string I/O".to_owned(), value: None, ..point("pv", 0.0) };
            rows.push(record::Row { valid: false, ..failed });
        }
        record::Writer::create(&csv).unwrap().append(&rows).unwrap();
        for language in Language::ALL {
            let page = std::fs::read_to_string(generate(dir.path(), language).unwrap().page).unwrap();
            assert_eq!(page.matches("<svg").count(), 7);
            let part = &page[page.find("id=\"sweeps\"").unwrap()..];
            let part = &part[..part.find("</section>").unwrap()];
            let words = [language::figures::SWEEPS_METHOD, language::page::SWEEPS_TABLE];
            assert!(words.iter().all(|text| part.contains(&html::escape(text.of(language)))));
            for size in [1, 64, 4096] {
                assert!(part.contains(&format!("<th scope=\"row\">rep_outs[bytes={size}]</th>")), "{size}");
            }
            let rest = page.replace(part, "");
            assert!(!rest.contains("rep_outs["), "points are in no other table");
            assert_eq!(rest.matches("no string I/O").count(), 1, "one gap, not one for each point");
        }
    }

    #[test]
    fn text_from_files_is_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let csv = record::data_dir(dir.path()).join("r.csv");
        let mut rows = synthetic(3);
        for row in &mut rows {
            if row.workload == "sha256" {
                row.workload = "<script>alert(1)</script>".into();
            }
            if row.unit == record::UNIT_TEXT {
                row.reason.push_str(" <img src=x onerror=1> & \"quoted\"");
            }
        }
        record::Writer::create(&csv).unwrap().append(&rows).unwrap();
        let page = std::fs::read_to_string(generate(dir.path(), Language::English).unwrap().page).unwrap();
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn the_same_file_gives_the_same_page() {
        assert_eq!(written(4).1, written(4).1);
    }

    #[test]
    fn a_broken_file_is_refused_and_leaves_the_old_page() {
        let (dir, before) = written(3);
        let bad = record::data_dir(dir.path()).join("20270101T000000Z.csv");
        std::fs::write(&bad, "not,ours\n1,2\n").unwrap();
        assert!(matches!(generate(dir.path(), Language::English), Err(BenchError::Csv { line: 1, .. })));
        assert_eq!(std::fs::read_to_string(dir.path().join("index.html")).unwrap(), before);
    }
}
