//! `trivisor debug --tui` in a real terminal: the built binary, real guests, keys and mouse as a person uses them.
//!
//! With `TRIVISOR_PICTURES=FOLDER` the screens are also written as SVG: `docs/tui.svg` is made so.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

mod available;
mod small_guests;
#[path = "tui/svg.rs"]
mod svg;
#[path = "tui/tmux.rs"]
mod tmux;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tmux::Terminal;
use trivisor::engine::Mode;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trivisor");

fn start(width: u16, height: u16, arguments: &str) -> Terminal {
    Terminal::start(width, height, &format!("exec {PROGRAM} debug --tui {arguments}"))
}

/// Writes what is shown as a picture, if pictures are wanted.
fn picture(terminal: &Terminal, name: &str) {
    if let Some(folder) = std::env::var_os("TRIVISOR_PICTURES") {
        // What comes late is to be on it.
        std::thread::sleep(Duration::from_millis(500));
        std::fs::write(Path::new(&folder).join(format!("{name}.svg")), svg::draw(&terminal.coloured()))
            .unwrap();
    }
}

#[test]
fn a_guest_is_stepped_and_looked_at_by_keys_and_mouse() {
    if !tmux::is_there() {
        return;
    }
    let terminal = start(120, 40, "hello");
    terminal.wait_for(&["before its first instruction", "pvh_start:", "paging is off"]);
    terminal.keys(&["s"]);
    terminal.wait_for(&["stopped: after step", "▶ 200001"]);
    terminal.keys(&[":"]);
    terminal.types("break workload_main");
    terminal.keys(&["Enter"]);
    terminal.wait_for(&["breakpoint 1 at"]);
    terminal.keys(&["F5"]);
    terminal.wait_for(&["stopped: breakpoint 1", "●▶ 200", "PML4[0]", "rsp 0000000000415248*"]);
    terminal.keys(&["Escape"]);
    terminal.wait_for(&["press : to write"]);
    terminal.keys(&["r"]);
    terminal.wait_for(&["stopped: after reverse-step", "guest_start+"]);
    terminal.keys(&["n"]);
    terminal.wait_for(&["stopped: breakpoint 1"]);
    terminal.keys(&["f"]);
    let screen =
        terminal.wait_for(&["stopped: after finish", "Hello from a guest: 64-bit, ring 0, paging on."]);
    assert!(
        !screen.lines().any(|line| line.starts_with("Hello")),
        "the guest prints into its pane:\n{screen}"
    );
    // The mouse: two clicks set a breakpoint, one brings a hidden pane to the front.
    let (column, row) = terminal.find("▶ 20");
    terminal.click((column + 3, row + 1));
    terminal.click((column + 3, row + 1));
    terminal.wait_for(&["breakpoint 2 at"]);
    terminal.click(terminal.find(" callers "));
    terminal.wait_for(&["#1 "]);
    for (key, text) in [
        ("5", "IDT at"),
        ("3", "port-io"),
        ("6", "idtr"),
        ("0", "running"),
        ("h", "pic8259 master"),
        ("t", "soft TLB"),
        ("x", "no events are kept"),
        ("1", "PML4[0]"),
    ] {
        terminal.keys(&[key]);
        terminal.wait_for(&[text]);
    }
    terminal.keys(&["?"]);
    terminal.wait_for(&["reverse-step: back by one instruction", " help "]);
    terminal.keys(&["x"]);
    terminal.keys(&["c"]);
    terminal.wait_for(&["the guest switched off with status 0"]);
}

/// `docs/tui.svg`.
#[test]
fn the_screen_of_the_documentation() {
    if !tmux::is_there() {
        return;
    }
    let terminal = start(132, 43, "hello --command 'break workload_main' --command continue");
    terminal.wait_for(&["stopped: breakpoint 1"]);
    terminal.keys(&["f"]);
    terminal.wait_for(&["stopped: after finish", "Hello from a guest"]);
    terminal.keys(&["w"]);
    terminal.types("$rsp");
    terminal.keys(&["Enter"]);
    terminal.wait_for(&["page walk of $rsp", "large page"]);
    terminal.keys(&["."]);
    terminal.keys(&["s", "s", "s"]);
    terminal.wait_for(&["stopped: after step", "guest::succeed"]);
    terminal.keys(&["Down", "Down", "b"]);
    terminal.wait_for(&["breakpoint 2 at"]);
    picture(&terminal, "tui");
}

#[test]
fn every_mode_shows_what_it_is() {
    if !tmux::is_there() {
        return;
    }
    for mode in available::modes() {
        let terminal = start(120, 40, &format!("--mode {mode} hello"));
        terminal.wait_for(&[&format!(" {mode}  stopped: before"), "pvh_start:"]);
        terminal.keys(&["c"]);
        terminal.wait_for(&["the guest switched off with status 0", "Hello from a guest"]);
        // Where instructions are not counted, none are told.
        let screen = terminal.screen();
        assert_eq!(screen.contains("instructions "), mode == Mode::Emu, "{mode}:\n{screen}");
        picture(&terminal, &format!("mode-{mode}"));
    }
}

#[test]
fn small_terminals_are_usable_and_resizing_works() {
    if !tmux::is_there() {
        return;
    }
    let terminal = start(40, 10, "hello");
    terminal.wait_for(&["▶ 200000", "stopped: before"]);
    picture(&terminal, "40x10");
    terminal.keys(&["s"]);
    terminal.wait_for(&["▶ 200001"]);
    terminal.keys(&["Tab"]);
    terminal.wait_for(&["rax 0000000000000000"]);
    terminal.resize(100, 30);
    terminal.wait_for(&["registers", "memory", "console", "▶ 200001"]);
    terminal.resize(2, 1);
    terminal.resize(1, 1);
    terminal.keys(&["s"]);
    terminal.resize(80, 24);
    terminal.wait_for(&["▶ 200002", "registers"]);
    picture(&terminal, "80x24");
}

#[test]
fn a_running_guest_is_stopped_and_the_screen_lives_meanwhile() {
    if !tmux::is_there() {
        return;
    }
    for mode in available::modes() {
        let terminal = start(120, 40, &format!("--mode {mode} spin"));
        terminal.wait_for(&["stopped: before"]);
        terminal.keys(&["c"]);
        let screen = terminal.wait_for(&["running 1.", "Ctrl-C stops"]);
        // Guest time goes on before one's eyes.
        let time = |screen: &str| {
            let bar = screen.lines().next().unwrap().split("continue").nth(1).unwrap().to_owned();
            bar.split("  ")
                .find(|part| part.ends_with("s") && part.trim().starts_with(|c: char| c.is_ascii_digit()))
                .map(str::to_owned)
        };
        let shown = time(&screen).unwrap_or_else(|| panic!("no guest time: {screen}"));
        terminal.wait(|screen| time(screen).is_some_and(|now| now != shown), "another guest time");
        terminal.resize(90, 26);
        terminal.keys(&["?"]);
        terminal.wait_for(&[" help ", "stop the running guest"]);
        terminal.keys(&["x"]);
        terminal.wait(|screen| !screen.contains("stop the running guest"), "no help");
        picture(&terminal, "running");
        terminal.keys(&["C-c"]);
        terminal.wait_for(&["stopped: stopped by Ctrl-C"]);
        // A second time, by another key; and then it ends while it runs.
        for key in ["p", "Escape"] {
            terminal.keys(&["c"]);
            terminal.wait_for(&["running 0."]);
            terminal.keys(&[key]);
            terminal.wait_for(&["stopped: stopped by Ctrl-C"]);
        }
        terminal.keys(&["c"]);
        terminal.wait_for(&["running 0."]);
        terminal.keys(&["q"]);
        terminal.wait_for_end();
    }
}

#[test]
fn what_is_typed_for_the_guest_reaches_it_in_every_mode() {
    if !tmux::is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = small_guests::capitals(folder.path());
    for mode in available::modes() {
        let terminal = start(120, 40, &format!("--mode {mode} --flat {image}"));
        terminal.wait_for(&["stopped: before"]);
        // What is typed while it stands waits for it.
        terminal.keys(&["y"]);
        terminal.wait_for(&["keys go to the guest's console"]);
        terminal.types("first");
        terminal.keys(&["F2", "c"]);
        terminal.wait_for(&[".FIRST"]);
        terminal.keys(&["F2"]);
        // Keys of the screen are letters like others there.
        terminal.types(" qsc?");
        terminal.wait_for(&[".FIRST QSC?", "running"]);
        terminal.keys(&["C-]"]);
        terminal.wait_for(&["press : to write"]);
        terminal.keys(&["C-c"]);
        terminal.wait_for(&["stopped: stopped by Ctrl-C"]);
        if mode != Mode::Emu {
            continue;
        }
        // It goes back to before it was typed, and does the same again, without a second copy of what was printed.
        terminal.keys(&[":"]);
        terminal.types("catch exit port-write");
        terminal.keys(&["Enter"]);
        terminal.types("restart");
        terminal.keys(&["Enter"]);
        terminal.wait_for(&["the guest starts again"]);
        terminal.types("continue");
        terminal.keys(&["Enter"]);
        terminal.wait_for(&["stopped: catchpoint 1"]);
        // Together they would be Alt-y.
        terminal.keys(&["Escape"]);
        terminal.wait_for(&["press : to write"]);
        terminal.keys(&["y"]);
        terminal.types("z");
        terminal.keys(&["F2", "c"]);
        terminal.wait_for(&["0x5a 'Z'"]);
        terminal.keys(&["r", "r", "r", "r"]);
        terminal.wait_for(&["stopped: after reverse-step"]);
        terminal.keys(&["c"]);
        let bar = |screen: &str| screen.lines().next().unwrap().to_owned();
        let screen = terminal.wait(|screen| bar(screen).contains("0x5a 'Z'"), "the same again");
        assert!(screen.contains(".Z") && !screen.contains("ZZ"), "{screen}");
    }
}

#[test]
fn a_flood_of_output_stays_in_its_pane() {
    if !tmux::is_there() {
        return;
    }
    let terminal = start(120, 40, "--host-clock flood");
    terminal.wait_for(&["stopped: before"]);
    terminal.keys(&["c"]);
    terminal.wait_for(&["running 1."]);
    let screen = terminal.screen();
    assert!(screen.lines().all(|line| !line.contains("flood") || line.starts_with(['│', ' '])), "{screen}");
    terminal.keys(&["C-c"]);
    terminal.wait_for(&["stopped: stopped by Ctrl-C", "registers"]);
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_session() {
    if !tmux::is_there() {
        return;
    }
    let guest = format!("{PROGRAM} debug --tui spin");
    let script = format!(
        "echo before; stty -a >$DIR/before; sh -c 'echo $$ >$DIR/pid; exec {guest}'; echo ended with $?; \
         stty -a >$DIR/after; cat"
    );
    for (how, status) in [("q", 0), ("SIGTERM", 143), ("SIGTERM while it runs", 143)] {
        let terminal = Terminal::start(100, 30, &script);
        terminal.wait_for(&["stopped: before"]);
        assert_eq!(
            (terminal.tells("alternate_on"), terminal.tells("mouse_any_flag")),
            ("1".into(), "1".into())
        );
        if how.ends_with("runs") {
            terminal.keys(&["c"]);
            terminal.wait_for(&["running 0."]);
        }
        if how == "q" {
            terminal.keys(&["q"]);
        } else {
            let id = std::fs::read_to_string(terminal.file("pid")).unwrap();
            assert!(Command::new("kill").args(["-TERM", id.trim()]).status().unwrap().success());
        }
        terminal.wait_for(&["before", &format!("ended with {status}")]);
        let flags = ["alternate_on", "mouse_any_flag", "cursor_flag"].map(|flag| terminal.tells(flag));
        assert_eq!(flags, ["0", "0", "1"], "{how}");
        let modes = ["before", "after"].map(|name| std::fs::read_to_string(terminal.file(name)).unwrap());
        assert_eq!(modes[0], modes[1], "{how}");
    }
}

#[test]
fn no_color_is_respected() {
    if !tmux::is_there() {
        return;
    }
    let terminal = Terminal::start(120, 40, &format!("NO_COLOR=1 exec {PROGRAM} debug --tui hello"));
    terminal.wait_for(&["stopped: before", "▶ 200000"]);
    let captured = terminal.coloured();
    let colour = |number: &str| matches!(number.parse(), Ok(30..=38 | 40..=48 | 90..=97 | 100..=107_u8));
    let sequences = captured.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
    let coloured = sequences.filter(|(looks, _)| looks.split(';').any(colour)).count();
    assert_eq!(coloured, 0, "{captured:?}");
    let here = captured.lines().find(|line| line.contains("▶ 200000"));
    assert!(here.is_some_and(|line| line.contains("7m")), "the next instruction is reversed: {captured:?}");
    picture(&terminal, "no-color");
}

#[test]
fn what_is_no_terminal_is_told_in_one_sentence() {
    for arguments in [&["--tui"][..], &["--tui", "--command", "step"]] {
        let output = Command::new(PROGRAM)
            .arg("debug")
            .args(arguments)
            .arg("hello")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.lines().count() == 1 && error.contains("--tui needs a terminal"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_running_guest_has_the_keys_one_by_one_and_the_terminal_is_as_before_afterwards() {
    if !tmux::is_there() {
        return;
    }
    let script = format!("trap : INT; {PROGRAM} run spin; echo over; cat");
    let terminal = Terminal::start(80, 24, &script);
    let device = terminal.tells("pane_tty");
    let modes = || {
        let stty = Command::new("stty").args(["-a", "-F", &device]).output().unwrap();
        String::from_utf8_lossy(&stty.stdout).into_owned()
    };
    terminal.wait(|_| modes().contains("-icanon") && modes().contains("-echo "), "single keys, unseen");
    terminal.keys(&["C-c"]);
    terminal.wait_for(&["stopped by Ctrl-C", "over"]);
    let after = modes();
    assert!(!after.contains("-icanon") && !after.contains("-echo "), "{after}");
}
