//! `trivisor run`: one guest, its console on standard input and output.
use super::error::CliError;
use super::guest::GuestArguments;
use super::units;
use crate::abi;
use crate::device::uart16550::Uart16550;
use crate::engine::Cause;
use crate::host::console;
use crate::machine::{BOOT_CPU, Limits, Machine, Stop, Stream};
use crate::sys::signal;
use clap::Args;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor run hello\n  \
    trivisor run --mode kvm --memory 256M kernel.elf --append 'budget_us=20000'\n  \
    trivisor run --mode pv --stats crc32\n\n\
    Ctrl-C ends the guest. The exit status is 0 if the guest switched off with status 0.")]
pub(super) struct RunArguments {
    #[command(flatten)]
    guest: GuestArguments,
    /// Stop after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// End when the guest asks for a reset, instead of starting it again
    #[arg(long)]
    no_reboot: bool,
    /// Print what happened, by cause, to standard error
    #[arg(long)]
    stats: bool,
}

pub(super) fn main(arguments: &RunArguments) -> Result<ExitCode, CliError> {
    let (image, spec) = arguments.guest.prepare()?;
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    let input = Input::from_stdin()?;
    let start = Instant::now();
    loop {
        let limits = Limits {
            timeout: arguments.timeout.map(|t| t.saturating_sub(start.elapsed())),
            interruptible: true,
        };
        let mut machine = Machine::build(&spec, &image, Box::new(stdout()?))?;
        input.connect(&machine);
        let stop = machine.run(&limits);
        if arguments.stats {
            print_stats(&machine, start.elapsed());
        }
        let stop = stop?;
        // Prints the console's last words before we say ours.
        drop(machine);
        match stop {
            Stop::Reset if !arguments.no_reboot => {}
            stop => return Ok(verdict(stop, &arguments.guest.image)),
        }
    }
}

fn stdout() -> Result<Stream, CliError> {
    Stream::stdout().map_err(|source| CliError::Host { what: "cannot print the guest's console", source })
}

/// Standard input, on its way to whichever machine runs at the time.
struct Input(Arc<Mutex<Weak<Mutex<Uart16550>>>>);

impl Input {
    fn from_stdin() -> Result<Self, CliError> {
        let current: Arc<Mutex<Weak<Mutex<Uart16550>>>> = Arc::default();
        let receiver = Arc::clone(&current);
        let take = move |bytes: &[u8]| {
            let uart = receiver.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            Some(uart.map_or(0, |uart| uart.lock().unwrap_or_else(PoisonError::into_inner).receive(bytes)))
        };
        console::feed(Box::new(std::io::stdin()), take)
            .map_err(|source| CliError::Host { what: "cannot read the guest's console input", source })?;
        Ok(Self(current))
    }

    fn connect(&self, machine: &Machine) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(machine.pc().uart());
    }
}

fn verdict(stop: Stop, name: &str) -> ExitCode {
    let failed = |why: &str| {
        eprintln!("trivisor: {name}: {why}");
        ExitCode::FAILURE
    };
    match stop {
        // isa-debug-exit gives (value << 1) | 1.
        Stop::PowerOff(status) if status >> 1 == u32::from(abi::EXIT_OK) => ExitCode::SUCCESS,
        Stop::PowerOff(status) => failed(&format!("the guest switched off with status {}", status >> 1)),
        Stop::Reset => ExitCode::SUCCESS,
        Stop::TripleFault => failed(
            "the guest crashed: an exception could not be delivered, nor the double fault after it (triple fault)",
        ),
        Stop::Timeout => failed("stopped, because --timeout was over"),
        Stop::Interrupted => {
            eprintln!("trivisor: {name}: stopped by Ctrl-C");
            ExitCode::from(130)
        }
        Stop::Breakpoint(_) | Stop::Stepped => failed("stopped for a debugger that is not there"),
    }
}

fn print_stats(machine: &Machine, wall: Duration) {
    let caps = machine.caps();
    let mut err = std::io::stderr().lock();
    let counters = machine.platform().counters(BOOT_CPU);
    let mut lines = vec![
        format!(
            "mode {}: engine {}, interface {}, {}",
            machine.mode(),
            caps.engine,
            caps.interface,
            caps.label
        ),
        format!("{:>16}  {:.3} s", "wall time", wall.as_secs_f64()),
    ];
    lines.extend(
        Cause::ALL
            .into_iter()
            .map(|cause| (cause, counters.get(cause)))
            .filter(|&(_, count)| count > 0)
            .map(|(cause, count)| format!("{:>16}  {count}", cause.name())),
    );
    for line in lines {
        // Statistics that nobody can read are no failure of the run.
        let _closed = writeln!(err, "{line}");
    }
}
