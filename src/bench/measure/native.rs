//! The native column: the guests' compute kernels in this process, on a pinned CPU, calibrated as the guests do it.
//!
//! The timed loop is the guests' (`workloads/lib/measure.rs`): prepare, one unit for the checksum, then batches that double
//! until one takes half the budget; only the last batch counts. Results are printed as the guest would print them.

use super::{Column, Observation, Request, RunError, Runner};
use crate::abi;
use crate::bench::kernels::{self, Kernel};
use crate::bench::native::Scratch;
use crate::bench::workload::Workload;
use crate::sys::{affinity, tsc};
use std::hint::black_box;
use std::time::Instant;

/// Runs kernels on the host itself.
#[derive(Debug, Default, Clone, Copy)]
pub struct NativeRunner;

impl Runner for NativeRunner {
    fn suits(&self, workload: &Workload, _: &Column) -> bool {
        kernels_of(workload.name).next().is_some()
    }

    fn run(
        &mut self,
        workload: &Workload,
        _: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError> {
        let _pinned = Pinned::to(request.cpu);
        let begun = Instant::now();
        let tsc_khz = (tsc::frequency() / 1000).max(1);
        let budget = request.budget_us.saturating_mul(tsc_khz) / 1000;
        let mut console = String::new();
        for kernel in kernels_of(workload.name) {
            if !(kernel.available)() {
                return Err(RunError::Unsupported(format!(
                    "this CPU lacks instructions that {} needs",
                    kernel.name
                )));
            }
            let (iterations, cycles, checksum) = time(kernel, budget, request)?;
            console.push_str(&format!(
                "{}{} workload={} metric={} ring=3 iterations={iterations} cycles={cycles} checksum={checksum:016x}\n",
                abi::LINE_PREFIX,
                abi::RECORD_RESULT,
                workload.name,
                kernel.name
            ));
        }
        if console.is_empty() {
            return Err(RunError::Unsupported("it has no native form".to_owned()));
        }
        console.push_str(&format!("{}{} status=ok\n", abi::LINE_PREFIX, abi::RECORD_END));
        Ok(Observation {
            console: console.into_bytes(),
            wall: begun.elapsed(),
            tsc_khz,
            ..Observation::default()
        })
    }
}

/// Kernels that a workload times: the one of its name, or those whose names continue it (`pointer_chase_l1`).
fn kernels_of(workload: &str) -> impl Iterator<Item = &'static Kernel> {
    kernels::ALL.iter().filter(move |kernel| {
        kernel.name.strip_prefix(workload).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// Operations, ticks and checksum of one kernel.
fn time(kernel: &Kernel, budget: u64, request: &Request<'_>) -> Result<(u64, u64, u64), RunError> {
    let begun = Instant::now();
    let mut scratch = Scratch::prepared(kernel);
    let scratch = scratch.bytes();
    let checksum = (kernel.unit)(scratch);
    let mut iterations = 1u64;
    loop {
        let mut differs = false;
        let start = tsc::read();
        for _ in 0..iterations {
            differs |= (black_box(kernel).unit)(scratch) != checksum;
        }
        let cycles = tsc::read().wrapping_sub(start).max(1);
        if differs {
            return Err(RunError::Failed(format!("{}: a repetition gave another checksum", kernel.name)));
        }
        if cycles >= budget / 2 {
            return Ok((iterations.saturating_mul(kernel.operations), cycles, checksum));
        }
        if request.stopped() {
            return Err(RunError::Interrupted);
        }
        if begun.elapsed() > request.timeout {
            return Err(RunError::Timeout(request.timeout));
        }
        iterations = iterations.saturating_mul(2);
    }
}

/// This thread on one CPU, until it is dropped.
pub(super) struct Pinned {
    before: Vec<usize>,
}

impl Pinned {
    /// Pins to `cpu`; a host that refuses only costs precision, so that is no error.
    pub(super) fn to(cpu: Option<usize>) -> Option<Pinned> {
        let before = affinity::allowed().ok()?;
        affinity::pin(&[cpu?]).ok()?;
        Some(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The CPUs were allowed a moment ago; if one went offline since, staying pinned does no harm.
        let _ = affinity::pin(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{marks, workload};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn every_kernel_belongs_to_a_workload_and_prints_its_record() {
        let stop = AtomicBool::new(false);
        let request = Request {
            budget_us: 1,
            timeout: Duration::from_secs(60),
            keeps_times: false,
            cpu: None,
            stop: &stop,
        };
        let mut seen = 0;
        for workload in workload::all() {
            if !NativeRunner.suits(workload, &Column::native()) {
                continue;
            }
            let observation = NativeRunner.run(workload, &Column::native(), &request).unwrap();
            let transcript = marks::parse(&observation.console);
            assert_eq!((transcript.refused, transcript.end), (0, Some(marks::End::Ok)));
            assert!(transcript.results.iter().all(|m| m.workload == workload.name && m.ring == 3));
            seen += transcript.results.len();
        }
        assert_eq!(seen, kernels::ALL.len());
    }

    #[test]
    fn a_raised_flag_ends_the_calibration() {
        let stop = AtomicBool::new(true);
        let request = Request {
            budget_us: u64::MAX,
            timeout: Duration::from_secs(60),
            keeps_times: false,
            cpu: None,
            stop: &stop,
        };
        let workload = workload::find("crc32").unwrap();
        assert_eq!(NativeRunner.run(workload, &Column::native(), &request), Err(RunError::Interrupted));
    }
}
