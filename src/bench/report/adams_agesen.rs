//! The page's section beside published figures: K. Adams and O. Agesen, "A Comparison of Software and Hardware Techniques
//! for x86 Virtualization", ASPLOS XII (2006), doi:10.1145/1168857.1168860, its section on nanobenchmarks.
//!
//! Figures are those that the paper's text states, in cycles of a Pentium 4 at 3.8 GHz. The sentences follow the data: the
//! order of the columns is computed from the run, and what is said of kvm depends on the label that the run gave it.

use super::html::{escape, table};
use super::page::{class, heads};
use crate::bench::dataset::{ABLATED, Cell, Dataset, Measure, Nature};
use crate::bench::fingerprint::EMULATED_SUPERVISOR;
use crate::bench::language::{Language, Text, published as words, terms};
use crate::bench::record;
use crate::bench::stats::Interval;
use crate::bench::{NATIVE, base_mode, quantity};

/// Where the figures were published.
const SOURCE: &str = "“A Comparison of Software and Hardware Techniques for x86 Virtualization”, ASPLOS XII, 2006, \
                      doi:10.1145/1168857.1168860";

/// What the paper's text says of one operation in one column.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Published {
    /// So many cycles.
    Cycles(u32),
    /// So many by a ratio that it states.
    About(u32),
    /// As many as native.
    LikeNative,
    /// About so many more than native.
    MoreThanNative(u32),
    /// Nothing.
    Unsaid,
}

/// An operation of the paper and ours.
struct Operation {
    /// The paper's name.
    name: &'static str,
    /// Our metric.
    metric: &'static str,
    native: Published,
    software: Published,
    hardware: Published,
    /// Why figures differ.
    why: Text,
}

use Published::{About, Cycles, LikeNative, MoreThanNative, Unsaid};

/// The paper's operations in its order.
const OPERATIONS: [Operation; 7] = [
    Operation {
        name: "syscall",
        metric: "syscall@ring3",
        native: Unsaid,
        software: MoreThanNative(2000),
        hardware: LikeNative,
        why: words::WHY_SYSCALL,
    },
    Operation {
        name: "in",
        metric: "port_in@ring0",
        native: Cycles(3209),
        // Fifteen times faster than native.
        software: About(3209 / 15),
        hardware: Cycles(15826),
        why: words::WHY_IN,
    },
    Operation {
        name: "cr8wr",
        metric: "cr8_write@ring0",
        // About four times the software VMM's.
        native: About(4 * 35),
        software: Cycles(35),
        hardware: LikeNative,
        why: words::WHY_CR8,
    },
    Operation {
        name: "call/ret",
        metric: "call_ret@ring3",
        native: Cycles(11),
        software: Cycles(51),
        hardware: Cycles(11),
        why: words::WHY_CALL,
    },
    Operation {
        name: "pgfault",
        metric: "page_fault@ring0",
        native: Cycles(1093),
        software: Cycles(3927),
        hardware: Cycles(11242),
        why: words::WHY_PAGE_FAULT,
    },
    Operation {
        name: "divzero",
        metric: "divide_error@ring0",
        native: Cycles(889),
        software: Cycles(3223),
        hardware: Cycles(1014),
        why: words::WHY_DIVIDE,
    },
    Operation {
        name: "ptemod",
        metric: "pte_change@ring0",
        native: Cycles(1),
        software: Cycles(391),
        hardware: Cycles(12733),
        why: words::WHY_PTE,
    },
];

impl Published {
    fn show(self, language: Language) -> String {
        let cycles = |n: u32| language.number(quantity::whole(f64::from(n)));
        match self {
            Cycles(n) => cycles(n),
            About(n) => format!("≈ {}", cycles(n)),
            LikeNative => words::LIKE_NATIVE.of(language).to_owned(),
            MoreThanNative(n) => words::MORE_THAN_NATIVE.with(language, &[("cycles", &cycles(n))]),
            Unsaid => "–".to_owned(),
        }
    }

    /// What orders it among its row: cycles, or cycles more than a native figure that is not known.
    fn rank(self, native: Published) -> f64 {
        match self {
            Cycles(n) | About(n) => f64::from(n),
            LikeNative => native.rank(Unsaid),
            MoreThanNative(n) => native.rank(Unsaid) + f64::from(n),
            Unsaid => 0.0,
        }
    }
}

/// Adds the section, if the run measured any of the operations.
pub(super) fn section(out: &mut String, data: &Dataset, language: Language) {
    let found: Vec<(&Operation, &Measure)> = OPERATIONS
        .iter()
        .filter_map(|one| Some((one, data.of(Nature::Nano).find(|m| m.metric == one.metric)?)))
        .filter(|(_, measure)| measure.cells.values().any(|cell| cell.time.is_some()))
        .collect();
    if found.is_empty() {
        return;
    }
    let has = |mode: &str| found.iter().any(|(_, m)| m.cell(mode).is_some_and(|cell| cell.time.is_some()));
    let modes: Vec<&str> = data
        .modes
        .iter()
        .map(String::as_str)
        .filter(|mode| !mode.starts_with(ABLATED) && has(mode))
        .collect();
    let khz = data.fact(record::TSC).and_then(|fact| fact.split(' ').next()?.parse::<f64>().ok());
    let khz = khz.filter(|khz| khz.is_finite() && *khz > 0.0);
    out.push_str(&format!("<section>\n<h2 id=\"published\">{}</h2>\n", words::HEADING.of(language)));
    let about = words::ABOUT.with(language, &[("source", SOURCE)]);
    out.push_str(&format!("<p>{}</p>\n", escape(&about)));
    let mut head = heads(
        language,
        &[words::COLUMN_OPERATION, words::COLUMN_NATIVE, words::COLUMN_SOFTWARE, words::COLUMN_HARDWARE],
    );
    head.extend(modes.iter().map(|mode| words::COLUMN_HERE.with(language, &[("mode", mode)])));
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(one, measure)| {
            let published = [one.native, one.software, one.hardware].map(|cost| cost.show(language));
            let measured = modes.iter().map(|mode| shown(measure.cell(mode), *mode == NATIVE, khz, language));
            std::iter::once(one.name.to_owned()).chain(published).chain(measured).collect()
        })
        .collect();
    out.push_str(&table(words::TABLE.of(language), &head, &rows));
    for note in notes(data, &modes, khz, language) {
        out.push_str(&format!("<p>{}</p>\n", escape(&note)));
    }
    out.push_str("<ul>\n");
    for (one, measure) in found {
        let (there, here) = (order_there(one, language), order_here(measure, &modes));
        let values = [("there", &*there), ("here", &*here), ("why", one.why.of(language))];
        let (colon, order) = (terms::COLON.of(language), words::ORDER.with(language, &values));
        out.push_str(&format!("<li><strong>{}</strong>{colon}{}</li>\n", one.name, escape(&order)));
    }
    out.push_str("</ul>\n</section>\n");
}

/// A measured cell in cycles, or as a time if nobody knows what a cycle was.
fn shown(cell: Option<&Cell>, native: bool, khz: Option<f64>, language: Language) -> String {
    let Some((cell, time)) = cell.and_then(|cell| Some((cell, cell.time?))) else {
        return "–".to_owned();
    };
    let cost = match khz {
        Some(khz) => language.number(quantity::whole(time.mid * khz / 1e6)),
        None => language.time(time.mid),
    };
    match cell.slowdown.filter(|_| !native) {
        Some(slowdown) => format!("{cost} ({})", language.ratio(slowdown.mid)),
        None => cost,
    }
}

/// What must be known to read the table, as far as it concerns this run.
fn notes(data: &Dataset, modes: &[&str], khz: Option<f64>, language: Language) -> Vec<String> {
    let measured =
        |wanted: &str| modes.iter().any(|mode| base_mode(mode) == wanted && !data.absent.contains_key(*mode));
    let mut notes = vec![words::NOTE_NUMBERS.of(language).to_owned()];
    notes.push(match khz {
        Some(khz) => {
            let mhz = language.number(format!("{:.0}", khz / 1e3));
            words::NOTE_TICKS.with(language, &[("mhz", &mhz)])
        }
        None => words::NOTE_NO_TSC.of(language).to_owned(),
    });
    if measured("emu") {
        notes.push(words::NOTE_EMU.of(language).to_owned());
    }
    if measured("pv") {
        notes.push(words::NOTE_PV.of(language).to_owned());
    }
    if measured("kvm") {
        let note = match data.fact("kvm label").map(class) {
            Some("hardware") => words::NOTE_KVM_HARDWARE,
            Some("nested") => words::NOTE_KVM_NESTED,
            Some(EMULATED_SUPERVISOR) => words::NOTE_KVM_EMULATED,
            _ => words::NOTE_KVM_UNKNOWN,
        };
        notes.push(note.of(language).to_owned());
    }
    notes
}

/// The paper's columns, cheapest first.
fn order_there(one: &Operation, language: Language) -> String {
    ordered(
        [(words::NATIVE, one.native), (words::SOFTWARE, one.software), (words::HARDWARE, one.hardware)]
            .map(|(name, cost)| {
                let mid = cost.rank(one.native);
                (name.of(language), Interval { low: mid, mid, high: mid })
            })
            .to_vec(),
    )
}

/// This run's columns, cheapest first.
fn order_here(measure: &Measure, modes: &[&str]) -> String {
    ordered(modes.iter().filter_map(|mode| Some((*mode, measure.cell(mode)?.time?))).collect())
}

/// Names by value, the least first; `≈` stands before those whose intervals overlap that of the first one of their group, or
/// that are within a tenth of it.
fn ordered(mut columns: Vec<(&str, Interval)>) -> String {
    columns.sort_by(|a, b| a.1.mid.total_cmp(&b.1.mid));
    let mut out = String::new();
    let mut first: Option<Interval> = None;
    for (name, time) in columns {
        match first {
            Some(first) if time.mid <= first.mid * 1.1 || time.low <= first.high => out.push_str(" ≈ "),
            _ => {
                out.push_str(if first.is_some() { " < " } else { "" });
                first = Some(time);
            }
        }
        out.push_str(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::dataset::tests::{row, text};
    use crate::bench::workload;

    fn page(label: &str, tsc: Option<&str>) -> String {
        let mut rows = vec![text(record::WHOLE_RUN, "kvm label", "", label)];
        rows.extend(tsc.map(|tsc| text(record::WHOLE_RUN, record::TSC, "", tsc)));
        for (mode, time) in
            [("native", 2.0), ("emu", 8.0), ("pv", 2.1), ("kvm", 2.0), ("emu/without-all", 99.0)]
        {
            for repetition in 1..=3 {
                rows.push(row("call_ret", "call_ret@ring3", record::UNIT_NANO, mode, repetition, time));
                if mode != "native" {
                    let time = time * 100.0;
                    rows.push(row("port_out", "port_in@ring0", record::UNIT_NANO, mode, repetition, time));
                }
            }
        }
        let mut out = String::new();
        section(&mut out, &Dataset::from_rows(&rows).unwrap(), Language::English);
        out
    }

    #[test]
    fn our_operations_are_measured_by_a_workload() {
        for one in &OPERATIONS {
            let base = one.metric.split('@').next().unwrap();
            let said =
                |w: &workload::Workload| w.image.windows(base.len()).any(|part| part == base.as_bytes());
            assert!(workload::all().iter().any(said), "{base}");
        }
    }

    #[test]
    fn figures_stand_in_cycles_with_their_ratio() {
        let page = page("hardware: ring 0 at 100 %", Some("2500000 kHz"));
        let row = &page[page.find("<th scope=\"row\">call/ret</th>").unwrap()..];
        let row = &row[..row.find("</tr>").unwrap()];
        let cells =
            "<td>11</td><td>51</td><td>11</td><td>5</td><td>20 (4×)</td><td>5.25 (1.05×)</td><td>5 (1×)</td>";
        assert!(row.ends_with(cells), "{row}");
        assert!(page.contains("software &lt; native &lt; hardware. Here: kvm ≈ pv &lt; emu."), "{page}");
        assert!(page.contains("2500 MHz") && !page.contains("without-all"));
    }

    #[test]
    fn what_is_said_of_kvm_follows_its_label() {
        let notes = [
            ("hardware: fast", words::NOTE_KVM_HARDWARE),
            ("nested (kvm_intel)", words::NOTE_KVM_NESTED),
            ("emulated supervisor (kvm_pvm): slow", words::NOTE_KVM_EMULATED),
            ("odd", words::NOTE_KVM_UNKNOWN),
        ];
        for (label, _) in notes {
            let page = page(label, None);
            for (other, note) in notes {
                assert_eq!(page.contains(&escape(note.en)), other == label, "{label}: {other}");
            }
            assert!(page.contains(words::NOTE_NO_TSC.en) && page.contains("2.10 ns"), "{page}");
        }
    }

    #[test]
    fn a_run_without_these_operations_has_no_section() {
        let rows = [row("crc32", "crc32@ring3", record::UNIT_TASK, "emu", 1, 5.0)];
        let mut out = String::new();
        section(&mut out, &Dataset::from_rows(&rows).unwrap(), Language::English);
        assert_eq!(out, "");
    }
}
