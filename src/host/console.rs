//! The other end of a serial console: a capture for parsing, a stream for a person, both, and input from a stream.
//!
//! All of it is bounded: a guest may print for ever. A sink is called under the UART's lock, on the vCPU's thread; so
//! none waits for a terminal longer than one write takes, and none writes for each character.
use crate::device::uart16550::ConsoleSink;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a guest printed, as far as it was kept: the first and the last part. Clones share it.
#[derive(Clone, Debug)]
pub struct Capture(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    /// The most bytes of either part.
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Capture {
    /// A capture that keeps at most `limit` bytes: half of them from the beginning, half from the end, so that the
    /// records that frame a flood of text survive it.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            half: limit / 2,
            head: Vec::new(),
            tail: VecDeque::new(),
            dropped: 0,
        })))
    }

    /// How many bytes in the middle were not kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.0).dropped
    }

    /// What was printed, as text; a line in brackets stands for what was dropped. Bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = lock(&self.0);
        let mut bytes = kept.head.clone();
        if kept.dropped > 0 {
            bytes.extend(format!("\n[{} bytes dropped]\n", kept.dropped).bytes());
        }
        bytes.extend(&kept.tail);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl ConsoleSink for Capture {
    fn transmit(&mut self, bytes: &[u8]) {
        let kept = &mut *lock(&self.0);
        for &byte in bytes {
            if kept.head.len() < kept.half {
                kept.head.push(byte);
                continue;
            }
            if kept.tail.len() >= kept.half {
                kept.dropped += 1;
                if kept.tail.pop_front().is_none() {
                    continue;
                }
            }
            kept.tail.push_back(byte);
        }
    }
}

/// Prints to a stream, as standard output: after [`Stream::FULL`] bytes, or [`Stream::IDLE`] after the first of them, or
/// when dropped. What the stream refuses is lost.
pub struct Stream {
    buffer: Arc<Mutex<Buffer>>,
    /// Tells the flusher that the buffer is no longer empty; the flusher ends with it.
    filled: Option<crossbeam_channel::Sender<()>>,
    flusher: Option<thread::JoinHandle<()>>,
}

struct Buffer {
    bytes: Vec<u8>,
    output: Box<dyn Write + Send>,
}

impl Buffer {
    fn flush(&mut self) {
        // A closed pipe is no reason to stop the guest.
        let _lost = self.output.write_all(&self.bytes).and_then(|()| self.output.flush());
        self.bytes.clear();
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// Bytes after which it prints.
    pub const FULL: usize = 4096;
    /// Time after which it prints what it has.
    pub const IDLE: Duration = Duration::from_millis(10);

    /// A sink that prints to `output`.
    ///
    /// # Errors
    /// When the host refuses the thread that prints after a pause.
    pub fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let buffer = Arc::new(Mutex::new(Buffer { bytes: Vec::with_capacity(Self::FULL), output }));
        let (filled, is_filled) = crossbeam_channel::bounded(1);
        let shared = Arc::clone(&buffer);
        let flusher = thread::Builder::new().name("console".into()).spawn(move || {
            while is_filled.recv().is_ok() {
                thread::sleep(Self::IDLE);
                lock(&shared).flush();
            }
        })?;
        Ok(Self { buffer, filled: Some(filled), flusher: Some(flusher) })
    }

    /// A sink that prints to standard output.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn stdout() -> io::Result<Self> {
        Self::new(Box::new(io::stdout()))
    }
}

impl ConsoleSink for Stream {
    fn transmit(&mut self, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        let was_empty = buffer.bytes.is_empty();
        buffer.bytes.extend(bytes);
        if buffer.bytes.len() >= Self::FULL {
            buffer.flush();
        } else if was_empty && let Some(filled) = &self.filled {
            // Full means that the flusher has yet to take the last notice: it will find these bytes too.
            let _noticed = filled.try_send(());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.filled = None;
        lock(&self.buffer).flush();
        if let Some(flusher) = self.flusher.take() {
            let _ended = flusher.join();
        }
    }
}

/// Gives everything to several sinks, in order.
#[derive(Default)]
pub struct Tee(pub Vec<Box<dyn ConsoleSink>>);

impl std::fmt::Debug for Tee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tee").field(&self.0.len()).finish()
    }
}

impl ConsoleSink for Tee {
    fn transmit(&mut self, bytes: &[u8]) {
        for sink in &mut self.0 {
            sink.transmit(bytes);
        }
    }
}

/// Reads `input`, as standard input, on a thread of its own until its end and hands it to `take`, which says how many
/// bytes it took (as `Uart16550::receive` does) or `None` when nobody listens any more. What was not taken is offered
/// again. The thread may be blocked in a read when the machine ends: it is not waited for.
///
/// # Errors
/// When the host refuses the thread.
pub fn feed(
    mut input: Box<dyn Read + Send>,
    mut take: impl FnMut(&[u8]) -> Option<usize> + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    const AGAIN: Duration = Duration::from_millis(5);
    thread::Builder::new().name("console input".into()).spawn(move || {
        let mut buffer = [0; 256];
        loop {
            let length = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                match take(rest) {
                    None => return,
                    Some(0) => thread::sleep(AGAIN),
                    Some(taken) => rest = &rest[taken.min(rest.len())..],
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that can be looked at.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut page = lock(&self.0);
            page.0.extend(bytes);
            page.1 += 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_capture_keeps_the_beginning_and_the_end() {
        let capture = Capture::new(8);
        let mut sink = capture.clone();
        sink.transmit(b"begin");
        assert_eq!((capture.text().as_str(), capture.dropped()), ("begin", 0));
        sink.transmit(b"xxxxxxxxx");
        sink.transmit(b"end\n");
        assert_eq!(capture.dropped(), 10);
        assert_eq!(capture.text(), "begi\n[10 bytes dropped]\nend\n");
        let mut nothing = Capture::new(0);
        nothing.transmit(b"ab");
        assert_eq!(nothing.dropped(), 2);
    }

    #[test]
    fn a_stream_prints_all_in_few_writes() {
        let page = Page::default();
        let mut stream = Stream::new(Box::new(page.clone())).unwrap();
        for i in 0..100_000_u32 {
            stream.transmit(&[i as u8]);
        }
        drop(stream);
        let page = lock(&page.0);
        assert!(page.0.iter().copied().eq((0..100_000_u32).map(|i| i as u8)));
        assert!(page.1 < 1000, "{} writes", page.1);
    }

    #[test]
    fn a_stream_prints_a_prompt_without_an_end_of_line() {
        let page = Page::default();
        let mut stream = Stream::new(Box::new(page.clone())).unwrap();
        for prompt in [b"login: ".as_slice(), b"password: "] {
            stream.transmit(prompt);
            while !lock(&page.0).0.ends_with(prompt) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn a_tee_gives_to_all() {
        let (a, b) = (Capture::new(100), Capture::new(100));
        Tee(vec![Box::new(a.clone()), Box::new(b.clone())]).transmit(b"x");
        assert_eq!((a.text(), b.text()), ("x".into(), "x".into()));
    }

    #[test]
    fn input_is_offered_until_it_is_taken() {
        let taken = Arc::new(Mutex::new(Vec::<u8>::new()));
        let shared = Arc::clone(&taken);
        let mut calls = 0;
        let thread = feed(Box::new(&b"a few characters"[..]), move |bytes| {
            calls += 1;
            let n = if calls % 2 == 0 { 0 } else { bytes.len().min(3) };
            lock(&shared).extend(&bytes[..n]);
            Some(n)
        });
        thread.unwrap().join().unwrap();
        assert_eq!(*lock(&taken), b"a few characters");
        feed(Box::new(io::repeat(0)), |_| None).unwrap().join().unwrap();
    }
}
