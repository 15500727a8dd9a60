//! What one must know to read slowdowns and means: the same sentences below the table and on the page.

use super::NATIVE;
use super::dataset::{Dataset, Nature};

/// The sentences that `data` needs; none without figures of native.
pub fn sentences(data: &Dataset) -> Vec<String> {
    let mut sentences = Vec::new();
    let compared: Vec<_> = data
        .measures
        .iter()
        .filter(|m| m.cells.iter().any(|(mode, cell)| mode != NATIVE && cell.slowdown.is_some()))
        .collect();
    if compared.is_empty() {
        return sentences;
    }
    sentences.push(
        "Slowdown is the median, over the rounds, of the ratio to native within a round: not exactly the quotient of the \
         two medians."
            .to_owned(),
    );
    if compared.iter().any(|m| m.metric.ends_with("@ring0") && m.nature == Nature::Task) {
        sentences.push(
            "A kernel timed in ring 0 is compared with native in ring 3; with its twin in ring 3 it counts once in a mean, \
             as that."
                .to_owned(),
        );
    }
    for means in data.means() {
        sentences.push(format!(
            "Mean of {}: geometric, over those that every mode completed, of {}.",
            means.set.name(),
            means.set.members()
        ));
    }
    sentences
}
