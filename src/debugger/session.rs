//! A debugging session: one machine, its breakpoints, and what was seen last. Commands in, text and data out.
use super::breakpoints::Breakpoints;
use super::catalogue;
use super::command::{self, Command, ParseError, Place, TraceRequest};
use super::error::DebuggerError;
use super::events::EventLog;
use super::expression::{Expression, Names};
use super::memory::{GuestMemory, Space, linear_rip};
use super::registers;
use super::symbols::{SymbolError, Symbols};
use super::unwind;
use super::view::memory::{Format, Shape};
use super::view::{Hex, disassembly, location, memory as memory_view, paging, stats, tables, trace};
use super::view::{registers as register_view, registers::Group};
use crate::arch::{Activity, CpuState, Gva};
use crate::engine::{Mode, Trace};
use crate::machine::{BOOT_CPU, Limits, Machine, MachineError};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Instructions or units that one command shows at most.
const MOST_LINES: u64 = 4096;
/// Symbols that `symbols` lists at most.
const MOST_SYMBOLS: usize = 200;

/// Makes the machine, at first and for `restart`.
pub type Builder = Box<dyn FnMut() -> Result<Machine, MachineError>>;

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

/// What `x` without arguments goes on with.
#[derive(Clone, Debug)]
struct Examining {
    shape: Shape,
    next: Option<Place>,
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
    pub(super) interrupted: fn() -> bool,
    /// The state when the guest was last resumed.
    pub(super) before: Option<CpuState>,
    /// Why the guest cannot go on.
    pub(super) ended: Option<String>,
    pub(super) events: EventLog,
    counted: stats::Counts,
    /// Part of the run since the start was the interpreter's, in place of the mode's own way.
    pub(super) interpreted: bool,
    /// The command under way let the interpreter look for breakpoints.
    pub(super) sought: bool,
    /// The person was told that breakpoints are the interpreter's.
    noted: bool,
    examining: Examining,
    repeat: Option<Command>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// Names in expressions.
struct Scope<'a> {
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
    pub fn new(mut parts: SessionParts) -> Result<Self, MachineError> {
        let machine = (parts.builder)()?;
        machine.platform().clock().pause();
        Ok(Self {
            builder: parts.builder,
            machine,
            symbols: Arc::new(parts.symbols),
            breakpoints: Breakpoints::default(),
            told: Vec::new(),
            limits: parts.limits,
            interrupted: parts.interrupted,
            before: None,
            ended: None,
            events: EventLog::default(),
            counted: stats::Counts::default(),
            interpreted: false,
            sought: false,
            noted: false,
            examining: Examining { shape: Shape::default(), next: None },
            repeat: None,
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

    /// Does what a line says. An empty line repeats the last step, next or x (which goes on behind what it showed);
    /// `None` if there is nothing to repeat, and for a comment.
    ///
    /// # Errors
    /// [`DebuggerError`]: the command was not done; the session goes on.
    pub fn line(&mut self, line: &str) -> Result<Option<Reply>, DebuggerError> {
        let command = match command::parse(line)? {
            Some(command) => {
                self.repeat = match &command {
                    Command::Step(_) | Command::Next(_) => Some(command.clone()),
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
            Command::Until(at) => self.until(at),
            Command::Finish => self.finish(),
            Command::Break(at) => self.set_breakpoint(at),
            Command::Delete(number) => self.delete(*number),
            Command::Breakpoints => Ok(self.list_breakpoints()),
            Command::Registers(group) => self.registers(*group),
            Command::Register(name) => self.register(name),
            Command::Set { register, value } => self.set(register, value),
            Command::Print(expression) => self.print(expression),
            Command::Examine { shape, place } => self.examine(*shape, place.as_ref()),
            Command::Memory { place, length } => self.dump(place, length),
            Command::Disassemble { at, count } => self.disassemble(at.as_ref(), *count),
            Command::Walk(at) => {
                let at = self.evaluate(at)?;
                let state = self.machine.state()?;
                Ok(Reply::view(&paging::walk(&self.memory(&state), &self.symbols, at)))
            }
            Command::Trace(request) => Ok(self.trace(*request)),
            Command::Stats => Ok(self.stats()),
            Command::Gdt => {
                let state = self.machine.state()?;
                Ok(Reply::view(&tables::gdt(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Idt => {
                let state = self.machine.state()?;
                Ok(Reply::view(&tables::idt(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Backtrace => {
                let state = self.machine.state()?;
                Ok(Reply::view(&unwind::backtrace(&self.memory(&state), &self.symbols, &state)))
            }
            Command::Symbols(pattern) => Ok(self.list_symbols(pattern)),
            Command::Mode => self.mode(),
            Command::Restart => self.restart(),
            Command::Help(topic) => help(topic.as_deref()),
            Command::Quit => Ok(Reply { quit: true, ..Reply::said("") }),
        }
    }

    pub(super) fn memory<'a>(&'a self, state: &CpuState) -> GuestMemory<'a> {
        GuestMemory::new(self.machine.platform().ram(), state)
    }

    pub(super) fn evaluate(&mut self, expression: &Expression) -> Result<u64, DebuggerError> {
        let state = self.machine.state()?;
        let cr8 = self.machine.platform().cr8(BOOT_CPU);
        Ok(expression.evaluate(&Scope { state: &state, cr8, symbols: &self.symbols })?)
    }

    /// Where the guest stands.
    ///
    /// # Errors
    /// When the engine does not hand out its state.
    pub fn location(&mut self) -> Result<location::Location, DebuggerError> {
        let state = self.machine.state()?;
        let marks: Vec<u64> = self.breakpoints.list().iter().map(|b| b.at.0).collect();
        let halted = state.activity == Activity::Halted;
        Ok(location::show(&self.code(&state, &marks), linear_rip(&state), halted))
    }

    fn code<'a>(&'a self, state: &CpuState, breakpoints: &'a [u64]) -> disassembly::Source<'a> {
        disassembly::Source {
            memory: self.memory(state),
            bits: state.code_bits(),
            space: Space::Virtual,
            next: Some(linear_rip(state)),
            symbols: &self.symbols,
            breakpoints,
        }
    }

    fn set_breakpoint(&mut self, at: &Expression) -> Result<Reply, DebuggerError> {
        let address = Gva(self.evaluate(at)?);
        let written = at.to_string();
        let number = self.breakpoints.add(address, written).number;
        if let Err(error) = self.tell_breakpoints(&[]) {
            self.breakpoints.remove(number);
            return Err(error);
        }
        let label = self.symbols.label(address.0);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let mut reply = Reply::said(format!("breakpoint {number} at {address}{place}"));
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
        Ok(Reply::said(text))
    }

    /// Adds to `reply`, once in a session, that breakpoints are the interpreter's: what the guest meets may differ.
    pub(super) fn note_interpreter(&mut self, reply: &mut Reply) {
        if !std::mem::replace(&mut self.noted, true) {
            let note = format!(
                "note: breakpoints are looked for by the interpreter: while there are any, and in until, next and \
                 finish, the guest does not run {}",
                own_way(self.machine.mode())
            );
            reply.text.push_str(&format!("\n{note}"));
            reply.data["note"] = json!(note);
        }
    }

    fn list_breakpoints(&self) -> Reply {
        let list = self.breakpoints.list();
        let mut text = String::from("there are no breakpoints; 'break ADDR' sets one");
        if !list.is_empty() {
            let lines = list.iter().map(|b| {
                let label = self.symbols.label(b.at.0).map(|l| format!(" <{l}>")).unwrap_or_default();
                format!("{:>3}  {}{label}  {}, hits: {}", b.number, b.at, b.written, b.hits)
            });
            text = lines.collect::<Vec<_>>().join("\n");
        }
        Reply { data: json!({"breakpoints": list}), ..Reply::said(text) }
    }

    fn registers(&mut self, group: Group) -> Result<Reply, DebuggerError> {
        let state = self.machine.state()?;
        Ok(Reply::view(&register_view::show(&self.register_source(&state), group)))
    }

    fn register(&mut self, name: &str) -> Result<Reply, DebuggerError> {
        let state = self.machine.state()?;
        let shown = register_view::show_one(&self.register_source(&state), name);
        Ok(Reply::view(&shown.ok_or_else(|| no_register(name))?))
    }

    fn register_source<'a>(&'a self, state: &'a CpuState) -> register_view::Source<'a> {
        register_view::Source {
            now: state,
            before: self.before.as_ref(),
            cr8: self.machine.platform().cr8(BOOT_CPU),
            symbols: &self.symbols,
        }
    }

    fn set(&mut self, register: &str, value: &Expression) -> Result<Reply, DebuggerError> {
        let value = self.evaluate(value)?;
        let mut state = self.machine.state()?;
        if registers::read(&state, register).is_none() {
            return Err(no_register(register));
        }
        if !registers::write(&mut state, register, value) {
            return Err(DebuggerError::Fixed(register.to_owned()));
        }
        self.machine.set_state(&state)?;
        self.register(register)
    }

    fn print(&mut self, expression: &Expression) -> Result<Reply, DebuggerError> {
        let value = self.evaluate(expression)?;
        let label = self.symbols.label(value);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let signed = value.cast_signed();
        let decimal = if signed < 0 { format!("{value} or {signed}") } else { value.to_string() };
        let text = format!("{value:#x}{place} = {decimal}");
        Ok(Reply { data: json!({"value": Hex(value), "symbol": label}), ..Reply::said(text) })
    }

    fn examine(&mut self, shape: Option<Shape>, place: Option<&Place>) -> Result<Reply, DebuggerError> {
        let shape = shape.unwrap_or(self.examining.shape);
        bound("a count of", shape.count, MOST_LINES)?;
        let place = place.cloned().or_else(|| self.examining.next.clone()).ok_or(DebuggerError::NoAddress)?;
        let at = self.evaluate(&place.address)?;
        let (reply, end) = if shape.format == Format::Instruction {
            let shown = self.instructions(place.space, at, shape.count)?;
            let last = shown.lines.last().map_or(at, |l| l.address.0.wrapping_add(l.bytes.len() as u64 / 2));
            (Reply::view(&shown), last)
        } else {
            let state = self.machine.state()?;
            let shown = memory_view::examine(&self.memory(&state), &self.symbols, place.space, at, shape);
            (Reply::view(&shown), shown.end)
        };
        let next = Some(Place { space: place.space, address: Expression::number(end) });
        self.examining = Examining { shape, next };
        Ok(reply)
    }

    fn dump(&mut self, place: &Place, length: &Expression) -> Result<Reply, DebuggerError> {
        let at = self.evaluate(&place.address)?;
        let length = bound("a length of", self.evaluate(length)?, memory_view::MOST)?;
        let state = self.machine.state()?;
        Ok(Reply::view(&memory_view::dump(&self.memory(&state), place.space, at, length)))
    }

    fn disassemble(&mut self, at: Option<&Expression>, count: u64) -> Result<Reply, DebuggerError> {
        bound("a count of", count, MOST_LINES)?;
        let at = match at {
            Some(at) => self.evaluate(at)?,
            None => linear_rip(&self.machine.state()?),
        };
        Ok(Reply::view(&self.instructions(Space::Virtual, at, count)?))
    }

    fn instructions(
        &mut self,
        space: Space,
        at: u64,
        count: u64,
    ) -> Result<disassembly::Disassembly, DebuggerError> {
        let count = bound("a count of", count, MOST_LINES)?;
        let state = self.machine.state()?;
        let marks: Vec<u64> = self.breakpoints.list().iter().map(|b| b.at.0).collect();
        let code = self.code(&state, &marks);
        Ok(match space {
            Space::Virtual => disassembly::lines(&code, at, count),
            Space::Physical => {
                // Symbols, breakpoints and RIP are virtual addresses.
                let symbols = Arc::default();
                let bare =
                    disassembly::Source { space, next: None, symbols: &symbols, breakpoints: &[], ..code };
                disassembly::lines(&bare, at, count)
            }
        })
    }

    fn trace(&mut self, request: TraceRequest) -> Reply {
        let trace: &Trace = self.machine.platform().trace();
        match request {
            TraceRequest::On => {
                trace.enable(true);
                Reply::said("trace is on")
            }
            TraceRequest::Off => {
                trace.enable(false);
                Reply::said("trace is off")
            }
            TraceRequest::Show(count) => {
                let recording = trace.is_enabled();
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let lines = trace::lines(self.events.last(count), &self.symbols);
                Reply::view(&trace::Trace { recording, kept: self.events.kept(), lines })
            }
        }
    }

    fn stats(&mut self) -> Reply {
        let now = stats::counts(self.machine.platform().counters(BOOT_CPU));
        let mut reply = Reply::view(&stats::show(&now, &self.counted));
        reply.data["interpreted"] = json!(self.interpreted);
        if self.interpreted {
            let own = own_way(self.machine.mode());
            reply.text.push_str(&format!(
                "\npart of this is the interpreter's, for steps or breakpoints; the guest did not run {own} then"
            ));
        }
        self.counted = now;
        reply
    }

    fn list_symbols(&self, pattern: &str) -> Reply {
        let found: Vec<_> = self.symbols.matching(pattern).collect();
        let data: Vec<_> = found
            .iter()
            .take(MOST_SYMBOLS)
            .map(|s| json!({"address": Hex(s.address), "size": s.size, "name": s.name}))
            .collect();
        let mut lines: Vec<String> = found
            .iter()
            .take(MOST_SYMBOLS)
            .map(|s| format!("{:#014x}  {:>6}  {}", s.address, s.size, s.name))
            .collect();
        if found.len() > lines.len() {
            lines.push(format!("and {} more", found.len() - lines.len()));
        }
        if self.symbols.is_empty() {
            lines.push("the image has no symbols".to_owned());
        } else if found.is_empty() {
            lines.push(format!("no symbol's name holds '{pattern}'"));
        }
        Reply { data: json!({"symbols": data, "count": found.len()}), ..Reply::said(lines.join("\n")) }
    }

    fn mode(&mut self) -> Result<Reply, DebuggerError> {
        let mode = self.machine.mode();
        // Telling the engine of the breakpoints that it already has shows whether it takes any.
        self.told.clear();
        let debug = match self.tell_breakpoints(&[]) {
            Ok(()) => true,
            Err(DebuggerError::Machine(MachineError::NoDebug(_))) => false,
            Err(error) => return Err(error),
        };
        let interpreted = self.machine.breakpoints_are_interpreted();
        let own = self.machine.has_own_way();
        let caps = self.machine.caps();
        let what = match mode {
            Mode::Emu => "full emulation",
            Mode::Pv => "paravirtualization: the guest is patched and runs natively",
            Mode::Kvm => "hardware-assisted virtualization through KVM",
        };
        let ability = match (debug, interpreted) {
            (false, _) => "it cannot step or stop at breakpoints".to_owned(),
            (true, true) => format!(
                "it steps and stops at breakpoints, both by the interpreter: the guest does not run {} then",
                own_way(mode)
            ),
            (true, false) if own => {
                "it stops at breakpoints by itself, and steps by the interpreter".to_owned()
            }
            (true, false) => "it steps and stops at breakpoints".to_owned(),
        };
        let text = format!(
            "{mode}: {what}; engine {}, interface {}, {}; {ability}",
            caps.engine, caps.interface, caps.label
        );
        let data = json!({
            "mode": mode.name(), "engine": caps.engine, "interface": caps.interface, "label": caps.label,
            "debug": debug, "breakpoints_interpreted": interpreted,
        });
        Ok(Reply { data, ..Reply::said(text) })
    }

    fn restart(&mut self) -> Result<Reply, DebuggerError> {
        let tracing = self.machine.platform().trace().is_enabled();
        self.machine = (self.builder)()?;
        let platform = self.machine.platform();
        platform.clock().pause();
        platform.trace().enable(tracing);
        self.ended = None;
        self.before = None;
        self.told.clear();
        self.events.clear();
        self.counted = stats::Counts::default();
        self.interpreted = false;
        if !self.breakpoints.list().is_empty() {
            self.tell_breakpoints(&[])?;
        }
        let place = self.location()?;
        Ok(Reply { text: format!("the guest starts again\n{place}"), ..Reply::view(&place) })
    }
}

/// How a mode executes a guest when no one looks.
fn own_way(mode: Mode) -> &'static str {
    match mode {
        Mode::Emu => "by the translator",
        Mode::Pv => "natively",
        Mode::Kvm => "in KVM",
    }
}

fn bound(what: &'static str, asked: u64, most: u64) -> Result<usize, DebuggerError> {
    match usize::try_from(asked) {
        Ok(count) if asked <= most => Ok(count),
        _ => Err(DebuggerError::TooMuch { what, asked, most }),
    }
}

fn no_register(name: &str) -> DebuggerError {
    super::expression::EvaluateError::Register(name.to_owned()).into()
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
