//! A debugging session: one machine, its breakpoints, and what was seen last. Commands in, text and data out.
//!
//! What makes the guest go on is in `motion`, what looks at it in `inspection`.
use super::breakpoints::Breakpoints;
use super::catalogue;
use super::command::{self, Command, ParseError};
use super::condition::Condition;
use super::error::DebuggerError;
use super::events::EventLog;
use super::expression::{Expression, Names};
use super::gdb::described::Described;
use super::inspection::Examining;
use super::memory::{GuestMemory, linear_rip};
use super::moving::own_way;
use super::printed::Printed;
use super::registers;
use super::rewinding::{CountedBuilder, Snapshots};
use super::symbols::{SymbolError, Symbols};
use super::timeline::Timeline;
use super::typing::Typing;
use super::unwind;
use super::view::{Hex, location, paging, stats, tables};
use super::watchpoints::verb;
use crate::arch::{Activity, CpuState, Gva};
use crate::engine::{Engine, VcpuId, Watch};
use crate::machine::{BOOT_CPU, Limits, Machine};
use crate::snapshot::recording::Tape;
use crate::snapshot::{self, Snapshot, SnapshotError};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Makes the machine, at first and for `restart`.
pub type Builder = Box<dyn FnMut() -> Result<Machine, DebuggerError>>;

/// What a session is made of.
pub struct SessionParts {
    /// Makes the machine.
    pub builder: Builder,
    /// The image's symbols.
    pub symbols: Symbols,
    /// What ends a run beside breakpoints; holds for each command on its own.
    pub limits: Limits,
    /// Whether the person wants to have the prompt back (Ctrl-C); asked between single steps.
    pub interrupted: fn() -> bool,
    /// Through which the builder's machines print.
    pub printed: Printed,
    /// What came from outside, if it is a recorded guest.
    pub tape: Tape,
    /// Makes the machine in mode emu, for `rewind`.
    pub counted: CountedBuilder,
    /// Why the guest cannot go back, if something else than the mode's clock forbids it.
    pub no_way_back: Option<&'static str>,
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub struct Reply {
    /// For people; without a line end.
    pub text: String,
    /// The same for programs.
    pub data: Value,
    /// The session is to end.
    pub quit: bool,
}

impl Reply {
    pub(super) fn said(text: impl Into<String>) -> Self {
        Self { text: text.into(), data: Value::Null, quit: false }
    }

    /// A view as text and data.
    pub(super) fn view(view: &(impl Serialize + ToString)) -> Self {
        // Views hold only text, numbers and lists of these: they always serialise.
        let data = serde_json::to_value(view).unwrap_or(Value::Null);
        Self { text: view.to_string(), data, quit: false }
    }
}

/// A debugging session.
pub struct Session {
    builder: Builder,
    pub(super) machine: Machine,
    pub(super) symbols: Arc<Symbols>,
    pub(super) breakpoints: Breakpoints,
    /// What the engine was told last.
    pub(super) told: Vec<Gva>,
    pub(super) limits: Limits,
    pub(super) interrupted: Box<dyn Fn() -> bool>,
    /// A search was given up, and the guest is on its way to where it stood.
    pub(super) goes_home: bool,
    /// The CPU that commands are about, and its state when the guest was last resumed.
    pub(super) before: Option<(VcpuId, CpuState)>,
    /// Which CPU commands are about.
    pub(super) cpu: VcpuId,
    /// Why the guest cannot go on.
    pub(super) ended: Option<String>,
    pub(super) events: EventLog,
    /// The counters when `stats` was asked last.
    pub(super) counted: stats::Counts,
    /// Part of the run since the start was the interpreter's, in place of the mode's own way.
    pub(super) interpreted: bool,
    /// The command under way let the interpreter look for breakpoints.
    pub(super) sought: bool,
    /// The person was told that breakpoints are the interpreter's.
    noted: bool,
    pub(super) examining: Examining,
    repeat: Option<Command>,
    /// What comes from outside.
    pub(super) tape: Tape,
    /// What is typed for the guest.
    pub(super) typing: Typing,
    /// What is watched beside the watchpoints: GDB's.
    pub(super) watched: Vec<Watch>,
    /// What the next GDB is to be told of the CPU, if not what suits.
    pub(super) described: Option<Described>,
    /// What the engine was told last to watch.
    pub(super) told_watches: Vec<Watch>,
    /// The guest's past, if it can go back.
    pub(super) timeline: Option<Timeline>,
    /// Snapshots, if it can be rewound.
    pub(super) snapshots: Option<Snapshots>,
    /// Why not, if it cannot.
    pub(super) no_way_back: &'static str,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// Names in expressions.
pub(super) struct Scope<'a> {
    state: &'a CpuState,
    cr8: u8,
    symbols: &'a Symbols,
}

impl Names for Scope<'_> {
    fn register(&self, name: &str) -> Option<u64> {
        if name == "cr8" { Some(self.cr8.into()) } else { registers::read(self.state, name) }
    }

    fn symbol(&self, name: &str) -> Result<u64, SymbolError> {
        self.symbols.find(name)
    }
}

impl Session {
    /// Builds the machine and stands before its first instruction, guest time stopped.
    ///
    /// # Errors
    /// When the machine cannot be built.
    pub fn new(mut parts: SessionParts) -> Result<Self, DebuggerError> {
        let machine = (parts.builder)()?;
        machine.platform().clock().pause();
        let reason = match (parts.no_way_back, machine.pair().engine) {
            (Some(reason), _) => reason,
            (None, Engine::Emu) => {
                "its time is the host's; 'rewind' takes it to a snapshot, from where it goes on by counted time"
            }
            (None, _) => {
                "in this mode it does not do the same twice; 'rewind' takes it to a snapshot, from where it goes on in emu, forwards \
                 and back"
            }
        };
        let can_go_back = parts.no_way_back.is_none();
        let timeline =
            (machine.counts_turns() && can_go_back).then(|| Timeline::new(&machine, parts.printed.clone()));
        let snapshots =
            (timeline.is_none() && can_go_back).then(|| Snapshots::new(parts.counted, parts.printed));
        Ok(Self {
            timeline,
            snapshots,
            no_way_back: reason,
            builder: parts.builder,
            machine,
            symbols: Arc::new(parts.symbols),
            breakpoints: Breakpoints::default(),
            told: Vec::new(),
            limits: parts.limits,
            interrupted: Box::new(parts.interrupted),
            goes_home: false,
            before: None,
            cpu: BOOT_CPU,
            ended: None,
            events: EventLog::default(),
            counted: stats::Counts::default(),
            interpreted: false,
            sought: false,
            noted: false,
            examining: Examining::default(),
            repeat: None,
            typing: Typing::default(),
            watched: Vec::new(),
            told_watches: Vec::new(),
            described: None,
            tape: parts.tape,
        })
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The image's symbols.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_symbols(&self) -> Arc<Symbols> {
        Arc::clone(&self.symbols)
    }

    /// Does what a line says. An empty line repeats the last step, next or x (which goes on behind what it showed);
    /// `None` if there is nothing to repeat, and for a comment.
    ///
    /// # Errors
    /// [`DebuggerError`]: the command was not done; the session goes on.
    pub fn line(&mut self, line: &str) -> Result<Option<Reply>, DebuggerError> {
        let command = match command::parse(line)? {
            Some(command) => {
                self.repeat = match &command {
                    Command::Step(_)
                    | Command::Next(_)
                    | Command::ReverseStep(_)
                    | Command::ReverseNext(_) => Some(command.clone()),
                    Command::Examine { .. } => Some(Command::Examine { shape: None, place: None }),
                    _ => None,
                };
                command
            }
            None => match &self.repeat {
                Some(command) if line.trim().is_empty() => command.clone(),
                _ => return Ok(None),
            },
        };
        self.execute(&command).map(Some)
    }

    /// Does a command.
    ///
    /// # Errors
    /// [`DebuggerError`]: the command was not done; the session goes on.
    pub fn execute(&mut self, command: &Command) -> Result<Reply, DebuggerError> {
        match command {
            Command::Step(count) => self.step(*count),
            Command::Next(count) => self.next(*count),
            Command::Continue => self.go_on(),
            Command::ReverseStep(count) => self.reverse_step(*count),
            Command::ReverseNext(count) => self.reverse_next(*count),
            Command::ReverseContinue => self.reverse_continue(),
            Command::WhoWrote { address, length } => self.who_wrote(address, length.as_ref()),
            Command::Rewind(number) => self.rewind(*number),
            Command::Snapshot => self.keep_snapshot(),
            Command::Snapshots => self.list_snapshots(),
            Command::Until(at) => self.until(at),
            Command::Finish => self.finish(),
            Command::Break { at, condition } => self.set_breakpoint(at, condition.as_ref()),
            Command::Watch { kind, at, length } => self.set_watchpoint(*kind, at, length.as_ref()),
            Command::Unwatch(number) => self.unwatch(*number),
            Command::Catch { request, written } => self.catch(request, written),
            Command::Delete(number) => self.delete(*number),
            Command::Breakpoints => Ok(self.list_breakpoints()),
            Command::Registers(group) => self.registers(*group),
            Command::Register(name) => self.register(name),
            Command::Set { register, value } => self.set(register, value),
            Command::Print(expression) => self.print(expression),
            Command::Examine { shape, place } => self.examine(*shape, place.as_ref()),
            Command::Memory { place, length } => self.dump(place, length),
            Command::Disassemble { at, count } => self.disassemble(at.as_ref(), *count),
            Command::Lens(at) => self.lens(at.as_ref()),
            Command::Walk(at) => {
                let at = self.evaluate(at)?;
                let state = self.state()?;
                Ok(Reply::view(&paging::walk(&self.memory(&state), &self.symbols, at)))
            }
            Command::Tlb { address, length } => self.tlb(address.as_ref(), length.as_ref()),
            Command::Device(None) => Ok(self.list_devices()),
            Command::Device(Some(name)) => self.device(name),
            Command::Chips => self.chips(),
            Command::Trace(request) => Ok(self.trace(*request)),
            Command::Stats => Ok(self.stats()),
            Command::Sites(order) => Ok(self.sites(*order)),
            Command::Gdt => {
                let state = self.state()?;
                Ok(Reply::view(&tables::gdt(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Idt => {
                let state = self.state()?;
                Ok(Reply::view(&tables::idt(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Backtrace => {
                let state = self.state()?;
                Ok(Reply::view(&unwind::backtrace(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Symbols(pattern) => Ok(self.list_symbols(pattern)),
            Command::Cpus => self.list_cpus(),
            Command::Cpu(number) => self.select_cpu(*number),
            Command::Mode(None) => self.mode(),
            Command::Mode(Some(mode)) => self.move_to(*mode),
            Command::Restart => self.restart(),
            Command::Save(file) => self.save(file),
            Command::Restore(file) => self.restore(file),
            Command::Help(topic) => help(topic.as_deref()),
            Command::Quit => Ok(Reply { quit: true, ..Reply::said("") }),
        }
    }

    pub(super) fn memory<'a>(&'a self, state: &CpuState) -> GuestMemory<'a> {
        GuestMemory::new(self.machine.platform().ram(), state)
    }

    pub(super) fn evaluate(&mut self, expression: &Expression) -> Result<u64, DebuggerError> {
        let state = self.state()?;
        let cr8 = self.machine.platform().cr8(self.cpu);
        Ok(expression.evaluate(&self.scope(&state, cr8))?)
    }

    /// What names in expressions stand for.
    pub(super) fn scope<'a>(&'a self, state: &'a CpuState, cr8: u8) -> Scope<'a> {
        Scope { state, cr8, symbols: &self.symbols }
    }

    /// Where the guest stands.
    ///
    /// # Errors
    /// When the engine does not hand out its state.
    pub fn location(&mut self) -> Result<location::Location, DebuggerError> {
        let state = self.state()?;
        let marks: Vec<u64> = self.breakpoints.list().iter().map(|b| b.at.0).collect();
        let halted = state.activity == Activity::Halted;
        Ok(location::show(&self.code(&state, &marks, &[]), linear_rip(&state), halted))
    }

    fn set_breakpoint(
        &mut self,
        at: &Expression,
        condition: Option<&Condition>,
    ) -> Result<Reply, DebuggerError> {
        let address = Gva(self.evaluate(at)?);
        let written = at.to_string();
        let number = self.breakpoints.add(address, written, condition.cloned()).number;
        if let Err(error) = self.tell_breakpoints(&[]) {
            self.breakpoints.remove(number);
            return Err(error);
        }
        let label = self.symbols.label(address.0);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let when = condition.map(|condition| format!(" if {condition}")).unwrap_or_default();
        let mut reply = Reply::said(format!("breakpoint {number} at {address}{place}{when}"));
        reply.data = json!({"number": number, "at": Hex(address.0), "symbol": label});
        if self.machine.breakpoints_are_interpreted() {
            self.note_interpreter(&mut reply);
        }
        Ok(reply)
    }

    fn delete(&mut self, number: Option<u32>) -> Result<Reply, DebuggerError> {
        let text = match number {
            Some(number) if self.breakpoints.remove(number) => format!("breakpoint {number} deleted"),
            Some(number) => return Err(DebuggerError::NoBreakpoint(number)),
            None => match self.breakpoints.clear() {
                0 => "there are no breakpoints".to_owned(),
                1 => "one breakpoint deleted".to_owned(),
                count => format!("{count} breakpoints deleted"),
            },
        };
        self.tell_breakpoints(&[])?;
        self.tell_watches()?;
        self.tell_catches();
        Ok(Reply::said(text))
    }

    /// Adds to `reply`, once in a session, that breakpoints are the interpreter's: what the guest meets may differ.
    pub(super) fn note_interpreter(&mut self, reply: &mut Reply) {
        if !std::mem::replace(&mut self.noted, true) {
            let note = format!(
                "note: breakpoints, watchpoints that the mode does not have, and some events that are caught, are looked for by the \
                 interpreter: while there are any, and in until, next and finish, the guest does not run {}",
                own_way(self.machine.pair())
            );
            reply.text.push_str(&format!("\n{note}"));
            reply.data["note"] = json!(note);
        }
    }

    fn list_breakpoints(&self) -> Reply {
        let (list, catches) = (self.breakpoints.list(), self.breakpoints.catches());
        let mut lines: Vec<_> = list
            .iter()
            .map(|b| {
                let label = self.symbols.label(b.at.0).map(|l| format!(" <{l}>")).unwrap_or_default();
                let when = b.condition.as_ref().map(|c| format!(" if {c}")).unwrap_or_default();
                (b.number, format!("{:>3}  {}{label}  {}{when}, hits: {}", b.number, b.at, b.written, b.hits))
            })
            .chain(
                catches
                    .iter()
                    .map(|c| (c.number, format!("{:>3}  catch {}, hits: {}", c.number, c.written, c.hits))),
            )
            .chain(self.breakpoints.watchpoints().iter().map(|w| {
                let label = self.symbols.label(w.at.0).map(|l| format!(" <{l}>")).unwrap_or_default();
                let (verb, length) = (verb(w.kind), w.length);
                let what = format!("{verb} {}{label}  {}, {length} bytes, hits: {}", w.at, w.written, w.hits);
                (w.number, format!("{:>3}  {what}", w.number))
            }))
            .collect();
        lines.sort();
        let mut text = String::from("there are no breakpoints; 'break ADDR' and 'watch ADDR' set one");
        if !lines.is_empty() {
            text = lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        }
        let watches = self.breakpoints.watchpoints();
        let data = json!({"breakpoints": list, "catchpoints": catches, "watchpoints": watches});
        Reply { data, ..Reply::said(text) }
    }

    fn restart(&mut self) -> Result<Reply, DebuggerError> {
        let tracing = self.machine.platform().trace().is_enabled();
        self.machine = (self.builder)()?;
        let platform = self.machine.platform();
        platform.clock().pause();
        platform.trace().enable(tracing);
        self.counted = stats::Counts::default();
        if self.tape.end().is_none() {
            // Nobody has typed anything for this guest yet.
            self.tape = Tape::default();
        }
        self.tape.go_to(0);
        if let Some(snapshots) = &mut self.snapshots {
            // After a rewind it was another mode.
            self.timeline = None;
            snapshots.clear();
        }
        self.arrive("the guest starts again")
    }

    fn save(&mut self, file: &str) -> Result<Reply, DebuggerError> {
        let snapshot::Written { size, pages } = snapshot::save(&mut self.machine, Path::new(file))?;
        let text = format!("{file}: {size} bytes, {pages} pages of RAM among them");
        Ok(Reply { data: json!({"file": file, "bytes": size, "pages": pages}), ..Reply::said(text) })
    }

    fn restore(&mut self, file: &str) -> Result<Reply, DebuggerError> {
        let snapshot = Snapshot::open(Path::new(file))?;
        let put = snapshot.put_into(&mut self.machine);
        if let Err(SnapshotError::Lost(why)) = &put {
            self.ended = Some(format!("the snapshot could not be read to its end ({why})"));
        }
        put?;
        // What came from outside afterwards came to another guest.
        self.tape = Tape::default();
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.clear();
        }
        self.arrive("the guest is where the snapshot was taken")
    }

    /// The machine stands somewhere else than where the guest brought it.
    pub(super) fn arrive(&mut self, how: &str) -> Result<Reply, DebuggerError> {
        self.ended = None;
        self.before = None;
        self.turn_to(BOOT_CPU);
        self.told.clear();
        self.events.clear();
        self.interpreted = false;
        self.tell_catches();
        self.begin_anew();
        self.told_watches.clear();
        self.tell_watches()?;
        if !self.breakpoints.list().is_empty() {
            self.tell_breakpoints(&[])?;
        }
        let place = self.location()?;
        Ok(Reply { text: format!("{how}\n{place}"), ..Reply::view(&place) })
    }
}

fn help(topic: Option<&str>) -> Result<Reply, DebuggerError> {
    let Some(topic) = topic else {
        return Ok(Reply::said(catalogue::overview()));
    };
    let found = catalogue::find(&topic.to_ascii_lowercase());
    if found.is_empty() {
        return Err(ParseError::Unknown(topic.to_owned()).into());
    }
    Ok(Reply::said(found.iter().map(|row| catalogue::explain(row)).collect::<Vec<_>>().join("\n\n")))
}
