//! Keys and mouse.
use super::app::{App, Asking, DEVICES, Scroll, VIEWS, WALK};
use super::keys::{self, Action};
use super::layout::Pane;
use super::prompt::Typed;
use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::{Position, Rect};
use std::time::{Duration, Instant};

/// Two clicks in this time are a double click.
const DOUBLE: Duration = Duration::from_millis(400);
/// Rows that one notch of the wheel scrolls.
const NOTCH: i64 = 3;
/// Columns left of a line of code in which a click sets a breakpoint.
const GUTTER: u16 = 3;
/// Columns by which text is scrolled sideways at most.
const MOST_COLUMNS: usize = 2000;

impl App {
    /// Takes what the terminal tells.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            Event::Mouse(mouse) => self.mouse(*mouse),
            Event::Paste(text) if self.types => self.types(text.replace('\n', "\r").as_bytes()),
            Event::Paste(text) if self.focus == Pane::Prompt => self.prompt.paste(text),
            _ => {}
        }
    }

    fn key(&mut self, key: KeyEvent) {
        if self.types {
            return if keys::ends_typing(key) {
                self.types = false
            } else {
                self.types(&keys::as_typed(key))
            };
        }
        let control = |c| key.code == KeyCode::Char(c) && key.modifiers == KeyModifiers::CONTROL;
        if control('c') {
            return self.ctrl_c();
        }
        if self.help.is_some() {
            return self.key_in_help(key);
        }
        if key.code == KeyCode::F(1) {
            return self.act(Action::Help);
        }
        if self.focus != Pane::Prompt {
            if key.code == KeyCode::Esc {
                return if self.busy.is_some() { self.stop() } else { self.zoomed = false };
            }
            if let Some(action) = keys::action(key) {
                self.act(action);
            }
            return;
        }
        if control('d') && self.prompt.is_empty() {
            return self.quit();
        }
        match self.prompt.key(key, &self.symbols) {
            Typed::Taken => {}
            Typed::Line(line) => self.written(&line),
            Typed::Candidates(names) => {
                self.log.said(&names.join("  "));
                self.raise(Pane::Log);
            }
            Typed::NotMine if key.code == KeyCode::Esc => {
                if self.busy.is_some() {
                    self.stop();
                }
                self.leave_prompt();
            }
            Typed::NotMine if matches!(key.code, KeyCode::Char(_)) && !control('l') => {}
            // Function keys, Tab and the like mean the same everywhere.
            Typed::NotMine => match keys::action(key) {
                Some(Action::Rows(_) | Action::Columns(_)) | None => {}
                Some(Action::Pages(pages)) => {
                    self.scroll_text(Pane::Log, pages.saturating_mul(self.page(Pane::Log)))
                }
                Some(action) => self.act(action),
            },
        }
    }

    /// Types for the guest, which has it when it goes on.
    fn types(&mut self, bytes: &[u8]) {
        if let Err(why) = self.live.types(bytes) {
            self.types = false;
            self.log.failed(why);
            self.raise(Pane::Log);
        }
    }

    fn ctrl_c(&mut self) {
        if self.busy.is_some() {
            self.stop();
        } else if self.help.take().is_some() {
        } else if self.focus == Pane::Prompt {
            self.prompt.write("");
            self.leave_prompt();
        } else {
            self.log.failed("nothing runs; 'q' ends the session");
        }
    }

    fn key_in_help(&mut self, key: KeyEvent) {
        let page = i64::from(self.drawn.screen.slots.iter().map(|slot| slot.area.height).max().unwrap_or(1));
        match keys::action(key) {
            Some(Action::Rows(rows)) => self.scroll_help(rows),
            Some(Action::Pages(pages)) => self.scroll_help(pages * page),
            Some(Action::Begin) => self.scroll_help(i64::MIN),
            Some(Action::Redraw) => self.redraw(),
            _ => self.help = None,
        }
    }

    fn scroll_help(&mut self, rows: i64) {
        if let Some(help) = &mut self.help {
            help.rows = moved(help.rows, rows);
        }
    }

    fn leave_prompt(&mut self) {
        self.asking = Asking::Command;
        self.focus = Pane::Code;
        let last = self.recent.last().copied();
        if let Some(pane) = last.filter(|pane| self.has_pane(*pane)) {
            self.focus = pane;
        }
    }

    fn ask(&mut self, asking: Asking, written: &str) {
        self.asking = asking;
        self.prompt.write(written);
        self.focus = Pane::Prompt;
    }

    /// A line is done.
    fn written(&mut self, line: &str) {
        let asked = std::mem::replace(&mut self.asking, Asking::Command);
        if asked == Asking::Command {
            self.line(line);
            self.scroll_of(Pane::Log).rows = 0;
            return self.raise(Pane::Log);
        }
        self.leave_prompt();
        let at = line.trim().to_owned();
        if asked == Asking::Device {
            self.device = at;
            return self.show_view(DEVICES);
        }
        if at.is_empty() {
            return;
        }
        match asked {
            Asking::Memory => {
                self.show_memory_at(at);
                self.focus_on(Pane::Memory);
            }
            Asking::Walk => {
                self.walk_at = at;
                self.show_view(WALK);
            }
            Asking::Code | Asking::Command | Asking::Device => {
                self.show_code_at(Some(at));
                self.focus_on(Pane::Code);
            }
        }
    }

    fn show_view(&mut self, number: usize) {
        self.view = number.min(VIEWS.len() - 1);
        *self.scroll_of(Pane::View) = Scroll::default();
        self.focus_on(Pane::View);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Help => self.help = if self.help.is_some() { None } else { Some(Scroll::default()) },
            Action::Quit => self.quit(),
            Action::Stop => self.stop(),
            Action::Line(line) => self.line(line),
            Action::ToggleBreakpoint => self.toggle_breakpoint(),
            Action::RunToLine => {
                if let Some(at) = self.picture.code.get(self.line).map(|line| line.address) {
                    self.line(&format!("until {at}"));
                }
            }
            Action::Command => self.ask(Asking::Command, ""),
            Action::AskCode => self.ask(Asking::Code, ""),
            Action::AskMemory => self.ask(Asking::Memory, ""),
            Action::AskWalk => self.ask(Asking::Walk, ""),
            Action::Type => {
                self.types = true;
                self.focus_on(Pane::Console);
            }
            Action::AskDevice => self.ask(Asking::Device, ""),
            Action::View(number) => self.show_view(number),
            Action::OtherView(by) => {
                let all = VIEWS.len();
                self.show_view(self.view.checked_add_signed(by).unwrap_or(all - 1) % all);
            }
            Action::NextPane => self.next_pane(true),
            Action::PreviousPane => self.next_pane(false),
            Action::Zoom => self.zoomed = !self.zoomed,
            Action::Rows(rows) => self.move_rows(self.focus, rows),
            Action::Pages(pages) => self.move_rows(self.focus, pages * self.page(self.focus)),
            Action::Columns(columns) => {
                let scroll = self.scroll_of(self.focus);
                scroll.columns = moved(scroll.columns, columns).min(MOST_COLUMNS);
            }
            Action::Begin => self.move_to_end(true),
            Action::End => self.move_to_end(false),
            Action::Here => {
                self.show_code_at(None);
                self.focus_on(Pane::Code);
            }
            Action::Redraw => self.redraw(),
        }
    }

    fn toggle_breakpoint(&mut self) {
        let Some(at) = self.picture.code.get(self.line).map(|line| line.address) else { return };
        let there: Vec<u32> = self.picture.breakpoints.iter().filter(|b| b.1 == at.0).map(|b| b.0).collect();
        if there.is_empty() {
            return self.line(&format!("break {at}"));
        }
        there.iter().for_each(|number| self.line(&format!("delete {number}")));
    }

    fn next_pane(&mut self, forwards: bool) {
        let mut all = Pane::FRAMED.to_vec();
        all.push(Pane::Prompt);
        let here = all.iter().position(|pane| *pane == self.focus).unwrap_or(0);
        let step = if forwards { 1 } else { all.len() - 1 };
        self.asking = Asking::Command;
        self.focus_on(all[(here + step) % all.len()]);
    }

    /// Rows of a pane that are seen.
    fn page(&self, pane: Pane) -> i64 {
        let area = self.drawn.panes.iter().find(|(_, shown)| *shown == pane).map(|(area, _)| area.height);
        i64::from(area.unwrap_or(1).saturating_sub(1).max(1))
    }

    fn move_rows(&mut self, pane: Pane, rows: i64) {
        match pane {
            Pane::Code => self.move_line(rows),
            Pane::Memory => self.move_memory(rows),
            pane => self.scroll_text(pane, rows),
        }
    }

    /// Moves the selected line, and the code where it would be out of sight.
    fn move_line(&mut self, rows: i64) {
        let most = self.last_line_seen();
        let wanted = (self.line as i64).saturating_add(rows);
        let line = wanted.clamp(0, most as i64);
        self.line = line as usize;
        if wanted != line {
            self.move_code(wanted - line);
        }
    }

    /// The last line of code that is not below the pane's end.
    fn last_line_seen(&self) -> usize {
        let seen = self.drawn.code_rows.len().min(self.picture.code.len());
        seen.saturating_sub(1)
    }

    /// Scrolls a pane of text. Where the newest is below, rows are counted from there.
    pub(super) fn scroll_text(&mut self, pane: Pane, rows: i64) {
        let from_below = self.grows_below(pane);
        let most = self.drawn.most.iter().find(|(shown, _)| *shown == pane).map_or(0, |(_, most)| *most);
        let scroll = self.scroll_of(pane);
        let rows = if from_below { rows.saturating_neg() } else { rows };
        scroll.rows = moved(scroll.rows, rows).min(most);
    }

    fn move_to_end(&mut self, begin: bool) {
        let far = if begin { i64::MIN } else { i64::MAX };
        match self.focus {
            Pane::Code => self.line = if begin { 0 } else { self.last_line_seen() },
            Pane::Memory => self.memory_home(),
            pane => {
                self.scroll_of(pane).columns = 0;
                self.scroll_text(pane, far);
            }
        }
    }

    fn mouse(&mut self, mouse: MouseEvent) {
        let at = Position::new(mouse.column, mouse.row);
        let up_or_down = match mouse.kind {
            MouseEventKind::ScrollUp => -NOTCH,
            MouseEventKind::ScrollDown => NOTCH,
            MouseEventKind::Down(MouseButton::Left) => return self.click(at),
            _ => return,
        };
        if self.help.is_some() {
            return self.scroll_help(up_or_down);
        }
        match self.pane_at(at) {
            // The wheel moves the code, not the selection.
            Some((_, Pane::Code)) => self.move_code(up_or_down),
            Some((_, pane)) => self.move_rows(pane, up_or_down),
            None => {}
        }
    }

    fn pane_at(&self, at: Position) -> Option<(Rect, Pane)> {
        self.drawn.panes.iter().find(|(area, _)| area.contains(at)).copied()
    }

    fn click(&mut self, at: Position) {
        self.types = false;
        if self.help.take().is_some() {
            return;
        }
        let now = Instant::now();
        let before = self.clicked.replace((now, at.x, at.y));
        let double = before.is_some_and(|(when, x, y)| (x, y) == (at.x, at.y) && now - when < DOUBLE);
        if self.drawn.screen.prompt.contains(at) {
            return self.focus = Pane::Prompt;
        }
        self.asking = Asking::Command;
        if let Some((_, pane)) = self.drawn.tabs.iter().find(|(area, _)| area.contains(at)).copied() {
            return self.focus_on(pane);
        }
        let Some((area, pane)) = self.pane_at(at) else { return };
        self.focus_on(pane);
        if pane != Pane::Code {
            return;
        }
        let row = at.y - area.y;
        let Some(line) = self.drawn.code_rows.iter().rposition(|first| *first <= row) else { return };
        self.line = line;
        let gutter = at.x < area.x.saturating_add(GUTTER);
        if gutter || double {
            self.clicked = None;
            self.toggle_breakpoint();
        }
    }
}

fn moved(place: usize, by: i64) -> usize {
    place.saturating_add_signed(isize::try_from(by).unwrap_or(if by < 0 { isize::MIN } else { isize::MAX }))
}
