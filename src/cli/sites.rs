//! `trivisor sites`: runs one guest natively and says what was patched in it, or left alone.
//!
//! The report goes to standard output, the guest's console to standard error. However the run ends, the report is of what
//! happened until then.
use super::error::CliError;
use super::guest::{ImageArguments, host_tsc_khz};
use super::{choices, run, units};
use crate::debugger::symbols::Symbols;
use crate::debugger::view::sites::{self, Order, Report};
use crate::engine::{Engine, Interface, Mode, Pair};
use crate::loader::Image;
use crate::machine::{Limits, Stream};
use crate::sys::signal;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor sites syscall\n  \
    trivisor sites --sort count cli_sti         what is executed most comes first\n  \
    trivisor sites --csv sites.csv kernel.elf   the table, and a file for programs\n  \
    trivisor sites --json hello\n  \
    trivisor sites --interface none hello       what would be patched, and runs as it is\n\n\
    The guest's console goes to standard error; it gets no input, and a reset ends it.\n\n\
    Columns: patch is 'thunk' (a jump to code in the guest's process that does the work), 'hypercall' (a jump to code that \
    calls the engine), 'int3', 'fault' (left alone: it faults by itself), or 'native' (left alone, because nothing is patched: \
    where it does not fault it acts on the host's state). made is 'scan' (before its page was executed), \
    'trap' (live, after a trap), 'entry' (live, when the engine led there), or 'taken back'. engine counts the executions \
    that the engine did. ns and least are the mean and the least host time of these from the moment the engine saw the call \
    to letting the guest go on; the way there and back is not in it. docs/pv-sites.md has more.\n\n\
    Exit status: as of run.")]
pub(super) struct SitesArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// The one mode that patches: for --engine direct --interface patched
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new([Mode::Pv.name()]), conflicts_with_all = ["engine", "interface"])]
    mode: Option<String>,
    /// Who executes the guest: only this engine patches
    #[arg(long, value_name = "ENGINE", value_parser = PossibleValuesParser::new([Engine::Direct.name()]))]
    engine: Option<String>,
    /// What the guest sees
    #[arg(long, value_name = "INTERFACE", value_parser = choices::interface(), default_value = "patched")]
    interface: Interface,
    /// Stop after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// What comes first
    #[arg(long, value_enum, default_value = "address")]
    sort: Sort,
    /// Write CSV to this file, too; - is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,
}

/// An order of rows, as clap knows it.
#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    /// the lowest address
    Address,
    /// what was executed most often
    Count,
    /// what took the engine the most time in all
    Cost,
}

impl From<Sort> for Order {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Address => Self::Address,
            Sort::Count => Self::Count,
            Sort::Cost => Self::Cost,
        }
    }
}

pub(super) fn main(arguments: &SitesArguments) -> Result<ExitCode, CliError> {
    let csv_only = arguments.csv.as_deref() == Some(Path::new("-"));
    if csv_only && arguments.json {
        return Err(CliError::Usage(
            "--json and --csv - both want standard output; give --csv a file".to_owned(),
        ));
    }
    let pair = Pair { engine: Engine::Direct, interface: arguments.interface };
    let (start, mut spec) = arguments.image.prepare(pair, host_tsc_khz)?;
    spec.counts_sites = true;
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    let name = arguments.image.name();
    let of_guest = |error| CliError::of_guest(name, error);
    let console = Stream::new(Box::new(io::stderr()), signal::interrupt_flag())
        .map_err(|source| CliError::Host { what: "cannot print the guest's console", source })?;
    let outlet = console.outlet();
    let mut machine =
        start.build(&spec, Box::new(console)).map_err(|error| CliError::of_start(name, error))?;
    machine.watch_output(outlet);
    let stop = machine.run(&Limits { timeout: arguments.timeout, interruptible: true, ..Limits::default() });
    let known = machine.sites().unwrap_or_default();
    // Prints the console's last words before we say ours.
    drop(machine);

    let symbols =
        start.image().into_iter().flat_map(Image::symbols).map(|s| (s.address, s.size, s.name.as_str()));
    let mut report = sites::show(&known, &Arc::new(Symbols::new(symbols)));
    report.sort(arguments.sort.into());
    let csv = arguments.csv.as_ref().map(|path| csv_of(&report).map(|bytes| (path, bytes))).transpose()?;
    let mut out = io::stdout().lock();
    match &csv {
        Some((_, bytes)) if csv_only => out.write_all(bytes),
        _ if arguments.json => {
            serde_json::to_string(&report).map_err(io::Error::from).and_then(|text| writeln!(out, "{text}"))
        }
        _ => writeln!(out, "{report}"),
    }
    .and_then(|()| out.flush())
    .map_err(CliError::Output)?;
    if let Some((path, bytes)) = csv.filter(|_| !csv_only) {
        std::fs::write(path, bytes).map_err(|source| CliError::Write { path: path.clone(), source })?;
    }
    stop.map(|stop| run::verdict(stop, name)).map_err(of_guest)
}

fn csv_of(report: &Report) -> Result<Vec<u8>, CliError> {
    report.csv().map_err(|error| CliError::Output(error.into()))
}
