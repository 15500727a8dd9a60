//! `trivisor debug`: a prompt, or a script, before a debugging session.
//!
//! Scripts come first, then single commands, then standard input. Answers go to standard output between the lines that
//! the guest prints; a command that cannot be done is answered in one sentence and the session goes on.
use super::error::CliError;
use super::gdb;
use super::guest::GuestArguments;
use super::tui;
use super::units;
use crate::debugger::{self, DebuggerError, Printed, Reply, Session, SessionParts, symbols::Symbols};
use crate::loader::Image;
use crate::machine::{ConsoleSink, Limits, MachineSpec, SavedShape};
use crate::snapshot::Memory;
use crate::sys::signal;
use clap::Args;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor debug hello\n  \
    trivisor debug --tui hello                    (panes, keys and mouse; ? helps)\n  \
    trivisor debug --mode kvm hello --command 'break workload_main' --command continue --command backtrace\n  \
    trivisor debug --batch --json -x script hello\n  \
    trivisor debug --gdb=1234 --mode pv hello     (then, in gdb: target remote :1234)\n  \
    trivisor debug --replay hello.rec hello       (forwards and backwards in what 'run --record' wrote)\n\n\
    'help' at the prompt lists the commands. Ctrl-C stops the guest.\n\n\
    Exit status: 0 whatever the guest does; 1 if it could not be loaded; 2 for wrong usage. SIGTERM ends the session.")]
pub(super) struct DebugArguments {
    #[command(flatten)]
    guest: GuestArguments,
    /// Let guest time be the host's in mode emu, too: the translator runs the guest, which cannot go back then
    #[arg(long, conflicts_with = "deterministic")]
    host_clock: bool,
    /// Stop each continue, next, until or finish after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Show the guest in panes on the whole terminal, with keys, mouse, and the prompt's commands (? helps)
    #[arg(long, conflicts_with_all = ["batch", "json", "gdb"])]
    tui: bool,
    /// Take commands from this file, one a line; # begins a comment
    #[arg(short = 'x', value_name = "SCRIPT")]
    script: Vec<PathBuf>,
    /// Do this command, after the scripts
    #[arg(long, value_name = "CMD")]
    command: Vec<String>,
    /// End after scripts and commands instead of reading standard input
    #[arg(long)]
    batch: bool,
    /// Answer each command with one JSON object on a line
    #[arg(long)]
    json: bool,
    /// Wait for a GDB at this port (or ADDRESS:PORT) and let it drive the guest, in place of the prompt
    #[arg(long, value_name = "PORT", value_parser = gdb::address, num_args = 0..=1, default_missing_value = "1234", require_equals = true, conflicts_with_all = ["script", "command", "batch", "json", "timeout"])]
    gdb: Option<SocketAddr>,
}

/// Shown before the guest's lines on a terminal, to tell them from the debugger's.
const MARKER: &str = "│ ";
const PROMPT: &str = "(trivisor) ";

pub(super) fn main(arguments: &DebugArguments) -> Result<ExitCode, CliError> {
    if arguments.tui {
        tui::needs_terminal()?;
    }
    let (begin, mut spec) = arguments.guest.prepare_for_debugger(arguments.host_clock)?;
    // Nothing is measured here, and a person wants to see what was patched.
    spec.counts_sites = true;
    let no_way_back = no_way_back(&spec);
    let mut lines = Vec::new();
    for path in &arguments.script {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| CliError::Read { path: path.clone(), source })?;
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.extend(arguments.command.iter().cloned());
    if arguments.tui {
        signal::catch_interrupts()
            .map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    } else if arguments.gdb.is_none() {
        signal::catch_ctrl_c().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    }

    let image_is_64bit = begin.image().is_some_and(Image::is_64bit);
    let console = Console::new(arguments.json);
    let screen = debugger::tui::Console::default();
    let sinks = (arguments.tui, screen.clone(), console.clone());
    let sink = move || -> Box<dyn ConsoleSink> {
        let (tui, screen, console) = &sinks;
        if *tui { Box::new(screen.clone()) } else { Box::new(console.clone()) }
    };
    let symbols = Symbols::new(
        begin.image().into_iter().flat_map(Image::symbols).map(|s| (s.address, s.size, s.name.as_str())),
    );
    let tape = begin.tape();
    let printed = Printed::default();
    let begin = Rc::new(begin);
    let sink = Rc::new(sink);
    let counted = {
        let (begin, sink, once, spec) =
            (Rc::clone(&begin), Rc::clone(&sink), printed.clone(), spec.counted());
        move |shape: &SavedShape, memory: &Memory| {
            let rom = begin.image().and_then(Image::rom);
            Ok(memory.build(shape, &spec, rom, once.once(sink()))?)
        }
    };
    let once = printed.clone();
    let mut session = Session::new(SessionParts {
        builder: Box::new(move || Ok(begin.build(&spec, once.once(sink()))?)),
        counted: Box::new(counted),
        printed,
        tape,
        no_way_back,
        symbols,
        limits: Limits { timeout: arguments.timeout, interruptible: true, ..Limits::default() },
        interrupted: signal::interrupted,
    })
    .map_err(|error| match error {
        DebuggerError::Machine(error) => CliError::of_guest(arguments.guest.name(), error),
        DebuggerError::Snapshot(error) => CliError::of_start(arguments.guest.name(), error),
        // Building it makes no other.
        error => CliError::Usage(error.to_string()),
    })?;
    if let Some(at) = arguments.gdb {
        let status = gdb::serve(&mut session, at, image_is_64bit);
        console.show(true).map_err(CliError::Output)?;
        return status;
    }
    if arguments.tui {
        return tui::show(&mut session, &arguments.guest.name().display().to_string(), lines, screen);
    }
    let mut face = Face { session, console, json: arguments.json };
    if !arguments.json {
        face.welcome(&arguments.guest.name().display().to_string())?;
    }
    for line in lines {
        if face.answer(&line)? == After::Quit {
            return Ok(ExitCode::SUCCESS);
        }
        if signal::interrupted() {
            // The person wants the prompt, not the rest of the script.
            break;
        }
    }
    if !arguments.batch {
        face.converse()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Why this guest could not do the same again, whatever its clock.
fn no_way_back(spec: &MachineSpec) -> Option<&'static str> {
    if spec.network.is_some() {
        return Some("what comes by the network does not come again; leave out --net");
    }
    if spec.entropy {
        return Some("random bytes of the host do not come again; leave out --rng");
    }
    if spec.cpus > 1 {
        return Some("its CPUs run side by side; start it with one");
    }
    if !spec.without.is_nothing() {
        return Some("the translator does not count instructions; leave out --without");
    }
    let disks = spec.disks.iter().chain(&spec.ide_disks);
    if disks.into_iter().any(|disk| !disk.read_only) {
        return Some("it can write its disk, which does not go back; attach the disk with ',ro'");
    }
    None
}

#[derive(PartialEq, Eq)]
enum After {
    Go,
    Quit,
}

struct Face {
    session: Session,
    console: Console,
    json: bool,
}

impl Face {
    fn welcome(&mut self, name: &str) -> Result<(), CliError> {
        if io::stdin().is_terminal() {
            let pair = self.session.machine().pair();
            say(&format!("{name} in mode {pair}, before its first instruction; 'help' lists the commands"))?;
        }
        match self.session.location() {
            Ok(place) => say(&place.to_string()),
            Err(error) => say(&error.to_string()),
        }
    }

    /// Reads commands from standard input until it ends.
    fn converse(&mut self) -> Result<(), CliError> {
        let mut input = io::stdin().lock();
        let terminal = input.is_terminal();
        let mut warned = false;
        loop {
            signal::clear_interrupted();
            if terminal && !self.json {
                let mut out = io::stdout().lock();
                write!(out, "{PROMPT}").and_then(|()| out.flush()).map_err(CliError::Output)?;
            }
            let line = match read_line(&mut input) {
                Ok(Some(line)) => line,
                Ok(None) => {
                    if terminal && !self.json {
                        say("")?;
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if warned {
                        return Ok(());
                    }
                    warned = true;
                    say("\nnothing runs; Ctrl-C once more, or 'quit', ends the session")?;
                    continue;
                }
                Err(source) => return Err(CliError::Read { path: "standard input".into(), source }),
            };
            warned = false;
            if self.answer(&line)? == After::Quit {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, line: &str) -> Result<After, CliError> {
        let Some(result) = self.session.line(line).transpose() else {
            return Ok(After::Go);
        };
        let quit = result.as_ref().is_ok_and(|reply| reply.quit);
        if self.json {
            say(&self.object(line, &result))?;
        } else {
            // Single characters that steps print are held until their line is whole.
            let whole = !result.as_ref().is_ok_and(|reply| reply.data["stopped"] == "done");
            self.console.show(whole || quit).map_err(CliError::Output)?;
            match result {
                Ok(reply) if reply.text.is_empty() => {}
                Ok(reply) => say(&reply.text)?,
                Err(error) => say(&error.to_string())?,
            }
        }
        Ok(if quit { After::Quit } else { After::Go })
    }

    fn object(&self, line: &str, result: &Result<Reply, DebuggerError>) -> String {
        let mut object = match result {
            Ok(reply) => json!({"command": line.trim(), "ok": true, "text": reply.text, "data": reply.data}),
            Err(error) => json!({"command": line.trim(), "ok": false, "text": error.to_string()}),
        };
        let printed = self.console.take();
        if !printed.is_empty() {
            object["console"] = json!(printed);
        }
        object.to_string()
    }
}

fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// A line without its end; `None` at the end of input. A signal ends the wait with [`io::ErrorKind::Interrupted`].
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()));
        }
        let end = available.iter().position(|&b| b == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        line.extend(&available[..end.unwrap_or(used)]);
        input.consume(used);
        if end.is_some() {
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

/// What the guest prints: passed on by whole lines, or kept for the next JSON object.
#[derive(Clone)]
struct Console(Arc<Mutex<Waiting>>);

struct Waiting {
    /// Kept for [`Console::take`] instead of passed on.
    keep: bool,
    marker: &'static str,
    /// Not yet passed on.
    bytes: Vec<u8>,
    dropped: u64,
}

impl Console {
    /// Bytes of a line, or for a JSON object, that are kept at most.
    const MOST: usize = 1 << 20;

    fn new(keep: bool) -> Self {
        let marker = if io::stdout().is_terminal() { MARKER } else { "" };
        Self(Arc::new(Mutex::new(Waiting { keep, marker, bytes: Vec::new(), dropped: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what is left, an unfinished line only if `whole`.
    fn show(&self, whole: bool) -> io::Result<()> {
        self.lock().pass_on(whole)
    }

    /// Takes what was kept.
    fn take(&self) -> String {
        let mut printed = self.lock();
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut printed.bytes)).into_owned();
        let dropped = std::mem::take(&mut printed.dropped);
        if dropped > 0 {
            text.push_str(&format!("\n[{dropped} bytes dropped]\n"));
        }
        text
    }
}

impl Waiting {
    fn pass_on(&mut self, whole: bool) -> io::Result<()> {
        let last = self.bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let length = if whole { self.bytes.len() } else { last };
        // Taken out first: what cannot be written is lost, and must not pile up.
        let taken: Vec<u8> = self.bytes.drain(..length).collect();
        let mut out = io::stdout().lock();
        for line in taken.split_inclusive(|&b| b == b'\n') {
            out.write_all(self.marker.as_bytes())?;
            out.write_all(line)?;
            if !line.ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    }
}

impl ConsoleSink for Console {
    fn transmit(&mut self, bytes: &[u8]) {
        let mut printed = self.lock();
        if printed.keep {
            let room = Self::MOST.saturating_sub(printed.bytes.len()).min(bytes.len());
            printed.bytes.extend(&bytes[..room]);
            printed.dropped += (bytes.len() - room) as u64;
            return;
        }
        printed.bytes.extend(bytes);
        if bytes.contains(&b'\n') || printed.bytes.len() >= Self::MOST {
            let all = printed.bytes.len() >= Self::MOST;
            // A closed pipe shows when the next answer is printed; the guest does not care.
            let _lost = printed.pass_on(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_their_end() {
        let mut input = io::Cursor::new(b"step\n\nquit".to_vec());
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["step", "", "quit"]);
    }

    #[test]
    fn kept_output_is_bounded_and_says_what_it_lost() {
        let mut console = Console::new(true);
        console.transmit(b"abc");
        assert_eq!(console.take(), "abc");
        console.transmit(&vec![b'x'; Console::MOST + 5]);
        let text = console.take();
        assert!(text.ends_with("x\n[5 bytes dropped]\n"));
        assert_eq!(console.take(), "");
    }
}
