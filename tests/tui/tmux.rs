//! A program in a real pseudo terminal, by tmux: keys and mouse go in, and what the terminal shows comes out.
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a screen may take to show something. Builders share the machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal with one program in it.
pub(crate) struct Terminal {
    folder: TempDir,
}

/// Whether there is tmux; says so if not.
pub(crate) fn is_there() -> bool {
    let there = Command::new("tmux").arg("-V").output().is_ok();
    if !there {
        println!("skipped: tmux is not installed");
    }
    there
}

impl Terminal {
    /// Starts `sh -c script` in a terminal of this size. `$DIR` is a folder of its own.
    pub(crate) fn start(width: u16, height: u16, script: &str) -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        let size = [width.to_string(), height.to_string()];
        let folder = format!("DIR={}", terminal.folder.path().display());
        let arguments =
            ["-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], "env", &folder];
        terminal.tmux(&[&arguments[..], &["TERM=tmux-256color", "sh", "-c", script]].concat());
        terminal
    }

    /// A file of the terminal's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let socket = self.file("socket");
        let output =
            Command::new("tmux").arg("-S").arg(&socket).args(arguments).env_remove("TMUX").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys by tmux' names, or types text.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types text as it is: also the control sequences that a terminal sends for a mouse.
    pub(crate) fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Presses and releases the mouse's first button, columns and rows counted from 0.
    pub(crate) fn click(&self, (column, row): (usize, usize)) {
        self.types(&format!("\x1b[<0;{x};{y}M\x1b[<0;{x};{y}m", x = column + 1, y = row + 1));
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What is shown.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with colours, as control sequences.
    pub(crate) fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-e", "-p"])
    }

    /// A variable of tmux' formats.
    pub(crate) fn tells(&self, variable: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{variable}}}")]).trim().to_owned()
    }

    /// Waits until all of `wanted` is shown; the screen then.
    pub(crate) fn wait_for(&self, wanted: &[&str]) -> String {
        self.wait(|screen| wanted.iter().all(|text| screen.contains(text)), &format!("{wanted:?}"))
    }

    /// Waits until the screen is as `is` wants it.
    pub(crate) fn wait(&self, is: impl Fn(&str) -> bool, what: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if is(&screen) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "{what} is not shown:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the program has ended.
    pub(crate) fn wait_for_end(&self) {
        let start = Instant::now();
        let has_session = || {
            let output = Command::new("tmux").arg("-S").arg(self.file("socket")).arg("has-session").output();
            output.is_ok_and(|output| output.status.success())
        };
        while has_session() {
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where a text is shown.
    pub(crate) fn find(&self, text: &str) -> (usize, usize) {
        let screen = self.screen();
        let place = screen.lines().zip(0..).find_map(|(line, row)| {
            let at = line.find(text)?;
            Some((line[..at].chars().count(), row))
        });
        place.unwrap_or_else(|| panic!("{text:?} is not shown:\n{screen}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended = Command::new("tmux").arg("-S").arg(self.file("socket")).arg("kill-server").output();
    }
}
