//! What mode pv patched in the guest: a row for each sensitive instruction, as table, CSV or JSON.
use super::Hex;
use super::disassembly::{formatter, text_of};
use crate::debugger::symbols::Symbols;
use crate::engine::{Patch, Site, Sites};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One sensitive instruction.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Where it is.
    pub address: Hex,
    /// `name+offset`.
    pub symbol: Option<String>,
    /// Its own bytes in hexadecimal, as the guest wrote them.
    pub bytes: String,
    /// Its text.
    pub instruction: String,
    /// `thunk`, `hypercall`, `int3`, `fault` or `native`: [`Patch`].
    pub patch: &'static str,
    /// `scan`, `trap` or `entry`: [`crate::engine::Occasion`].
    pub made: &'static str,
    /// `patched`, `left alone` or `taken back`.
    pub state: &'static str,
    /// First byte of what was replaced.
    pub start: Hex,
    /// The guest's bytes that were replaced.
    pub replaced: String,
    /// The other instructions among these, with `; ` between.
    pub neighbours: String,
    /// Executions in all, if they were counted.
    pub count: Option<u64>,
    /// Those that a thunk did in the guest's process.
    pub in_process: Option<u64>,
    /// Those that the engine did.
    pub by_engine: u64,
    /// Mean time that the engine took for one, in nanoseconds; the way to it and back is not in it.
    pub cost_ns: Option<f64>,
    /// The least time that it took.
    pub least_ns: Option<u64>,
    /// How many executions that is the mean of.
    pub timed: u64,
}

/// The columns of the CSV: the fields of [`Row`].
pub const COLUMNS: [&str; 16] = [
    "address",
    "symbol",
    "bytes",
    "instruction",
    "patch",
    "made",
    "state",
    "start",
    "replaced",
    "neighbours",
    "count",
    "in_process",
    "by_engine",
    "cost_ns",
    "least_ns",
    "timed",
];

/// The state of a patch that was undone.
const TAKEN_BACK: &str = "taken back";

/// The rows in which the table is sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// By address.
    #[default]
    Address,
    /// The most often executed first.
    Count,
    /// What took the engine the most time in all first.
    Cost,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each instruction.
    pub sites: Vec<Row>,
    /// How many that were taken back are left out, because there were too many.
    pub dropped: u64,
}

/// Whatever of these a process executes comes back to its monitor: as a fault, or as a signal of the system-call filter.
const ALWAYS_SEEN: [Mnemonic; 6] = [
    Mnemonic::Int,
    Mnemonic::Syscall,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
];

/// One sentence on the sensitive instructions of a guest without patches that the engine never saw, by name; `None` if there
/// are none. Those that came back as faults or signals did the right thing.
#[must_use]
pub fn left_alone(sites: &Sites) -> Option<String> {
    let mut names: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let unseen = |site: &&Site| site.patch == Patch::Native && !site.taken_back && site.by_engine == 0;
    for site in sites.list.iter().filter(unseen) {
        let i = Decoder::with_ip(64, &site.bytes, site.address.0, DecoderOptions::NONE).decode();
        if ALWAYS_SEEN.contains(&i.mnemonic()) {
            continue;
        }
        let (places, _) = names
            .entry(format!("{:?}", i.mnemonic()).to_lowercase())
            .and_modify(|(_, first)| *first = site.address.0.min(*first))
            .or_insert((0, site.address.0));
        *places += 1;
    }
    if names.is_empty() {
        return None;
    }
    let list: Vec<String> = names
        .iter()
        .map(|(name, (places, first))| match places {
            1 => format!("\n  {name} at {first:#x}"),
            _ => format!("\n  {name} at {places} places from {first:#x} on"),
        })
        .collect();
    Some(format!(
        "not patched: where executed, these acted on the host's state without a fault, not on the guest's:{}",
        list.concat()
    ))
}

/// The report on `sites`.
#[must_use]
pub fn show(sites: &Sites, symbols: &Arc<Symbols>) -> Report {
    Report { sites: sites.list.iter().map(|site| row(site, symbols)).collect(), dropped: sites.dropped }
}

fn row(site: &Site, symbols: &Arc<Symbols>) -> Row {
    let mut formatter = formatter(symbols);
    let mut instructions = Vec::new();
    let decoder = Decoder::with_ip(64, &site.replaced, site.start.0, DecoderOptions::NONE);
    for i in decoder {
        instructions.push((i.ip(), text_of(&mut formatter, &i)));
    }
    let own = Decoder::with_ip(64, &site.bytes, site.address.0, DecoderOptions::NONE).decode();
    instructions.retain(|(at, _)| *at != site.address.0);
    Row {
        address: Hex(site.address.0),
        symbol: symbols.label(site.address.0),
        bytes: hex(&site.bytes),
        instruction: text_of(&mut formatter, &own),
        patch: site.patch.name(),
        made: site.occasion.name(),
        state: match site.patch {
            _ if site.taken_back => TAKEN_BACK,
            Patch::Native => "left alone",
            _ => "patched",
        },
        start: Hex(site.start.0),
        replaced: hex(&site.replaced),
        neighbours: instructions.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; "),
        count: site.count(),
        in_process: site.in_process,
        by_engine: site.by_engine,
        cost_ns: site.cost.map(|cost| (cost.mean * 10.0).round() / 10.0),
        least_ns: site.cost.map(|cost| cost.least),
        timed: site.cost.map_or(0, |cost| cost.timed),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Report {
    /// Puts the rows in order.
    pub fn sort(&mut self, order: Order) {
        let spent = |row: &Row| row.cost_ns.unwrap_or(0.0) * row.by_engine as f64;
        // Both sorts are stable: what is equal stays by address.
        match order {
            Order::Address => self.sites.sort_by_key(|row| row.address.0),
            Order::Count => self.sites.sort_by_key(|row| std::cmp::Reverse(row.count)),
            Order::Cost => self.sites.sort_by(|a, b| spent(b).total_cmp(&spent(a))),
        }
    }

    /// The rows as CSV with a line of [`COLUMNS`] first. What is not known is an empty cell.
    ///
    /// # Errors
    /// None in practice: text in memory takes everything.
    pub fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for row in &self.sites {
            writer.serialize(row)?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }

    fn summary(&self) -> String {
        let all = [Patch::InProcess, Patch::Hypercall, Patch::Breakpoint, Patch::Fault, Patch::Native];
        let by_patch = all.map(|patch| {
            let rows = self.sites.iter().filter(|row| row.patch == patch.name());
            (patch.name(), rows.count())
        });
        let kinds: Vec<String> =
            by_patch.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
        let sum = |of: fn(&Row) -> u64| self.sites.iter().map(of).fold(0, u64::saturating_add);
        let (inside, engine) = (sum(|row| row.in_process.unwrap_or(0)), sum(|row| row.by_engine));
        let mut text = format!(
            "{} sites: {}; executed {} times, {inside} of them by thunks in the guest's process, {engine} by the engine",
            self.sites.len(),
            kinds.join(", "),
            inside.saturating_add(engine),
        );
        if self.dropped > 0 {
            text.push_str(&format!(
                "; {} more that were taken back are left out with their counts",
                self.dropped
            ));
        }
        text
    }
}

/// What the table's last column says of the time.
const LEGEND: &str = "ns: mean and least host time from the engine's seeing the call or trap to its letting the guest go on; the \
                      way there and back is not in it. Empty where a thunk did it unseen, or nothing could be timed.";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sites.is_empty() {
            return f.write_str("nothing is patched: no sensitive instruction has been met natively");
        }
        let head =
            ["address", "bytes", "instruction", "patch", "made", "count", "engine", "ns", "least", "where"];
        let mut table: Vec<[String; 10]> = vec![head.map(str::to_owned)];
        for row in &self.sites {
            let made = if row.state == TAKEN_BACK { row.state } else { row.made }.to_owned();
            let place = row.symbol.clone().unwrap_or_default();
            let with = if row.neighbours.is_empty() {
                place
            } else {
                format!("{place} with {}", row.neighbours).trim_start().to_owned()
            };
            table.push([
                row.address.to_string(),
                row.bytes.clone(),
                row.instruction.clone(),
                row.patch.to_owned(),
                made,
                row.count.map_or("?".to_owned(), |n| n.to_string()),
                row.by_engine.to_string(),
                row.cost_ns.map(|ns| format!("{ns:.0}")).unwrap_or_default(),
                row.least_ns.map(|ns| ns.to_string()).unwrap_or_default(),
                with,
            ]);
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &table {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 | 5..=8 => format!("{cell:>width$}"),
                    _ => format!("{cell:width$}"),
                })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        write!(f, "{}\n{LEGEND}", self.summary())
    }
}

#[cfg(test)]
pub(in crate::debugger) mod tests {
    use super::*;
    use crate::arch::Gva;
    use crate::debugger::symbols::tests::sample;
    use crate::engine::{Cost, Occasion};

    /// A few sites among the sample's symbols.
    pub(in crate::debugger) fn sites() -> Sites {
        let site = |address: u64, bytes: &[u8], patch, occasion| Site {
            address: Gva(address),
            bytes: bytes.to_vec(),
            patch,
            occasion,
            start: Gva(address),
            replaced: bytes.to_vec(),
            taken_back: false,
            in_process: Some(0),
            by_engine: 0,
            cost: None,
        };
        let list = vec![
            Site { taken_back: true, ..site(0x20_0000, &[0x9c], Patch::Breakpoint, Occasion::Scan) },
            Site {
                // mov eax, 7; pushfq
                start: Gva(0x20_0090),
                replaced: vec![0xb8, 7, 0, 0, 0, 0x9c],
                in_process: Some(1_000_000),
                by_engine: 2,
                ..site(0x20_0095, &[0x9c], Patch::InProcess, Occasion::Scan)
            },
            Site {
                in_process: Some(0),
                by_engine: 31,
                cost: Some(Cost { mean: 1234.56, least: 700, timed: 30 }),
                ..site(0x20_22f4, &[0xee], Patch::Hypercall, Occasion::Trap)
            },
            Site {
                in_process: None,
                by_engine: 5,
                ..site(0x30_0000, &[0xfa], Patch::InProcess, Occasion::Entry)
            },
        ];
        Sites { list, dropped: 3 }
    }

    fn report() -> Report {
        show(&sites(), &Arc::new(sample()))
    }

    #[test]
    fn the_table_says_what_stands_where_and_how_often() {
        insta::assert_snapshot!(report());
        let empty = show(&Sites::default(), &Arc::default());
        assert!(empty.to_string().starts_with("nothing is patched"));
    }

    #[test]
    fn csv_and_json_have_the_same_cells() {
        let report = report();
        let bytes = report.csv().unwrap();
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().unwrap().clone();
        assert_eq!(header.iter().collect::<Vec<_>>(), COLUMNS);
        let json = serde_json::to_value(&report).unwrap();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), report.sites.len());
        for (record, object) in rows.iter().zip(json["sites"].as_array().unwrap()) {
            assert_eq!(object.as_object().unwrap().len(), COLUMNS.len());
            for (column, cell) in COLUMNS.iter().zip(record) {
                let told = match &object[*column] {
                    serde_json::Value::Null => String::new(),
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                assert_eq!(cell, told, "{column}");
            }
        }
        let header_alone = show(&Sites::default(), &Arc::default()).csv().unwrap();
        assert_eq!(String::from_utf8(header_alone).unwrap().trim_end(), COLUMNS.join(","));
    }

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let mut report = report();
        report.sort(Order::Count);
        assert_eq!(report.sites[0].count, Some(1_000_002));
        assert_eq!(report.sites.last().unwrap().count, None);
        report.sort(Order::Cost);
        assert_eq!(report.sites[0].instruction, "out dx, al");
        report.sort(Order::Address);
        assert!(report.sites.is_sorted_by_key(|row| row.address.0));
    }
}
