//! The words and tables of the page.

use super::html::{escape, inline_svg, table};
use crate::bench::dataset::{ABLATED, Cell, Dataset, Nature, UNMEASURED};
use crate::bench::fingerprint::EMULATED_SUPERVISOR;
use crate::bench::plot::Figure;
use crate::bench::side::SideFile;
use crate::bench::{NATIVE, base_mode, quantity, reading};
use crate::engine::Cause;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn render(
    data: &Dataset,
    figures: &[Figure],
    svgs: &[String],
    side: Option<&SideFile>,
    source: &str,
) -> String {
    let mut out = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.push_str(&format!("<title>trivisor: one guest, three ways ({})</title>\n", escape(&data.run)));
    out.push_str(&format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"));
    head(&mut out, data, source);
    means(&mut out, data);
    how_to_read(&mut out, data);
    for (figure, svg) in figures.iter().zip(svgs) {
        out.push_str(&format!("<section>\n<h2 id=\"{0}\">{1}</h2>\n", figure.name, escape(figure.title)));
        out.push_str(&format!(
            "<figure>\n<div class=\"pan\" tabindex=\"0\">{}</div>\n",
            inline_svg(svg, &figure.alt)
        ));
        out.push_str(&format!("<figcaption>{}</figcaption>\n</figure>\n", escape(figure.explanation)));
        if let Some((caption, head, rows)) = table_behind(figure.name, data) {
            out.push_str(&format!("<details><summary>{}</summary>\n", escape(&caption)));
            out.push_str(&table(&caption, &head, &rows));
            out.push_str("</details>\n");
        }
        if figure.name == "exits" {
            causes(&mut out, data);
        }
        out.push_str("</section>\n");
    }
    times(&mut out, data);
    gaps(&mut out, data);
    circumstances(&mut out, data, side);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn head(out: &mut String, data: &Dataset, source: &str) {
    out.push_str("<h1>One guest, three ways: what virtualization costs</h1>\n");
    out.push_str(&format!(
        "<p class=\"muted\">Run {} · begun {}</p>\n<dl>\n",
        escape(&data.run),
        escape(&data.started)
    ));
    if let Some(words) = data.disturbance() {
        out.push_str(&format!("<dt>Beware</dt><dd><strong>{}</strong></dd>\n", escape(&words)));
    }
    for (name, value) in &data.facts {
        out.push_str(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
    }
    out.push_str(&format!("<dt>data</dt><dd>{}</dd>\n</dl>\n", escape(source)));
    if let Some(label) = data.fact("kvm label") {
        out.push_str(&format!(
            "<p><strong>KVM on this host: {}.</strong> {}</p>\n",
            escape(label),
            meaning(label)
        ));
    }
}

/// What a KVM label means for who reads the figures. The label may go on after its first words, with module and figures.
fn meaning(label: &str) -> &'static str {
    match label.split([':', '(']).next().unwrap_or_default().trim_end() {
        "hardware" => {
            "The CPU runs guest code of every privilege itself, so the kvm column shows hardware assistance as it is meant to be."
        }
        "nested" => {
            "This host is itself a virtual machine: guest code runs on the CPU, but every exit passes through two hypervisors, so exits cost several times what they do on bare hardware."
        }
        EMULATED_SUPERVISOR => {
            "The host's KVM has no hardware assistance: it runs user code natively and emulates kernel code instruction by instruction, so the kvm column shows that technique and not what VMX or SVM would do."
        }
        "none" => "There is no usable KVM, so the kvm column is empty.",
        _ => "What this KVM does was not determined; do not read the kvm column as hardware assistance.",
    }
}

fn means(out: &mut String, data: &Dataset) {
    let means = data.means();
    if means.is_empty() {
        return;
    }
    out.push_str(
        "<h2>In short</h2>\n<p>Geometric mean of the slowdown to native, over the tasks that every mode completed:</p>\n",
    );
    for means in &means {
        out.push_str(&format!("<h3>{}</h3>\n<ul class=\"means\">\n", means.count()));
        for (mode, mean) in data.modes.iter().zip(&means.by_mode).filter(|(mode, _)| *mode != NATIVE) {
            if let Some(mean) = mean {
                out.push_str(&format!("<li>{}<b>{}</b></li>\n", escape(mode), quantity::ratio(*mean)));
            }
        }
        out.push_str("</ul>\n");
    }
}

fn how_to_read(out: &mut String, data: &Dataset) {
    out.push_str("<h2>How to read this page</h2>\n<ul>\n");
    let mut ablated = false;
    for mode in &data.modes {
        let mut name = mode.as_str();
        if mode.starts_with(ABLATED) {
            if std::mem::replace(&mut ablated, true) {
                continue;
            }
            name = "emu/without-…";
        }
        let words = match base_mode(mode) {
            _ if mode == "direct/none" => {
                "trap-and-emulate, as textbooks tell it: the guest runs directly on the CPU, without privileges and unpatched. Privileged instructions fault and are emulated; the sensitive ones that do not fault go wrong, and what depends on them diverges."
            }
            _ if mode.ends_with("/pv") => {
                "the engine before the slash, with hypercalls that the guest is told of and may use."
            }
            "native" => {
                "the same kernels, run in an ordinary process on the host: the measure of all others."
            }
            "emu" if mode == "emu" => {
                "emulation by a binary translator, which makes host code of the guest's code; privileged instructions are done by software."
            }
            "emu" if mode == "emu/single" => {
                "emulation by the interpreter, one guest instruction after the other; the reference for the translator."
            }
            "emu" if mode == "emu/translator" => {
                "emulation by the binary translator, which makes host code of the guest's code."
            }
            "emu" if mode.starts_with(ABLATED) => {
                "emulation by the binary translator without the techniques that its name says, to show what they buy."
            }
            "emu" => "emulation by the engine named after the slash; the same software in all else.",
            "pv" => {
                "paravirtualization: the guest is patched and then runs directly on the CPU, without privileges, in a sandbox."
            }
            "kvm" => "hardware assistance, through the kernel's /dev/kvm.",
            "qemu-tcg" => "a peer for comparison: QEMU with its translator.",
            "qemu-kvm" => "a peer for comparison: QEMU on /dev/kvm.",
            _ => "a further column.",
        };
        out.push_str(&format!("<li><strong>{}</strong>: {words}</li>\n", escape(name)));
    }
    out.push_str(
        "</ul>\n<p>Every mode runs the same guest image; emu, pv and kvm also share their device models, peers bring their \
         own. Within a round the modes of a workload run directly after one another, in random order; a first round only \
         warms up. A figure is the median of the repetitions with a 95 % bootstrap interval. Outliers are marked and kept. A mode whose checksum differs is called diverged and has no figure; a mode that cannot run \
         is left empty, with the reason.</p>\n",
    );
}

type Table = (String, Vec<String>, Vec<Vec<String>>);

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
fn times(out: &mut String, data: &Dataset) {
    if data.measures.is_empty() {
        return;
    }
    out.push_str("<section>\n<h2 id=\"times\">Times</h2>\n");
    for (nature, first, caption) in [
        (
            Nature::Task,
            "task",
            "Median time of one unit of work, its interval, and slowdown to native if there is one",
        ),
        (
            Nature::Nano,
            "operation",
            "Median time of one operation, its interval, and slowdown to native if there is one",
        ),
    ] {
        if data.of(nature).next().is_some() {
            out.push_str(&table(caption, &columns(data, first), &rows(data, nature, &figures_of)));
        }
    }
    for sentence in reading::sentences(data) {
        out.push_str(&format!("<p>{}</p>\n", escape(&sentence)));
    }
    out.push_str("</section>\n");
}

/// What the causes of exits mean, as far as they occur.
fn causes(out: &mut String, data: &Dataset) {
    let rows: Vec<Vec<String>> = Cause::ALL
        .iter()
        .filter(|cause| data.exits.iter().any(|bar| bar.causes.iter().any(|(name, _)| name == cause.name())))
        .map(|cause| vec![cause.name().to_owned(), cause.about().to_owned()])
        .collect();
    if !rows.is_empty() {
        out.push_str(&table("The causes", &["cause", "one is counted when"].map(str::to_owned), &rows));
    }
}

/// The figures behind a figure.
fn table_behind(name: &str, data: &Dataset) -> Option<Table> {
    match name {
        "repetitions-tasks" | "repetitions-nano" => {
            let nature = if name.ends_with("nano") { Nature::Nano } else { Nature::Task };
            Some((
                "Repetitions, outliers among them, and half width of the interval".to_owned(),
                columns(data, "measured"),
                rows(data, nature, &scatter_of),
            ))
        }
        "exits" => {
            let head = ["workload", "mode", "exits", "iterations", "causes"].map(str::to_owned).to_vec();
            let rows = data
                .exits
                .iter()
                .map(|bar| {
                    let causes: Vec<String> =
                        bar.causes.iter().map(|(c, n)| format!("{c} {}", quantity::count(*n))).collect();
                    vec![
                        bar.workload.clone(),
                        bar.mode.clone(),
                        quantity::count(bar.total),
                        bar.iterations.map_or_else(String::new, quantity::count),
                        causes.join(", "),
                    ]
                })
                .collect();
            Some(("Median counts in the timed regions of a run".to_owned(), head, rows))
        }
        _ => None,
    }
}

fn figures_of(cell: &Cell) -> String {
    let Some(time) = cell.time else {
        return cell.note.clone().unwrap_or_default();
    };
    let mut words = format!(
        "{} [{} – {}]",
        quantity::time(time.mid),
        quantity::time(time.low),
        quantity::time(time.high)
    );
    if let Some(slowdown) = cell.slowdown {
        words.push_str(&format!(" {}", quantity::ratio(slowdown.mid)));
    }
    words
}

fn scatter_of(cell: &Cell) -> String {
    let Some(time) = cell.time else {
        return String::new();
    };
    let outliers = cell.samples.iter().filter(|s| s.outlier).count();
    format!("{} · {outliers} · ±{:.1} %", cell.samples.len(), time.relative_half_width() * 100.0)
}

/// What is missing, and why.
fn gaps(out: &mut String, data: &Dataset) {
    let mut rows: Vec<Vec<String>> = data
        .absent
        .iter()
        .map(|(mode, why)| vec![mode.clone(), "everything".to_owned(), why.clone()])
        .collect();
    for measure in &data.measures {
        for (mode, cell) in &measure.cells {
            if let Some(note) =
                cell.note.as_ref().filter(|n| *n != UNMEASURED && !data.absent.contains_key(mode))
            {
                rows.push(vec![mode.clone(), measure.label.clone(), note.clone()]);
            }
        }
    }
    rows.extend(data.failures.iter().map(|(w, m, why)| vec![m.clone(), w.clone(), why.clone()]));
    if rows.is_empty() {
        return;
    }
    out.push_str("<h2>Gaps</h2>\n<p>What has no figure, or lost repetitions, and why.</p>\n");
    out.push_str(&table("", &["mode", "what", "why"].map(str::to_owned), &rows));
}

fn circumstances(out: &mut String, data: &Dataset, side: Option<&SideFile>) {
    let Some(side) = side.filter(|s| s.run == data.run) else {
        return;
    };
    out.push_str("<h2>Circumstances</h2>\n");
    let mut options: Vec<Vec<String>> =
        side.options.iter().map(|(k, v)| vec![k.clone(), v.clone()]).collect();
    if let Some(load) = side.load_at_start {
        options.push(vec!["load average at the start".to_owned(), format!("{load:.2}")]);
    }
    out.push_str(&table("Options of the run", &["option", "value"].map(str::to_owned), &options));
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
    out.push_str("<details><summary>Fingerprints of the rows, spelled out</summary>\n");
    let head = ["fingerprint", "mode", "column", "image (SHA-256)", "devices", "guest clock", "version"];
    out.push_str(&table(
        "The half before the hyphen must be equal for rows to be compared",
        &head.map(str::to_owned),
        &rows,
    ));
    out.push_str("</details>\n");
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_label_is_explained_by_its_first_words() {
        let told = super::meaning("emulated supervisor (kvm_pvm): ring 0 at 0.05 % of native speed");
        assert_eq!(told, super::meaning("emulated supervisor"));
        assert_ne!(told, super::meaning("hardware: ring 0 at 100 %"));
        assert!(super::meaning("hardwired").contains("not determined"));
    }
}
