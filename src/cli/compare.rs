//! `trivisor compare`: two runs of `bench`, and what differs for sure.
use super::error::CliError;
use super::units;
use crate::bench::compare::{Comparison, TOO_FEW};
use crate::bench::dataset::Dataset;
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor compare monday.csv today.csv\n  \
    trivisor compare reports/data/A.csv reports/data/B.csv --all     also what is the same\n  \
    trivisor compare old.csv new.csv --max-slowdown 5%               exit status 1 if something got slower\n\n\
    Exit status: 0; with --max-slowdown 1 if something is slower by more, or was measured in A \
    and failed in B, or too little was measured to tell; 1 if a file cannot be read, or the runs have \
    nothing in common; 2 for wrong usage.")]
pub(super) struct CompareArguments {
    /// The run to compare with: a CSV file of 'trivisor bench'
    a: PathBuf,
    /// The run that is compared
    b: PathBuf,
    /// Compare times also where both runs have native, to which slowdowns are compared otherwise
    #[arg(long)]
    by_time: bool,
    /// List also what is the same
    #[arg(long)]
    all: bool,
    /// End with exit status 1 if something is slower by more than this, and for sure (5%, 0.5%)
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    max_slowdown: Option<f64>,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// Compares two files.
///
/// # Errors
/// Those of reading them; [`CliError::NothingInCommon`].
pub(super) fn compare(a: &Path, b: &Path, by_time: bool) -> Result<Comparison, CliError> {
    let found = Comparison::of(&Dataset::load(a)?, &Dataset::load(b)?, by_time);
    if found.differences.is_empty() && found.left_out.is_empty() && found.lost.is_empty() {
        return Err(CliError::NothingInCommon { a: a.to_owned(), b: b.to_owned() });
    }
    Ok(found)
}

/// Says whether the second run passes: nothing is slower by more than `share` for sure, nothing was lost, and a difference
/// could have been seen.
pub(super) fn judge(found: &Comparison, share: f64) -> (String, ExitCode) {
    let percent = share * 100.0;
    let slower = found.slower_by(share).map(|one| {
        format!("slower by more than {percent} %: {} in {}: {:.3} times", one.label, one.mode, one.ratio.mid)
    });
    let lost = found.lost.iter().map(|(label, mode, why)| format!("lost: {label} in {mode}: {why}"));
    let mut objections: Vec<String> = slower.chain(lost).collect();
    if objections.is_empty() && found.differences.is_empty() {
        objections.push("nothing could be compared".to_owned());
    } else if objections.is_empty() && found.is_blind() {
        objections.push(TOO_FEW.to_owned());
    }
    match objections.is_empty() {
        true => (format!("nothing is slower by more than {percent} %\n"), ExitCode::SUCCESS),
        false => (objections.join("\n") + "\n", ExitCode::FAILURE),
    }
}

pub(super) fn main(arguments: &CompareArguments) -> Result<ExitCode, CliError> {
    let found = compare(&arguments.a, &arguments.b, arguments.by_time)?;
    let (mut text, mut status) = if arguments.json {
        // Plain data: it always serialises.
        (serde_json::json!(found).to_string() + "\n", ExitCode::SUCCESS)
    } else {
        (found.render(arguments.all), ExitCode::SUCCESS)
    };
    if let Some(share) = arguments.max_slowdown {
        let (judged, of_judgement) = judge(&found, share);
        status = of_judgement;
        if !arguments.json {
            text.push_str(&judged);
        }
    }
    io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::Output)?;
    Ok(status)
}
