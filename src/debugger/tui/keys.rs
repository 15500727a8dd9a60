//! What the keys do where no line is being written: one table, from which the help is made, too.
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Show or hide the help.
    Help,
    /// End the session.
    Quit,
    /// Stop the guest.
    Stop,
    /// Do this line of the prompt.
    Line(&'static str),
    /// Set or delete a breakpoint at the selected line.
    ToggleBreakpoint,
    /// Run to the selected line.
    RunToLine,
    /// Begin to write a command.
    Command,
    /// Ask where the code, memory or walk is to go, and which device is to be shown.
    AskCode,
    AskMemory,
    AskWalk,
    AskDevice,
    /// Keys are the guest's from now on.
    Type,
    /// Show one of the views.
    View(usize),
    /// Show one that comes after or before this one.
    OtherView(isize),
    /// Give the keys to another pane.
    NextPane,
    PreviousPane,
    /// Show the pane alone, or all again.
    Zoom,
    /// Move what is shown, in rows, pages or columns.
    Rows(i64),
    Pages(i64),
    Columns(i64),
    Begin,
    End,
    /// Back to where the guest stands.
    Here,
    /// Draw everything anew.
    Redraw,
}

/// A key, or several that do the same.
pub(super) struct Binding {
    keys: &'static [(KeyCode, KeyModifiers)],
    /// Their names, for the help; none where another row tells of it.
    pub(super) names: &'static str,
    pub(super) about: &'static str,
    pub(super) action: Action,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;

const fn plain(c: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(c), NONE)
}

const fn f(number: u8) -> (KeyCode, KeyModifiers) {
    (KeyCode::F(number), NONE)
}

/// Terminals without Shift-F11 send what is F23 in the oldest tables.
const SHIFT_F11: [(KeyCode, KeyModifiers); 2] = [(KeyCode::F(11), SHIFT), (KeyCode::F(23), NONE)];
const SHIFT_F5: [(KeyCode, KeyModifiers); 2] = [(KeyCode::F(5), SHIFT), (KeyCode::F(17), NONE)];

/// All keys.
pub(super) const BINDINGS: &[Binding] = &[
    bind(&[plain('?'), f(1)], "? F1", "this help; on a command line it is 'help'", Action::Help),
    bind(&[plain('s'), f(11)], "s F11", "step: one instruction", Action::Line("step")),
    bind(&[plain('n'), f(10)], "n F10", "next: one instruction, over calls", Action::Line("next")),
    bind(&[plain('c'), f(5)], "c F5", "continue", Action::Line("continue")),
    bind(
        &[plain('f'), SHIFT_F11[0], SHIFT_F11[1]],
        "f ⇧F11",
        "finish: run to the caller",
        Action::Line("finish"),
    ),
    bind(&[plain('u'), f(4)], "u F4", "run until the selected line", Action::RunToLine),
    bind(&[plain('r')], "r", "reverse-step: back by one instruction", Action::Line("reverse-step")),
    bind(
        &[plain('R')],
        "R",
        "reverse-continue: back to the last breakpoint",
        Action::Line("reverse-continue"),
    ),
    bind(&[plain('p'), SHIFT_F5[0], SHIFT_F5[1]], "Ctrl-C p Esc", "stop the running guest", Action::Stop),
    bind(&[plain('b'), f(9)], "b F9", "breakpoint at the selected line, or none", Action::ToggleBreakpoint),
    bind(&[plain(':'), plain('i')], ": i", "write a command", Action::Command),
    bind(&[plain('y'), f(2)], "y F2", "type to the guest's console; Ctrl-] or F2 ends that", Action::Type),
    bind(&[plain('g')], "g", "go to an address (code)", Action::AskCode),
    bind(&[plain('.')], ".", "back to the next instruction", Action::Here),
    bind(&[plain('m')], "m", "memory at an address", Action::AskMemory),
    bind(&[plain('w')], "w", "page walk of an address", Action::AskWalk),
    bind(
        &[plain('v')],
        "v V",
        "next view, view before; each has a key of its own, too",
        Action::OtherView(1),
    ),
    bind(&[plain('V')], "", "", Action::OtherView(-1)),
    bind(&[plain('1')], "", "", Action::View(0)),
    bind(&[plain('2')], "", "", Action::View(1)),
    bind(&[plain('3')], "", "", Action::View(2)),
    bind(&[plain('4')], "", "", Action::View(3)),
    bind(&[plain('5')], "", "", Action::View(4)),
    bind(&[plain('6')], "", "", Action::View(5)),
    bind(&[plain('7')], "", "", Action::View(6)),
    bind(&[plain('8')], "", "", Action::View(7)),
    bind(&[plain('9')], "", "", Action::View(8)),
    bind(&[plain('0')], "", "", Action::View(9)),
    bind(&[plain('h')], "", "", Action::View(10)),
    bind(&[plain('d')], "d", "registers of a device; of none: the list", Action::AskDevice),
    bind(&[plain('t')], "", "", Action::View(12)),
    bind(&[plain('x')], "", "", Action::View(13)),
    bind(&[plain('l')], "", "", Action::View(14)),
    bind(&[(KeyCode::Tab, NONE)], "Tab ⇧Tab", "next pane, pane before", Action::NextPane),
    bind(&[(KeyCode::BackTab, SHIFT), (KeyCode::BackTab, NONE)], "", "", Action::PreviousPane),
    bind(&[plain('z')], "z", "the pane alone, or all panes", Action::Zoom),
    bind(
        &[(KeyCode::Up, NONE), plain('k')],
        "↑ ↓ PgUp PgDn",
        "select or scroll; ← → sideways",
        Action::Rows(-1),
    ),
    bind(&[(KeyCode::Down, NONE), plain('j')], "", "", Action::Rows(1)),
    bind(&[(KeyCode::PageUp, NONE)], "", "", Action::Pages(-1)),
    bind(&[(KeyCode::PageDown, NONE)], "", "", Action::Pages(1)),
    bind(&[(KeyCode::Left, NONE)], "", "", Action::Columns(-8)),
    bind(&[(KeyCode::Right, NONE)], "", "", Action::Columns(8)),
    bind(&[(KeyCode::Home, NONE)], "", "", Action::Begin),
    bind(&[(KeyCode::End, NONE)], "", "", Action::End),
    bind(&[(KeyCode::Char('l'), CTRL)], "Ctrl-L", "draw everything anew", Action::Redraw),
    bind(&[plain('q')], "q", "quit", Action::Quit),
];

const fn bind(
    keys: &'static [(KeyCode, KeyModifiers)],
    names: &'static str,
    about: &'static str,
    action: Action,
) -> Binding {
    Binding { keys, names, about, action }
}

/// What `key` is for.
pub(super) fn action(key: KeyEvent) -> Option<Action> {
    let is = |&(code, modifiers): &(KeyCode, KeyModifiers)| {
        // A capital letter comes with Shift or without, as the terminal likes it.
        let shift = if matches!(code, KeyCode::Char(_)) { SHIFT } else { NONE };
        code == key.code && modifiers == key.modifiers.difference(shift)
    };
    BINDINGS.iter().find(|binding| binding.keys.iter().any(is)).map(|binding| binding.action)
}

/// Whether a key ends typing to the guest. Terminals send Ctrl-] as Ctrl-5.
pub(super) fn ends_typing(key: KeyEvent) -> bool {
    match key.code {
        KeyCode::F(2) => true,
        KeyCode::Char(']' | '5') => key.modifiers == CTRL,
        _ => false,
    }
}

/// What a terminal sends for a key (xterm's control sequences).
pub(super) fn as_typed(key: KeyEvent) -> Vec<u8> {
    let mut bytes = if key.modifiers.contains(KeyModifiers::ALT) { vec![0x1b] } else { Vec::new() };
    match key.code {
        KeyCode::Char(c @ ('@'..='_' | 'a'..='z' | ' ')) if key.modifiers.contains(CTRL) => {
            bytes.push(c.to_ascii_uppercase() as u8 & 0x1f);
        }
        KeyCode::Char(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        KeyCode::Enter => bytes.push(b'\r'),
        KeyCode::Tab => bytes.push(b'\t'),
        KeyCode::Backspace => bytes.push(0x7f),
        KeyCode::Esc => bytes.push(0x1b),
        KeyCode::BackTab => bytes.extend(b"\x1b[Z"),
        KeyCode::Up => bytes.extend(b"\x1b[A"),
        KeyCode::Down => bytes.extend(b"\x1b[B"),
        KeyCode::Right => bytes.extend(b"\x1b[C"),
        KeyCode::Left => bytes.extend(b"\x1b[D"),
        KeyCode::Home => bytes.extend(b"\x1b[H"),
        KeyCode::End => bytes.extend(b"\x1b[F"),
        KeyCode::Insert => bytes.extend(b"\x1b[2~"),
        KeyCode::Delete => bytes.extend(b"\x1b[3~"),
        KeyCode::PageUp => bytes.extend(b"\x1b[5~"),
        KeyCode::PageDown => bytes.extend(b"\x1b[6~"),
        _ => bytes.clear(),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::app::{DEVICES, VIEWS};
    use super::*;

    #[test]
    fn each_view_has_the_key_that_the_help_tells() {
        for (number, view) in VIEWS.iter().enumerate() {
            let wanted = if number == DEVICES { Action::AskDevice } else { Action::View(number) };
            assert_eq!(action(KeyEvent::new(KeyCode::Char(view.key), NONE)), Some(wanted), "{}", view.name);
        }
    }

    #[test]
    fn no_key_has_two_meanings() {
        let keys: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "{key:?}");
        }
    }

    #[test]
    fn capital_letters_and_ides_keys_mean_what_they_should() {
        let of = |code, modifiers| action(KeyEvent::new(code, modifiers));
        assert_eq!(of(KeyCode::Char('R'), SHIFT), Some(Action::Line("reverse-continue")));
        assert_eq!(of(KeyCode::Char('?'), SHIFT), Some(Action::Help));
        assert_eq!(of(KeyCode::F(11), SHIFT), Some(Action::Line("finish")));
        assert_eq!(of(KeyCode::F(11), NONE), Some(Action::Line("step")));
        assert_eq!(of(KeyCode::Char('s'), KeyModifiers::ALT), None);
    }

    #[test]
    fn keys_are_typed_as_terminals_send_them() {
        let typed = |code, modifiers| as_typed(KeyEvent::new(code, modifiers));
        assert_eq!(typed(KeyCode::Char('a'), NONE), b"a");
        assert_eq!(typed(KeyCode::Char('A'), SHIFT), b"A");
        assert_eq!(typed(KeyCode::Char('\u{e9}'), NONE), "\u{e9}".as_bytes());
        assert_eq!(typed(KeyCode::Char('c'), CTRL), [3]);
        assert_eq!(typed(KeyCode::Char(' '), CTRL), [0]);
        assert_eq!(typed(KeyCode::Char('x'), KeyModifiers::ALT), b"\x1bx");
        assert_eq!(typed(KeyCode::Enter, NONE), b"\r");
        assert_eq!(typed(KeyCode::Up, NONE), b"\x1b[A");
        assert!(typed(KeyCode::F(7), NONE).is_empty());
        assert!(ends_typing(KeyEvent::new(KeyCode::Char('5'), CTRL)));
        assert!(!ends_typing(KeyEvent::new(KeyCode::Char('5'), NONE)));
    }
}
