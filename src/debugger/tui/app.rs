//! The screen's state, and what it asks the session for. It knows neither terminal nor session: events and answers come in,
//! requests go out, and `draw` draws it.
use super::console::Console;
use super::layout::{Pane, Screen};
use super::live::Live;
use super::log::Log;
use super::picture::{CodeWant, MemoryWant, Picture, Wants};
use super::prompt::Prompt;
use super::theme::Theme;
use super::worker::{Answer, Request};
use crate::debugger::Reply;
use crate::debugger::symbols::Symbols;
use ratatui::layout::Rect;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something that the view can show.
#[derive(Debug)]
pub(super) struct View {
    /// The key that chooses it.
    pub(super) key: char,
    /// What it is.
    pub(super) name: &'static str,
    /// The command whose answer it shows.
    pub(super) command: &'static str,
}

const fn view(key: char, name: &'static str, command: &'static str) -> View {
    View { key, name, command }
}

/// What the view can show.
pub(super) const VIEWS: [View; 15] = [
    view('1', "page walk", "walk"),
    view('2', "trace", "trace show 500"),
    view('3', "statistics", "stats"),
    view('4', "GDT", "gdt"),
    view('5', "IDT", "idt"),
    view('6', "system registers", "registers all"),
    view('7', "breakpoints and events", "info break"),
    view('8', "patched sites", "sites"),
    view('9', "mode", "mode"),
    view('0', "CPUs", "cpus"),
    view('h', "interrupt chips", "chips"),
    view('d', "devices", "device"),
    view('t', "TLB", "tlb"),
    view('x', "costs of exits", "trace costs"),
    view('l', "instruction lens", "lens"),
];
/// The view whose command takes an address.
pub(super) const WALK: usize = 0;
/// The view whose newest line is the last.
const TRACE: usize = 1;
/// The view whose command may take the name of a device.
pub(super) const DEVICES: usize = 11;

/// What the line that is being written is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asking {
    Command,
    Code,
    Memory,
    Walk,
    Device,
}

/// A command that the session is at work on.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub(super) line: String,
    pub(super) since: Instant,
}

/// How far the content of a pane is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scroll {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What a click may hit, as it was drawn last.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawn {
    pub(super) screen: Screen,
    /// The panes that are seen, without their frames.
    pub(super) panes: Vec<(Rect, Pane)>,
    /// Titles.
    pub(super) tabs: Vec<(Rect, Pane)>,
    /// The first row of each line of code.
    pub(super) code_rows: Vec<u16>,
    /// The most rows by which a pane's text can be scrolled.
    pub(super) most: Vec<(Pane, usize)>,
}

/// The screen's state.
#[derive(Debug)]
pub struct App {
    pub(super) theme: Theme,
    pub(super) symbols: Arc<Symbols>,
    pub(super) console: Console,
    pub(super) log: Log,
    pub(super) prompt: Prompt,
    pub(super) asking: Asking,
    pub(super) picture: Picture,
    /// Why there is no newer picture.
    pub(super) failure: Option<String>,
    pub(super) focus: Pane,
    /// Panes, those last that were asked for last.
    pub(super) recent: Vec<Pane>,
    pub(super) zoomed: bool,
    /// Keys are the guest's.
    pub(super) types: bool,
    pub(super) help: Option<Scroll>,
    pub(super) scrolls: [Scroll; Pane::FRAMED.len()],
    pub(super) view: usize,
    pub(super) walk_at: String,
    /// The device that is shown; all are listed without one.
    pub(super) device: String,
    /// The guest while it runs.
    pub(super) live: Live,
    /// The selected line of code.
    pub(super) line: usize,
    /// Where the guest stopped, and why.
    pub(super) why: String,
    pub(super) busy: Option<Busy>,
    pub(super) drawn: Drawn,
    pub(super) clicked: Option<(Instant, u16, u16)>,
    code: CodeWant,
    memory: MemoryWant,
    words: usize,
    waiting: VecDeque<String>,
    /// What was asked for last, and whether the answer is under way.
    asked: Option<Wants>,
    outstanding: bool,
    wants_stop: bool,
    wants_redraw: bool,
    pub(super) quits: bool,
}

impl App {
    /// The screen before anything is known of the guest.
    #[must_use]
    pub fn new(symbols: Arc<Symbols>, console: Console, live: Live, theme: Theme) -> Self {
        Self {
            theme,
            symbols,
            console,
            log: Log::default(),
            prompt: Prompt::default(),
            asking: Asking::Command,
            picture: Picture::default(),
            failure: None,
            focus: Pane::Code,
            recent: Vec::new(),
            zoomed: false,
            types: false,
            help: None,
            scrolls: Default::default(),
            view: WALK,
            walk_at: "$rip".to_owned(),
            device: String::new(),
            live,
            line: 0,
            why: "before its first instruction".to_owned(),
            busy: None,
            drawn: Drawn::default(),
            clicked: None,
            code: CodeWant { rows: 20, ..CodeWant::default() },
            memory: MemoryWant { at: "$rsp".to_owned(), offset: 0, length: 256, row: 16 },
            words: 16,
            waiting: VecDeque::new(),
            asked: None,
            outstanding: false,
            wants_stop: false,
            wants_redraw: false,
            quits: false,
        }
    }

    /// Writes something into the log.
    pub fn tell(&mut self, text: &str) {
        self.log.said(text);
    }

    /// Does these lines, one after the other.
    pub fn do_lines(&mut self, lines: impl IntoIterator<Item = String>) {
        self.waiting.extend(lines);
    }

    /// What the session is to be asked next; nothing while it is at work.
    pub fn next_request(&mut self) -> Option<Request> {
        if self.outstanding {
            return None;
        }
        let wants = self.wants();
        if let Some(line) = self.waiting.pop_front() {
            self.outstanding = true;
            self.busy = Some(Busy { line: line.clone(), since: Instant::now() });
            self.asked = Some(wants.clone());
            return Some(Request::Line(line, wants));
        }
        if self.asked.as_ref() == Some(&wants) {
            return None;
        }
        self.outstanding = true;
        self.asked = Some(wants.clone());
        Some(Request::Look(wants))
    }

    fn wants(&self) -> Wants {
        let command = VIEWS[self.view].command;
        let view = match self.view {
            WALK => format!("{command} {}", self.walk_at),
            DEVICES => format!("{command} {}", self.device),
            _ => command.to_owned(),
        };
        Wants { code: self.code.clone(), memory: self.memory.clone(), words: self.words, view }
    }

    /// Takes what the session answered.
    pub fn receive(&mut self, answer: Answer) {
        self.outstanding = false;
        let mut line = None;
        if let Some(reply) = answer.reply {
            let written = self.busy.take().map(|busy| busy.line).unwrap_or_default();
            if !self.take_reply(&written, reply) {
                line = Some(written);
            }
        }
        match answer.picture {
            Ok(picture) => {
                // Some commands put the guest elsewhere without a word about why it stopped.
                if let Some(line) = line.filter(|_| picture.moved) {
                    self.why = format!("after {}", first_word(&line));
                }
                self.take_picture(picture);
            }
            Err(error) => self.failure = Some(error),
        }
    }

    /// Whether the reply told why the guest stopped.
    fn take_reply(&mut self, line: &str, reply: Result<Option<Reply>, String>) -> bool {
        if !line.trim_start().starts_with('#') {
            self.log.written(line);
        }
        let reply = match reply {
            Ok(Some(reply)) => reply,
            Ok(None) => return false,
            Err(error) => {
                self.log.failed(&error);
                return false;
            }
        };
        self.log.said(&reply.text);
        self.quits |= reply.quit;
        let Some(why) = reply.data["stopped"].as_str() else { return false };
        self.why = match why {
            "done" => format!("after {}", first_word(line)),
            // The first line says which one.
            _ => reply.text.lines().next().unwrap_or(why).to_owned(),
        };
        true
    }

    fn take_picture(&mut self, picture: Picture) {
        self.failure = None;
        if let Some(error) = &picture.code_error {
            self.log.failed(error);
        }
        let Some(sent) = self.asked.take() else { return };
        let asked_at = sent.code.at.is_some() && picture.code_error.is_none();
        self.picture = picture;
        let lines = &self.picture.code;
        let first = lines.first().map(|line| line.address.0);
        let rip = self.picture.status.rip;
        let place = lines.iter().position(|line| line.address.0 == rip).unwrap_or(0);
        let most = lines.len().saturating_sub(1);
        // A person may have gone elsewhere meanwhile.
        let wanted = self.code.top == sent.code.top && self.code.at == sent.code.at;
        let mut seen = sent.code;
        if self.picture.moved {
            seen = CodeWant { rows: seen.rows, ..CodeWant::default() };
            self.code = CodeWant { rows: self.code.rows, ..CodeWant::default() };
            self.line = place;
        } else if wanted {
            let follows = seen.top.is_none() && seen.at.is_none();
            self.code.by = self.code.by.saturating_sub(seen.by);
            self.code.top = first.filter(|_| !follows);
            self.code.at = None;
            seen = CodeWant { top: self.code.top, rows: seen.rows, ..CodeWant::default() };
            if asked_at {
                self.line = seen.rows / 4;
            }
        }
        self.line = self.line.min(most);
        self.asked = Some(Wants { code: seen, ..sent });
    }

    /// Whether the guest, or another command, is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.outstanding
    }

    /// Whether somebody wants the running command to end; once.
    pub fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.wants_stop)
    }

    /// Whether the terminal is to be drawn from nothing; once.
    pub fn take_redraw(&mut self) -> bool {
        std::mem::take(&mut self.wants_redraw)
    }

    /// Whether the session is to end.
    #[must_use]
    pub fn quits(&self) -> bool {
        self.quits
    }

    /// Ends the session, whatever is under way.
    pub fn quit(&mut self) {
        self.stop();
        self.quits = true;
    }

    /// Ends the command under way.
    pub fn stop(&mut self) {
        self.waiting.clear();
        self.wants_stop |= self.busy.is_some();
    }

    pub(super) fn redraw(&mut self) {
        self.wants_redraw = true;
    }

    /// Does a line, unless one is under way.
    pub(super) fn line(&mut self, line: &str) {
        match &self.busy {
            Some(busy) if busy.since.elapsed() > Self::PATIENCE => {
                self.log.failed("a command is under way; Ctrl-C stops it");
            }
            _ if self.waiting.len() < Self::MOST_WAITING => self.waiting.push_back(line.to_owned()),
            _ => {}
        }
    }

    /// A command may take so long before further ones are refused instead of kept: keys that repeat come quicker than steps.
    const PATIENCE: Duration = Duration::from_millis(500);
    const MOST_WAITING: usize = 4;

    /// Where code is to be shown.
    pub(super) fn show_code_at(&mut self, at: Option<String>) {
        self.code = CodeWant { at, rows: self.code.rows, ..CodeWant::default() };
        if self.code.at.is_none() {
            let rip = self.picture.status.rip;
            self.line = self.picture.code.iter().position(|line| line.address.0 == rip).unwrap_or(0);
        }
    }

    /// Scrolls the code.
    pub(super) fn move_code(&mut self, lines: i64) {
        if self.code.top.is_none() {
            self.code.top = self.picture.code.first().map(|line| line.address.0);
        }
        self.code.by = self.code.by.saturating_add(lines);
    }

    /// Where memory is to be shown.
    pub(super) fn show_memory_at(&mut self, at: String) {
        (self.memory.at, self.memory.offset) = (at, 0);
    }

    /// Scrolls the dump.
    pub(super) fn move_memory(&mut self, rows: i64) {
        let bytes = rows.saturating_mul(self.memory.row.cast_signed());
        self.memory.offset = self.memory.offset.wrapping_add(bytes);
    }

    /// Lets the dump begin at its address again.
    pub(super) fn memory_home(&mut self) {
        self.memory.offset = 0;
    }

    pub(super) fn memory_at(&self) -> &str {
        &self.memory.at
    }

    /// There is room for so much; what is asked for follows.
    pub(super) fn has_room(&mut self, code_rows: usize, memory_rows: usize, row: u64, words: usize) {
        self.code.rows = code_rows;
        self.memory.row = row;
        self.memory.length = memory_rows * row as usize;
        self.words = words;
    }

    pub(super) fn has_pane(&self, pane: Pane) -> bool {
        self.drawn.panes.iter().any(|(_, shown)| *shown == pane)
    }

    /// Brings a pane to the front of its slot.
    pub(super) fn raise(&mut self, pane: Pane) {
        self.recent.retain(|other| *other != pane);
        self.recent.push(pane);
    }

    /// Gives a pane the keys.
    pub(super) fn focus_on(&mut self, pane: Pane) {
        self.focus = pane;
        if pane != Pane::Prompt {
            self.raise(pane);
        }
    }

    /// The pane of a slot that is shown.
    pub(super) fn front(&self, panes: &[Pane]) -> Option<Pane> {
        let last = self.recent.iter().rev().find(|pane| panes.contains(pane));
        last.or(panes.first()).copied()
    }

    /// Whether a pane's newest line is its last, so that one scrolls up from there.
    pub(super) fn grows_below(&self, pane: Pane) -> bool {
        matches!(pane, Pane::Log | Pane::Console) || pane == Pane::View && self.view == TRACE
    }

    pub(super) fn scroll_of(&mut self, pane: Pane) -> &mut Scroll {
        let place = Pane::FRAMED.iter().position(|other| *other == pane).unwrap_or(0);
        &mut self.scrolls[place]
    }
}

/// The command's name as it was written, or a word for an empty line, which repeats.
fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or("repeating")
}
