//! `trivisor list`: the built-in workloads.
use super::error::CliError;
use crate::bench::workload;
use clap::Args;
use std::io::{self, Write};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor list               names, kinds and one line about each\n  \
    trivisor list --json        the same for programs")]
pub(super) struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &ListArguments) -> Result<ExitCode, CliError> {
    let mut out = io::stdout().lock();
    if arguments.json {
        let all: Vec<_> = workload::all()
            .iter()
            .map(|w| serde_json::json!({"name": w.name, "kind": w.kind.name(), "about": w.about, "bytes": w.image.len()}))
            .collect();
        writeln!(out, "{}", serde_json::Value::from(all)).map_err(CliError::Output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = workload::all().iter().map(|w| w.name.len()).max().unwrap_or(0);
    for workload in workload::all() {
        writeln!(out, "{:width$}  {:7}  {}", workload.name, workload.kind.name(), workload.about)
            .map_err(CliError::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}
