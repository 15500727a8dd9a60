//! A line of text becomes a typed command.
#[cfg(test)]
mod tests;

use super::catalogue::{self, Verb};
use super::catching::CatchRequest;
use super::condition::Condition;
use super::expression::{Expression, ExpressionError, parse_number};
use super::memory::Space;
use super::view::memory::{Format, Shape, Unit};
use super::view::registers::Group;
use super::view::sites::Order;
use crate::engine::{Mode, WatchKind};

/// An address and what kind it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Virtual or physical.
    pub space: Space,
    /// Where.
    pub address: Expression,
}

/// What `trace` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceRequest {
    /// Begin to record.
    On,
    /// Stop recording.
    Off,
    /// Show the last so many events.
    Show(u64),
    /// Sum up what they cost, by kind.
    Costs,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Execute so many instructions.
    Step(u64),
    /// The same, over calls.
    Next(u64),
    /// Run.
    Continue,
    /// Go back so many turns.
    ReverseStep(u64),
    /// The same, over calls.
    ReverseNext(u64),
    /// Go back to the last breakpoint.
    ReverseContinue,
    /// Go back to before the last write to memory.
    WhoWrote {
        /// Where.
        address: Expression,
        /// Bytes.
        length: Option<Expression>,
    },
    /// Go back to a snapshot in memory.
    Rewind(Option<u32>),
    /// Keep one.
    Snapshot,
    /// List them.
    Snapshots,
    /// Run to an address.
    Until(Expression),
    /// Run to the caller.
    Finish,
    /// Set a breakpoint.
    Break {
        /// Where.
        at: Expression,
        /// It stops the guest only if this is true.
        condition: Option<Condition>,
    },
    /// Stop at accesses to memory.
    Watch {
        /// At which.
        kind: WatchKind,
        /// Where.
        at: Expression,
        /// Bytes.
        length: Option<Expression>,
    },
    /// Delete one watchpoint or all.
    Unwatch(Option<u32>),
    /// Stop at events.
    Catch {
        /// Which.
        request: CatchRequest,
        /// As it was written.
        written: String,
    },
    /// Delete one breakpoint or all.
    Delete(Option<u32>),
    /// List breakpoints.
    Breakpoints,
    /// Show registers.
    Registers(Group),
    /// Show one register.
    Register(String),
    /// Change a register.
    Set {
        /// Its name without `$`.
        register: String,
        /// What it is to hold.
        value: Expression,
    },
    /// Show a value.
    Print(Expression),
    /// Examine memory; without a place, go on after what was examined last.
    Examine {
        /// How; without one, as last time.
        shape: Option<Shape>,
        /// Where.
        place: Option<Place>,
    },
    /// Dump memory.
    Memory {
        /// Where.
        place: Place,
        /// Bytes.
        length: Expression,
    },
    /// Show instructions.
    Disassemble {
        /// Where; without one, at RIP.
        at: Option<Expression>,
        /// How many.
        count: u64,
    },
    /// Show what becomes of an instruction, the next one unless said otherwise.
    Lens(Option<Expression>),
    /// Draw a page walk.
    Walk(Expression),
    /// What the engine remembers of the page tables.
    Tlb {
        /// Where; everywhere without one.
        address: Option<Expression>,
        /// Bytes; one address, beside its walk, without it.
        length: Option<Expression>,
    },
    /// List the devices, or show the registers of one.
    Device(Option<String>),
    /// The interrupt chips.
    Chips,
    /// The exit trace.
    Trace(TraceRequest),
    /// Counters.
    Stats,
    /// What is patched, in this order.
    Sites(Order),
    /// Global descriptor table.
    Gdt,
    /// Interrupt descriptor table.
    Idt,
    /// Callers.
    Backtrace,
    /// Symbols.
    Symbols(String),
    /// List the CPUs.
    Cpus,
    /// Turn to this CPU.
    Cpu(u64),
    /// What mode it is; or go on in this one.
    Mode(Option<Mode>),
    /// Start anew.
    Restart,
    /// Write a snapshot to this file.
    Save(String),
    /// Go to where the snapshot of this file was taken.
    Restore(String),
    /// Explain commands.
    Help(Option<String>),
    /// End.
    Quit,
}

impl Command {
    /// Whether it leaves everything as it is: the guest, and what the session will do.
    pub(super) fn only_looks(&self) -> bool {
        use Command as C;
        matches!(
            self,
            C::Registers(_)
                | C::Register(_)
                | C::Print(_)
                | C::Memory { .. }
                | C::Disassemble { .. }
                | C::Lens(_)
                | C::Trace(TraceRequest::Show(_) | TraceRequest::Costs)
                | C::Tlb { .. }
                | C::Device(_)
                | C::Chips
                | C::Stats
                | C::Cpus
                | C::Sites(_)
                | C::Gdt
                | C::Idt
                | C::Backtrace
                | C::Symbols(_)
                | C::Mode(None)
                | C::Breakpoints
                | C::Snapshots
                | C::Help(_)
        )
    }
}

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// No command has this name.
    #[error("there is no command '{0}'; 'help' lists them")]
    Unknown(String),
    /// Several have it.
    #[error("'{word}' may be {candidates}; write more of it")]
    Ambiguous {
        /// What was written.
        word: String,
        /// What it may mean.
        candidates: String,
    },
    /// The arguments do not fit.
    #[error("{problem}; the syntax is '{syntax}', for instance '{example}'")]
    Arguments {
        /// What is wrong.
        problem: String,
        /// What would be right.
        syntax: &'static str,
        /// One that is right.
        example: &'static str,
    },
}

/// Instructions that `disassemble` shows.
const LINES: u64 = 10;
/// Events that `trace` shows.
const EVENTS: u64 = 20;
/// Bytes that `memory` dumps.
const DUMP: u64 = 128;

/// Parses a line. `None` for an empty line and for one that begins with `#`.
///
/// # Errors
/// [`ParseError`].
pub fn parse(line: &str) -> Result<Option<Command>, ParseError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let found = catalogue::find(&word.to_ascii_lowercase());
    let row = match found.as_slice() {
        [row] => *row,
        [] => return Err(ParseError::Unknown(word.to_owned())),
        several => {
            let candidates = several.iter().map(|r| r.name).collect::<Vec<_>>().join(" or ");
            return Err(ParseError::Ambiguous { word: word.to_owned(), candidates });
        }
    };
    arguments(row.verb, rest.trim()).map(Some).map_err(|problem| ParseError::Arguments {
        problem,
        syntax: row.syntax,
        example: row.example,
    })
}

fn arguments(verb: Verb, rest: &str) -> Result<Command, String> {
    Ok(match verb {
        Verb::Step => Command::Step(count(rest)?),
        Verb::Next => Command::Next(count(rest)?),
        Verb::Continue => none(rest, Command::Continue)?,
        Verb::ReverseStep => Command::ReverseStep(count(rest)?),
        Verb::ReverseNext => Command::ReverseNext(count(rest)?),
        Verb::ReverseContinue => none(rest, Command::ReverseContinue)?,
        Verb::WhoWrote => {
            let (address, length) = range(rest)?;
            Command::WhoWrote { address, length }
        }
        Verb::Until => Command::Until(address(rest)?),
        Verb::Finish => none(rest, Command::Finish)?,
        Verb::Break if rest.is_empty() => Command::Breakpoints,
        // GDB marks addresses by an asterisk.
        Verb::Break => breakpoint(rest.strip_prefix('*').unwrap_or(rest))?,
        Verb::Watch => watch(WatchKind::Write, rest)?,
        Verb::ReadWatch => watch(WatchKind::Read, rest)?,
        Verb::AccessWatch => watch(WatchKind::Access, rest)?,
        Verb::Unwatch => Command::Unwatch(number(rest)?),
        Verb::Catch => Command::Catch {
            request: CatchRequest::parse(rest, |word| parse_number(word).map_err(|error| error.to_string()))?,
            written: rest.split_whitespace().collect::<Vec<_>>().join(" "),
        },
        Verb::Delete => Command::Delete(number(rest)?),
        Verb::Rewind => Command::Rewind(number(rest)?),
        Verb::Snapshot => none(rest, Command::Snapshot)?,
        Verb::Info => return info(rest),
        Verb::Registers => registers(rest),
        Verb::Set => return set(rest),
        Verb::Print => Command::Print(address(rest)?),
        Verb::Examine => return examine(rest),
        Verb::Memory => return memory(rest),
        Verb::Disassemble => return disassemble(rest),
        Verb::Lens if rest.is_empty() => Command::Lens(None),
        Verb::Lens => Command::Lens(Some(address(rest)?)),
        Verb::Walk => Command::Walk(address(rest)?),
        Verb::Tlb if rest.is_empty() => Command::Tlb { address: None, length: None },
        Verb::Tlb => {
            let (address, length) = range(rest)?;
            Command::Tlb { address: Some(address), length }
        }
        Verb::Device => Command::Device((!rest.is_empty()).then(|| rest.to_owned())),
        Verb::Chips => none(rest, Command::Chips)?,
        Verb::Trace => Command::Trace(trace(rest)?),
        Verb::Stats => none(rest, Command::Stats)?,
        Verb::Sites => Command::Sites(order(rest)?),
        Verb::Gdt => none(rest, Command::Gdt)?,
        Verb::Idt => none(rest, Command::Idt)?,
        Verb::Backtrace => none(rest, Command::Backtrace)?,
        Verb::Symbols => Command::Symbols(rest.to_owned()),
        Verb::Cpus => none(rest, Command::Cpus)?,
        Verb::Cpu if rest.is_empty() => Command::Cpus,
        Verb::Cpu => {
            Command::Cpu(parse_number(rest).map_err(|_| format!("'{rest}' is not the number of a CPU"))?)
        }
        Verb::Mode => Command::Mode(mode(rest)?),
        Verb::Restart => none(rest, Command::Restart)?,
        Verb::Save => Command::Save(file(rest)?),
        Verb::Restore => Command::Restore(file(rest)?),
        Verb::Help => Command::Help((!rest.is_empty()).then(|| rest.to_owned())),
        Verb::Quit => none(rest, Command::Quit)?,
    })
}

fn mode(rest: &str) -> Result<Option<Mode>, String> {
    let known = Mode::ALL.into_iter().find(|mode| mode.name() == rest);
    match known {
        None if !rest.is_empty() => Err(format!("'{rest}' is no mode: emu, pv and kvm are")),
        known => Ok(known),
    }
}

/// The name of a file, which may have blanks in it.
fn file(rest: &str) -> Result<String, String> {
    if rest.is_empty() { Err("the name of a file is missing".to_owned()) } else { Ok(rest.to_owned()) }
}

fn order(rest: &str) -> Result<Order, String> {
    match rest {
        "" | "address" => Ok(Order::Address),
        "count" => Ok(Order::Count),
        "cost" => Ok(Order::Cost),
        other => Err(format!("'{other}' is no order")),
    }
}

fn none(rest: &str, command: Command) -> Result<Command, String> {
    if rest.is_empty() { Ok(command) } else { Err(format!("'{rest}' is too much")) }
}

fn count(rest: &str) -> Result<u64, String> {
    if rest.is_empty() {
        return Ok(1);
    }
    parse_number(rest).ok().filter(|&n| n > 0).ok_or_else(|| format!("'{rest}' is not a count"))
}

/// A whole expression and nothing more.
fn address(text: &str) -> Result<Expression, String> {
    let (expression, rest) = front(text)?;
    if rest.is_empty() { Ok(expression) } else { Err(format!("'{rest}' is too much")) }
}

fn breakpoint(rest: &str) -> Result<Command, String> {
    let (at, rest) = front(rest)?;
    let condition =
        match rest.strip_prefix("if").filter(|rest| rest.starts_with(|c: char| !c.is_alphanumeric())) {
            Some(text) => Some(Condition::parse(text).map_err(|error| error.to_string())?),
            None if rest.is_empty() => None,
            None => return Err(format!("'{rest}' is too much")),
        };
    Ok(Command::Break { at, condition })
}

/// An address, and perhaps a length.
fn range(rest: &str) -> Result<(Expression, Option<Expression>), String> {
    let (at, rest) = front(rest)?;
    Ok((at, if rest.is_empty() { None } else { Some(address(rest)?) }))
}

fn watch(kind: WatchKind, rest: &str) -> Result<Command, String> {
    if rest.is_empty() {
        return Ok(Command::Breakpoints);
    }
    let (at, length) = range(rest)?;
    Ok(Command::Watch { kind, at, length })
}

/// The number of a breakpoint, if one is named.
fn number(rest: &str) -> Result<Option<u32>, String> {
    let parsed = || rest.parse().map_err(|_| format!("'{rest}' is not the number of a breakpoint"));
    (!rest.is_empty()).then(parsed).transpose()
}

fn front(text: &str) -> Result<(Expression, &str), String> {
    Expression::parse_front(text).map_err(|error: ExpressionError| error.to_string())
}

fn info(rest: &str) -> Result<Command, String> {
    let (topic, more) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match topic {
        "b" | "br" | "break" | "breakpoint" | "breakpoints" | "watch" | "watchpoints" => {
            none(more, Command::Breakpoints)
        }
        "r" | "reg" | "registers" => Ok(registers(more.trim())),
        "snapshots" => none(more, Command::Snapshots),
        _ => Err("info is about breakpoints, registers or snapshots".to_owned()),
    }
}

fn registers(rest: &str) -> Command {
    let name = rest.trim_start_matches('$').to_ascii_lowercase();
    match Group::named(&name) {
        Some(group) => Command::Registers(group),
        None => Command::Register(name),
    }
}

fn set(rest: &str) -> Result<Command, String> {
    let rest = rest.strip_prefix('$').unwrap_or(rest);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (register, value) = rest.split_at(end);
    if register.is_empty() {
        return Err("a register's name is missing".to_owned());
    }
    let value = value.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value);
    Ok(Command::Set { register: register.to_ascii_lowercase(), value: address(value)? })
}

/// `phys` in front makes an address physical.
fn space(text: &str) -> (Space, &str) {
    let text = text.trim_start();
    for word in ["physical", "phys"] {
        if let Some(rest) = text.strip_prefix(word)
            && rest.starts_with(char::is_whitespace)
        {
            return (Space::Physical, rest.trim_start());
        }
    }
    (Space::Virtual, text)
}

fn examine(rest: &str) -> Result<Command, String> {
    let (shape, rest) = match rest.strip_prefix('/') {
        Some(after) => {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            (Some(shape(&after[..end])?), &after[end..])
        }
        None => (None, rest),
    };
    let (space, rest) = space(rest);
    let place = if rest.is_empty() { None } else { Some(Place { space, address: address(rest)? }) };
    Ok(Command::Examine { shape, place })
}

fn shape(letters: &str) -> Result<Shape, String> {
    let digits = letters.find(|c: char| !c.is_ascii_digit()).unwrap_or(letters.len());
    let mut shape = Shape::default();
    if digits > 0 {
        shape.count = count(&letters[..digits])?;
    }
    let mut sized = false;
    for letter in letters[digits..].chars() {
        if let Some(format) = Format::lettered(letter) {
            shape.format = format;
        } else if let Some(unit) = Unit::lettered(letter) {
            shape.unit = unit;
            sized = true;
        } else {
            return Err(format!("'{letter}' is neither a format nor a size"));
        }
    }
    if !sized {
        shape.unit = shape.format.natural_unit();
    }
    Ok(shape)
}

fn memory(rest: &str) -> Result<Command, String> {
    let (space, rest) = space(rest);
    let (address, rest) = front(rest)?;
    let length = if rest.is_empty() { Expression::number(DUMP) } else { self::address(rest)? };
    Ok(Command::Memory { place: Place { space, address }, length })
}

fn disassemble(rest: &str) -> Result<Command, String> {
    // Also in GDB's form, disassemble/N.
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Ok(Command::Disassemble { at: None, count: LINES });
    }
    // A small number alone is a count: nobody disassembles the first page, which is the real-mode vector table.
    if let Ok(count @ 1..4096) = parse_number(rest) {
        return Ok(Command::Disassemble { at: None, count });
    }
    let (at, rest) = front(rest)?;
    let count = if rest.is_empty() { LINES } else { count(rest)? };
    Ok(Command::Disassemble { at: Some(at), count })
}

fn trace(rest: &str) -> Result<TraceRequest, String> {
    let (word, more) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match word {
        "on" if more.is_empty() => Ok(TraceRequest::On),
        "off" if more.is_empty() => Ok(TraceRequest::Off),
        "costs" if more.is_empty() => Ok(TraceRequest::Costs),
        "" => Ok(TraceRequest::Show(EVENTS)),
        "show" if more.is_empty() => Ok(TraceRequest::Show(EVENTS)),
        "show" => Ok(TraceRequest::Show(count(more.trim())?)),
        _ => Err(format!("'{rest}' is neither on, off, show nor costs")),
    }
}
