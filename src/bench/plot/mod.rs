//! Figures of a run, as SVG and PNG. Reads a [`Dataset`], which is made of CSV rows, and nothing live.

mod axis;
mod dots;
mod exits;
mod frame;
mod palette;
mod repetitions;
mod scene;

pub use scene::Scene;

use super::dataset::{Dataset, Nature};
use super::error::BenchError;
use super::quantity;
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
    /// The figure itself.
    pub scene: Scene,
}

/// All figures that the data allows, in the order in which a page shows them.
pub fn figures(data: &Dataset) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name, title, explanation, alt: String, scene: Option<Scene>| {
        figures.extend(scene.map(|scene| Figure { name, title, explanation, alt, scene }));
    };
    add(
        "slowdown",
        "Slowdown to native",
        "Each mark is the time of one task divided by the time of the same code run directly on the host in the same round: \
         the median over all rounds, with a bar over its 95 % bootstrap interval; means are geometric. The axis is logarithmic: equal distances are equal factors, and \
         marks on the line at 1× run at native speed.",
        slowdown_alt(data),
        dots::slowdown(data),
    );
    add(
        "nano",
        "Cost of one operation",
        "Each mark is the median time of a single operation, such as an exit, a trap or a page-table change, measured \
         in a loop inside the guest. Where the modes of one operation lie far apart, one technique handles it in \
         hardware or in place and another has to step in.",
        nano_alt(data),
        dots::nano(data),
    );
    add(
        "exits",
        "Exits by cause",
        "Each bar divides the moments at which a mode had to leave guest code in the timed regions by their cause, and \
         the figure beside it counts them; boot and calibration do not count. A slow task with many exits pays for crossings; a slow task with few pays for the way its \
         instructions are executed.",
        exits_alt(data),
        exits::exits(data),
    );
    for (nature, name, title) in [
        (Nature::Task, "repetitions-tasks", "Scatter of repetitions: tasks"),
        (Nature::Nano, "repetitions-nano", "Scatter of repetitions: nano operations"),
    ] {
        add(
            name,
            title,
            "Each mark is one repetition, placed by how much it took more or less than the median of its own mode. \
             Narrow rows can be trusted to a few percent; wide rows and outlined outliers say that the host was busy \
             or its speed drifted.",
            scatter_alt(data, nature),
            repetitions::repetitions(data, nature),
        );
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
            let svg = figure.scene.svg(figure.name)?;
            replace_file(&dir.join(figure.name).with_extension("svg"), svg.as_bytes())?;
            let path = dir.join(figure.name).with_extension("png");
            let part = dir.join(format!(".{}.{}.part.png", figure.name, std::process::id()));
            let drawn = figure
                .scene
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

fn slowdown_alt(data: &Dataset) -> String {
    let means: Vec<String> = data
        .modes
        .iter()
        .filter(|m| *m != super::NATIVE)
        .filter_map(|m| Some(format!("{m} {}", quantity::ratio(data.mean_slowdown(m)?))))
        .collect();
    format!(
        "Dot plot with a logarithmic axis: slowdown of {} tasks relative to native. Geometric means: {}.",
        data.of(Nature::Task).count(),
        if means.is_empty() { "none".to_owned() } else { means.join(", ") }
    )
}

fn nano_alt(data: &Dataset) -> String {
    let ranges: Vec<String> = data
        .modes
        .iter()
        .filter_map(|mode| {
            let times: Vec<f64> =
                data.of(Nature::Nano).filter_map(|m| Some(m.cell(mode)?.time?.mid)).collect();
            let low = times.iter().copied().reduce(f64::min)?;
            let high = times.iter().copied().reduce(f64::max)?;
            Some(format!("{mode} {} to {}", quantity::time(low), quantity::time(high)))
        })
        .collect();
    format!(
        "Dot plot with a logarithmic axis: time of {} operations by mode. Ranges: {}.",
        data.of(Nature::Nano).count(),
        ranges.join(", ")
    )
}

fn exits_alt(data: &Dataset) -> String {
    let totals: Vec<String> = data
        .modes
        .iter()
        .filter_map(|mode| {
            let total: f64 = data.exits.iter().filter(|b| b.mode == *mode).map(|b| b.total).sum();
            (total > 0.0).then(|| format!("{mode} {}", quantity::count(total)))
        })
        .collect();
    format!(
        "Stacked bars: shares of exit causes per workload and mode. Exits in the timed regions of all workloads: {}.",
        totals.join(", ")
    )
}

fn scatter_alt(data: &Dataset, nature: Nature) -> String {
    let samples = || data.of(nature).flat_map(|m| m.cells.values()).flat_map(|c| &c.samples);
    format!(
        "Scatter plot: deviation of {} repetitions from the median of their mode; {} are marked as outliers.",
        samples().count(),
        samples().filter(|s| s.outlier).count()
    )
}

#[cfg(test)]
mod tests;
