//! Figures of a run, as SVG and PNG. Reads a [`Dataset`], which is made of CSV rows, and nothing live.

mod axis;
mod dots;
mod frame;
mod palette;
mod repetitions;
mod scene;
mod shares;
mod sweeps;

pub use scene::Scene;

use super::dataset::{Dataset, Nature, ShareBar};
use super::error::BenchError;
use super::language::{Language, Text, figures as words};
use super::record::replace_file;
use rayon::prelude::*;
use std::path::Path;

/// A figure with the words that go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Name of its files, without extension.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Two sentences that explain it.
    pub explanation: &'static str,
    /// What it shows, for who cannot see it.
    pub alt: String,
    /// The drawing.
    pub scene: Scene,
    /// The drawing of the PNG, where its words are in another language: see [`Language::of_pixels`].
    pub pixels: Option<Scene>,
    /// The language of its words.
    pub language: Language,
}

/// The figures that `data` has something for, in the order of the page, with words in `language`.
pub fn figures(data: &Dataset, language: Language) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add =
        |name, title: Text, explanation: Text, alt: String, draw: &dyn Fn(Language) -> Option<Scene>| {
            let other = language.of_pixels();
            figures.extend(draw(language).map(|scene| Figure {
                name,
                title: title.of(language),
                explanation: explanation.of(language),
                alt,
                scene,
                pixels: if other == language { None } else { draw(other) },
                language,
            }));
        };
    add("slowdown", words::SLOWDOWN, words::SLOWDOWN_METHOD, slowdown_alt(data, language), &|language| {
        dots::slowdown(data, language)
    });
    add("nano", words::NANO, words::NANO_METHOD, nano_alt(data, language), &|language| {
        dots::nano(data, language)
    });
    add("sweeps", words::SWEEPS, words::SWEEPS_METHOD, sweeps_alt(data, language), &|language| {
        sweeps::sweeps(data, language)
    });
    add("exits", words::EXITS, words::EXITS_METHOD, exits_alt(data, language), &|language| {
        shares::exits(data, language)
    });
    add("ledger", words::LEDGER, words::LEDGER_METHOD, ledger_alt(data, language), &|language| {
        shares::times(data, language)
    });
    for (nature, name, title) in [
        (Nature::Task, "repetitions-tasks", words::SCATTER_TASKS),
        (Nature::Nano, "repetitions-nano", words::SCATTER_NANO),
    ] {
        add(name, title, words::SCATTER_METHOD, scatter_alt(data, nature, language), &|language| {
            repetitions::repetitions(data, nature, language)
        });
    }
    figures
}

/// Draws the figures into `dir` as `<name>.svg` and `<name>.png`, each whole or not at all; gives back the SVG texts.
///
/// # Errors
/// [`BenchError::Figure`] or [`BenchError::Io`]; other figures may have been written by then.
pub fn write(figures: &[Figure], dir: &Path) -> Result<Vec<String>, BenchError> {
    std::fs::create_dir_all(dir).map_err(|e| BenchError::io(dir, e))?;
    figures
        .par_iter()
        .map(|figure| {
            let svg = figure.scene.svg(figure.name, figure.language)?;
            replace_file(&dir.join(figure.name).with_extension("svg"), svg.as_bytes())?;
            let path = dir.join(figure.name).with_extension("png");
            let part = dir.join(format!(".{}.{}.part.png", figure.name, std::process::id()));
            let drawn = figure
                .pixels
                .as_ref()
                .unwrap_or(&figure.scene)
                .png(figure.name, &part)
                .and_then(|()| std::fs::rename(&part, &path).map_err(|e| BenchError::io(&path, e)));
            if drawn.is_err() {
                // The first error matters; a leftover that cannot be removed either does not.
                let _ = std::fs::remove_file(&part);
            }
            drawn.map(|()| svg)
        })
        .collect()
}

fn slowdown_alt(data: &Dataset, language: Language) -> String {
    let means: Vec<String> = data
        .modes
        .iter()
        .filter(|m| *m != super::NATIVE)
        .filter_map(|m| Some(format!("{m} {}", language.ratio(data.mean_slowdown(m)?))))
        .collect();
    let means = if means.is_empty() { words::NONE.of(language).to_owned() } else { language.list(&means) };
    let count = data.of(Nature::Task).count().to_string();
    words::SLOWDOWN_ALT.with(language, &[("count", &count), ("means", &means)])
}

fn nano_alt(data: &Dataset, language: Language) -> String {
    let ranges: Vec<String> = data
        .modes
        .iter()
        .filter_map(|mode| {
            let times: Vec<f64> =
                data.of(Nature::Nano).filter_map(|m| Some(m.cell(mode)?.time?.mid)).collect();
            let low = language.time(times.iter().copied().reduce(f64::min)?);
            let high = language.time(times.iter().copied().reduce(f64::max)?);
            Some(words::RANGE.with(language, &[("mode", mode), ("low", &low), ("high", &high)]))
        })
        .collect();
    let count = data.of(Nature::Nano).count().to_string();
    words::NANO_ALT.with(language, &[("count", &count), ("ranges", &language.list(&ranges))])
}

fn sweeps_alt(data: &Dataset, language: Language) -> String {
    let series = data.series();
    let told: Vec<String> = series
        .iter()
        .map(|series| {
            let growth = |mode: &String| {
                let [low, high] = series.ends(mode)?.map(|(_, time)| language.time(time));
                Some(words::RANGE.with(language, &[("mode", mode), ("low", &low), ("high", &high)]))
            };
            let modes: Vec<String> = data.modes.iter().filter_map(growth).collect();
            format!("{}: {}", series.title(language), language.list(&modes))
        })
        .collect();
    words::SWEEPS_ALT.with(language, &[("count", &series.len().to_string()), ("series", &told.join("; "))])
}

fn exits_alt(data: &Dataset, language: Language) -> String {
    let totals: Vec<String> = data
        .modes
        .iter()
        .filter_map(|mode| {
            let total: f64 = data.exits.iter().filter(|b| b.mode == *mode).map(|b| b.total).sum();
            (total > 0.0).then(|| format!("{mode} {}", language.count(total)))
        })
        .collect();
    words::EXITS_ALT.with(language, &[("totals", &language.list(&totals))])
}

/// Which part of all time went to guest code, by mode.
fn ledger_alt(data: &Dataset, language: Language) -> String {
    let shares: Vec<String> = data
        .modes
        .iter()
        .filter_map(|mode| {
            let bars = || data.times.iter().filter(|b| b.mode == *mode && b.total > 0.0);
            let mean = bars().map(ShareBar::guest_code).sum::<f64>() / bars().count().max(1) as f64;
            bars().next()?;
            Some(format!("{mode} {}", language.number(format!("{:.0} %", mean * 100.0))))
        })
        .collect();
    words::LEDGER_ALT.with(language, &[("shares", &language.list(&shares))])
}

fn scatter_alt(data: &Dataset, nature: Nature, language: Language) -> String {
    let samples = || data.of(nature).flat_map(|m| m.cells.values()).flat_map(|c| &c.samples);
    let outliers = samples().filter(|s| s.outlier).count().to_string();
    let count = samples().count().to_string();
    words::SCATTER_ALT.with(language, &[("count", &count), ("outliers", &outliers)])
}

#[cfg(test)]
mod tests;
