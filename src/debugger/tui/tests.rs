//! The screen drawn into memory: what is where at each size, what keys and mouse ask for, and that nothing a person or a
//! guest does makes it fail.
use super::*;
use crate::arch::Gpa;
use crate::arch::state::gpr;
use crate::debugger::memory::tests::long_mode;
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::tests::sample;
use crate::debugger::view::registers::{Group, Source as RegisterSource, show};
use crate::debugger::view::{disassembly, paging};
use crate::debugger::{Reply, unwind};
use crate::machine::ConsoleSink;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::style::Color;
use serde_json::json;
use std::sync::Arc;

/// A guest that stands at 0x20_0005 of `pvh_start`, with a breakpoint at the instruction after it.
fn picture(wants: &Wants) -> Picture {
    let (ram, mut state) = long_mode();
    let code = [
        0xe8, 0xcb, 0x26, 0x00, 0x00, 0x48, 0x8b, 0x05, 0x84, 0x00, 0x00, 0x00, 0xe9, 0x8f, 0x00, 0x00, 0x00,
        0x06,
    ];
    ram.write(Gpa(0x8000), &code).unwrap();
    ram.write(Gpa(0x8000 + code.len() as u64), &[0x90; 0xf00]).unwrap();
    ram.write(Gpa(0x8f00), &0x20_2693_u64.to_le_bytes()).unwrap();
    ram.write(Gpa(0x8f10), b"guest memory").unwrap();
    let before = state.clone();
    state.rip = 0x20_0005;
    state.gpr[gpr::RAX] = 0xffff_8000_dead_beef;
    state.gpr[gpr::RSP] = 0x20_0f00;
    let symbols = Arc::new(sample());
    let memory = GuestMemory::new(&ram, &state);
    let top = wants.code.top.unwrap_or(0x20_0000).wrapping_add_signed(wants.code.by);
    let source = disassembly::Source {
        memory,
        bits: 64,
        space: Space::Virtual,
        next: Some(0x20_0005),
        symbols: &symbols,
        breakpoints: &[0x20_000c],
        sites: &[],
    };
    let registers = RegisterSource { now: &state, before: Some(&before), cr8: 0, symbols: &symbols };
    let words = (0..wants.words as u64).map(|i| 0x20_0f00 + 8 * i);
    let stack = words.map(|at| {
        let value = memory.read_u64(at);
        Word { at, value, symbol: value.and_then(|value| symbols.label(value)) }
    });
    let memory_at = 0x20_0f00_u64.wrapping_add_signed(wants.memory.offset);
    Picture {
        status: Status {
            mode: "emu".to_owned(),
            cpu: None,
            label: "binary translator".to_owned(),
            time: 8_894,
            turns: Some(8_894),
            rip: 0x20_0005,
            symbol: Some("pvh_start+0x5".to_owned()),
            halted: false,
            ended: None,
        },
        code: disassembly::lines(&source, top, wants.code.rows).lines,
        registers: show(&registers, Group::General),
        word: 8,
        stack: stack.collect(),
        callers: unwind::backtrace(&memory, &symbols, &state).frames,
        memory_at,
        memory: memory.read(Space::Virtual, memory_at, wants.memory.length),
        walk: wants.view.starts_with("walk").then(|| paging::walk(&memory, &symbols, 0x40_1234)),
        view: format!("the answer of {}", wants.view),
        breakpoints: vec![(1, 0x20_000c)],
        ..Picture::default()
    }
}

struct Fixture {
    app: App,
    console: Console,
    terminal: Terminal<TestBackend>,
    /// Lines that the session was asked to do.
    asked: Vec<String>,
    /// The guest has been shown.
    is_known: bool,
}

impl Fixture {
    fn new(width: u16, height: u16, colours: bool) -> Self {
        let console = Console::default();
        let app = App::new(Arc::new(sample()), console.clone(), Live::default(), Theme { colours });
        let terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut fixture = Self { app, console, terminal, asked: Vec::new(), is_known: false };
        fixture.settle();
        fixture
    }

    fn draw(&mut self) {
        self.terminal.draw(|frame| self.app.draw(frame)).unwrap();
    }

    /// Answers the next request, if there is one, as a session would.
    fn answer(&mut self) -> bool {
        let Some(request) = self.app.next_request() else { return false };
        assert!(self.app.next_request().is_none(), "one request at a time");
        let (reply, wants) = match request {
            Request::Line(line, wants) => {
                self.asked.push(line.clone());
                let reply = match line.as_str() {
                    "wrong" => Err("there is no command 'wrong'".to_owned()),
                    line => Ok(Some(Reply {
                        text: format!("answer to {line}"),
                        data: json!({"stopped": "done"}),
                        quit: line == "quit",
                    })),
                };
                (Some(reply), wants)
            }
            Request::Look(wants) => (None, wants),
        };
        // The first one shows a guest that was elsewhere before.
        let picture = Picture { moved: !std::mem::replace(&mut self.is_known, true), ..picture(&wants) };
        self.app.receive(Answer { reply, picture: Ok(picture) });
        true
    }

    /// Draws and answers until the screen wants nothing more.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.draw();
            if !self.answer() {
                return;
            }
        }
        panic!("the screen never has enough");
    }

    fn keys(&mut self, keys: &str) {
        for c in keys.chars() {
            let (code, modifiers) = match c {
                '\n' => (KeyCode::Enter, KeyModifiers::NONE),
                '\t' => (KeyCode::Tab, KeyModifiers::NONE),
                '\x1b' => (KeyCode::Esc, KeyModifiers::NONE),
                '\x03' => (KeyCode::Char('c'), KeyModifiers::CONTROL),
                '↓' => (KeyCode::Down, KeyModifiers::NONE),
                '↑' => (KeyCode::Up, KeyModifiers::NONE),
                c => (KeyCode::Char(c), KeyModifiers::NONE),
            };
            self.app.event(&Event::Key(KeyEvent::new(code, modifiers)));
            self.settle();
        }
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        self.app.event(&Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
        self.settle();
    }

    /// Where `text` begins on the screen.
    fn find(&self, text: &str) -> Option<(u16, u16)> {
        let screen = self.terminal.backend().to_string();
        screen.lines().zip(0..).find_map(|(line, row)| {
            let at = line.find(text)?;
            // The first character is a quotation mark.
            Some((u16::try_from(line[..at].chars().count() - 1).unwrap(), row))
        })
    }
}

fn screen(width: u16, height: u16) -> String {
    let mut fixture = Fixture::new(width, height, true);
    fixture.console.transmit(b"Hello from a guest\r\nsecond line");
    fixture.keys(":break workload_main\n\x1b");
    fixture.terminal.backend().to_string()
}

#[test]
fn what_is_where_at_each_size() {
    insta::assert_snapshot!("120x40", screen(120, 40));
    insta::assert_snapshot!("80x24", screen(80, 24));
    insta::assert_snapshot!("40x10", screen(40, 10));
    insta::assert_snapshot!("1x1", screen(1, 1));
}

#[test]
fn help_lists_keys_and_commands() {
    let mut fixture = Fixture::new(100, 40, true);
    fixture.keys("?");
    insta::assert_snapshot!("help", fixture.terminal.backend().to_string());
    fixture.keys(" ");
    assert!(fixture.find("Keys, where").is_none());
}

#[test]
fn without_colours_marks_tell_the_same() {
    let fixture = Fixture::new(120, 40, false);
    let plain = |color| color == Color::Reset;
    let cells = &fixture.terminal.backend().buffer().content;
    assert!(cells.iter().all(|cell| plain(cell.fg) && plain(cell.bg)));
    for mark in [" ▶ 200005", "●  20000c", "rax ffff8000deadbeef*"] {
        assert!(fixture.find(mark).is_some(), "{mark}");
    }
    let coloured = Fixture::new(120, 40, true);
    assert!(coloured.terminal.backend().buffer().content.iter().any(|cell| !plain(cell.fg)));
}

#[test]
fn keys_become_lines_of_the_prompt() {
    let mut fixture = Fixture::new(120, 40, true);
    fixture.keys("sncfrR");
    let lines = ["step", "next", "continue", "finish", "reverse-step", "reverse-continue"];
    assert_eq!(fixture.asked, lines);
    fixture.asked.clear();
    fixture.app.event(&Event::Key(KeyEvent::new(KeyCode::F(10), KeyModifiers::NONE)));
    fixture.app.event(&Event::Key(KeyEvent::new(KeyCode::F(11), KeyModifiers::SHIFT)));
    fixture.settle();
    assert_eq!(fixture.asked, ["next", "finish"]);
    fixture.asked.clear();
    // On the command line letters are letters, and what is empty repeats.
    fixture.keys(":x/4xg $rsp\n\nwrong\n\x1bq");
    assert_eq!(fixture.asked, ["x/4xg $rsp", "", "wrong"]);
    assert!(fixture.find("there is no command 'wrong'").is_some() && fixture.app.quits());
}

#[test]
fn the_selected_line_gets_and_loses_its_breakpoint() {
    let mut fixture = Fixture::new(120, 40, true);
    // The guest stands at the second line; the third has the breakpoint.
    fixture.keys("b↓b↑↑bu");
    assert_eq!(fixture.asked, ["break 0x200005", "delete 1", "break 0x200000", "until 0x200000"]);
}

#[test]
fn the_mouse_selects_scrolls_and_sets_breakpoints() {
    const CLICK: MouseEventKind = MouseEventKind::Down(MouseButton::Left);
    let mut fixture = Fixture::new(120, 40, true);
    let (x, y) = fixture.find("200011").unwrap();
    fixture.mouse(CLICK, x, y);
    assert_eq!((fixture.app.focus, fixture.app.line), (layout::Pane::Code, 3));
    fixture.mouse(CLICK, x, y);
    fixture.mouse(CLICK, x - 3, y);
    assert_eq!(fixture.asked, ["break 0x200011", "break 0x200011"]);
    fixture.mouse(MouseEventKind::ScrollDown, x, y);
    assert!(fixture.find(" 200000").is_none());
    // Tabs bring panes to the front.
    let (x, y) = fixture.find("callers").unwrap();
    fixture.mouse(CLICK, x, y);
    assert!(fixture.find("#0 ").is_some());
    let (x, y) = fixture.find("(trivisor)").unwrap();
    let prompt = fixture.find("press :").map_or((x, y), |at| at);
    fixture.mouse(CLICK, prompt.0, prompt.1);
    assert_eq!(fixture.app.focus, layout::Pane::Prompt);
}

#[test]
fn addresses_and_views_are_asked_for() {
    let mut fixture = Fixture::new(120, 40, true);
    fixture.keys("m$rip\n");
    assert!(fixture.find("memory at $rip").is_some());
    fixture.keys("4");
    assert!(fixture.find("the answer of gdt").is_some());
    for (keys, shown, answered) in [
        ("0", "0: CPUs", "the answer of cpus"),
        ("h", "h: interrupt chips", "the answer of chips"),
        ("t", "t: TLB", "the answer of tlb"),
        ("x", "x: costs of exits", "the answer of trace costs"),
        ("duart16550\n", "d: devices that are called uart16550", "the answer of device uart16550"),
        ("v", "t: TLB", "the answer of tlb"),
        ("l", "l: instruction lens", "the answer of lens"),
        ("1V", "l: instruction lens", "the answer of lens"),
        ("d\n", "d: devices ", "the answer of device "),
    ] {
        fixture.keys(keys);
        assert!(fixture.find(shown).is_some() && fixture.find(answered).is_some(), "{keys}: {shown}");
    }
    fixture.keys("wguest_start\n");
    assert!(fixture.find("page walk of guest_start").is_some() && fixture.find("PDPT[0]").is_some());
    fixture.keys("z");
    assert!(fixture.find("registers").is_none());
    fixture.keys("\x1b");
    assert!(fixture.find("registers").is_some() && fixture.asked.is_empty());
}

#[test]
fn a_guest_that_runs_leaves_the_screen_alive_and_is_stopped() {
    for key in ["\x03", "p", "\x1b"] {
        let mut fixture = Fixture::new(120, 40, true);
        fixture.app.do_lines(["continue".to_owned()]);
        let Some(Request::Line(line, wants)) = fixture.app.next_request() else { panic!("a line") };
        assert_eq!(line, "continue");
        std::thread::sleep(std::time::Duration::from_millis(600));
        fixture.draw();
        assert!(fixture.find("running 0.").is_some());
        fixture.terminal.backend_mut().resize(60, 20);
        fixture.keys("s");
        assert!(fixture.find("running").is_some() && !fixture.app.take_stop());
        fixture.keys(key);
        assert!(fixture.app.take_stop() && !fixture.app.take_stop(), "{key:?}");
        let data = json!({"stopped": "interrupted"});
        let reply = Reply { text: "stopped by Ctrl-C\n=> 0x200005".to_owned(), data, quit: false };
        let picture = Picture { moved: true, ..picture(&wants) };
        fixture.app.receive(Answer { reply: Some(Ok(Some(reply))), picture: Ok(picture) });
        fixture.settle();
        assert!(fixture.find("stopped: stopped by Ctrl-C").is_some());
        assert!(fixture.asked.is_empty(), "what was pressed meanwhile is not done: {:?}", fixture.asked);
    }
}

/// What happens to a screen.
#[derive(Clone, Debug)]
enum Happening {
    Key(KeyCode, KeyModifiers),
    Mouse(MouseEventKind, u16, u16),
    Paste(String),
    Size(u16, u16),
    Answer,
    Moved,
    Failed,
    Printed(Vec<u8>),
}

fn happenings() -> impl Strategy<Value = Happening> {
    let code = prop_oneof![
        proptest::char::range(' ', '~').prop_map(KeyCode::Char),
        any::<char>().prop_map(KeyCode::Char),
        (0..25_u8).prop_map(KeyCode::F),
        proptest::sample::select(vec![
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Tab,
            KeyCode::BackTab,
            KeyCode::Backspace,
            KeyCode::Delete,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::PageUp,
            KeyCode::PageDown,
        ]),
    ];
    let modifiers =
        proptest::sample::select(vec![KeyModifiers::NONE, KeyModifiers::SHIFT, KeyModifiers::CONTROL]);
    let mouse = proptest::sample::select(vec![
        MouseEventKind::Down(MouseButton::Left),
        MouseEventKind::Up(MouseButton::Left),
        MouseEventKind::Down(MouseButton::Right),
        MouseEventKind::ScrollUp,
        MouseEventKind::ScrollDown,
        MouseEventKind::Moved,
    ]);
    let size = prop_oneof![0..8_u16, 0..200_u16];
    prop_oneof![
        8 => (code, modifiers).prop_map(|(code, modifiers)| Happening::Key(code, modifiers)),
        4 => (mouse, 0..220_u16, 0..90_u16).prop_map(|(kind, x, y)| Happening::Mouse(kind, x, y)),
        1 => any::<String>().prop_map(Happening::Paste),
        2 => (size.clone(), size).prop_map(|(width, height)| Happening::Size(width, height / 2)),
        4 => Just(Happening::Answer),
        1 => Just(Happening::Moved),
        1 => Just(Happening::Failed),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Happening::Printed),
    ]
}

impl Fixture {
    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Key(code, modifiers) => self.app.event(&Event::Key(KeyEvent::new(code, modifiers))),
            Happening::Mouse(kind, column, row) => {
                self.app.event(&Event::Mouse(MouseEvent {
                    kind,
                    column,
                    row,
                    modifiers: KeyModifiers::NONE,
                }));
            }
            Happening::Paste(text) => self.app.event(&Event::Paste(text)),
            Happening::Size(width, height) => {
                self.terminal.backend_mut().resize(width, height);
                self.app.event(&Event::Resize(width, height));
            }
            Happening::Answer => {
                self.answer();
            }
            Happening::Moved => {
                if let Some(Request::Line(_, wants) | Request::Look(wants)) = self.app.next_request() {
                    let picture = Ok(Picture { moved: true, ..picture(&wants) });
                    self.app.receive(Answer { reply: None, picture });
                }
            }
            Happening::Failed => {
                if self.app.next_request().is_some() {
                    let picture = Err("the engine is gone".to_owned());
                    self.app.receive(Answer { reply: None, picture });
                }
            }
            Happening::Printed(bytes) => self.console.transmit(&bytes),
        }
    }
}

proptest! {
    #[test]
    fn nothing_that_happens_makes_it_panic(
        size in (0..150_u16, 0..60_u16),
        all in proptest::collection::vec(happenings(), 1..60),
    ) {
        let mut fixture = Fixture::new(size.0, size.1, true);
        for happening in all {
            fixture.happens(happening);
            fixture.draw();
        }
    }
}
