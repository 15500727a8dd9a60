//! What is known before anything is measured: the plan, the circumstances, the name and the side file of a run.

use super::Options;
use crate::bench::error::BenchError;
use crate::bench::fingerprint::{self, Fingerprint, Host};
use crate::bench::measure::{Column, Runner, ScratchDisk};
use crate::bench::plan::{self, Step};
use crate::bench::record;
use crate::bench::side::{self, Asked, SideFile};
use crate::bench::timestamp::Timestamp;
use crate::bench::workload::{self, Workload};
use std::collections::BTreeMap;

/// What is run, in which order.
pub(super) struct Plan<'a> {
    pub(super) workloads: Vec<&'static Workload>,
    pub(super) columns: Vec<&'a Column>,
    pub(super) steps: Vec<Step>,
}

impl<'a> Plan<'a> {
    pub(super) fn make(options: &'a Options, runner: &dyn Runner) -> Result<Plan<'a>, BenchError> {
        let all = workload::all().iter().chain(options.further_workloads.iter().copied());
        let workloads: Vec<&'static Workload> = all.filter(|w| options.filter.wants_workload(w)).collect();
        if workloads.is_empty() {
            return Err(BenchError::NothingToRun(format!(
                "no workload fits {}",
                options.filter.workloads.join(", ")
            )));
        }
        let columns: Vec<&Column> =
            options.columns.iter().filter(|c| options.filter.wants_mode(&c.mode)).collect();
        if columns.is_empty() {
            return Err(BenchError::NothingToRun(format!(
                "no mode fits {}",
                options.filter.modes.join(", ")
            )));
        }
        let suits = |w: usize, c: usize| {
            let column: &Column = columns[c];
            column.absent.is_none() && runner.suits(workloads[w], column)
        };
        let steps = plan::steps(workloads.len(), columns.len(), options.repetitions, options.seed, suits);
        Ok(Plan { workloads, columns, steps })
    }

    /// The short fingerprint of each workload in each column, spelled out in `into`.
    pub(super) fn fingerprints(
        &self,
        options: &Options,
        host: &Host,
        into: &mut BTreeMap<String, Fingerprint>,
    ) -> Vec<Vec<String>> {
        let mut row = |workload: &&Workload| {
            let image = fingerprint::image_digest(workload.image);
            let mut note = |column: &&Column| {
                let print = circumstances(options, host, workload, &image, column);
                let short = print.short();
                into.insert(short.clone(), print);
                short
            };
            self.columns.iter().map(&mut note).collect()
        };
        self.workloads.iter().map(&mut row).collect()
    }
}

/// A name for the run that no file has yet: two runs may begin within one second.
pub(super) fn free_name(options: &Options) -> String {
    let name = Timestamp::now().compact();
    let dir = record::data_dir(&options.out);
    let mut free = name.clone();
    let mut number = 1;
    while dir.join(format!("{free}.csv")).exists() {
        number += 1;
        free = format!("{name}-{number}");
    }
    free
}

fn circumstances(
    options: &Options,
    host: &Host,
    workload: &Workload,
    image: &str,
    column: &Column,
) -> Fingerprint {
    let disk = workload.disk.map(|bus| format!("; {}", ScratchDisk::words(bus)));
    Fingerprint {
        host: host.clone(),
        image_sha256: image.to_owned(),
        devices: format!("{}{}", options.devices, disk.unwrap_or_default()),
        guest_clock: options.guest_clock.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: column.mode.clone(),
        column: [&column.engine, &column.interface, &column.peer, &column.options]
            .iter()
            .filter(|s| !s.is_empty())
            .map(|s| s.as_str())
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// The side file as far as it follows from the options.
pub(super) fn side_file(options: &Options, run: &str) -> SideFile {
    let list = |items: &[String]| if items.is_empty() { "all".to_owned() } else { items.join(", ") };
    let (deadline, by) = deadline_in_words(options);
    let pairs = [
        ("workloads", list(&options.filter.workloads)),
        ("modes", list(&options.filter.modes)),
        ("repetitions", options.repetitions.to_string()),
        ("seed", options.seed.to_string()),
        ("budget", format!("{} µs", options.budget_us)),
        ("timeout of a run", format!("{:?}", options.timeout)),
        (&deadline, by),
    ];
    SideFile {
        format: side::FORMAT,
        run: run.to_owned(),
        program_sha256: side::program_sha256().to_owned(),
        asked: asked(options),
        load_at_start: fingerprint::load_average(),
        options: pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        ..SideFile::default()
    }
}

/// The deadline as one of the side file's options.
pub(super) fn deadline_in_words(options: &Options) -> (String, String) {
    ("deadline".to_owned(), options.deadline.map_or_else(|| "none".to_owned(), |d| format!("{d:?}")))
}

/// What the options ask for.
fn asked(options: &Options) -> Asked {
    Asked {
        workloads: options.filter.workloads.clone(),
        modes: options.filter.modes.clone(),
        columns: options.further_columns.clone(),
        linux: options.linux.clone(),
        repetitions: options.repetitions,
        seed: options.seed,
        budget_us: options.budget_us,
        timeout: options.timeout,
        deadline: options.deadline,
    }
}
