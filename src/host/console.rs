//! The other end of a serial console: a capture for parsing, a stream for a person, both, and input from a stream.
//!
//! All of it is bounded: a guest may print for ever. A sink is called under the UART's lock, on the vCPU's thread; so
//! none writes for each character, and none waits for a reader once the run is to end.
use crate::device::uart16550::ConsoleSink;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a guest printed, as far as it was kept: the first and the last part. Clones share it.
#[derive(Clone, Debug)]
pub struct Capture(Arc<Mutex<Kept>>);

#[derive(Clone, Debug)]
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

    /// A capture of its own that has kept the same so far.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self(Arc::new(Mutex::new(lock(&self.0).clone())))
    }

    /// From now on keeps what `other` has kept: the guest went back.
    pub fn go_back_to(&self, other: &Self) {
        let kept = lock(&other.0).clone();
        *lock(&self.0) = kept;
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

/// Prints to a stream, as standard output, on a thread of its own: after [`Stream::FULL`] bytes, or [`Stream::IDLE`]
/// after the first of them, or when dropped. What the stream refuses is lost; its [`Outlet`] tells.
///
/// At most [`Stream::MOST`] bytes wait to be printed. The guest waits where a reader is slower than it, until the outlet
/// is abandoned: from then on what cannot be printed soon is lost.
#[derive(Debug)]
pub struct Stream {
    outlet: Outlet,
    printer: Option<thread::JoinHandle<()>>,
}

/// How a [`Stream`]'s output fares, for those who run the machine behind it. Clones share it.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Anything in `waiting` or `failure` changed.
    changed: Condvar,
    failure: OnceLock<io::Error>,
    abandoned: AtomicBool,
    /// The person wants all to stop.
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The printer is writing what it took before.
    writing: bool,
    /// Nothing more comes.
    closed: bool,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("failure", &self.failure()).finish_non_exhaustive()
    }
}

impl Outlet {
    /// Why the stream takes nothing any more, if it does not.
    #[must_use]
    pub fn failure(&self) -> Option<&io::Error> {
        self.0.failure.get()
    }

    /// From now on nobody waits for a reader that does not read.
    pub fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::SeqCst);
        self.0.changed.notify_all();
    }

    /// Whether there is no use in waiting for a reader.
    fn is_given_up(&self) -> bool {
        self.0.abandoned.load(Ordering::SeqCst) || self.0.stop.load(Ordering::SeqCst)
    }

    /// Waits for a change, but looks at the marks that nobody notifies now and then.
    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>, most: Duration) -> MutexGuard<'a, Waiting> {
        self.0.changed.wait_timeout(waiting, most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The printer's life: takes what waits and writes it, until the stream is dropped.
    fn print(&self, mut output: Box<dyn Write + Send>) {
        loop {
            let mut waiting = lock(&self.0.waiting);
            while waiting.bytes.is_empty() && !waiting.closed {
                waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let until = Instant::now() + Stream::IDLE;
            while waiting.bytes.len() < Stream::FULL && !waiting.closed {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                waiting = self.wait(waiting, left);
            }
            if waiting.bytes.is_empty() {
                return;
            }
            let bytes = std::mem::take(&mut waiting.bytes);
            waiting.writing = true;
            drop(waiting);
            self.0.changed.notify_all();
            if self.failure().is_none()
                && let Err(error) = output.write_all(&bytes).and_then(|()| output.flush())
            {
                let _only_writer = self.0.failure.set(error);
            }
            lock(&self.0.waiting).writing = false;
            self.0.changed.notify_all();
        }
    }
}

impl Stream {
    /// Bytes after which it prints.
    pub const FULL: usize = 4096;
    /// Time after which it prints what it has.
    pub const IDLE: Duration = Duration::from_millis(10);
    /// Bytes that wait to be printed at most, beside those that are being printed.
    pub const MOST: usize = 64 << 10;
    /// How often one who waits for a reader looks whether to give up.
    const LOOK: Duration = Duration::from_millis(20);
    /// How long an outlet that was given up may still take to print what waits.
    const LAST_WORDS: Duration = Duration::from_millis(200);

    /// A sink that prints to `output`. While `stop` is set nobody waits for a reader, as after [`Outlet::abandon`].
    ///
    /// # Errors
    /// When the host refuses the thread that prints.
    pub fn new(output: Box<dyn Write + Send>, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let outlet = Outlet(Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            failure: OnceLock::new(),
            abandoned: AtomicBool::new(false),
            stop,
        }));
        let printing = outlet.clone();
        let printer = thread::Builder::new().name("console".into()).spawn(move || printing.print(output))?;
        Ok(Self { outlet, printer: Some(printer) })
    }

    /// A sink that prints to standard output.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn stdout(stop: Arc<AtomicBool>) -> io::Result<Self> {
        Self::new(Box::new(io::stdout()), stop)
    }

    /// Tells how the output fares.
    #[must_use]
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }
}

impl ConsoleSink for Stream {
    fn transmit(&mut self, bytes: &[u8]) {
        let outlet = &self.outlet;
        let mut waiting = lock(&outlet.0.waiting);
        while waiting.bytes.len() + bytes.len() > Self::MOST && !waiting.bytes.is_empty() {
            if outlet.failure().is_some() || outlet.is_given_up() {
                return;
            }
            waiting = outlet.wait(waiting, Self::LOOK);
        }
        let before = waiting.bytes.len();
        waiting.bytes.extend(bytes);
        // The printer waits for the first byte and for enough of them; in between nobody needs to be woken.
        if before == 0 || (before < Self::FULL && waiting.bytes.len() >= Self::FULL) {
            drop(waiting);
            outlet.0.changed.notify_all();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let outlet = &self.outlet;
        let mut waiting = lock(&outlet.0.waiting);
        waiting.closed = true;
        outlet.0.changed.notify_all();
        let mut given_up: Option<Instant> = None;
        while waiting.writing || !waiting.bytes.is_empty() {
            if outlet.is_given_up() && given_up.get_or_insert_with(Instant::now).elapsed() > Self::LAST_WORDS
            {
                // The printer is stuck in a write; it ends with the process.
                return;
            }
            waiting = outlet.wait(waiting, Self::LOOK);
        }
        drop(waiting);
        if let Some(printer) = self.printer.take() {
            let _ended = printer.join();
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
        let mut stream = Stream::new(Box::new(page.clone()), Arc::default()).unwrap();
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
        let mut stream = Stream::new(Box::new(page.clone()), Arc::default()).unwrap();
        for prompt in [b"login: ".as_slice(), b"password: "] {
            stream.transmit(prompt);
            while !lock(&page.0).0.ends_with(prompt) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// An output whose reader never reads.
    struct Stuck(crossbeam_channel::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _the_test_is_over = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_who_gave_up() {
        for by_signal in [false, true] {
            let (_open, stuck) = crossbeam_channel::bounded(0);
            let stop = Arc::new(AtomicBool::new(false));
            let mut stream = Stream::new(Box::new(Stuck(stuck)), Arc::clone(&stop)).unwrap();
            let outlet = stream.outlet();
            let sender = thread::spawn(move || {
                // Far more than may wait: without the end below this would never return.
                for _ in 0..10 * Stream::MOST {
                    stream.transmit(b"x");
                }
                assert!(lock(&stream.outlet.0.waiting).bytes.len() <= Stream::MOST);
            });
            while lock(&outlet.0.waiting).bytes.len() < Stream::MOST {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(!sender.is_finished());
            if by_signal {
                stop.store(true, Ordering::SeqCst);
            } else {
                outlet.abandon();
            }
            sender.join().unwrap();
            assert!(outlet.failure().is_none());
        }
    }

    #[test]
    fn a_closed_output_is_told_and_takes_everything() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut stream = Stream::new(Box::new(Closed), Arc::default()).unwrap();
        let outlet = stream.outlet();
        for _ in 0..10 * Stream::MOST {
            stream.transmit(b"x");
        }
        drop(stream);
        assert_eq!(outlet.failure().map(io::Error::kind), Some(io::ErrorKind::BrokenPipe));
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
