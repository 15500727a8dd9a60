//! What the arguments ask for: by themselves, or of a run that is gone on with.
use super::BenchArguments;
use crate::bench::linux::RECIPE;
use crate::bench::record;
use crate::bench::run::Unfinished;
use crate::bench::side::{Asked, FurtherColumns};
use crate::cli::error::CliError;
use crate::machine::{Technique, Without};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where reports go by default.
const OUT: &str = "reports";

/// What an amount of measuring means where no single option says otherwise.
struct Amount {
    repetitions: u32,
    budget: Duration,
    timeout: Duration,
    deadline: Option<Duration>,
}

const QUICK: Amount = Amount { repetitions: 3, budget: Duration::from_millis(5), ..USUAL };
const USUAL: Amount = Amount {
    repetitions: 10,
    budget: Duration::from_millis(20),
    timeout: Duration::from_secs(10),
    deadline: Some(Duration::from_secs(270)),
};
const FULL: Amount = Amount {
    repetitions: 30,
    budget: Duration::from_millis(50),
    timeout: Duration::from_secs(60),
    deadline: None,
};

impl BenchArguments {
    /// What a new run is asked for.
    pub(super) fn asked(&self) -> Result<Asked, CliError> {
        let linux = match &self.linux {
            Some(Some(folder)) => Some(
                std::path::absolute(folder)
                    .map_err(|source| CliError::Read { path: folder.clone(), source })?,
            ),
            Some(None) => {
                return Err(CliError::Usage(format!(
                    "--linux needs a folder with a kernel and busybox: {RECIPE}"
                )));
            }
            None => None,
        };
        let amount = match (self.quick, self.full) {
            (true, _) => QUICK,
            (_, true) => FULL,
            _ => USUAL,
        };
        Ok(Asked {
            workloads: self.workloads.clone(),
            modes: self.modes.clone(),
            columns: FurtherColumns {
                engines: self.engines.iter().map(|engine| engine.name().to_owned()).collect(),
                without: self.techniques().iter().map(Without::to_string).collect(),
                pairs: self.pairs || self.full,
                peers: self.peers || self.full,
            },
            repetitions: self.repetitions.unwrap_or(amount.repetitions),
            seed: self.seed.unwrap_or(1),
            budget_us: microseconds(self.budget.unwrap_or(amount.budget)),
            timeout: self.timeout.unwrap_or(amount.timeout),
            deadline: self.deadline.or(amount.deadline),
            linux,
        })
    }

    /// Sets of techniques to leave out, each once.
    fn techniques(&self) -> Vec<Without> {
        let mut sets: Vec<Without> = Vec::new();
        let each = Technique::ALL.into_iter().map(Without::only).chain([Without::EVERYTHING]);
        let all = self.without.iter().flatten().copied().chain(each.filter(|_| self.full));
        for set in all {
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// The first option that was given and is not as the run has it that is to be gone on with.
    fn conflict(&self, then: &Asked) -> Result<Option<String>, CliError> {
        let now = self.asked()?;
        let folder =
            |linux: &Option<PathBuf>| linux.as_ref().map_or("none".to_owned(), |it| it.display().to_string());
        let list = |items: &[String]| if items.is_empty() { "all".to_owned() } else { items.join(",") };
        let micros = |micros: u64| format!("{:?}", Duration::from_micros(micros));
        let columns = (&then.columns, &now.columns);
        let given: [(bool, &str, String, String); 11] = [
            (!self.workloads.is_empty(), "WORKLOADS", list(&then.workloads), list(&now.workloads)),
            (!self.modes.is_empty(), "--mode", list(&then.modes), list(&now.modes)),
            (!self.engines.is_empty(), "--engine", list(&columns.0.engines), list(&columns.1.engines)),
            (
                !self.without.is_empty() || self.full,
                "--without",
                list(&columns.0.without),
                list(&columns.1.without),
            ),
            (self.pairs || self.full, "--pairs", columns.0.pairs.to_string(), columns.1.pairs.to_string()),
            (self.peers || self.full, "--peers", columns.0.peers.to_string(), columns.1.peers.to_string()),
            (
                self.repetitions.is_some() || self.quick || self.full,
                "--repetitions",
                then.repetitions.to_string(),
                now.repetitions.to_string(),
            ),
            (
                self.budget.is_some() || self.quick || self.full,
                "--budget",
                micros(then.budget_us),
                micros(now.budget_us),
            ),
            (
                self.timeout.is_some() || self.full,
                "--timeout",
                format!("{:?}", then.timeout),
                format!("{:?}", now.timeout),
            ),
            (self.linux.is_some(), "--linux", folder(&then.linux), folder(&now.linux)),
            (self.seed.is_some(), "--seed", then.seed.to_string(), now.seed.to_string()),
        ];
        let conflict = given.into_iter().find(|(given, _, then, now)| *given && then != now);
        Ok(conflict.map(|(_, option, then, now)| {
            format!(
                "--resume goes on with a run under its own options: {option} was {then} there and is {now} here; leave it \
                 out, or begin a new run without --resume"
            )
        }))
    }

    /// Where the page goes.
    pub(super) fn folder(&self, unfinished: Option<&Unfinished>) -> PathBuf {
        let beside = || {
            let folder = unfinished?.csv().parent()?;
            // Runs lie in the folder `data` of their report.
            let report = folder.parent().filter(|parent| record::data_dir(parent) == folder);
            Some(report.unwrap_or(folder).to_owned())
        };
        self.out.clone().or_else(beside).unwrap_or_else(|| PathBuf::from(OUT))
    }
}

/// The run to go on with, if that is asked for, with the deadline that is given.
pub(super) fn unfinished(arguments: &BenchArguments) -> Result<Option<Unfinished>, CliError> {
    let Some(named) = &arguments.resume else { return Ok(None) };
    let out = arguments.out.as_deref().unwrap_or(Path::new(OUT));
    let csv = match named {
        None => record::newest(out)?,
        Some(name) if name.extension().is_some_and(|end| end == "csv") => name.clone(),
        Some(name) => {
            let csv = record::data_dir(out).join(format!("{}.csv", name.display()));
            if !csv.exists() {
                return Err(CliError::Usage(format!(
                    "--resume: there is no run '{}' in {}; give the name of a file there without .csv, or a path with it",
                    name.display(),
                    record::data_dir(out).display()
                )));
            }
            csv
        }
    };
    let mut unfinished = Unfinished::open(&csv)?;
    if let Some(conflict) = arguments.conflict(unfinished.asked())? {
        return Err(CliError::Usage(conflict));
    }
    if let Some(deadline) = arguments.deadline {
        unfinished.give_deadline(deadline);
    }
    Ok(Some(unfinished))
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
