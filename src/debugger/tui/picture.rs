//! What the screen shows of a guest that stands, made from the session in one go: drawing needs neither session nor guest.
use super::surroundings::before;
use crate::arch::CpuState;
use crate::debugger::command::{self, Command};
use crate::debugger::expression::Expression;
use crate::debugger::memory::{Space, linear_rip, linear_rsp};
use crate::debugger::view::disassembly::{Line, Source, lines};
use crate::debugger::view::paging::{self, Walk};
use crate::debugger::view::registers::{Group, Registers, show};
use crate::debugger::view::{memory as memory_view, stats};
use crate::debugger::{DebuggerError, Session, unwind};
use crate::engine::VcpuId;

/// Where the disassembly is to begin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeWant {
    /// The address of the first line; without one, so that the next instruction is seen.
    pub top: Option<u64>,
    /// So many lines further down, or up if negative.
    pub by: i64,
    /// Where this expression says, in place of `top`.
    pub at: Option<String>,
    /// Lines.
    pub rows: usize,
}

/// Which memory is to be dumped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryWant {
    /// An address.
    pub at: String,
    /// Bytes from there to the first that is shown.
    pub offset: i64,
    /// Bytes.
    pub length: usize,
    /// What the first address is rounded down to a multiple of: the bytes of a row.
    pub row: u64,
}

/// What is to be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wants {
    /// Of the code.
    pub code: CodeWant,
    /// Of memory.
    pub memory: MemoryWant,
    /// Words of the stack.
    pub words: usize,
    /// The command whose answer the view shows.
    pub view: String,
}

/// One word of the stack.
#[derive(Clone, Debug)]
pub struct Word {
    /// Its linear address.
    pub at: u64,
    /// What is there; `None` if it cannot be read.
    pub value: Option<u64>,
    /// The symbol that the value lies in.
    pub symbol: Option<String>,
}

/// What the status bar says.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The mode.
    pub mode: String,
    /// The CPU that is shown, if there are several.
    pub cpu: Option<u8>,
    /// What that truly is on this host.
    pub label: String,
    /// Guest time in nanoseconds.
    pub time: u64,
    /// Instructions (and deliveries of interrupts) so far, if they are counted.
    pub turns: Option<u64>,
    /// The next instruction's address, and its symbol.
    pub rip: u64,
    /// The same in words.
    pub symbol: Option<String>,
    /// The CPU waits for an interrupt.
    pub halted: bool,
    /// Why the guest cannot go on.
    pub ended: Option<String>,
}

/// A guest that stands.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// For the status bar.
    pub status: Status,
    /// Instructions in a row.
    pub code: Vec<Line>,
    /// Why the code is not that which was asked for.
    pub code_error: Option<String>,
    /// General registers, and what belongs to them.
    pub registers: Registers,
    /// Bytes of a word of the stack.
    pub word: usize,
    /// From the top of the stack.
    pub stack: Vec<Word>,
    /// Functions under way, innermost first.
    pub callers: Vec<unwind::Row>,
    /// Where the dump begins.
    pub memory_at: u64,
    /// What is there.
    pub memory: Vec<Option<u8>>,
    /// Why there is no dump.
    pub memory_error: Option<String>,
    /// The answer of the view's command.
    pub view: String,
    /// The page walk, if the view is one, which is drawn in place of the answer.
    pub walk: Option<Walk>,
    /// Numbers and addresses of the breakpoints.
    pub breakpoints: Vec<(u32, u64)>,
    /// The guest has moved since the last picture, so that the code follows it.
    pub moved: bool,
}

/// Makes pictures of one session.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// Where the guest stood: CPU, RIP and turns.
    stood: Option<(VcpuId, u64, u64)>,
    /// First line of the code that was shown last.
    top: Option<u64>,
    /// The counters now and before the guest went on.
    counts: Option<[stats::Counts; 2]>,
}

impl Looker {
    /// Looks at the guest.
    ///
    /// # Errors
    /// When the engine does not hand out its state.
    pub(super) fn look(&mut self, session: &mut Session, wants: &Wants) -> Result<Picture, DebuggerError> {
        let state = session.state()?;
        let turns = session.position();
        let rip = linear_rip(&state);
        let (former, here) = (self.stood, (session.cpu, rip, turns));
        self.stood = Some(here);
        let moved = former != Some(here);
        if former.is_some_and(|(cpu, ..)| cpu != session.cpu) {
            // Each CPU counts for itself.
            self.counts = None;
        }
        let now = stats::counts(session.machine.platform().counters(session.cpu));
        self.counts = match self.counts {
            Some([last, before]) => Some(if last == now { [last, before] } else { [now, last] }),
            None => Some([now, now]),
        };
        let mut picture = Picture { moved, word: state.code_bits() as usize / 8, ..Picture::default() };
        picture.status = status(session, &state, turns);
        self.code(session, &state, &wants.code, &mut picture);
        picture.registers = show(&session.register_source(&state), Group::General);
        stack(session, &state, wants.words, &mut picture);
        picture.callers = unwind::backtrace(&session.memory(&state), &session.symbols, &state).frames;
        memory(session, &state, &wants.memory, &mut picture);
        match self.view(session, &state, &wants.view) {
            Ok(Shown::Text(text)) => picture.view = text,
            Ok(Shown::Walk(walk)) => picture.walk = Some(walk),
            Err(error) => picture.view = error.to_string(),
        }
        picture.breakpoints = session.breakpoints.list().iter().map(|b| (b.number, b.at.0)).collect();
        Ok(picture)
    }

    fn code(&mut self, session: &mut Session, state: &CpuState, want: &CodeWant, picture: &mut Picture) {
        let asked = want.at.as_ref().filter(|_| !picture.moved).map(|text| evaluate(session, state, text));
        let marks: Vec<u64> = session.breakpoints.list().iter().map(|b| b.at.0).collect();
        let sites = session.machine.sites().unwrap_or_default();
        let source = session.code(state, &marks, &sites.list);
        let rip = linear_rip(state);
        let rows = want.rows.max(1);
        let top = match asked {
            Some(Ok(at)) => before(&source, at, rows / 4).first().copied().unwrap_or(at),
            Some(Err(error)) => {
                picture.code_error = Some(error.to_string());
                self.top.unwrap_or(rip)
            }
            None => match want.top.filter(|_| !picture.moved) {
                Some(top) => moved_by(&source, top, want.by),
                None => self.following(&source, rip, rows),
            },
        };
        self.top = Some(top);
        picture.code = lines(&source, top, rows).lines;
    }

    /// The first line where it was, if the next instruction can be seen from there; else somewhat above that.
    fn following(&self, source: &Source<'_>, rip: u64, rows: usize) -> u64 {
        if let Some(top) = self.top {
            let shown = lines(source, top, rows).lines;
            let mut height = 0;
            for line in &shown {
                height += 1 + usize::from(line.label.is_some());
                if height + rows / 4 > rows {
                    break;
                }
                if line.address.0 == rip {
                    return top;
                }
            }
        }
        before(source, rip, rows / 3).first().copied().unwrap_or(rip)
    }

    fn view(&self, session: &mut Session, state: &CpuState, text: &str) -> Result<Shown, DebuggerError> {
        let said = |text: &str| Ok(Shown::Text(text.to_owned()));
        let Some(command) = command::parse(text)? else { return said("") };
        match (&command, &self.counts) {
            (Command::Walk(at), _) => {
                let at = session.evaluate(at)?;
                Ok(Shown::Walk(paging::walk(&session.memory(state), &session.symbols, at)))
            }
            // Those of the prompt's `stats` are to stay.
            (Command::Stats, Some([now, before])) => said(&stats::show(now, before).to_string()),
            // The others have a pane of their own.
            (Command::Registers(Group::All), _) => {
                let source = session.register_source(state);
                said(&Registers { general: Vec::new(), ..show(&source, Group::All) }.to_string())
            }
            (command, _) if command.only_looks() => Ok(Shown::Text(session.execute(command)?.text)),
            _ => said("this does not only look"),
        }
    }
}

/// What the view shows.
enum Shown {
    Text(String),
    Walk(Walk),
}

fn status(session: &Session, state: &CpuState, turns: u64) -> Status {
    let machine = &session.machine;
    let rip = linear_rip(state);
    Status {
        mode: machine.pair().to_string(),
        cpu: session.has_several_cpus().then_some(session.cpu.0),
        label: machine.executor().1,
        time: machine.platform().clock().now().0,
        turns: machine.counts_turns().then_some(turns),
        rip,
        symbol: session.symbols.label(rip),
        halted: state.activity == crate::arch::Activity::Halted,
        ended: session.ended.clone(),
    }
}

fn evaluate(session: &Session, state: &CpuState, text: &str) -> Result<u64, DebuggerError> {
    let cr8 = session.machine.platform().cr8(session.cpu);
    let whole =
        |problem| command::ParseError::Arguments { problem, syntax: "ADDR", example: "guest_start+0x20" };
    let (expression, rest) = Expression::parse_front(text).map_err(|error| whole(error.to_string()))?;
    if !rest.is_empty() {
        return Err(whole(format!("'{rest}' is too much")).into());
    }
    Ok(expression.evaluate(&session.scope(state, cr8))?)
}

fn moved_by(source: &Source<'_>, top: u64, by: i64) -> u64 {
    let lines_up_or_down = usize::try_from(by.unsigned_abs()).unwrap_or(usize::MAX).min(4096);
    if by < 0 {
        return before(source, top, lines_up_or_down).first().copied().unwrap_or(top);
    }
    lines(source, top, lines_up_or_down + 1).lines.last().map_or(top, |line| line.address.0)
}

fn stack(session: &Session, state: &CpuState, words: usize, picture: &mut Picture) {
    let memory = session.memory(state);
    let at = linear_rsp(state);
    let bytes = memory.read(Space::Virtual, at, words * picture.word);
    picture.stack = bytes
        .chunks(picture.word)
        .enumerate()
        .map(|(number, word)| {
            let value =
                word.iter().rev().try_fold(0, |sum, byte| byte.map(|byte| sum << 8 | u64::from(byte)));
            let symbol = value.and_then(|value| session.symbols.label(value));
            Word { at: at.wrapping_add((number * picture.word) as u64), value, symbol }
        })
        .collect();
}

fn memory(session: &Session, state: &CpuState, want: &MemoryWant, picture: &mut Picture) {
    match evaluate(session, state, &want.at) {
        Ok(at) => {
            let at = at.wrapping_add_signed(want.offset);
            picture.memory_at = at - at % want.row.max(1);
            let length = want.length.min(memory_view::MOST as usize);
            picture.memory = session.memory(state).read(Space::Virtual, picture.memory_at, length);
        }
        Err(error) => picture.memory_error = Some(error.to_string()),
    }
}
