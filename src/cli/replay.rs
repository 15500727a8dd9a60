//! `trivisor replay`: a recorded run once more.
use super::error::{CliError, say};
use super::run::verdict;
use super::units;
use crate::host::console::Stream;
use crate::machine::{Limits, Stop};
use crate::snapshot::recording::{How, Recording, Replayed};
use crate::sys::signal;
use clap::Args;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor run --record hello.rec hello\n  \
    trivisor replay hello.rec\n  \
    trivisor debug --replay hello.rec          goes forwards and backwards in it\n\n\
    Exit status: that of the recorded run, if the guest does the same again; 1 if it does something else.")]
pub(super) struct ReplayArguments {
    /// The recording
    file: PathBuf,
    /// Stop after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
}

pub(super) fn main(arguments: &ReplayArguments) -> Result<ExitCode, CliError> {
    let recording = Recording::open(&arguments.file)?;
    let to_host = |what| move |source| CliError::Host { what, source };
    signal::catch_interrupts().map_err(to_host("cannot catch Ctrl-C"))?;
    let stream =
        Stream::stdout(signal::interrupt_flag()).map_err(to_host("cannot print the guest's console"))?;
    let outlet = stream.outlet();
    let mut machine = recording.build(Box::new(stream))?;
    machine.watch_output(outlet);
    let limits = Limits { timeout: arguments.timeout, interruptible: true, ..Limits::default() };
    let replayed = recording.replay(&mut machine, &limits);
    // Prints the console's last words before we say ours.
    drop(machine);
    let name = OsStr::new(recording.name());
    Ok(match replayed? {
        Replayed::Same(How::PowerOff(status)) => verdict(Stop::PowerOff(status), name),
        Replayed::Same(How::Reset) => verdict(Stop::Reset, name),
        Replayed::Same(How::TripleFault) => verdict(Stop::TripleFault, name),
        Replayed::Same(How::Stopped) => {
            say(&format!("{}: the recording ends here; the guest was stopped", recording.name()));
            ExitCode::FAILURE
        }
        Replayed::Stopped(stop) => verdict(stop, name),
    })
}
