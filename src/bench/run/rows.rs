//! From an observation to rows of the CSV.

use crate::bench::checksum::{Ballots, fold32};
use crate::bench::marks::{self, End, Mark, Transcript};
use crate::bench::measure::{Column, Observation, RunError};
use crate::bench::plan::Step;
use crate::bench::record::{self, Row};
use crate::bench::timestamp::Timestamp;
use crate::bench::workload::{Kind, Workload};
use crate::engine::{Cause, UNATTRIBUTED};
use std::time::Duration;

/// Makes the rows of one run.
pub(super) struct RowMaker {
    run: String,
}

impl RowMaker {
    pub(super) fn new(run: &str) -> RowMaker {
        RowMaker { run: run.to_owned() }
    }

    /// A fact about the run, in words.
    pub(super) fn fact(&self, name: &str, words: &str) -> Row {
        Row { metric: name.to_owned(), reason: words.to_owned(), ..self.blank(record::WHOLE_RUN, None) }
    }

    /// A column that cannot run here.
    pub(super) fn absent(&self, column: &Column, reason: &str) -> Row {
        Row { reason: reason.to_owned(), ..self.blank(record::WHOLE_RUN, Some(column)) }
    }

    /// A run that gave no observation, after `wall` of host time.
    pub(super) fn failed(
        &self,
        workload: &Workload,
        column: &Column,
        step: &Step,
        print: &str,
        error: &RunError,
        wall: Duration,
    ) -> Vec<Row> {
        let why = error.to_string();
        let again = if matches!(error, RunError::Unsupported(_)) { record::NOT_AGAIN } else { "" };
        let reason = self.reason(workload, column, step, print, &why);
        let closing = Row {
            metric: record::WALL.to_owned(),
            unit: record::UNIT_NS.to_owned(),
            value: Some(wall.as_nanos() as f64),
            reason: format!("{again}{why}"),
            ..reason.clone()
        };
        vec![reason, closing]
    }

    /// Why all of a run, or a part of it, has no figure.
    fn reason(&self, workload: &Workload, column: &Column, step: &Step, print: &str, why: &str) -> Row {
        Row {
            repetition: step.repetition,
            reason: why.to_owned(),
            fingerprint: print.to_owned(),
            ..self.blank(workload.name, Some(column))
        }
    }

    /// The rows of an observation. Checksums go into `ballots` first, so that a run is judged with all that is known; folded,
    /// as the rows have them, so that a run that is gone on with knows the same.
    pub(super) fn observed(
        &self,
        workload: &Workload,
        column: &Column,
        step: &Step,
        print: &str,
        observation: &Observation,
        ballots: &mut Ballots,
    ) -> Vec<Row> {
        let transcript = marks::parse(&observation.console);
        let trouble = trouble(workload, observation, &transcript);
        if trouble.is_none() {
            for mark in &transcript.results {
                let folded = u64::from(fold32(mark.checksum));
                ballots.note(workload.name, &mark.metric_at_ring(), &column.mode, folded);
            }
        }
        let row = |metric: String, unit: &str, value: f64, reason: Option<&str>| {
            let reason = if step.repetition == 0 { Some(reason.unwrap_or(record::WARM_UP)) } else { reason };
            Row {
                metric,
                unit: unit.to_owned(),
                repetition: step.repetition,
                value: Some(value),
                valid: reason.is_none(),
                reason: reason.unwrap_or_default().to_owned(),
                fingerprint: print.to_owned(),
                ..self.blank(workload.name, Some(column))
            }
        };
        let mut rows = Vec::new();
        for mark in &transcript.results {
            let metric = mark.metric_at_ring();
            // In the warm-up those whose word counts may still be to come.
            let objection = ballots
                .objection(workload.name, &metric, &column.mode)
                .filter(|why| step.repetition > 0 || why.starts_with("diverged"));
            let reason = trouble.as_deref().or(objection.as_deref());
            rows.push(row(metric.clone(), unit_of(workload, mark), ns(mark, observation), reason));
            let iterations = mark.iterations as f64;
            rows.push(row(metric.clone() + record::ITERATIONS, record::UNIT_COUNT, iterations, reason));
            let folded = f64::from(fold32(mark.checksum));
            rows.push(row(metric + record::CHECKSUM, record::UNIT_FOLD, folded, trouble.as_deref()));
        }
        let whole = trouble.as_deref();
        for (cause, count) in observation.timed.iter().filter(|(cause, _)| is_exit(cause)) {
            rows.push(row(format!("{}{cause}", record::EXITS), record::UNIT_COUNT, *count as f64, whole));
        }
        for (cause, count) in observation.counters.iter().filter(|(cause, _)| !is_exit(cause)) {
            rows.push(row(format!("{}{cause}", record::COUNT), record::UNIT_COUNT, *count as f64, whole));
        }
        rows.extend(self.times((workload, column), (step, print), (observation, &transcript), whole));
        let gap = trouble.clone().or_else(|| refusal(&transcript)).or_else(|| absence(&transcript));
        rows.extend(gap.map(|why| self.reason(workload, column, step, print, &why)));
        // The last: it says that the others are all there.
        rows.push(row(record::WALL.to_owned(), record::UNIT_NS, observation.wall.as_nanos() as f64, whole));
        rows
    }

    /// Where time went, if that was kept, and by how much it differs from what the guest timed.
    fn times(
        &self,
        (workload, column): (&Workload, &Column),
        (step, print): (&Step, &str),
        (observation, transcript): (&Observation, &Transcript),
        trouble: Option<&str>,
    ) -> Vec<Row> {
        let accounts: f64 = observation.times.iter().map(|(_, ns)| ns).sum();
        let measured: f64 = transcript.results.iter().map(|mark| mark.ns(observation.tsc_khz)).sum();
        let difference = (UNATTRIBUTED.to_owned(), (accounts - measured).abs());
        let times = observation.times.iter().chain([&difference]).filter(|_| !observation.times.is_empty());
        times
            .map(|(account, ns)| Row {
                metric: format!("{}{account}", record::TIMES),
                unit: record::UNIT_NS.to_owned(),
                repetition: step.repetition,
                value: Some(*ns),
                valid: trouble.is_none(),
                reason: trouble.unwrap_or_default().to_owned(),
                fingerprint: print.to_owned(),
                ..self.blank(workload.name, Some(column))
            })
            .collect()
    }

    /// A row without a figure.
    fn blank(&self, workload: &str, column: Option<&Column>) -> Row {
        let of = |field: fn(&Column) -> &String| column.map(field).cloned().unwrap_or_default();
        Row {
            run: self.run.clone(),
            time: Timestamp::now().rfc3339(),
            workload: workload.to_owned(),
            metric: record::ALL_METRICS.to_owned(),
            unit: record::UNIT_TEXT.to_owned(),
            mode: of(|c| &c.mode),
            engine: column.map(Column::engine_and_options).unwrap_or_default(),
            interface: of(|c| &c.interface),
            peer: of(|c| &c.peer),
            repetition: 0,
            value: None,
            valid: false,
            reason: String::new(),
            fingerprint: String::new(),
        }
    }
}

/// Why nothing of this run may be used, if so.
fn trouble(workload: &Workload, observation: &Observation, transcript: &Transcript) -> Option<String> {
    if let Some(End::Failed(words)) = &transcript.end {
        return Some(format!("the guest failed: {words}"));
    }
    if let Some(words) = &observation.misfortune {
        return Some(words.clone());
    }
    if transcript.end.is_none() {
        return Some("the guest ended without saying how".to_owned());
    }
    if observation.tsc_khz == 0 {
        return Some("the frequency of the guest's TSC is unknown".to_owned());
    }
    if transcript.results.iter().any(|m| m.workload != workload.name) {
        return Some("the guest reported under another workload's name".to_owned());
    }
    if transcript.results.is_empty() && workload.kind != Kind::Demo {
        let reason = refusal(transcript).or_else(|| absence(transcript));
        return Some(reason.unwrap_or_else(|| "the guest reported nothing".to_owned()));
    }
    None
}

/// What the guest did not find on this machine.
fn absence(transcript: &Transcript) -> Option<String> {
    match &transcript.end {
        Some(End::Absent(words)) => Some(words.clone()),
        _ => None,
    }
}

/// The first record that was refused.
fn refusal(transcript: &Transcript) -> Option<String> {
    let (line, error) = transcript.errors.first()?;
    Some(format!("console line {line}: {error} ({} refused)", transcript.refused))
}

fn unit_of(workload: &Workload, mark: &Mark) -> &'static str {
    match workload.kind {
        _ if mark.size.is_some() => record::UNIT_POINT,
        Kind::Nano => record::UNIT_NANO,
        _ => record::UNIT_TASK,
    }
}

fn ns(mark: &Mark, observation: &Observation) -> f64 {
    mark.ns_per_iteration(observation.tsc_khz)
}

/// Whether a count, by its name, is a cause of leaving the guest: see [`Cause::is_exit`].
fn is_exit(cause: &str) -> bool {
    !Cause::ALL.iter().any(|c| c.name() == cause && !c.is_exit())
}
