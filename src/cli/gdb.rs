//! `trivisor debug --gdb`: waits for a GDB and lets it drive the guest.
//!
//! One GDB at a time: others are sent away while one is there. A guest that GDB detached from goes on by itself; one whose
//! GDB is gone without a word stands until the next comes.
use super::error::{CliError, say};
use crate::debugger::gdb::{self, Parting};
use crate::debugger::{DebuggerError, Session};
use crate::sys::keepalive;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often, and how far apart, the place is looked at for somebody who waits for it.
const PATIENCE: u32 = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// The address that `value` names: `PORT` of this host alone, or `ADDRESS:PORT`.
pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    let port = value.strip_prefix(':').unwrap_or(value);
    if let Ok(port) = port.parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    value
        .parse()
        .map_err(|_| "neither a port nor ADDRESS:PORT; write for instance 1234 or 127.0.0.1:1234".to_owned())
}

/// Serves GDB after GDB until one kills the guest or the guest ends. `image_is_64bit` says what the guest's code is in the
/// end.
pub(super) fn serve(
    session: &mut Session,
    at: SocketAddr,
    image_is_64bit: bool,
) -> Result<ExitCode, CliError> {
    let listening = TcpListener::bind(at).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (at, listener) =
        listening.map_err(|source| CliError::Host { what: "cannot wait for GDB there", source })?;
    say(&format!("waiting for GDB: 'target remote {at}'"));
    let (sender, visitors) = bounded(1);
    let occupied = Arc::new(AtomicBool::new(false));
    let door = Arc::clone(&occupied);
    std::thread::Builder::new()
        .name("gdb listener".to_owned())
        .spawn(move || receive(&listener, &sender, &door))
        .map_err(|source| CliError::Host { what: "cannot start a thread", source })?;
    let mut alone = false;
    loop {
        let visitor = if alone { next_while_running(session, &visitors) } else { Ok(visitors.recv().ok()) };
        let parting = match visitor {
            Ok(Some(stream)) => gdb::serve(session, stream, image_is_64bit),
            Ok(None) => return Ok(ExitCode::SUCCESS),
            Err(error) => Err(error),
        };
        occupied.store(false, Ordering::Release);
        match parting {
            Ok(Parting::Detached) => alone = true,
            Ok(Parting::Stranger) => {}
            Ok(Parting::Lost) => {
                alone = false;
                say("GDB is gone; the guest stands until the next one comes");
            }
            Ok(Parting::Ended | Parting::Killed) => return Ok(ExitCode::SUCCESS),
            Err(error) => {
                say(&error.to_string());
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}

/// Passes one visitor on at a time: who comes while `occupied` finds the connection closed.
fn receive(listener: &TcpListener, sender: &Sender<TcpStream>, occupied: &AtomicBool) {
    for stream in listener.incoming().filter_map(Result::ok) {
        // Where it cannot be had, somebody who is gone without a word holds the place.
        let _unnoticed = keepalive::watch(&stream);
        let free = || !occupied.swap(true, Ordering::AcqRel);
        // One who comes again at once finds his own former connection, which is not over yet.
        let admitted = free()
            || (0..PATIENCE).any(|_| {
                std::thread::sleep(PAUSE);
                free()
            });
        if admitted && sender.send(stream).is_err() {
            return;
        }
    }
}

/// Lets the guest go on until somebody comes; `None` if it ended before.
fn next_while_running(
    session: &mut Session,
    visitors: &Receiver<TcpStream>,
) -> Result<Option<TcpStream>, DebuggerError> {
    loop {
        match visitors.try_recv() {
            Ok(stream) => return Ok(Some(stream)),
            Err(TryRecvError::Disconnected) => return Ok(None),
            Err(TryRecvError::Empty) => {}
        }
        if gdb::go_on_alone(session)? {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_this_hosts() {
        for word in ["1234", ":1234", "127.0.0.1:1234"] {
            assert_eq!(address(word), Ok((Ipv4Addr::LOCALHOST, 1234).into()), "{word}");
        }
        assert!(address("[::1]:7").is_ok());
        for wrong in ["", "x", "99999", "localhost:x", "1.2.3.4"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
