//! GDB's remote protocol before a debugging session: stock `gdb` drives the guest in every mode.
//!
//! The protocol itself is the crate `gdbstub`'s. [`target`] is what it asks of a session, [`registers`] how GDB numbers
//! the CPU's registers, [`described`] what it is told of the CPU. GDB sees each CPU as a thread of a bare machine, with its
//! present page tables.
pub(super) mod described;
mod monitor;
mod motion;
mod registers;
mod target;

use super::error::DebuggerError;
use super::session::Session;
use described::Described;
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::{DisconnectReason, GdbStub, run_blocking};
use motion::Reason;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use target::Guest;

/// How long the guest runs before the connection is looked at, for GDB's Ctrl-C.
const SLICE: Duration = Duration::from_millis(20);

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// GDB said goodbye: the guest goes on without it.
    Detached,
    /// The connection is gone, or what came was no conversation: the guest stands where it stood.
    Lost,
    /// As [`Self::Lost`], and nothing was ever asked of the guest: whoever it was, it was no GDB.
    Stranger,
    /// The guest ended.
    Ended,
    /// GDB wants the guest ended.
    Killed,
}

/// Talks with the GDB at the other end of `stream` until one of the two leaves. `image_is_64bit` says what the guest's code
/// is in the end.
///
/// # Errors
/// [`DebuggerError`]: the machine cannot go on.
pub fn serve(
    session: &mut Session,
    stream: TcpStream,
    image_is_64bit: bool,
) -> Result<Parting, DebuggerError> {
    // Answers are small and waited for. Where it cannot be had, they come later.
    let _slower = stream.set_nodelay(true);
    let Ok(heard) = stream.try_clone() else { return Ok(Parting::Stranger) };
    let suiting = Described::suiting(&session.state()?, image_is_64bit);
    let described = session.described.unwrap_or(suiting);
    let mut guest = Guest::new(session, described);
    let called = std::sync::Arc::clone(&guest.called);
    let listen = Box::new(move || called.load(Ordering::Relaxed) || wants_stop(&heard, &called));
    let before = std::mem::replace(&mut guest.session.interrupted, listen);
    let ended = GdbStub::new(stream).run_blocking::<Loop<'_>>(&mut guest);
    guest.session.interrupted = before;
    let parting = match ended {
        Ok(DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_)) => Parting::Ended,
        Ok(DisconnectReason::Disconnect) => Parting::Detached,
        Ok(DisconnectReason::Kill) => Parting::Killed,
        Err(error) if error.is_target_error() => match error.into_target_error() {
            Some(error) => return Err(error),
            None => Parting::Lost,
        },
        Err(_) => Parting::Lost,
    };
    let parting = if parting == Parting::Lost && !guest.was_asked() { Parting::Stranger } else { parting };
    guest.leave()?;
    Ok(parting)
}

/// GDB's Ctrl-C.
const CALL: u8 = 3;

/// Whether GDB calls, or is gone, while the guest goes back and nobody else listens. A call is taken, and noted.
fn wants_stop(mut heard: &TcpStream, called: &AtomicBool) -> bool {
    let mut one = [0];
    let said = heard.set_nonblocking(true).and_then(|()| heard.peek(&mut one));
    let _blocks_again = heard.set_nonblocking(false);
    let wants = match said {
        Ok(0) => true,
        Ok(_) => one == [CALL] && heard.read(&mut one).is_ok(),
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    called.fetch_or(wants, Ordering::Relaxed);
    wants
}

/// Lets the guest go on for a while without anyone looking; says whether it ended.
///
/// # Errors
/// [`DebuggerError`]: the machine cannot go on.
pub fn go_on_alone(session: &mut Session) -> Result<bool, DebuggerError> {
    let mut guest = Guest::new(session, Described::default());
    let stop = guest.run(SLICE, None)?;
    Ok(stop.is_some_and(|stop| matches!(stop, Reason::Exited(_) | Reason::Terminated(_))))
}

/// The guest runs in this thread, a slice at a time.
struct Loop<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> run_blocking::BlockingEventLoop for Loop<'a> {
    type Target = Guest<'a>;
    type Connection = TcpStream;
    type StopReason = Reason;

    fn wait_for_stop_reason(
        guest: &mut Guest<'a>,
        stream: &mut TcpStream,
    ) -> Result<
        run_blocking::Event<Self::StopReason>,
        run_blocking::WaitForStopReasonError<DebuggerError, io::Error>,
    > {
        use run_blocking::{Event, WaitForStopReasonError};
        loop {
            let said = ConnectionExt::peek(stream).map_err(WaitForStopReasonError::Connection)?;
            if said.is_some() {
                let byte = ConnectionExt::read(stream).map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
            if let Some(stop) = guest.go(SLICE).map_err(WaitForStopReasonError::Target)? {
                return Ok(Event::TargetStopped(stop));
            }
        }
    }

    fn on_interrupt(guest: &mut Guest<'a>) -> Result<Option<Self::StopReason>, DebuggerError> {
        Ok(Some(guest.signal(Signal::SIGINT)))
    }
}
