//! The words and tables of the page.

use super::html::{escape, inline_svg, table, table_of_words};
use super::{adams_agesen, labs};
use crate::bench::dataset::{ABLATED, Cell, Dataset, Nature, ShareBar, UNMEASURED};
use crate::bench::fingerprint::EMULATED_SUPERVISOR;
use crate::bench::language::{Language, Text, page as words, terms};
use crate::bench::plot::Figure;
use crate::bench::side::SideFile;
use crate::bench::{NATIVE, base_mode, reading, stats};
use crate::engine::{Account, Cause};

/// What a browser may load for the page: nothing but the style that stands in it.
const LOAD_NOTHING: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn render(
    data: &Dataset,
    figures: &[Figure],
    svgs: &[String],
    side: Option<&SideFile>,
    source: &str,
    labs: Option<&str>,
    language: Language,
) -> String {
    let mut out = format!("<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n", language.tag());
    out.push_str("<meta charset=\"utf-8\">\n");
    out.push_str(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{LOAD_NOTHING}\">\n"));
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    let title = words::TITLE.with(language, &[("run", &data.run)]);
    out.push_str(&format!("<title>{}</title>\n", escape(&title)));
    out.push_str(&format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"));
    head(&mut out, data, source, language);
    means(&mut out, data, language);
    how_to_read(&mut out, data, language);
    for (figure, svg) in figures.iter().zip(svgs) {
        out.push_str(&format!("<section>\n<h2 id=\"{0}\">{1}</h2>\n", figure.name, escape(figure.title)));
        out.push_str(&format!(
            "<figure>\n<div class=\"pan\" role=\"group\" aria-label=\"{}\" tabindex=\"0\">{}</div>\n",
            escape(figure.title),
            inline_svg(svg, &figure.alt)
        ));
        out.push_str(&format!("<figcaption>{}</figcaption>\n</figure>\n", escape(figure.explanation)));
        if ["slowdown", "nano"].contains(&figure.name) {
            let text = words::FIGURE_TABLE.of(language);
            out.push_str(&format!("<p><a href=\"#times-{}\">{text}</a></p>\n", figure.name));
        }
        if let Some((caption, head, rows)) = table_behind(figure.name, data, language) {
            out.push_str(&format!("<details><summary>{}</summary>\n", escape(&caption)));
            out.push_str(&table(&caption, &head, &rows));
            out.push_str("</details>\n");
        }
        match figure.name {
            "exits" => causes(&mut out, data, language),
            "ledger" => accounts(&mut out, data, language),
            _ => {}
        }
        out.push_str("</section>\n");
    }
    adams_agesen::section(&mut out, data, language);
    times(&mut out, data, language);
    labs::section(&mut out, labs, language);
    gaps(&mut out, data, language);
    circumstances(&mut out, data, side, language);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn head(out: &mut String, data: &Dataset, source: &str, language: Language) {
    let begun = words::RUN_BEGUN.with(language, &[("run", &data.run), ("time", &data.started)]);
    out.push_str(&format!("<h1>{}</h1>\n", words::HEADING.of(language)));
    out.push_str(&format!("<p class=\"muted\">{}</p>\n<dl>\n", escape(&begun)));
    if let Some(busy) = data.disturbance(language) {
        let beware = words::BEWARE.of(language);
        out.push_str(&format!("<dt>{beware}</dt><dd><strong>{}</strong></dd>\n", escape(&busy)));
    }
    for (name, value) in &data.facts {
        let name = terms::fact(name, language);
        out.push_str(&format!("<dt>{}</dt><dd lang=\"en\">{}</dd>\n", escape(name), escape(value)));
    }
    let name = words::DATA.of(language);
    out.push_str(&format!("<dt>{name}</dt><dd>{}</dd>\n</dl>\n", escape(source)));
    if let Some(label) = data.fact("kvm label") {
        let shown = words::KVM_HERE.with(language, &[("label", terms::label(class(label), language))]);
        let meaning = meaning(label).of(language);
        out.push_str(&format!("<p><strong>{}</strong> {meaning}</p>\n", escape(&shown)));
    }
}

/// The first words of a KVM label, which say what it is; module and figures may follow.
pub(super) fn class(label: &str) -> &str {
    label.split([':', '(']).next().unwrap_or_default().trim_end()
}

/// What a KVM label means for who reads the figures.
fn meaning(label: &str) -> Text {
    match class(label) {
        "hardware" => words::KVM_HARDWARE,
        "nested" => words::KVM_NESTED,
        EMULATED_SUPERVISOR => words::KVM_EMULATED,
        "none" => words::KVM_NONE,
        _ => words::KVM_UNKNOWN,
    }
}

fn means(out: &mut String, data: &Dataset, language: Language) {
    let means = data.means();
    if means.is_empty() {
        return;
    }
    let (heading, about) = (words::IN_SHORT.of(language), words::IN_SHORT_ABOUT.of(language));
    out.push_str(&format!("<h2>{heading}</h2>\n<p>{about}</p>\n"));
    for means in &means {
        out.push_str(&format!("<h3>{}</h3>\n<ul class=\"means\">\n", means.count(language)));
        for (mode, mean) in data.modes.iter().zip(&means.by_mode).filter(|(mode, _)| *mode != NATIVE) {
            if let Some(mean) = mean {
                out.push_str(&format!("<li>{}<b>{}</b></li>\n", escape(mode), language.ratio(*mean)));
            }
        }
        out.push_str("</ul>\n");
    }
}

fn how_to_read(out: &mut String, data: &Dataset, language: Language) {
    out.push_str(&format!("<h2>{}</h2>\n<ul>\n", words::HOW_TO_READ.of(language)));
    let mut ablated = false;
    for mode in &data.modes {
        let mut name = mode.as_str();
        if mode.starts_with(ABLATED) {
            if std::mem::replace(&mut ablated, true) {
                continue;
            }
            name = "emu/without-…";
        }
        let (colon, about) = (terms::COLON.of(language), technique(mode).of(language));
        out.push_str(&format!("<li><strong>{}</strong>{colon}{about}</li>\n", escape(name)));
    }
    out.push_str(&format!("</ul>\n<p>{}</p>\n", words::METHOD.of(language)));
}

/// What a column is.
fn technique(mode: &str) -> Text {
    match base_mode(mode) {
        _ if mode == "direct/none" => words::MODE_DIRECT_NONE,
        _ if mode.ends_with("/pv") => words::MODE_WITH_HYPERCALLS,
        NATIVE => words::MODE_NATIVE,
        "emu" if mode == "emu" => words::MODE_EMU,
        "emu" if mode == "emu/single" => words::MODE_INTERPRETER,
        "emu" if mode == "emu/translator" => words::MODE_TRANSLATOR,
        "emu" if mode.starts_with(ABLATED) => words::MODE_ABLATED,
        "emu" => words::MODE_EMU_ENGINE,
        "pv" => words::MODE_PV,
        "kvm" => words::MODE_KVM,
        "qemu-tcg" => words::MODE_QEMU_TCG,
        "qemu-kvm" => words::MODE_QEMU_KVM,
        _ => words::MODE_OTHER,
    }
}

type Table = (String, Vec<String>, Vec<Vec<String>>);

/// Headings of columns in `language`.
pub(super) fn heads(language: Language, texts: &[Text]) -> Vec<String> {
    texts.iter().map(|text| text.of(language).to_owned()).collect()
}

fn columns(data: &Dataset, first: &str) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(data.modes.iter().cloned()).collect()
}

fn rows(data: &Dataset, nature: Nature, show: &dyn Fn(&Cell) -> String) -> Vec<Vec<String>> {
    data.of(nature)
        .map(|m| {
            let cells = data.modes.iter().map(|mode| m.cell(mode).map_or_else(String::new, show));
            std::iter::once(m.label.clone()).chain(cells).collect()
        })
        .collect()
}

/// The median of everything measured, also of what has no native figure and so no place in the plot.
fn times(out: &mut String, data: &Dataset, language: Language) {
    if data.measures.is_empty() {
        return;
    }
    out.push_str(&format!("<section>\n<h2 id=\"times\">{}</h2>\n", words::TIMES.of(language)));
    for (nature, figure, first, caption) in [
        (Nature::Task, "slowdown", words::COLUMN_TASK, words::TIMES_OF_TASKS),
        (Nature::Nano, "nano", words::COLUMN_OPERATION, words::TIMES_OF_NANO),
    ] {
        if data.of(nature).next().is_some() {
            let rows = rows(data, nature, &|cell| figures_of(cell, language));
            let table = table(caption.of(language), &columns(data, first.of(language)), &rows);
            out.push_str(&format!("<div id=\"times-{figure}\">{table}</div>\n"));
        }
    }
    for sentence in reading::sentences(data, language) {
        out.push_str(&format!("<p>{}</p>\n", escape(&sentence)));
    }
    out.push_str("</section>\n");
}

/// What the causes of exits mean, as far as they occur.
fn causes(out: &mut String, data: &Dataset, language: Language) {
    let rows: Vec<Vec<String>> = Cause::ALL
        .iter()
        .filter(|cause| data.exits.iter().any(|bar| bar.parts.iter().any(|(name, _)| name == cause.name())))
        .filter_map(|cause| {
            Some(vec![cause.name().to_owned(), terms::cause(*cause)?.of(language).to_owned()])
        })
        .collect();
    if !rows.is_empty() {
        let head = heads(language, &[words::COLUMN_CAUSE, words::COUNTED_WHEN]);
        out.push_str(&table_of_words(words::CAUSES.of(language), &head, &rows, None));
    }
}

/// What the accounts hold, as far as they hold any, and how well they agree with the guests.
fn accounts(out: &mut String, data: &Dataset, language: Language) {
    let percent = |part: f64| language.number(format!("{:.2} %", part * 100.0));
    let most = data.time_differences.iter().copied().reduce(f64::max);
    if let (Some(median), Some(most)) = (stats::median(&data.time_differences), most) {
        let values = [("median", &*percent(median)), ("most", &percent(most))];
        out.push_str(&format!("<p>{}</p>\n", escape(&words::LEDGER_DIFFERENCE.with(language, &values))));
    }
    let rows: Vec<Vec<String>> = Account::ALL
        .iter()
        .filter(|account| {
            data.times.iter().any(|bar| bar.parts.iter().any(|(name, _)| name == account.name()))
        })
        .map(|account| vec![account.name().to_owned(), terms::account(*account).of(language).to_owned()])
        .collect();
    let head = heads(language, &[words::COLUMN_ACCOUNT, words::HOLDS]);
    out.push_str(&table_of_words(words::ACCOUNTS.of(language), &head, &rows, None));
}

/// The figures behind a figure.
fn table_behind(name: &str, data: &Dataset, language: Language) -> Option<Table> {
    match name {
        "sweeps" => Some((
            words::SWEEPS_TABLE.of(language).to_owned(),
            columns(data, words::COLUMN_SIZE.of(language)),
            rows(data, Nature::Point, &|cell| figures_of(cell, language)),
        )),
        "repetitions-tasks" | "repetitions-nano" => {
            let nature = if name.ends_with("nano") { Nature::Nano } else { Nature::Task };
            Some((
                words::SCATTER_TABLE.of(language).to_owned(),
                columns(data, words::COLUMN_MEASURED.of(language)),
                rows(data, nature, &|cell| scatter_of(cell, language)),
            ))
        }
        "exits" => {
            let head = heads(
                language,
                &[
                    words::COLUMN_WORKLOAD,
                    words::COLUMN_MODE,
                    words::COLUMN_EXITS,
                    words::COLUMN_ITERATIONS,
                    words::COLUMN_CAUSES,
                ],
            );
            let rows = data
                .exits
                .iter()
                .map(|bar| {
                    let causes: Vec<String> =
                        bar.parts.iter().map(|(c, n)| format!("{c} {}", language.count(*n))).collect();
                    vec![
                        bar.workload.clone(),
                        bar.mode.clone(),
                        language.count(bar.total),
                        bar.iterations.map_or_else(String::new, |n| language.count(n)),
                        language.list(&causes),
                    ]
                })
                .collect();
            Some((words::EXITS_TABLE.of(language).to_owned(), head, rows))
        }
        "ledger" => {
            let head = heads(
                language,
                &[
                    words::COLUMN_WORKLOAD,
                    words::COLUMN_MODE,
                    words::COLUMN_TIME,
                    words::COLUMN_ITERATIONS,
                    words::COLUMN_ACCOUNTS,
                ],
            );
            let share = |ns: f64, bar: &ShareBar| language.number(format!("{:.1} %", ns / bar.total * 100.0));
            let parts = |bar: &ShareBar| -> Vec<String> {
                bar.parts.iter().map(|(name, ns)| format!("{name} {}", share(*ns, bar))).collect()
            };
            let rows = data
                .times
                .iter()
                .map(|bar| {
                    vec![
                        bar.workload.clone(),
                        bar.mode.clone(),
                        language.time(bar.total),
                        bar.iterations.map_or_else(String::new, |n| language.count(n)),
                        language.list(&parts(bar)),
                    ]
                })
                .collect();
            Some((words::LEDGER_TABLE.of(language).to_owned(), head, rows))
        }
        _ => None,
    }
}

fn figures_of(cell: &Cell, language: Language) -> String {
    let Some(time) = cell.time else {
        let note = cell.note.as_deref().filter(|note| *note != UNMEASURED);
        return note.map_or_else(|| "–".to_owned(), |note| terms::note(note, language).to_owned());
    };
    let mut words =
        format!("{} [{} – {}]", language.time(time.mid), language.time(time.low), language.time(time.high));
    if let Some(slowdown) = cell.slowdown {
        words.push_str(&format!(" {}", language.ratio(slowdown.mid)));
    }
    words
}

fn scatter_of(cell: &Cell, language: Language) -> String {
    let Some(time) = cell.time else {
        return String::new();
    };
    let outliers = cell.samples.iter().filter(|s| s.outlier).count();
    let width = language.number(format!("{:.1}", time.relative_half_width() * 100.0));
    format!("{} · {outliers} · ±{width} %", cell.samples.len())
}

/// What is missing, and why.
fn gaps(out: &mut String, data: &Dataset, language: Language) {
    let mut rows: Vec<Vec<String>> = data
        .absent
        .iter()
        .map(|(mode, why)| vec![mode.clone(), words::EVERYTHING.of(language).to_owned(), why.clone()])
        .collect();
    for measure in &data.measures {
        for (mode, cell) in &measure.cells {
            if let Some(note) =
                cell.note.as_ref().filter(|n| *n != UNMEASURED && !data.absent.contains_key(mode))
            {
                // The points of a sweep have one reason, all but always.
                let row = vec![mode.clone(), measure.what(), note.clone()];
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
    }
    rows.extend(data.failures.iter().map(|(w, m, why)| vec![m.clone(), w.clone(), why.clone()]));
    if rows.is_empty() {
        return;
    }
    let (heading, about) = (words::GAPS.of(language), words::GAPS_ABOUT.of(language));
    out.push_str(&format!("<h2>{heading}</h2>\n<p>{about}</p>\n"));
    let head = heads(language, &[words::COLUMN_MODE, words::COLUMN_WHAT, words::COLUMN_WHY]);
    out.push_str(&table_of_words(words::GAPS_TABLE.of(language), &head, &rows, Some(2)));
}

fn circumstances(out: &mut String, data: &Dataset, side: Option<&SideFile>, language: Language) {
    let Some(side) = side.filter(|s| s.run == data.run) else {
        return;
    };
    out.push_str(&format!("<h2>{}</h2>\n", words::CIRCUMSTANCES.of(language)));
    let mut options: Vec<Vec<String>> =
        side.options.iter().map(|(k, v)| vec![terms::fact(k, language).to_owned(), v.clone()]).collect();
    if let Some(load) = side.load_at_start {
        let name = terms::OPTION_LOAD.of(language).to_owned();
        options.push(vec![name, language.number(format!("{load:.2}"))]);
    }
    let head = heads(language, &[words::COLUMN_OPTION, words::COLUMN_VALUE]);
    out.push_str(&table_of_words(words::OPTIONS.of(language), &head, &options, Some(1)));
    let rows: Vec<Vec<String>> = side
        .fingerprints
        .iter()
        .map(|(short, f)| {
            let image = f.image_sha256.get(..16).unwrap_or(&f.image_sha256);
            [short, &f.mode, &f.column, image, &f.devices, &f.guest_clock, &f.version]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    out.push_str(&format!("<details><summary>{}</summary>\n", words::FINGERPRINTS.of(language)));
    let head = heads(
        language,
        &[
            words::COLUMN_FINGERPRINT,
            words::COLUMN_MODE,
            words::COLUMN_COLUMN,
            words::COLUMN_IMAGE,
            words::COLUMN_DEVICES,
            words::COLUMN_CLOCK,
            words::COLUMN_VERSION,
        ],
    );
    out.push_str(&table_of_words(words::FINGERPRINTS_TABLE.of(language), &head, &rows, None));
    out.push_str("</details>\n");
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_label_is_explained_by_its_first_words() {
        let told = super::meaning("emulated supervisor (kvm_pvm): ring 0 at 0.05 % of native speed");
        assert_eq!(told, super::meaning("emulated supervisor"));
        assert_ne!(told, super::meaning("hardware: ring 0 at 100 %"));
        assert!(super::meaning("hardwired").en.contains("not determined"));
    }
}
