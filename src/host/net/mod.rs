//! The other end of a network card: a link to another machine by a Unix socket, and a file of what passed.
mod link;
mod pcap;
#[cfg(test)]
mod tests;

pub use link::{Link, LinkReader};
pub use pcap::Capture;

use crate::device::virtio::net::FrameSink;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Which network is wanted: plain data. With neither, frames go nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetSpec {
    /// A socket: the machine that comes first makes it, the second connects to it.
    pub link: Option<PathBuf>,
    /// A file for what passes, made anew.
    pub capture: Option<PathBuf>,
}

/// Why a network cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The file of what passes cannot be made.
    #[error("cannot write the packet capture {path}: {source}", path = path.display())]
    Capture {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made, or not connected to.
    #[error("cannot use the network's socket {path}: {source}", path = path.display())]
    Link {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A capture that both directions share.
type Shared = Option<Arc<Mutex<Capture>>>;

fn note(capture: &Shared, frame: &[u8]) {
    if let Some(capture) = capture {
        capture.lock().unwrap_or_else(PoisonError::into_inner).note(frame);
    }
}

/// The host's end of a card.
#[derive(Debug)]
pub struct Network {
    capture: Shared,
    link: Option<Link>,
}

impl Network {
    /// Makes what `spec` wants. The second part is to be run once the card is in its machine: it hands over what comes in.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn open(spec: &NetSpec) -> Result<(Self, Option<Incoming>), NetError> {
        let capture = match &spec.capture {
            Some(path) => {
                let capture = Capture::create(path)
                    .map_err(|source| NetError::Capture { path: path.clone(), source })?;
                Some(Arc::new(Mutex::new(capture)))
            }
            None => None,
        };
        let Some(path) = &spec.link else { return Ok((Self { capture, link: None }, None)) };
        let (link, reader) =
            Link::open(path).map_err(|source| NetError::Link { path: path.clone(), source })?;
        let incoming = Incoming { capture: capture.clone(), reader };
        Ok((Self { capture, link: Some(link) }, Some(incoming)))
    }
}

impl FrameSink for Network {
    fn send(&mut self, frame: &[u8]) {
        note(&self.capture, frame);
        if let Some(link) = &self.link {
            link.send(frame);
        }
    }
}

/// What comes in from the other machine.
#[derive(Debug)]
pub struct Incoming {
    capture: Shared,
    reader: LinkReader,
}

impl Incoming {
    /// Hands each frame to `take`, on a thread of its own, until the link ends or `take` says false: nobody is there any
    /// more.
    ///
    /// # Errors
    /// When the host refuses the thread.
    pub fn start(self, mut take: impl FnMut(&[u8]) -> bool + Send + 'static) -> io::Result<()> {
        let Self { capture, reader } = self;
        reader.start(move |frame| {
            note(&capture, frame);
            take(frame)
        })
    }
}
