//! `trivisor report`: plots and the page, from a CSV file alone.
use super::choices;
use super::error::CliError;
use crate::bench::language::Language;
use crate::bench::report;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor report                      the newest run in reports/data\n  \
    trivisor report --csv run.csv --out page\n  \
    trivisor report --lang de            the same page in German")]
pub(super) struct ReportArguments {
    /// The measurements; default: the newest file in DIR/data
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Where the page and the plots go
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Language of the page and of the figures in it; PNG files of zh stay English
    #[arg(long = "lang", value_name = "LANG", value_parser = choices::language(), default_value = "en")]
    language: Language,
}

pub(super) fn main(arguments: &ReportArguments) -> Result<ExitCode, CliError> {
    let made = match &arguments.csv {
        Some(csv) => report::generate_from(csv, &arguments.out, arguments.language)?,
        None => report::generate(&arguments.out, arguments.language)?,
    };
    writeln!(io::stdout(), "{}", made.page.display()).map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}
