//! `trivisor doctor`: what this host can do, and why not.
use super::error::CliError;
use crate::engine::{Mode, Pair};
use crate::machine;
use crate::sys::{affinity, tsc};
use clap::Args;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor doctor             for a person\n  \
    trivisor doctor --json      for programs")]
pub(super) struct DoctorArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Finding {
    topic: String,
    ok: bool,
    text: String,
}

pub(super) fn main(arguments: &DoctorArguments) -> Result<ExitCode, CliError> {
    let findings = examine();
    let mut out = io::stdout().lock();
    if arguments.json {
        let all: Vec<_> = findings
            .iter()
            .map(|f| serde_json::json!({"topic": f.topic, "ok": f.ok, "finding": f.text}))
            .collect();
        writeln!(out, "{}", serde_json::Value::from(all)).map_err(CliError::Output)?;
    } else {
        for finding in &findings {
            let mark = if finding.ok { "yes" } else { "no " };
            writeln!(out, "{:>11}  {mark}  {}", finding.topic, finding.text).map_err(CliError::Output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn examine() -> Vec<Finding> {
    let mut findings = Vec::new();
    for mode in Mode::ALL {
        let (ok, text) = match machine::availability(mode) {
            Ok(caps) => (true, caps.label),
            Err(error) => (false, error.to_string()),
        };
        findings.push(Finding { topic: mode.to_string(), ok, text });
    }
    for pair in Pair::all().filter(|pair| pair.mode().is_none()) {
        let (ok, text) = match (pair.objection(), machine::availability(pair)) {
            (Some(reason), _) => (false, reason.to_owned()),
            (None, Ok(caps)) => (true, caps.label),
            (None, Err(error)) => (false, error.to_string()),
        };
        findings.push(Finding { topic: pair.to_string(), ok, text });
    }
    let cpus = affinity::allowed().map_or(0, |c| c.len());
    findings.push(Finding {
        topic: "CPUs".to_owned(),
        ok: cpus >= 2,
        text: if cpus >= 2 {
            format!("{cpus}; pv hands over between two of them by spinning")
        } else {
            format!("{cpus}; with less than two, pv's exits cost a context switch each")
        },
    });
    let mhz = tsc::frequency() as f64 / 1e6;
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .map_or_else(|_| "unknown".to_owned(), |s| s.trim().to_owned());
    findings.push(Finding {
        topic: "TSC".to_owned(),
        ok: source == "tsc" || source == "kvm-clock",
        text: format!("{mhz:.1} MHz; the kernel's clock source is {source}"),
    });
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let (ok, text) = match qemu {
        Ok(output) if output.status.success() => {
            (true, String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
        }
        _ => (false, "not installed (Debian: qemu-system-x86); bench --peers then leaves it out".to_owned()),
    };
    findings.push(Finding { topic: "QEMU".to_owned(), ok, text });
    findings
}
