//! Draws the screen: bar, panes in their frames, command line, hints.
mod bar;
mod code;
mod help;
mod state;
mod text;
mod walk;

use super::app::{App, Asking, DEVICES, Drawn, VIEWS, WALK};
use super::layout::{Pane, Slot, cut};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Widget};

impl App {
    /// Draws everything. What is then asked of the session follows the room that there is.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let alone = if self.focus == Pane::Prompt { self.recent.last().copied() } else { Some(self.focus) };
        let screen = cut(area, alone.filter(|_| self.zoomed));
        self.drawn = Drawn { screen: screen.clone(), ..Drawn::default() };
        let buffer = frame.buffer_mut();
        let shown: Vec<(Pane, Rect)> =
            screen.slots.iter().filter_map(|slot| self.draw_frame(slot, buffer)).collect();
        let room =
            |pane| shown.iter().find(|(other, _)| *other == pane).map_or(Rect::ZERO, |(_, area)| *area);
        let row = state::bytes_in_row(room(Pane::Memory).width, self.picture.memory_at);
        let rows = |pane| usize::from(room(pane).height);
        self.has_room(rows(Pane::Code).max(1), rows(Pane::Memory), row, rows(Pane::Stack));
        for (pane, area) in shown {
            self.drawn.panes.push((area, pane));
            self.draw_pane(pane, area, buffer);
        }
        self.draw_bar(screen.bar, buffer);
        self.draw_hints(screen.hints, buffer);
        let cursor = self.draw_prompt(screen.prompt, buffer);
        if self.help.is_some() {
            self.draw_help(area, buffer);
        } else if let Some(cursor) = cursor {
            frame.set_cursor_position(cursor);
        }
    }

    /// Draws a slot's frame and titles; which pane is in it, and where.
    fn draw_frame(&mut self, slot: &Slot, buffer: &mut Buffer) -> Option<(Pane, Rect)> {
        let pane = self.front(&slot.panes)?;
        if slot.area.is_empty() {
            return None;
        }
        if !slot.framed {
            return Some((pane, slot.area));
        }
        let has_keys = pane == self.focus;
        let theme = self.theme;
        let border = if has_keys { theme.focus() } else { theme.border() };
        let block = Block::bordered().border_type(BorderType::Rounded).border_style(border);
        let inner = block.inner(slot.area);
        block.render(slot.area, buffer);
        let room =
            Rect { x: slot.area.x + 2, width: slot.area.width.saturating_sub(4), height: 1, ..slot.area };
        let long: usize = slot.panes.iter().map(|pane| pane.name().len() + 3).sum();
        let is_short = long > usize::from(room.width);
        let mut x = room.x;
        for &tab in &slot.panes {
            let name = if is_short && tab != pane { short(tab) } else { tab.name() };
            let style = match (tab == pane, has_keys) {
                (true, true) => theme.focus(),
                (true, false) => theme.title(),
                (false, _) => theme.quiet(),
            };
            let text = if is_short { format!(" {name}") } else { format!(" {name} ") };
            let width = u16::try_from(text.len()).unwrap_or(u16::MAX).min(room.right().saturating_sub(x));
            let place = Rect { x, width, ..room };
            Span::styled(text, style).render(place, buffer);
            self.drawn.tabs.push((place, tab));
            x = x.saturating_add(width).saturating_add(u16::from(!is_short && slot.panes.len() > 1));
        }
        let about = self.about(pane);
        let rest = Rect { x, width: room.right().saturating_sub(x), ..room };
        if !about.is_empty() && rest.width > 6 {
            Span::styled(about, theme.quiet()).render(rest, buffer);
        }
        Some((pane, inner))
    }

    /// What a pane shows, beside its name.
    fn about(&self, pane: Pane) -> String {
        match pane {
            Pane::View => {
                let view = &VIEWS[self.view];
                let of = match self.view {
                    WALK => format!("of {} ", self.walk_at),
                    DEVICES if !self.device.is_empty() => format!("that are called {} ", self.device),
                    _ => String::new(),
                };
                format!("{}: {} {of}", view.key, view.name)
            }
            Pane::Memory => format!("at {} ", self.memory_at()),
            Pane::Log | Pane::Console => match self.scrolls_of(pane) {
                0 => String::new(),
                rows => format!("{rows} rows up "),
            },
            _ => String::new(),
        }
    }

    fn draw_pane(&mut self, pane: Pane, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        match pane {
            Pane::Code => self.draw_code(area, buffer),
            Pane::Registers => self.draw_registers(area, buffer),
            Pane::Stack => self.draw_stack(area, buffer),
            Pane::Callers => self.draw_callers(area, buffer),
            Pane::Memory => self.draw_memory(area, buffer),
            Pane::View => self.draw_view(area, buffer),
            Pane::Log => self.draw_log(area, buffer),
            Pane::Console => self.draw_console(area, buffer),
            Pane::Prompt => {}
        }
    }

    /// Draws the command line; where the cursor stands, if a line is being written.
    fn draw_prompt(&self, area: Rect, buffer: &mut Buffer) -> Option<Position> {
        if area.is_empty() {
            return None;
        }
        if self.types {
            let text = "keys go to the guest's console; Ctrl-] or F2 ends that";
            Span::styled(text, self.theme.written()).render(area, buffer);
            return None;
        }
        let is_written = self.focus == Pane::Prompt;
        let name = match self.asking {
            Asking::Command => "(trivisor) ",
            Asking::Code => "code at: ",
            Asking::Memory => "memory at: ",
            Asking::Walk => "page walk of: ",
            Asking::Device => "device: ",
        };
        if !is_written {
            let words = [
                Span::styled(name, self.theme.quiet()),
                Span::styled("press : to write a command", self.theme.quiet()),
            ];
            Line::from_iter(words).render(area, buffer);
            return None;
        }
        let text = self.prompt.text();
        let before: String = text.chars().take(self.prompt.cursor()).collect();
        let to_cursor = Span::raw(name).width() + Span::raw(before).width();
        let hidden = (to_cursor + 1).saturating_sub(usize::from(area.width));
        let line = Line::from(vec![Span::styled(name, self.theme.written()), Span::raw(text)]);
        text::render_from(&line, hidden, area, buffer);
        let x = u16::try_from(to_cursor - hidden).unwrap_or(0).min(area.width.saturating_sub(1));
        Some(Position::new(area.x + x, area.y))
    }

    fn scrolls_of(&self, pane: Pane) -> usize {
        Pane::FRAMED.iter().position(|other| *other == pane).map_or(0, |place| self.scrolls[place].rows)
    }
}

/// A title where there is little room.
const fn short(pane: Pane) -> &'static str {
    match pane {
        Pane::Registers => "regs",
        Pane::Stack => "stk",
        Pane::Callers => "bt",
        Pane::Memory => "mem",
        Pane::Console => "con",
        pane => pane.name(),
    }
}
