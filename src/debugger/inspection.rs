//! Commands that look at the guest while it stands: registers (and setting one), memory, code, trace, counters, symbols.
//!
//! Guest time does not run meanwhile, and nothing here lets the guest go on.
use super::command::{Place, TraceRequest};
use super::error::DebuggerError;
use super::expression::{EvaluateError, Expression};
use super::memory::{Space, linear_rip};
use super::moving::own_way;
use super::registers;
use super::session::{Reply, Session};
use super::view::memory::{Format, Shape};
use super::view::{Hex, disassembly, memory as memory_view, sites, stats, trace};
use super::view::{registers as register_view, registers::Group};
use crate::arch::CpuState;
use crate::engine::{Site, Trace};
use serde_json::json;
use std::sync::Arc;

/// Instructions or units that one command shows at most.
const MOST_LINES: u64 = 4096;
/// Symbols that `symbols` lists at most.
const MOST_SYMBOLS: usize = 200;

/// What `x` without arguments goes on with.
#[derive(Clone, Debug, Default)]
pub(super) struct Examining {
    shape: Shape,
    next: Option<Place>,
}

impl Session {
    pub(super) fn code<'a>(
        &'a self,
        state: &CpuState,
        breakpoints: &'a [u64],
        sites: &'a [Site],
    ) -> disassembly::Source<'a> {
        disassembly::Source {
            memory: self.memory(state),
            bits: state.code_bits(),
            space: Space::Virtual,
            next: Some(linear_rip(state)),
            symbols: &self.symbols,
            breakpoints,
            sites,
        }
    }

    pub(super) fn registers(&mut self, group: Group) -> Result<Reply, DebuggerError> {
        let state = self.state()?;
        Ok(Reply::view(&register_view::show(&self.register_source(&state), group)))
    }

    pub(super) fn register(&mut self, name: &str) -> Result<Reply, DebuggerError> {
        let state = self.state()?;
        let shown = register_view::show_one(&self.register_source(&state), name);
        Ok(Reply::view(&shown.ok_or_else(|| no_register(name))?))
    }

    pub(super) fn register_source<'a>(&'a self, state: &'a CpuState) -> register_view::Source<'a> {
        register_view::Source {
            now: state,
            before: self.before.as_ref().filter(|(cpu, _)| *cpu == self.cpu).map(|(_, state)| state),
            cr8: self.machine.platform().cr8(self.cpu),
            symbols: &self.symbols,
        }
    }

    pub(super) fn set(&mut self, register: &str, value: &Expression) -> Result<Reply, DebuggerError> {
        let value = self.evaluate(value)?;
        let mut state = self.state()?;
        if registers::read(&state, register).is_none() {
            return Err(no_register(register));
        }
        if !registers::write(&mut state, register, value) {
            return Err(DebuggerError::Fixed(register.to_owned()));
        }
        self.machine.set_state_of(self.cpu, &state)?;
        self.begin_anew();
        self.register(register)
    }

    pub(super) fn print(&mut self, expression: &Expression) -> Result<Reply, DebuggerError> {
        let value = self.evaluate(expression)?;
        let label = self.symbols.label(value);
        let place = label.as_ref().map(|l| format!(" <{l}>")).unwrap_or_default();
        let signed = value.cast_signed();
        let decimal = if signed < 0 { format!("{value} or {signed}") } else { value.to_string() };
        let text = format!("{value:#x}{place} = {decimal}");
        Ok(Reply { data: json!({"value": Hex(value), "symbol": label}), ..Reply::said(text) })
    }

    pub(super) fn examine(
        &mut self,
        shape: Option<Shape>,
        place: Option<&Place>,
    ) -> Result<Reply, DebuggerError> {
        let shape = shape.unwrap_or(self.examining.shape);
        bound("a count of", shape.count, MOST_LINES)?;
        let place = place.cloned().or_else(|| self.examining.next.clone()).ok_or(DebuggerError::NoAddress)?;
        let at = self.evaluate(&place.address)?;
        let (reply, end) = if shape.format == Format::Instruction {
            let shown = self.instructions(place.space, at, shape.count)?;
            let last = shown.lines.last().map_or(at, |l| l.address.0.wrapping_add(l.bytes.len() as u64 / 2));
            (Reply::view(&shown), last)
        } else {
            let state = self.state()?;
            let shown = memory_view::examine(&self.memory(&state), &self.symbols, place.space, at, shape);
            (Reply::view(&shown), shown.end)
        };
        let next = Some(Place { space: place.space, address: Expression::number(end) });
        self.examining = Examining { shape, next };
        Ok(reply)
    }

    pub(super) fn dump(&mut self, place: &Place, length: &Expression) -> Result<Reply, DebuggerError> {
        let at = self.evaluate(&place.address)?;
        let length = bound("a length of", self.evaluate(length)?, memory_view::MOST)?;
        let state = self.state()?;
        Ok(Reply::view(&memory_view::dump(&self.memory(&state), place.space, at, length)))
    }

    pub(super) fn disassemble(
        &mut self,
        at: Option<&Expression>,
        count: u64,
    ) -> Result<Reply, DebuggerError> {
        bound("a count of", count, MOST_LINES)?;
        let at = match at {
            Some(at) => self.evaluate(at)?,
            None => linear_rip(&self.state()?),
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
        let state = self.state()?;
        let marks: Vec<u64> = self.breakpoints.list().iter().map(|b| b.at.0).collect();
        let sites = self.machine.sites().unwrap_or_default();
        let code = self.code(&state, &marks, &sites.list);
        Ok(match space {
            Space::Virtual => disassembly::lines(&code, at, count),
            Space::Physical => {
                // Symbols, breakpoints, patches and RIP are virtual addresses.
                let symbols = Arc::default();
                let bare = disassembly::Source {
                    space,
                    next: None,
                    symbols: &symbols,
                    breakpoints: &[],
                    sites: &[],
                    ..code
                };
                disassembly::lines(&bare, at, count)
            }
        })
    }

    pub(super) fn trace(&mut self, request: TraceRequest) -> Reply {
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
            TraceRequest::Costs => Reply::view(&trace::costs(self.events.last(usize::MAX))),
            TraceRequest::Show(count) => {
                let recording = trace.is_enabled();
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let lines = trace::lines(self.events.last(count), &self.symbols);
                Reply::view(&trace::Trace { recording, kept: self.events.kept(), lines })
            }
        }
    }

    pub(super) fn stats(&mut self) -> Reply {
        let now = stats::counts(self.machine.platform().counters(self.cpu));
        let mut reply = Reply::view(&stats::show(&now, &self.counted));
        reply.data["interpreted"] = json!(self.interpreted);
        if self.interpreted {
            let own = own_way(self.machine.pair());
            reply.text.push_str(&format!(
                "\npart of this is the interpreter's, for steps or breakpoints; the guest did not run {own} then"
            ));
        }
        self.counted = now;
        reply
    }

    pub(super) fn sites(&mut self, order: sites::Order) -> Reply {
        let Some(known) = self.machine.sites() else {
            let pair = self.machine.pair();
            return Reply::said(format!("mode {pair} patches nothing in the guest; pv does"));
        };
        let mut report = sites::show(&known, &self.symbols);
        report.sort(order);
        Reply::view(&report)
    }

    pub(super) fn list_symbols(&self, pattern: &str) -> Reply {
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
}

fn bound(what: &'static str, asked: u64, most: u64) -> Result<usize, DebuggerError> {
    match usize::try_from(asked) {
        Ok(count) if asked <= most => Ok(count),
        _ => Err(DebuggerError::TooMuch { what, asked, most }),
    }
}

fn no_register(name: &str) -> DebuggerError {
    EvaluateError::Register(name.to_owned()).into()
}
