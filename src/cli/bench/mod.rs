//! `trivisor bench`: the workloads in every mode, to a table, CSV, plots and the page.
mod asked;
mod columns;

use super::error::{CliError, interrupted, say};
use super::{choices, compare, image, units};
use crate::bench::dataset::Dataset;
use crate::bench::fingerprint::EMULATED_SUPERVISOR;
use crate::bench::language::Language;
use crate::bench::linux::{self, LinuxGuest, RECIPE};
use crate::bench::measure::{Dispatch, LinuxRunner, MachineRunner};
use crate::bench::plan::{self, Filter};
use crate::bench::progress::Bar;
use crate::bench::run::{self, CutShort, Options, Summary, Unfinished};
use crate::bench::side::Asked;
use crate::bench::workload::Workload;
use crate::bench::{report, table, workload};
use crate::engine::Mode;
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
    trivisor bench 'sweep_*' 'disk_*'       how cost grows with size, and what disks cost\n  \
    trivisor bench --peers                  QEMU in the same run, if it is installed\n  \
    trivisor bench --mode native,pv,direct/none crc32 port_out    a pair of engine and interface beside a mode\n  \
    trivisor bench --engine translator,single --peers --mode emu,qemu-tcg lz    engines side by side, and QEMU's\n  \
    trivisor bench --without each --mode native,emu crc32 quicksort    what each technique of the translator buys\n  \
    trivisor bench --quick --out /tmp/run   fewer repetitions, elsewhere\n  \
    trivisor bench --full                   all columns, more repetitions, however long it takes\n  \
    trivisor bench --linux root linux       a stock Linux kernel and busybox, unpacked in root\n  \
    trivisor bench --resume                 go on with the newest run, which was stopped\n  \
    trivisor bench --baseline monday.csv    exit status 1 if something is slower than then\n\n\
    Each measurement is written to DIR/data/RUN.csv at once: Ctrl-C leaves what was measured, and the page of it; --resume \
    goes on from there.\n\n\
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
    /// Where CSV, plots and the page go [default: reports, or with --resume FILE.csv where that lies]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Measured repetitions of each workload and mode, after one warm-up [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: Option<u32>,
    /// How long one calibrated measurement takes (20ms, 1s) [default: 20ms]
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    budget: Option<Duration>,
    /// Begin no further run after so long (270s, 5m) [default: 270s, with --full none]
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    deadline: Option<Duration>,
    /// Give one run up after so long (10s, 500ms) [default: 10s, with --full 60s]
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// Three repetitions of 5 ms, to see that everything works
    #[arg(long, conflicts_with_all = ["repetitions", "budget"])]
    quick: bool,
    /// All columns (--peers, --pairs, --without each), 30 repetitions of 50 ms, and no deadline
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Go on with a run that was stopped, the newest in DIR or the one named here, under the options that it was begun with;
    /// only --deadline may be another
    #[arg(long, value_name = "RUN|FILE.csv", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// Measure QEMU in the same run: qemu-tcg, and qemu-kvm where KVM runs ring 0 itself or --mode names it
    #[arg(long)]
    peers: bool,
    /// A further workload, linux: boots the kernel of this folder (boot/vmlinuz*, bin/busybox), to busybox's shell and
    /// programs
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    linux: Option<Option<PathBuf>>,
    /// A further column for each pair of engine and interface that is no mode, as direct/none
    #[arg(long)]
    pairs: bool,
    /// Seed of the random order of runs [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Compare with an earlier run, a CSV file, and end with exit status 1 if something is slower for sure, by more than
    /// --max-slowdown
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    baseline: Option<PathBuf>,
    /// What --baseline lets pass (5%, 0.5%)
    #[arg(long, value_name = "PERCENT", default_value = "5%", requires = "baseline", value_parser = units::percent)]
    max_slowdown: f64,
    /// Language of the page and of the figures in it; CSV and PNG files of zh stay English
    #[arg(long = "lang", value_name = "LANG", value_parser = choices::language(), default_value = "en")]
    language: Language,
    /// Do not draw plots and the page
    #[arg(long)]
    no_report: bool,
}

pub(super) fn main(arguments: &BenchArguments) -> Result<ExitCode, CliError> {
    let unfinished = asked::unfinished(arguments)?;
    let asked = match &unfinished {
        Some(unfinished) => unfinished.asked().clone(),
        None => arguments.asked()?,
    };
    let linux = asked.linux.as_deref().map(LinuxGuest::load).transpose()?;
    let options = options(arguments, &asked, unfinished.as_ref(), linux.as_ref())?;
    // Before minutes are spent.
    arguments.baseline.as_deref().map(Dataset::load).transpose()?;
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;

    let slow_kvm = options.kvm_label.starts_with(EMULATED_SUPERVISOR)
        && !asked.modes.iter().any(|mode| mode == Mode::Kvm.name());
    let linux = linux.map(|guest| LinuxRunner::new(guest, slow_kvm));
    let mut runner = Dispatch::new(Box::new(MachineRunner)).with_linux(linux);
    let mut bar = Bar::on_stderr();
    let summary = match unfinished {
        Some(unfinished) => run::resume(unfinished, &options, &mut runner, &mut bar)?,
        None => run::execute(&options, &mut runner, &mut bar)?,
    };
    if summary.was_complete {
        say(&format!("run {} is complete: nothing was left to measure", summary.run));
    }

    // The page first: whoever reads the table may go away.
    let page = if arguments.no_report || summary.measured == 0 {
        None
    } else {
        Some(report::generate_from(&summary.csv, &options.out, arguments.language)?.page)
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
    let goes_on = format!("'trivisor bench --resume {}' goes on with it", summary.csv.display());
    match summary.cut_short {
        Some(CutShort::Interrupted) => {
            let runs = summary.runs();
            return Ok(interrupted(|by| match summary.measured {
                0 => {
                    format!("stopped by {by} after {runs} runs; nothing was measured{}", only_warm(&summary))
                }
                _ => format!("stopped by {by} after {runs} runs; what they measured is kept, and {goes_on}"),
            }));
        }
        Some(CutShort::Deadline) if summary.measured > 0 => {
            say(&format!("stopped after {} rounds, because --deadline was over; {goes_on}", summary.rounds))
        }
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

/// The options of a run that is to measure what is asked for; all that can be wrong with that is told.
fn options(
    arguments: &BenchArguments,
    asked: &Asked,
    unfinished: Option<&Unfinished>,
    linux: Option<&LinuxGuest>,
) -> Result<Options, CliError> {
    let (columns, kvm_label) = columns::columns(asked)?;
    columns::check_modes(arguments, asked, &columns)?;
    let further: Vec<&'static Workload> = linux.map(LinuxGuest::workload).into_iter().collect();
    for pattern in &asked.workloads {
        check_workload(pattern, &further)?;
    }
    let mut options = Options::new(arguments.folder(unfinished), columns);
    options.filter =
        Filter { workloads: asked.workloads.clone(), modes: asked.modes.clone(), ..Filter::default() };
    options.further_workloads = further;
    options.linux = asked.linux.clone();
    options.further_columns = asked.columns.clone();
    options.repetitions = asked.repetitions;
    options.budget_us = asked.budget_us;
    options.timeout = asked.timeout;
    options.deadline = asked.deadline;
    options.seed = asked.seed;
    options.kvm_label = kvm_label;
    options.devices = machine::DEVICES.join(" ");
    options.stop = signal::interrupt_flag();
    Ok(options)
}

/// Refuses a pattern that no workload fits, or none that measures.
fn check_workload(pattern: &str, further: &[&Workload]) -> Result<(), CliError> {
    let all = workload::all().iter().chain(further.iter().copied());
    let mut fitting = all.filter(|w| plan::matches(pattern, w.name)).peekable();
    let Some(first) = fitting.peek().map(|w| w.name) else {
        if pattern == linux::NAME {
            return Err(CliError::Usage(format!("'{pattern}' needs --linux DIR: {RECIPE}")));
        }
        let meant = image::meant(pattern);
        return Err(CliError::Usage(format!(
            "no workload fits '{pattern}'{meant}; 'trivisor list' shows them"
        )));
    };
    if fitting.any(|w| w.kind.measures()) {
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
