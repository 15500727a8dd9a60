//! `run --screen`: the guest's text screen on the terminal while it runs, and as lines when it has ended.
use crate::host::keys;
use crate::host::screen::Painter;
use crate::machine::Screen;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks at the screen: 25 in a second.
const INTERVAL: Duration = Duration::from_millis(40);

/// Shows a screen on the terminal until it is dropped.
pub(super) struct Display {
    running: Option<Sender<()>>,
    painter: Option<JoinHandle<()>>,
}

impl Display {
    /// Begins to show `screen` on standard output.
    pub(super) fn start(screen: Screen) -> io::Result<Self> {
        let (running, ended) = bounded::<()>(0);
        let painter = std::thread::Builder::new().name("screen".into()).spawn(move || {
            let mut painter = Painter::default();
            let mut text = Painter::BEGIN.to_owned();
            loop {
                if let Some(now) = screen.text() {
                    text.push_str(&painter.paint(now));
                }
                // A terminal that is gone ends the run by its signal.
                let mut output = io::stdout().lock();
                let _gone = output.write_all(text.as_bytes()).and_then(|()| output.flush());
                text.clear();
                if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    let _gone = output.write_all(Painter::END.as_bytes()).and_then(|()| output.flush());
                    return;
                }
            }
        })?;
        Ok(Self { running: Some(running), painter: Some(painter) })
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(painter) = self.painter.take() {
            let _ended = painter.join();
        }
    }
}

/// The screen as lines, down to the last that has something; or, in a graphics mode, a word about that.
pub(super) fn lines(screen: &Screen) -> String {
    let Some(text) = screen.text() else { return "[the screen is in a graphics mode]\n".to_owned() };
    let mut lines = text.lines();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Strikes the keys for what is typed, as many as the keyboard takes; of how many bytes that is.
pub(super) fn strike(screen: &Screen, typed: &[u8]) -> usize {
    let mut done = 0;
    while let Some((length, strokes)) = typed.get(done..).and_then(keys::first) {
        if !strokes.is_empty() && !screen.strike(&strokes) {
            break;
        }
        done += length;
    }
    done
}
