//! What one must know to read slowdowns and means: the same sentences below the table and on the page.

use super::NATIVE;
use super::dataset::{Dataset, Nature};
use super::language::{Language, terms};

/// The sentences that `data` needs; none without figures of native.
pub fn sentences(data: &Dataset, language: Language) -> Vec<String> {
    let mut sentences = Vec::new();
    let compared: Vec<_> = data
        .measures
        .iter()
        .filter(|m| m.cells.iter().any(|(mode, cell)| mode != NATIVE && cell.slowdown.is_some()))
        .collect();
    if compared.is_empty() {
        return sentences;
    }
    sentences.push(terms::READING_SLOWDOWN.of(language).to_owned());
    if compared.iter().any(|m| m.metric.ends_with("@ring0") && m.nature == Nature::Task) {
        sentences.push(terms::READING_RING0.of(language).to_owned());
    }
    sentences.extend(data.means().iter().map(|means| means.set.about(language)));
    sentences
}
