//! `trivisor bench`: the workloads in every mode, to a table, CSV, plots and the page.
use super::error::{CliError, interrupted, say};
use super::{choices, compare, image, pair, units};
use crate::bench::dataset::Dataset;
use crate::bench::measure::{Column, Dispatch, MachineRunner};
use crate::bench::plan::{self, Filter};
use crate::bench::progress::Bar;
use crate::bench::run::{self, CutShort, Options, Summary};
use crate::bench::workload::Kind;
use crate::bench::{report, table, workload};
use crate::engine::{Engine, Mode, Pair};
use crate::machine::{self, EmuEngine, Without};
use crate::sys::signal;
use clap::Args;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor bench                          everything, in every mode the host has\n  \
    trivisor bench crc32 'c*' --mode emu    some workloads in one mode\n  \
    trivisor bench --peers                  QEMU in the same run, if it is installed\n  \
    trivisor bench --mode native,pv,direct/none crc32 port_out    a pair of engine and interface beside a mode\n  \
    trivisor bench --engine translator,single --peers --mode emu,qemu-tcg lz    engines side by side, and QEMU's\n  \
    trivisor bench --without each --mode native,emu crc32 quicksort    what each technique of the translator buys\n  \
    trivisor bench --quick --out /tmp/run   fewer repetitions, elsewhere\n  \
    trivisor bench --baseline monday.csv    exit status 1 if something is slower than then\n\n\
    Each measurement is written to DIR/data/RUN.csv at once: Ctrl-C leaves what was measured, and the page of it.\n\n\
    Exit status: 0 if anything was measured; 1 if nothing was, it could not be written, or something is slower than \
    --baseline allows; 2 for wrong usage; \
    130 after Ctrl-C; 143 after SIGTERM.")]
pub(super) struct BenchArguments {
    /// Workloads by name, with * and ? (default: all that measure)
    workloads: Vec<String>,
    /// Only these modes (native, emu, pv, kvm, and with --peers qemu-tcg, qemu-kvm), or pairs of engine and interface, as
    /// direct/none
    #[arg(long = "mode", value_name = "MODE", value_delimiter = ',')]
    modes: Vec<String>,
    /// Engines of mode emu, each in a column of its own (emu/NAME), instead of a column emu of the default, translator
    #[arg(long = "engine", value_name = "ENGINE", value_delimiter = ',', value_parser = choices::emulator())]
    engines: Vec<EmuEngine>,
    /// A further column emu/without-TECHNIQUE+…, of the translator without these techniques, beside the full translator;
    /// may be given again
    #[arg(long, value_name = "TECHNIQUE,...", value_parser = choices::TechniquesOfColumns)]
    without: Vec<Vec<Without>>,
    /// Where CSV, plots and the page go
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Measured repetitions of each workload and mode, after one warm-up
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// How long one calibrated measurement takes (20ms, 1s)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true, default_value = "20ms")]
    budget: Duration,
    /// Begin no further run after so long (270s, 5m)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true, default_value = "270s")]
    deadline: Duration,
    /// Give one run up after so long (10s, 500ms)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
    /// Three repetitions of 5 ms, to see that everything works
    #[arg(long, conflicts_with_all = ["repetitions", "budget"])]
    quick: bool,
    /// Measure QEMU in the same run: qemu-tcg, and qemu-kvm where KVM runs ring 0 itself or --mode names it
    #[arg(long)]
    peers: bool,
    /// A further column for each pair of engine and interface that is no mode, as direct/none
    #[arg(long)]
    pairs: bool,
    /// Seed of the random order of runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Compare with an earlier run, a CSV file, and end with exit status 1 if something is slower for sure, by more than
    /// --max-slowdown
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    baseline: Option<PathBuf>,
    /// What --baseline lets pass (5%, 0.5%)
    #[arg(long, value_name = "PERCENT", default_value = "5%", requires = "baseline", value_parser = units::percent)]
    max_slowdown: f64,
    /// Do not draw plots and the page
    #[arg(long)]
    no_report: bool,
}

pub(super) fn main(arguments: &BenchArguments) -> Result<ExitCode, CliError> {
    let pairs = further_pairs(arguments)?;
    let (columns, kvm_label) = columns(arguments, &pairs);
    check_modes(arguments, &columns)?;
    for pattern in &arguments.workloads {
        check_workload(pattern)?;
    }
    // Before minutes are spent.
    arguments.baseline.as_deref().map(Dataset::load).transpose()?;
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    let mut options = Options::new(arguments.out.clone(), columns);
    options.filter = Filter {
        workloads: arguments.workloads.clone(),
        modes: arguments.modes.clone(),
        ..Filter::default()
    };
    options.repetitions = if arguments.quick { 3 } else { arguments.repetitions };
    options.budget_us = if arguments.quick {
        5_000
    } else {
        u64::try_from(arguments.budget.as_micros()).unwrap_or(u64::MAX).max(1)
    };
    options.timeout = arguments.timeout;
    options.deadline = Some(arguments.deadline);
    options.seed = arguments.seed;
    options.kvm_label = kvm_label;
    options.devices = machine::DEVICES.join(" ");
    options.stop = signal::interrupt_flag();

    let mut runner = Dispatch::new(Box::new(MachineRunner));
    let summary = run::execute(&options, &mut runner, &mut Bar::on_stderr())?;

    // The page first: whoever reads the table may go away.
    let page = if arguments.no_report || summary.measured == 0 {
        None
    } else {
        Some(report::generate_from(&summary.csv, &arguments.out)?.page)
    };
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut text = String::new();
    if summary.measured > 0 {
        let data = Dataset::load(&summary.csv)?;
        text = table::render(&data, table::Style { colour, ascii: false });
    }
    if summary.csv.exists() {
        text.push_str(&format!("\nmeasurements: {}\n", summary.csv.display()));
    }
    if let Some(page) = page {
        text.push_str(&format!("page:         {}\n", page.display()));
    }
    let printed = io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::Output);
    match summary.cut_short {
        Some(CutShort::Interrupted) => {
            let runs = summary.runs();
            return Ok(interrupted(|by| match summary.measured {
                0 => {
                    format!("stopped by {by} after {runs} runs; nothing was measured{}", only_warm(&summary))
                }
                _ => format!("stopped by {by} after {runs} runs; what they measured is kept"),
            }));
        }
        Some(CutShort::Deadline) if summary.measured > 0 => say(&format!(
            "stopped after {} rounds, because --deadline was over; give it more time for more",
            summary.rounds
        )),
        _ => {}
    }
    printed?;
    if summary.measured == 0 {
        return Err(CliError::NothingMeasured(why_nothing(&options, &summary)));
    }
    let Some(baseline) = &arguments.baseline else { return Ok(ExitCode::SUCCESS) };
    let found = compare::compare(baseline, &summary.csv, false)?;
    let (judged, status) = compare::judge(&found, arguments.max_slowdown);
    let text = format!("\n{}{judged}", found.render(false));
    io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::Output)?;
    Ok(status)
}

/// The pairs that have columns though they are no modes: those that `--mode` names, or with `--pairs` all that can be.
fn further_pairs(arguments: &BenchArguments) -> Result<Vec<Pair>, CliError> {
    let mut pairs: Vec<Pair> = Vec::new();
    if arguments.pairs {
        pairs.extend(Pair::all().filter(|pair| pair.mode().is_none() && pair.objection().is_none()));
    }
    for pair in arguments.modes.iter().filter_map(|mode| Pair::find(mode)) {
        pair::check(pair)?;
        if pair.mode().is_none() && !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// Refuses modes that have no column, and options whose columns `--mode` leaves out.
fn check_modes(arguments: &BenchArguments, columns: &[Column]) -> Result<(), CliError> {
    for mode in &arguments.modes {
        if !columns.iter().any(|c| plan::fits_mode(mode, &c.mode)) {
            let advice = missing_option(mode).unwrap_or_else(|| {
                let known: Vec<_> = columns.iter().map(|c| c.mode.as_str()).collect();
                format!("choose from {}, or a pair such as direct/none", known.join(", "))
            });
            return Err(CliError::Usage(format!("there is no mode '{mode}' here; {advice}")));
        }
    }
    let filter = Filter { modes: arguments.modes.clone(), ..Filter::default() };
    let measured = |wanted: &dyn Fn(&Column) -> bool| {
        columns.iter().any(|column| wanted(column) && filter.wants_mode(&column.mode))
    };
    if !arguments.without.is_empty() && !measured(&|column| !column.without.is_nothing()) {
        return Err(CliError::Usage(
            "--without measures the translator of mode emu, which --mode leaves out; add emu to --mode"
                .to_owned(),
        ));
    }
    if arguments.peers && !measured(&|column| !column.peer.is_empty()) {
        return Err(CliError::Usage(
            "--peers measures QEMU, which --mode leaves out; add qemu-tcg or qemu-kvm to --mode".to_owned(),
        ));
    }
    Ok(())
}

/// The option that makes the column of this name, if there is one.
fn missing_option(mode: &str) -> Option<String> {
    if ["qemu-tcg", "qemu-kvm"].iter().any(|peer| plan::matches(mode, peer)) {
        return Some(format!("{mode} needs --peers"));
    }
    if let Some(named) = Pair::find(mode).and_then(Pair::mode) {
        return Some(format!("its name is {named}"));
    }
    let of_emu = mode.strip_prefix("emu/")?;
    if let Some(engine) = EmuEngine::find(of_emu) {
        return Some(format!("use --engine {}", engine.name()));
    }
    let without: Without = of_emu.strip_prefix("without-")?.parse().ok()?;
    Some(format!("use --without {without}"))
}

/// Refuses a pattern that no workload fits, or none that measures.
fn check_workload(pattern: &str) -> Result<(), CliError> {
    let mut fitting = workload::all().iter().filter(|w| plan::matches(pattern, w.name)).peekable();
    let Some(first) = fitting.peek().map(|w| w.name) else {
        let meant = image::meant(pattern);
        return Err(CliError::Usage(format!(
            "no workload fits '{pattern}'{meant}; 'trivisor list' shows them"
        )));
    };
    if fitting.any(|w| matches!(w.kind, Kind::Nano | Kind::Task)) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "'{first}' measures nothing; 'trivisor run {first}' runs it, and 'trivisor list' shows which workloads measure"
    )))
}

/// Says that no more than the warm-up was done, if so.
fn only_warm(summary: &Summary) -> &'static str {
    if summary.warmed > 0 { ", because only warm-up was done" } else { "" }
}

/// The first reason that a run without a figure has.
fn why_nothing(options: &Options, summary: &Summary) -> String {
    let wanted = || options.columns.iter().filter(|column| options.filter.wants_mode(&column.mode));
    if summary.cut_short == Some(CutShort::Deadline) {
        let done = if summary.warmed > 0 { "only warm-up was done" } else { "no run was begun" };
        return format!("{done} before --deadline was over; give it more time");
    }
    if summary.failed > 0 {
        return format!("each run failed; {} has the reasons", summary.csv.display());
    }
    wanted().find_map(|column| column.absent.clone()).unwrap_or_else(|| {
        let modes: Vec<_> = wanted().map(|column| column.mode.as_str()).collect();
        format!("none of these workloads is for {}; 'trivisor list' shows others", modes.join(" or "))
    })
}

/// The columns of the translator without some techniques, each once.
fn ablated(arguments: &BenchArguments) -> Vec<Column> {
    let mut sets: Vec<Without> = Vec::new();
    for &set in arguments.without.iter().flatten() {
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets.into_iter().map(Column::ablated).collect()
}

/// The column of a pair, with KVM's label if it is that: absent with the reason, if this host has not the pair.
fn column(pair: Pair) -> (Column, Option<String>) {
    let column = Column::pair(pair);
    match machine::availability(pair) {
        Ok(caps) => (column, (pair.engine == Engine::Kvm).then_some(caps.label)),
        Err(error) => (Column { absent: Some(error.to_string()), ..column }, None),
    }
}

/// The columns of a run, and KVM's label: native, our modes and further `pairs` (absent ones with the reason), and the
/// peers if wanted.
fn columns(arguments: &BenchArguments, pairs: &[Pair]) -> (Vec<Column>, String) {
    let mut columns = vec![Column::native()];
    let mut kvm_label = "none".to_owned();
    for mode in Mode::ALL {
        if mode == Mode::Emu && !arguments.engines.is_empty() {
            let ablated = ablated(arguments);
            // What is left out of the translator shows beside the full one.
            let named = |engine: &EmuEngine| {
                arguments.engines.contains(engine) || *engine == EmuEngine::Translator && !ablated.is_empty()
            };
            columns.extend(EmuEngine::ALL.into_iter().filter(named).map(Column::emu));
            columns.extend(ablated);
            continue;
        }
        let (column, label) = column(mode.pair());
        if let Some(label) = label {
            kvm_label = label;
        }
        columns.push(column);
        if mode == Mode::Emu {
            columns.extend(ablated(arguments));
        }
    }
    columns.extend(pairs.iter().map(|&pair| column(pair).0));
    if arguments.peers {
        let insisted = arguments.modes.iter().any(|mode| mode == "qemu-kvm");
        columns.extend(Column::peers(&kvm_label, insisted));
    }
    (columns, kvm_label)
}
