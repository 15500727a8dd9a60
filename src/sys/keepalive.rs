//! Connections whose other end may be gone without a word: the host asks it now and then.
#![expect(unsafe_code, reason = "std has no such socket options")]
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Seconds of silence before the other end is asked.
const IDLE: i32 = 15;
/// Seconds between two questions.
const INTERVAL: i32 = 5;
/// Questions without an answer before it counts as gone.
const QUESTIONS: i32 = 3;
/// Milliseconds that what was sent may stay without an answer.
const UNANSWERED: i32 = 30_000;

/// From now on reads of `stream` fail half a minute after its other end is gone without a word.
///
/// # Errors
/// What `setsockopt` reports.
pub fn watch(stream: &TcpStream) -> io::Result<()> {
    let set = |level, option, value: i32| {
        let size = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the descriptor is open while `stream` lives, and the value is of the size that is told.
        let done =
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), size) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, IDLE)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, INTERVAL)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, QUESTIONS)?;
    set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, UNANSWERED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_connection_is_watched() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        watch(&stream).unwrap();
        let (mut value, mut size) = (0_i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: both places live on this stack and have the sizes that are told.
        let read = unsafe {
            let value = (&raw mut value).cast();
            libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, value, &raw mut size)
        };
        assert_eq!((read, value), (0, IDLE));
    }
}
