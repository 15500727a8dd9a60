//! Which pane is where, for each size of terminal.
//!
//! The screen is cut into slots. A slot holds one pane or several of which one is shown; where there is little room there
//! are few slots with many panes each, so that none is out of reach.
use ratatui::layout::{Constraint, Layout, Rect};

/// A part of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    /// Disassembly.
    Code,
    /// Registers.
    Registers,
    /// Words of the stack.
    Stack,
    /// Functions under way.
    Callers,
    /// A dump.
    Memory,
    /// What the debugger knows, one thing at a time.
    View,
    /// Commands and answers.
    Log,
    /// What the guest prints.
    Console,
    /// Where commands are written.
    Prompt,
}

impl Pane {
    /// All with a frame, in the order in which Tab goes.
    pub(super) const FRAMED: [Self; 8] = [
        Self::Code,
        Self::Registers,
        Self::Stack,
        Self::Callers,
        Self::Memory,
        Self::View,
        Self::Log,
        Self::Console,
    ];

    /// Its title.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Registers => "registers",
            Self::Stack => "stack",
            Self::Callers => "callers",
            Self::Memory => "memory",
            Self::View => "view",
            Self::Log => "log",
            Self::Console => "console",
            Self::Prompt => "prompt",
        }
    }
}

/// A place for one of several panes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// Where.
    pub(super) area: Rect,
    /// Which panes, in the order of their tabs.
    pub(super) panes: Vec<Pane>,
    /// Whether there is room for a frame.
    pub(super) framed: bool,
}

/// The parts of the screen. What there is no room for has no area.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Screen {
    /// The status bar.
    pub(super) bar: Rect,
    /// The panes.
    pub(super) slots: Vec<Slot>,
    /// The command line.
    pub(super) prompt: Rect,
    /// Words about keys.
    pub(super) hints: Rect,
}

/// Rows from which on there is a line of hints.
const HINTS_FROM: u16 = 16;
/// A frame needs so many rows and columns.
const FRAME_FROM: (u16, u16) = (4, 12);
/// Columns that two columns of registers take, with their frame.
const REGISTERS: u16 = 50;
/// The same, at least.
const NARROW_REGISTERS: u16 = 46;
/// Rows that they take.
const REGISTER_ROWS: u16 = 13;

/// Cuts a screen of this size. `zoomed` is shown alone.
#[must_use]
pub(super) fn cut(area: Rect, zoomed: Option<Pane>) -> Screen {
    // In the order of importance: the command line, one row of a pane, the status bar, hints.
    let prompt = u16::from(area.height > 1);
    let bar = u16::from(area.height > 2);
    let hints = u16::from(area.height >= HINTS_FROM);
    let [bar, body, prompt, hints] = Layout::vertical([
        Constraint::Length(bar),
        Constraint::Min(0),
        Constraint::Length(prompt),
        Constraint::Length(hints),
    ])
    .areas(area);
    let slots = match zoomed {
        Some(pane) => vec![slot(body, &[pane])],
        None => slots(body),
    };
    Screen { bar, slots, prompt, hints }
}

fn slot(area: Rect, panes: &[Pane]) -> Slot {
    let framed = area.height >= FRAME_FROM.0 && area.width >= FRAME_FROM.1;
    Slot { area, panes: panes.to_vec(), framed }
}

fn slots(body: Rect) -> Vec<Slot> {
    match (body.width, body.height) {
        (100.., 28..) => large(body),
        (80.., 17..) => medium(body),
        (_, 12..) => {
            let [top, bottom] =
                Layout::vertical([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(body);
            vec![slot(top, &[Pane::Code]), slot(bottom, &Pane::FRAMED[1..])]
        }
        _ => vec![slot(body, &Pane::FRAMED)],
    }
}

fn large(body: Rect) -> Vec<Slot> {
    let bottom = (body.height / 4).clamp(8, 14);
    let [upper, lower] = Layout::vertical([Constraint::Min(0), Constraint::Length(bottom)]).areas(body);
    // Wide screens have room for a dump of 16 bytes a row.
    let right = if body.width >= 170 { 84 } else { REGISTERS };
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(right)]).areas(upper);
    let [code, view] = Layout::vertical([Constraint::Percentage(56), Constraint::Percentage(44)]).areas(left);
    let [log, console] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(lower);
    let [registers, rest] =
        Layout::vertical([Constraint::Length(REGISTER_ROWS), Constraint::Min(0)]).areas(right);
    let mut slots = vec![slot(code, &[Pane::Code]), slot(registers, &[Pane::Registers])];
    if rest.height >= 24 {
        let [callers, stack, memory] =
            Layout::vertical([Constraint::Length(8), Constraint::Fill(1), Constraint::Fill(1)]).areas(rest);
        slots.extend([
            slot(callers, &[Pane::Callers]),
            slot(stack, &[Pane::Stack]),
            slot(memory, &[Pane::Memory]),
        ]);
    } else {
        let [stack, memory] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(rest);
        slots.extend([slot(stack, &[Pane::Stack, Pane::Callers]), slot(memory, &[Pane::Memory])]);
    }
    slots.extend([slot(view, &[Pane::View]), slot(log, &[Pane::Log]), slot(console, &[Pane::Console])]);
    slots
}

fn medium(body: Rect) -> Vec<Slot> {
    let [upper, lower] =
        Layout::vertical([Constraint::Length(REGISTER_ROWS.max(body.height / 2)), Constraint::Min(0)])
            .areas(body);
    let [code, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(NARROW_REGISTERS)]).areas(upper);
    vec![
        slot(code, &[Pane::Code]),
        slot(right, &[Pane::Registers, Pane::Stack, Pane::Callers]),
        slot(lower, &[Pane::Log, Pane::Console, Pane::View, Pane::Memory]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pane_is_in_exactly_one_slot_of_every_size_and_slots_do_not_overlap() {
        for (width, height) in (0..220).step_by(3).flat_map(|w| (0..80).map(move |h| (w, h))) {
            let area = Rect::new(0, 0, width, height);
            let screen = cut(area, None);
            let mut panes: Vec<Pane> = screen.slots.iter().flat_map(|slot| slot.panes.clone()).collect();
            panes.sort_by_key(|pane| pane.name());
            let mut all = Pane::FRAMED.to_vec();
            all.sort_by_key(|pane| pane.name());
            assert_eq!(panes, all, "{width}×{height}");
            let mut areas: Vec<Rect> = screen.slots.iter().map(|slot| slot.area).collect();
            areas.extend([screen.bar, screen.prompt, screen.hints]);
            let covered: u32 = areas.iter().map(|area| area.area()).sum();
            assert_eq!(covered, area.area(), "{width}×{height}: {screen:?}");
            for (i, one) in areas.iter().enumerate() {
                assert!(areas[i + 1..].iter().all(|other| !one.intersects(*other)), "{width}×{height}");
            }
        }
    }

    #[test]
    fn little_room_leaves_the_code_and_the_command_line() {
        let shown = |width, height| {
            let screen = cut(Rect::new(0, 0, width, height), None);
            (screen.slots.len(), screen.bar.height, screen.prompt.height, screen.hints.height)
        };
        assert_eq!(shown(120, 40), (7, 1, 1, 1));
        assert_eq!(shown(80, 24), (3, 1, 1, 1));
        assert_eq!(shown(40, 10), (1, 1, 1, 0));
        assert_eq!(shown(40, 2), (1, 0, 1, 0));
        assert_eq!(shown(1, 1), (1, 0, 0, 0));
    }

    #[test]
    fn a_zoomed_pane_has_all_the_room() {
        let screen = cut(Rect::new(0, 0, 120, 40), Some(Pane::View));
        assert_eq!(screen.slots, [slot(Rect::new(0, 1, 120, 37), &[Pane::View])]);
    }
}
