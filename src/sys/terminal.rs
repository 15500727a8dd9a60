//! The terminal on standard input: each key at once, and none of them shown.
#![expect(unsafe_code, reason = "termios has no safe wrapper in std")]
use std::io::{self, IsTerminal};

/// A terminal whose keys come as they are typed. Ctrl-C still makes its signal. Dropped, the terminal is as before.
pub struct KeyByKey(libc::termios);

impl std::fmt::Debug for KeyByKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyByKey")
    }
}

impl KeyByKey {
    /// Changes standard input so; `None` if that is no terminal.
    ///
    /// # Errors
    /// What `tcgetattr` and `tcsetattr` report.
    pub fn stdin() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        // SAFETY: termios is plain bits; all zero is a valid value.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` outlives the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut wanted = before;
        wanted.c_lflag &= !(libc::ICANON | libc::ECHO | libc::IEXTEN);
        wanted.c_iflag &= !(libc::ICRNL | libc::IXON);
        wanted.c_cc[libc::VMIN] = 1;
        wanted.c_cc[libc::VTIME] = 0;
        set(&wanted)?;
        Ok(Some(Self(before)))
    }
}

fn set(wanted: &libc::termios) -> io::Result<()> {
    // SAFETY: `wanted` outlives the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, std::ptr::from_ref(wanted)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for KeyByKey {
    fn drop(&mut self) {
        let _nothing_can_be_done = set(&self.0);
    }
}
