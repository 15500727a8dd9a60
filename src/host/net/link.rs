//! A link between two machines: a Unix stream socket on which each frame follows its length, 32 bits in network order (as
//! QEMU's `-netdev stream` has it).
//!
//! The machine that finds nobody at the socket's path listens there; the one that comes later connects. Frames wait in a
//! bounded queue for a thread that writes them; what comes beyond that, or while nobody is connected, is lost. The other
//! end is not trusted: a length that no frame has ends the connection.
use crate::device::virtio::net::FRAME;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Frames that wait to be written.
const WAITING: usize = 256;

/// Our end of the link, for sending. Dropped, the link ends.
#[derive(Debug)]
pub struct Link {
    frames: Option<Sender<Vec<u8>>>,
    shared: Arc<Shared>,
    /// The socket that we made.
    made: Option<PathBuf>,
}

#[derive(Debug)]
struct Shared {
    /// The thread that writes and the one that reads hold it, too, while they use it.
    connection: Mutex<Option<Arc<UnixStream>>>,
    ended: AtomicBool,
}

impl Shared {
    fn connection(&self) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes in over the link.
#[derive(Debug)]
pub struct LinkReader {
    shared: Arc<Shared>,
    frames: Receiver<Vec<u8>>,
    listener: Option<UnixListener>,
}

impl Link {
    /// Connects to the machine at `path`, or waits for one there.
    ///
    /// # Errors
    /// When neither can be.
    pub fn open(path: &Path) -> io::Result<(Self, LinkReader)> {
        let (connection, listener) = match UnixStream::connect(path) {
            Ok(connection) => (Some(Arc::new(connection)), None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Some(UnixListener::bind(path)?)),
            // A socket that nobody listens at was left behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path)?;
                (None, Some(UnixListener::bind(path)?))
            }
            Err(error) => return Err(error),
        };
        let made = listener.is_some().then(|| path.to_owned());
        let shared = Arc::new(Shared { connection: Mutex::new(connection), ended: AtomicBool::new(false) });
        let (sender, frames) = bounded(WAITING);
        let reader = LinkReader { shared: Arc::clone(&shared), frames, listener };
        Ok((Self { frames: Some(sender), shared, made }, reader))
    }

    /// Sends a frame, or loses it.
    pub fn send(&self, frame: &[u8]) {
        if let Some(frames) = &self.frames {
            let _lost_if_full = frames.try_send(frame.to_vec());
        }
    }
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Ends the thread that writes, then the one that reads.
        drop(self.frames.take());
        if let Some(connection) = self.shared.connection().take() {
            let _gone = connection.shutdown(Shutdown::Both);
        }
        if let Some(path) = &self.made {
            // Wakes the one that waits for the other machine.
            let _nobody_waits = UnixStream::connect(path);
            let _gone = std::fs::remove_file(path);
        }
    }
}

impl LinkReader {
    /// Writes what waits, and hands each frame that comes in to `take`, on threads of their own, until the link ends or
    /// `take` says false.
    ///
    /// # Errors
    /// When the host refuses the threads.
    pub fn start(self, mut take: impl FnMut(&[u8]) -> bool + Send + 'static) -> io::Result<()> {
        let Self { shared, frames, listener } = self;
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("net out".into()).spawn(move || write(&writing, &frames))?;
        thread::Builder::new().name("net in".into()).spawn(move || {
            loop {
                if let Some(listener) = &listener {
                    let Ok((connection, _)) = listener.accept() else { return };
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    *shared.connection() = Some(Arc::new(connection));
                }
                // Whoever drops our end from here on finds the connection.
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let connection = shared.connection().clone();
                let wanted = connection.is_none_or(|connection| read(&connection, &mut take));
                // The other machine has gone; where we listen, another may come.
                shared.connection().take();
                if !wanted || listener.is_none() || shared.ended.load(Ordering::SeqCst) {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

/// Writes frames until nobody sends any more.
fn write(shared: &Shared, frames: &Receiver<Vec<u8>>) {
    for frame in frames {
        let Some(connection) = shared.connection().clone() else { continue };
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend(frame);
        if (&*connection).write_all(&bytes).is_err() {
            // Ends the reader's wait, too.
            let _gone = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Reads frames until the connection ends; whether they are still wanted.
fn read(mut connection: &UnixStream, take: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut frame = [0; *FRAME.end()];
    loop {
        let mut length = [0; 4];
        if connection.read_exact(&mut length).is_err() {
            return true;
        }
        let length = u32::from_be_bytes(length) as usize;
        let Some(frame) = frame.get_mut(..length) else { return true };
        if connection.read_exact(frame).is_err() {
            return true;
        }
        if !take(frame) {
            return false;
        }
    }
}
