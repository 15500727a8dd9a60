//! GDB's remote protocol before a debugging session: stock `gdb` drives the guest in every mode.
//!
//! The protocol itself is the crate `gdbstub`'s. [`target`] is what it asks of a session, [`registers`] how GDB numbers
//! the CPU's registers. GDB sees the boot CPU as the one thread of a bare machine, with its present page tables.
mod registers;
mod target;

use super::error::DebuggerError;
use super::session::Session;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason, run_blocking};
use std::io;
use std::net::TcpStream;
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

/// Talks with the GDB at the other end of `stream` until one of the two leaves.
///
/// # Errors
/// [`DebuggerError`]: the machine cannot go on.
pub fn serve(session: &mut Session, stream: TcpStream) -> Result<Parting, DebuggerError> {
    // Answers are small and waited for. Where it cannot be had, they come later.
    let _slower = stream.set_nodelay(true);
    let mut guest = Guest::new(session);
    let ended = GdbStub::new(stream).run_blocking::<Loop<'_>>(&mut guest);
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

/// Lets the guest go on for a while without anyone looking; says whether it ended.
///
/// # Errors
/// [`DebuggerError`]: the machine cannot go on.
pub fn go_on_alone(session: &mut Session) -> Result<bool, DebuggerError> {
    let mut guest = Guest::new(session);
    let stop = guest.run(SLICE)?;
    Ok(stop.is_some_and(|stop| {
        matches!(stop, SingleThreadStopReason::Exited(_) | SingleThreadStopReason::Terminated(_))
    }))
}

/// The guest runs in this thread, a slice at a time.
struct Loop<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> run_blocking::BlockingEventLoop for Loop<'a> {
    type Target = Guest<'a>;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

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

    fn on_interrupt(_: &mut Guest<'a>) -> Result<Option<Self::StopReason>, DebuggerError> {
        Ok(Some(SingleThreadStopReason::Signal(gdbstub::common::Signal::SIGINT)))
    }
}
