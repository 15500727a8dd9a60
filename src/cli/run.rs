//! `trivisor run`: one guest, its console on standard input and output.
use super::error::{CliError, interrupted, say};
use super::guest::GuestArguments;
use super::screen::{self, Display};
use super::switching::SwitchArguments;
use super::{account, units};
use crate::abi;
use crate::debugger::view::sites;
use crate::engine::{Engine, Interface};
use crate::host::console;
use crate::host::escape::Escaped;
use crate::host::keys;
use crate::loader::Image;
use crate::machine::{
    Capture, ConsoleInput, ConsoleSink, Given, Journey, Limits, Machine, Outlet, Screen, Stop, Stream,
};
use crate::snapshot::recording::{self, Mailbox, Recorder, RecordingError};
use crate::snapshot::{self, Written};
use crate::sys::signal;
use crate::sys::terminal::KeyByKey;
use clap::Args;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor run hello\n  \
    trivisor run --mode kvm --memory 256M kernel.elf --append 'budget_us=20000'\n  \
    trivisor run --mode pv --stats crc32\n  \
    trivisor run --stats --without windows crc32\n  \
    trivisor run --mode pv --ledger page_fault                  where its time goes\n  \
    trivisor run --engine direct --interface none pushf_popf    trap-and-emulate, which x86 breaks\n  \
    trivisor run --kernel vmlinuz --initrd initrd.gz --net unix=link,pcap=a.pcap\n  \
    trivisor run --bios bios-256k.bin --disk disk.img,ide       boots a disk; the console is the serial port\n  \
    trivisor run --save crc32.snap --save-after 500ms crc32\n  \
    trivisor run --restore crc32.snap --mode pv\n  \
    trivisor run --switch-at 20ms=kvm,50ms=pv crc32             goes on in other modes\n  \
    trivisor run --switch-every 10ms --switch-among emu,kvm crc32\n  \
    trivisor run --record hello.rec hello                       then: trivisor replay hello.rec\n  \
    trivisor run --bios bios-256k.bin --vgabios vgabios-isavga.bin --disk disk.img,ide --screen\n\n\
    Ctrl-C ends the guest. At a terminal Ctrl-] and then c gives Ctrl-C to the guest itself, and likewise with other letters;\n\
    Ctrl-] twice gives it Ctrl-].\n\n\
    Exit status: 0 if the guest switched off with status 0 or, with --no-reboot, asked for a reset; 1 if it ended \
    otherwise or could not run; 2 for wrong usage; 130 after Ctrl-C; 143 after SIGTERM.")]
pub(super) struct RunArguments {
    #[command(flatten)]
    guest: GuestArguments,
    /// Stop after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// Write the whole machine to this file, a snapshot for --restore, and end; see --save-after
    #[arg(long, value_name = "FILE", requires = "save_after")]
    save: Option<PathBuf>,
    /// When to do so: after the guest has run for so long (10s, 500ms, 2m; guest time)
    #[arg(long, value_name = "TIME", value_parser = units::duration, requires = "save", allow_hyphen_values = true)]
    save_after: Option<Duration>,
    /// Record the run in this file, for 'trivisor replay' and 'debug --replay': where it begins, what is typed and when, where
    /// it ends. Time is counted in instructions (emu only, without disks, --net and --rng); a reset ends it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["save", "disk", "net", "rng", "bios", "switch_at", "switch_every"])]
    record: Option<PathBuf>,
    /// End when the guest asks for a reset, instead of starting it again
    #[arg(long)]
    no_reboot: bool,
    /// Show the guest's text screen: while it runs, where standard output is a terminal, and at its end. Standard input
    /// is the guest's keyboard then
    #[arg(long)]
    screen: bool,
    /// Print what happened, by cause, to standard error
    #[arg(long)]
    stats: bool,
    /// Print what is told at the end (--stats, --ledger, moves between modes) as one JSON object, to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    switch: SwitchArguments,
    /// With --stats, let the translator count instructions, too: it is two or three times as slow then
    #[arg(long, requires = "stats")]
    count_instructions: bool,
    /// Print where the time of the CPUs went, to standard error. Keeping it costs some tens of nanoseconds for each exit
    #[arg(long)]
    ledger: bool,
}

pub(super) fn main(arguments: &RunArguments) -> Result<ExitCode, CliError> {
    if let Some(file) = &arguments.save {
        snapshot::can_be_saved(file)?;
    }
    if let Some(file) = &arguments.record {
        recording::can_be_recorded(file)?;
    }
    let itinerary = arguments.switch.itinerary()?;
    let (begin, mut spec) = arguments.guest.prepare_run(arguments.record.is_some())?;
    // A snapshot's guest was told of its CPU before.
    spec.common_cpu |= itinerary.is_some() && !begin.goes_on();
    spec.counts_instructions = arguments.count_instructions;
    spec.keeps_times = arguments.ledger;
    // Whoever is not patched is told what that may have broken.
    let unpatched = spec.pair.engine == Engine::Direct && spec.pair.interface == Interface::None;
    spec.counts_sites = unpatched;
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    let to_host = |what| move |source| CliError::Host { what, source };
    if begin.goes_on() && arguments.screen && !spec.screen {
        return Err(CliError::Usage("--screen: the snapshot's machine has no screen".to_owned()));
    }
    spec.screen |= arguments.screen;
    // Where the screen is shown as it changes, the serial console's output has to wait.
    let live = arguments.screen && io::stdout().is_terminal();
    // The guest echoes and edits what is typed: the terminal is to do neither.
    let by_keys = arguments.screen || io::stdout().is_terminal();
    let _as_before =
        if by_keys { KeyByKey::stdin().map_err(to_host("cannot read single keys"))? } else { None };
    let input = Input::from_stdin(by_keys)?;
    let start = Instant::now();
    loop {
        let limits = Limits {
            timeout: arguments.timeout.map(|t| t.saturating_sub(start.elapsed())),
            interruptible: true,
            pause_after: arguments.save_after,
            ..Limits::default()
        };
        let serial = Capture::new(if live { SERIAL_KEPT } else { 0 });
        let (console, outlet): (Box<dyn ConsoleSink>, _) = if live {
            (Box::new(serial.clone()), None)
        } else {
            let stream = Stream::stdout(signal::interrupt_flag())
                .map_err(to_host("cannot print the guest's console"))?;
            let outlet = stream.outlet();
            (Box::new(stream), Some(outlet))
        };
        let mut machine =
            begin.build(&spec, console).map_err(|error| CliError::of_start(arguments.guest.name(), error))?;
        if let Some(outlet) = &outlet {
            machine.watch_output(outlet.clone());
        }
        let screen = machine.pc().screen().filter(|_| arguments.screen).cloned();
        let mut recorder = match &arguments.record {
            Some(file) => {
                let name = arguments.guest.name().to_string_lossy();
                Some(Recorder::begin(&mut machine, file, &name)?)
            }
            None => None,
        };
        input.connect(&machine, screen.clone(), recorder.as_ref().map(Recorder::mailbox));
        let display = screen.clone().filter(|_| live).map(Display::start).transpose();
        let display = display.map_err(to_host("cannot show the guest's screen"))?;
        let runs = Instant::now();
        let mut journey = itinerary.clone().map(|it| Journey::new(it, machine.platform().clock().now()));
        let stop = match (&mut recorder, &mut journey) {
            (Some(recorder), _) => recorder.run(&mut machine, &limits),
            (None, Some(journey)) => machine
                .run_on_journey(&limits, journey, &mut |refusal| {
                    say(&format!("the guest cannot go on in {}: {}", refusal.to, refusal.reason));
                })
                .map_err(RecordingError::from),
            (None, None) => machine.run(&limits).map_err(RecordingError::from),
        };
        let ran = runs.elapsed();
        drop(display);
        let recorded = match (recorder, &stop) {
            (Some(recorder), &Ok(stop)) => recorder.finish(&mut machine, stop),
            // What led to a failure is what one wants to see again.
            (Some(recorder), Err(_)) => recorder.finish(&mut machine, Stop::Interrupted),
            _ => Ok(()),
        };
        let saved = match (&stop, &arguments.save) {
            (Ok(Stop::Paused), Some(file)) => snapshot::save(&mut machine, file),
            _ => Ok(Written::default()),
        };
        let account = arguments.account(&machine, (start.elapsed(), ran), &stop, journey.as_ref());
        let rescues = machine.rescues();
        let disk_failures: Vec<_> = machine.pc().disk_failures().map(str::to_owned).collect();
        let left_alone = if unpatched { machine.sites() } else { None };
        // Prints the console's last words before we say ours.
        drop(machine);
        if let Some(screen) = &screen {
            let text = serial.text() + &screen::lines(screen);
            io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)?;
        }
        // An account that nobody can read is no failure of the run.
        let _closed = io::stderr().write_all(account.as_bytes());
        let ended_well = stop.as_ref().is_ok_and(|&stop| is_success(stop));
        // What went wrong is told in one sentence.
        if ended_well && account.is_empty() && !rescues.is_empty() {
            say(&rescued(&rescues));
        }
        for failure in disk_failures {
            say(&format!("disk: {failure}; the guest was told of an I/O error"));
        }
        if let Some(words) = left_alone.as_ref().and_then(sites::left_alone) {
            say(&words);
        }
        if let Some(failure) = outlet.as_ref().and_then(Outlet::failure) {
            return Err(CliError::Output(match failure.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => failure.kind().into(),
            }));
        }
        saved?;
        let stop = stop.map_err(|error| match error {
            RecordingError::Machine(error) => CliError::of_guest(arguments.guest.name(), error),
            error => error.into(),
        })?;
        recorded?;
        match stop {
            Stop::Reset if arguments.record.is_some() => return Ok(verdict(stop, arguments.guest.name())),
            Stop::Reset | Stop::PowerOff(_) if arguments.save.is_some() => {
                say(&format!(
                    "{}: the guest ended before --save-after was over; no snapshot was written",
                    arguments.guest.name().display()
                ));
                return Ok(ExitCode::FAILURE);
            }
            // What it began with is not known here.
            Stop::Reset if begin.goes_on() => return Ok(verdict(Stop::Reset, arguments.guest.name())),
            // A guest that resets again and again may do so faster than anyone looks for Ctrl-C.
            Stop::Reset if signal::interrupted() => {
                return Ok(verdict(Stop::Interrupted, arguments.guest.name()));
            }
            Stop::Reset if !arguments.no_reboot => {}
            Stop::TripleFault
                if spec.pair.engine == Engine::Direct && begin.image().is_some_and(Image::is_linux) =>
            {
                say(&format!(
                    "{}: the guest crashed (triple fault); {} wants guests that are written for it, and stock kernels run \
                     with --mode emu or kvm",
                    arguments.guest.name().display(),
                    spec.pair
                ));
                return Ok(ExitCode::FAILURE);
            }
            stop => return Ok(verdict(stop, arguments.guest.name())),
        }
    }
}

impl RunArguments {
    /// What is told at the end, as far as it was asked for.
    fn account(
        &self,
        machine: &Machine,
        (wall, ran): (Duration, Duration),
        stop: &Result<Stop, RecordingError>,
        journey: Option<&Journey>,
    ) -> String {
        let refusals = journey.map(Journey::refusals).unwrap_or_default();
        if self.json {
            let stop = stop.as_ref().map_or_else(ToString::to_string, |stop| format!("{stop:?}"));
            return account::json(machine, (wall, ran), &stop, machine.moves(), refusals);
        }
        let mut text = if self.stats { account::stats(machine, wall) } else { String::new() };
        if self.ledger {
            text.push_str(&account::times(machine, ran));
        }
        if journey.is_some() {
            text.push_str(&account::moves(machine.moves(), refusals));
        }
        text
    }
}

/// Bytes of the serial console that are kept while the screen is shown.
const SERIAL_KEPT: usize = 1 << 20;

/// Where standard input goes.
#[derive(Default)]
enum Target {
    #[default]
    Nowhere,
    Console(ConsoleInput),
    Keyboard(Screen),
    /// A recorded machine; its keyboard, or its console.
    Recorded {
        mailbox: Mailbox,
        keyboard: bool,
    },
}

/// Standard input, on its way to whichever machine runs at the time.
struct Input(Arc<Mutex<Target>>);

impl Input {
    /// Listens to it; where it is a terminal that hands out single keys, with those that it keeps for itself under others.
    fn from_stdin(by_keys: bool) -> Result<Self, CliError> {
        let current: Arc<Mutex<Target>> = Arc::default();
        let receiver = Arc::clone(&current);
        let take = move |bytes: &[u8]| {
            let target = receiver.lock().unwrap_or_else(PoisonError::into_inner);
            Some(match &*target {
                Target::Nowhere => 0,
                Target::Console(input) => input.receive(bytes),
                Target::Keyboard(screen) => screen::strike(screen, bytes),
                Target::Recorded { mailbox, keyboard } => offer(mailbox, *keyboard, bytes),
            })
        };
        let typed: Box<dyn io::Read + Send> = if by_keys && io::stdin().is_terminal() {
            Box::new(Escaped::new(io::stdin()))
        } else {
            Box::new(io::stdin())
        };
        console::feed(typed, take)
            .map_err(|source| CliError::Host { what: "cannot read the guest's console input", source })?;
        Ok(Self(current))
    }

    fn connect(&self, machine: &Machine, screen: Option<Screen>, mailbox: Option<Mailbox>) {
        let target = match (mailbox, screen) {
            (Some(mailbox), screen) => Target::Recorded { mailbox, keyboard: screen.is_some() },
            (_, Some(screen)) => Target::Keyboard(screen),
            (_, None) => Target::Console(machine.pc().console_input().clone()),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

/// Offers what is typed to a recorded machine; of how many bytes it is.
fn offer(mailbox: &Mailbox, keyboard: bool, typed: &[u8]) -> usize {
    let (length, given) = if keyboard {
        match keys::first(typed) {
            Some((length, strokes)) => (length, Given::Keys(strokes)),
            None => return typed.len(),
        }
    } else {
        (typed.len(), Given::Console(typed.to_vec()))
    };
    // Bytes that are no keys are done with.
    if given.length() == 0 || mailbox.offer(given) { length } else { 0 }
}

/// Whether the guest ended as one that has done its work.
fn is_success(stop: Stop) -> bool {
    match stop {
        Stop::PowerOff(status) => Stop::value_of(status) == u32::from(abi::EXIT_OK),
        stop => matches!(stop, Stop::Reset | Stop::Paused),
    }
}

pub(super) fn verdict(stop: Stop, name: &OsStr) -> ExitCode {
    let name = name.display();
    let failed = |why: &str| {
        say(&format!("{name}: {why}"));
        ExitCode::FAILURE
    };
    match stop {
        Stop::PowerOff(status) if !is_success(stop) => {
            failed(&format!("the guest switched off with status {}", Stop::value_of(status)))
        }
        Stop::PowerOff(_) | Stop::Reset | Stop::Paused => ExitCode::SUCCESS,
        Stop::TripleFault => failed(Stop::CRASHED),
        Stop::Timeout => failed("stopped, because --timeout was over"),
        Stop::Interrupted => interrupted(|by| format!("{name}: stopped by {by}")),
        Stop::Breakpoint(_)
        | Stop::Caught(_)
        | Stop::Watched(_)
        | Stop::Stepped
        | Stop::Position
        | Stop::Called => failed("stopped for a debugger that is not there"),
    }
}

/// How many instructions the host did not execute, and which.
fn rescued(rescues: &[(String, u64)]) -> String {
    const NAMED: usize = 4;
    let total: u64 = rescues.iter().map(|(_, count)| count).sum();
    let mut named: Vec<_> =
        rescues.iter().take(NAMED).map(|(name, count)| format!("{name} {count} times")).collect();
    if rescues.len() > NAMED {
        named.push(format!("{} others", rescues.len() - NAMED));
    }
    let (noun, pronoun) = if total == 1 { ("instruction", "it") } else { ("instructions", "them") };
    format!(
        "the host's KVM could not execute {total} {noun}, so trivisor executed {pronoun}: {}",
        named.join(", ")
    )
}
