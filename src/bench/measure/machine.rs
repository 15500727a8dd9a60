//! Runs a workload in one of our own modes: a machine is built, run to its end and taken down for each repetition.

use super::native::Pinned;
use super::{Column, Observation, Request, RunError, Runner, ScratchDisk};
use crate::abi;
use crate::bench::workload::Workload;
use crate::engine::{Account, Cause, Engine, EngineError, Interface, Pair};
use crate::loader::Image;
use crate::machine::{
    BOOT_CPU, Capture, ConsoleSink, Counts, EmuEngine, Limits, Machine, MachineError, MachineSpec, Stop,
};
use crate::sys::tsc;
use std::time::Instant;

/// Bytes of console output that are kept: more than any workload prints, and a bound for one that goes wild.
const CONSOLE_MOST: usize = 1 << 20;

/// Runs `emu`, `pv`, `kvm`, and all other pairs of engine and interface.
#[derive(Debug, Default, Clone, Copy)]
pub struct MachineRunner;

impl Runner for MachineRunner {
    fn suits(&self, workload: &Workload, _: &Column) -> bool {
        workload.kind.measures()
    }

    fn run(
        &mut self,
        workload: &Workload,
        column: &Column,
        request: &Request<'_>,
    ) -> Result<Observation, RunError> {
        let image = Image::parse(workload.image).map_err(|error| RunError::Unsupported(error.to_string()))?;
        let console = Capture::new(CONSOLE_MOST);
        let disk = ScratchDisk::of(workload).map_err(no_disk)?;
        let guest = Guest {
            image: &image,
            disk: disk.as_ref(),
            memory: MachineSpec::DEFAULT_MEMORY,
            command_line: request.command_line(tsc::frequency() / 1000),
            console: Box::new(console.clone()),
        };
        let observation = run_machine(column, guest, request)?;
        Ok(Observation { console: console.text().into_bytes(), ..observation })
    }
}

/// What is run in a machine.
pub(super) struct Guest<'a> {
    pub(super) image: &'a Image,
    /// Its disk, which the holder keeps.
    pub(super) disk: Option<&'a ScratchDisk>,
    /// Bytes of RAM.
    pub(super) memory: u64,
    pub(super) command_line: String,
    pub(super) console: Box<dyn ConsoleSink>,
}

/// Runs a guest once in the machine of `column`. What it printed is with whoever holds its console.
///
/// # Errors
/// As [`Runner::run`].
pub(super) fn run_machine(
    column: &Column,
    guest: Guest<'_>,
    request: &Request<'_>,
) -> Result<Observation, RunError> {
    let none = || RunError::Unavailable(format!("there is no mode {}", column.mode));
    let emulator = EmuEngine::find(&column.engine);
    let engine =
        emulator.map_or_else(|| Engine::find(&column.engine), |_| Some(Engine::Emu)).ok_or_else(none)?;
    let interface = Interface::find(&column.interface).ok_or_else(none)?;
    let mut spec = MachineSpec::new(Pair { engine, interface });
    spec.emulator = emulator.unwrap_or_default();
    spec.without = column.without;
    spec.keeps_times = request.keeps_times;
    spec.memory = guest.memory;
    spec.command_line = guest.command_line;
    if let Some(disk) = guest.disk {
        disk.plug(&mut spec);
    }
    let tsc_khz = tsc::frequency() / 1000;
    let begun = Instant::now();
    let mut machine = Machine::build(&spec, guest.image, guest.console).map_err(refused)?;
    // After building: what a backend starts beside the vCPU's thread keeps all CPUs.
    let pinned = Pinned::to(request.cpu);
    let limits = Limits { timeout: Some(request.timeout), interruptible: true, ..Limits::default() };
    let stop = machine.run(&limits);
    drop(pinned);
    let misfortune = match stop.map_err(refused)? {
        Stop::PowerOff(status) if Stop::value_of(status) == u32::from(abi::EXIT_OK) => None,
        Stop::PowerOff(status) => Some(format!("exit status {}", Stop::value_of(status))),
        Stop::Reset => Some("reset".to_owned()),
        Stop::TripleFault => Some("triple fault".to_owned()),
        Stop::Timeout => return Err(RunError::Timeout(request.timeout)),
        Stop::Interrupted => return Err(RunError::Interrupted),
        Stop::Breakpoint(_)
        | Stop::Caught(_)
        | Stop::Watched(_)
        | Stop::Stepped
        | Stop::Paused
        | Stop::Position
        | Stop::Called => Some("stopped for a debugger".to_owned()),
    };
    let counters = machine.platform().counters(BOOT_CPU);
    let named = |counts: Counts| {
        Cause::ALL.into_iter().zip(counts).map(|(cause, n)| (cause.name().to_owned(), n)).collect()
    };
    let counters = named(Cause::ALL.map(|cause| counters.get(cause)));
    let kept = machine.pc().timed_counts().kept().copied();
    let timed = kept.map(|kept| named(kept.counts)).unwrap_or_default();
    let on_account = |(account, ticks): (Account, u64)| {
        (account.name().to_owned(), ticks as f64 * 1e9 / tsc::frequency() as f64)
    };
    let times = kept
        .filter(|_| request.keeps_times)
        .map(|kept| Account::ALL.into_iter().zip(kept.ticks).map(on_account).collect());
    drop(machine);
    let (times, wall) = (times.unwrap_or_default(), begun.elapsed());
    Ok(Observation { console: Vec::new(), misfortune, counters, timed, times, wall, tsc_khz })
}

/// Without the disk that it wants a workload has nothing to measure.
pub(super) fn no_disk(error: std::io::Error) -> RunError {
    RunError::Failed(format!("cannot make the workload's disk: {error}"))
}

/// Tells a mode that cannot run here, or cannot run this guest, from one that failed.
fn refused(error: MachineError) -> RunError {
    match error {
        MachineError::Engine(error @ (EngineError::Unavailable { .. } | EngineError::Impossible { .. })) => {
            RunError::Unavailable(error.to_string())
        }
        MachineError::Engine(error @ (EngineError::Unfit { .. } | EngineError::Unsupported { .. })) => {
            RunError::Unsupported(error.to_string())
        }
        error => RunError::Failed(error.to_string()),
    }
}
