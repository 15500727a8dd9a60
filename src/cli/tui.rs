//! `trivisor debug --tui`: opens the terminal for the debugger's screen, and leaves it as it was, whatever happens.
//!
//! The session stays on the calling thread; a thread of its own has the terminal, so that the screen lives while a guest
//! runs. Ctrl-C is a key there; it reaches the session as the mark that the signal would set.
use super::error::{CliError, interrupted};
use crate::debugger::Session;
use crate::debugger::tui::{Answer, App, Console, Live, Request, Theme, serve};
use crate::sys::signal::{self, Interruption};
use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture, Event,
};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use std::io::{self, BufWriter, IsTerminal, Stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two looks at answers while one is awaited.
const BUSY: Duration = Duration::from_millis(8);
/// Time between two looks at signals while nothing happens.
const IDLE: Duration = Duration::from_millis(100);
/// Time between two drawings of a screen that changes by itself.
const FRAME: Duration = Duration::from_millis(40);

/// Standard input and output have to be a terminal.
pub(super) fn needs_terminal() -> Result<(), CliError> {
    for (what, is_one) in
        [("standard input", io::stdin().is_terminal()), ("standard output", io::stdout().is_terminal())]
    {
        if !is_one {
            let problem =
                format!("--tui needs a terminal, which {what} is not; without it there is a prompt");
            return Err(CliError::Usage(problem));
        }
    }
    Ok(())
}

/// Shows the session until the person, or SIGTERM, ends it. `lines` are done first.
pub(super) fn show(
    session: &mut Session,
    name: &str,
    lines: Vec<String>,
    console: Console,
) -> Result<ExitCode, CliError> {
    let theme = Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let live = Live::default();
    let mut app = App::new(session.shared_symbols(), console.clone(), live.clone(), theme);
    let pair = session.machine().pair();
    app.tell(&format!(
        "{name} in mode {pair}, before its first instruction; '?' lists the keys, 'help' the commands"
    ));
    app.do_lines(lines);
    let (to_session, requests) = unbounded();
    let (to_screen, answers) = unbounded();
    let cannot = |source| CliError::Host { what: "cannot use the terminal", source };
    let ended = std::thread::scope(|scope| {
        let screen = std::thread::Builder::new()
            .name("screen".to_owned())
            .spawn_scoped(scope, move || converse(app, &console, to_session, &answers))?;
        serve(session, &requests, &to_screen, &live);
        drop(to_screen);
        screen.join().unwrap_or_else(|_| Err(io::Error::other("the screen failed")))
    });
    ended.map_err(cannot)?;
    match signal::interruption() {
        Some(Interruption::Terminate) => Ok(interrupted(|by| format!("stopped by {by}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Sets the mark that ends what the session is at, however the screen ends: nobody waits for it any more.
struct StopsSession(Arc<AtomicBool>);

impl Drop for StopsSession {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The screen's loop. Its end drops `requests`, which ends the session's.
fn converse(
    mut app: App,
    console: &Console,
    requests: Sender<Request>,
    answers: &Receiver<Answer>,
) -> io::Result<()> {
    let stop = signal::interrupt_flag();
    let _ended = StopsSession(Arc::clone(&stop));
    let _opened = Opened::new()?;
    let output = BufWriter::with_capacity(1 << 16, io::stdout());
    let mut terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>> =
        Terminal::new(CrosstermBackend::new(output))?;
    let (mut is_new, mut drawn, mut printed) = (true, Instant::now(), 0);
    let mut answers_queries = true;
    loop {
        match answers.try_recv() {
            Ok(answer) => {
                app.receive(answer);
                is_new = true;
            }
            Err(TryRecvError::Empty) => {}
            // The session is gone.
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        match signal::interruption() {
            Some(Interruption::Terminate) => app.quit(),
            Some(Interruption::CtrlC) => {
                // Not the key, which is none of the terminal's here, but a signal from elsewhere.
                signal::clear_interrupted();
                app.stop();
            }
            None => {}
        }
        if app.take_stop() {
            stop.store(true, Ordering::SeqCst);
        }
        if app.quits() || !IS_OPEN.load(Ordering::SeqCst) {
            return Ok(());
        }
        if app.take_redraw() {
            terminal.clear()?;
            is_new = true;
        }
        let changes = app.is_busy() || console.version() != printed;
        if is_new || changes && drawn.elapsed() >= FRAME {
            printed = console.version();
            terminal.draw(|frame| app.draw(frame))?;
            (is_new, drawn) = (false, Instant::now());
        }
        if let Some(request) = app.next_request() {
            if matches!(request, Request::Line(..)) {
                stop.store(false, Ordering::SeqCst);
            }
            if requests.send(request).is_err() {
                return Ok(());
            }
        }
        let mut patience = if app.is_busy() { BUSY } else { IDLE };
        let mut resized = false;
        while event::poll(patience)? {
            let event = event::read()?;
            resized |= matches!(event, Event::Resize(..));
            app.event(&event);
            (is_new, patience) = (true, Duration::ZERO);
        }
        // Keys that come together with a resize wait in crossterm until the terminal sends more: it is asked for something. One
        // that does not answer is not asked again.
        answers_queries = answers_queries && (!resized || cursor::position().is_ok());
    }
}

/// Whether the terminal is ours.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// The terminal, open for the screen until this is dropped.
struct Opened;

impl Opened {
    fn new() -> io::Result<Self> {
        // What a panic says is to be read on the terminal as it was.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                close();
                before(panic);
            }));
        });
        enable_raw_mode()?;
        IS_OPEN.store(true, Ordering::SeqCst);
        let opened = Self;
        execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste, cursor::Hide)?;
        Ok(opened)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        close();
    }
}

/// Gives the terminal back as it was, once. That it is gone is no reason to fail.
fn close() {
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        let _gone = execute!(
            io::stdout(),
            DisableBracketedPaste,
            DisableMouseCapture,
            LeaveAlternateScreen,
            cursor::Show
        );
        let _gone = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// Not a test of its own: the next one runs it in a terminal.
    #[test]
    #[ignore = "needs a terminal, and fails"]
    fn a_panic_on_the_screen() {
        // Only the hook is to give the terminal back.
        std::mem::forget(Opened::new().unwrap());
        panic!("the screen is broken");
    }

    fn tmux(folder: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(folder.join("socket")).args(arguments).env_remove("TMUX");
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    #[test]
    fn a_panic_is_told_on_a_terminal_as_it_was() {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("skipped: tmux is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (place, program) = (folder.path().display(), std::env::current_exe().unwrap());
        let script = format!(
            "stty -a >{place}/before; {} --exact cli::tui::tests::a_panic_on_the_screen --ignored --nocapture; \
             stty -a >{place}/after; touch {place}/done; cat",
            program.display()
        );
        tmux(
            folder.path(),
            &["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", "sh", "-c", &script],
        );
        let start = Instant::now();
        while !folder.path().join("done").exists() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let screen = tmux(folder.path(), &["capture-pane", "-p"]);
        let flags = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}";
        let flags = tmux(folder.path(), &["display-message", "-p", flags]);
        tmux(folder.path(), &["kill-server"]);
        assert!(screen.contains("the screen is broken"), "{screen}");
        assert_eq!(flags.trim(), "0 0 1", "{screen}");
        let modes =
            ["before", "after"].map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap());
        assert_eq!(modes[0], modes[1]);
    }
}
