//! The command line: parses, calls the other rooms, prints. The only place that knows clap.
//!
//! Exit status: 0 for success, 1 for a failure (also a guest's), 2 for wrong usage, and after a signal 128 and its number:
//! 130 after Ctrl-C, 143 after SIGTERM. Messages go to standard error in one sentence; results go to standard output. A
//! reader of either that goes away ends a command without a word.
mod account;
mod bench;
mod choices;
mod compare;
mod debug;
mod disk;
mod doctor;
mod error;
mod gdb;
mod guest;
mod image;
mod list;
mod lockstep;
mod net;
mod pair;
mod refusal;
mod replay;
mod report;
mod run;
mod screen;
mod sites;
mod switching;
mod tui;
mod units;

use crate::sys::{membarrier, tsc};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "trivisor",
    version,
    about = "Runs one x86-64 guest by emulation (emu), by paravirtualization (pv) and with hardware help (kvm), and \
             measures the difference.",
    after_help = "Examples:\n  \
        trivisor doctor                      what this host can do\n  \
        trivisor run hello                   a built-in guest, emulated\n  \
        trivisor run --mode kvm kernel.elf   your own image (ELF64 with a PVH note)\n  \
        trivisor debug --mode pv hello       step through it, look inside\n  \
        trivisor sites syscall               what pv patches in a guest, and how often it is executed\n  \
        trivisor bench                       all workloads in all modes, then reports/index.html\n\n\
        Exit status: 0 for success, 1 for a failure (also a guest's), 2 for wrong usage, 130 after Ctrl-C, 143 after \
        SIGTERM."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a guest; its console is standard input and output
    Run(run::RunArguments),
    /// Run a recording of 'run --record' again: the same output, the same end
    Replay(replay::ReplayArguments),
    /// Step through a guest and look inside, at a prompt or by a script
    Debug(debug::DebugArguments),
    /// Run a guest in mode pv and list what was patched in it: how, how often executed, at what cost
    Sites(sites::SitesArguments),
    /// Measure the workloads in every mode; table, CSV, plots and a page
    Bench(bench::BenchArguments),
    /// Make plots and the page again from a CSV file
    Report(report::ReportArguments),
    /// Compare two runs of 'bench': what got slower or faster, and how sure that is
    Compare(compare::CompareArguments),
    /// Run a guest by emu's interpreter and its translator side by side, to where they differ
    Lockstep(lockstep::LockstepArguments),
    /// List the built-in workloads
    List(list::ListArguments),
    /// Say what this host can do, and why not
    Doctor(doctor::DoctorArguments),
}

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    // Most guests are told the frequency, whose measurement takes longer than all else before they run.
    tsc::begin_measuring();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refusal::show(&error),
    };
    // For the locks of devices, while there is one thread. Where it cannot be had they take a little longer.
    let _has_barriers = membarrier::prepare();
    let result = match arguments.command {
        Command::Run(arguments) => run::main(&arguments),
        Command::Replay(arguments) => replay::main(&arguments),
        Command::Debug(arguments) => debug::main(&arguments),
        Command::Sites(arguments) => sites::main(&arguments),
        Command::Bench(arguments) => bench::main(&arguments),
        Command::Report(arguments) => report::main(&arguments),
        Command::Compare(arguments) => compare::main(&arguments),
        Command::Lockstep(arguments) => lockstep::main(&arguments),
        Command::List(arguments) => list::main(&arguments),
        Command::Doctor(arguments) => doctor::main(&arguments),
    };
    result.unwrap_or_else(|error| {
        if !error.is_closed_pipe() {
            error::say(&error.to_string());
        }
        error.exit_code()
    })
}
