//! A virtio console with one port (virtio 1.2, 5.3): no size, no multiplexing, no emergency write.
//!
//! What the guest sends goes to a [`ConsoleSink`] at once, at most [`MOST`] bytes of a buffer. Input waits in a bounded
//! queue until the guest offers buffers.
use super::{Broken, CONFIGURATION, Queue, VirtioDevice};
use crate::device::BadState;
use crate::device::uart16550::ConsoleSink;
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Number of the queue of buffers for input.
pub const RECEIVE: u16 = 0;
/// Number of the queue of what the guest prints.
pub const TRANSMIT: u16 = 1;
/// Bytes that are taken of one buffer, the rest of which is lost. Linux sends 32 KiB at most.
pub const MOST: u64 = 64 << 10;
/// Bytes that are handed to the sink at a time.
const CHUNK: usize = 4096;

/// The console.
pub struct Console {
    // Runtime glue.
    sink: Box<dyn ConsoleSink>,
    // Volatile state.
    /// From the host, not yet in a buffer of the guest.
    backlog: VecDeque<u8>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("backlog", &self.backlog.len()).finish_non_exhaustive()
    }
}

/// State of the console beside its registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedConsole {
    /// Bytes from the host that wait for a buffer.
    pub backlog: Vec<u8>,
}

impl Console {
    /// How many bytes from the host wait at most.
    pub const BACKLOG: usize = 4096;

    /// A console that prints to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn ConsoleSink>) -> Self {
        Self { sink, backlog: VecDeque::new() }
    }

    /// Takes input and returns how much: no more than the queue has room for. To be followed by a serving of
    /// [`RECEIVE`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(Self::BACKLOG.saturating_sub(self.backlog.len()));
        self.backlog.extend(&bytes[..taken]);
        taken
    }

    fn give(&mut self, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        while !self.backlog.is_empty() {
            let Some(mut chain) = queue.pop(ram)? else { break };
            let room = chain.writable.left();
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(self.backlog.len());
            let input: Vec<u8> = self.backlog.iter().take(length).copied().collect();
            // A buffer that is no RAM takes what comes before it; the rest waits for the next.
            let _partly = chain.writable.write(ram, &input);
            let written = room - chain.writable.left();
            self.backlog.drain(..written as usize);
            queue.push(ram, &chain, written as u32)?;
        }
        Ok(())
    }

    fn print(&mut self, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        let mut chunk = [0; CHUNK];
        while let Some(mut chain) = queue.pop(ram)? {
            let mut left = chain.readable.left().min(MOST);
            while left > 0 {
                let bytes = &mut chunk[..left.min(CHUNK as u64) as usize];
                if chain.readable.read(ram, bytes).is_err() {
                    break;
                }
                self.sink.transmit(bytes);
                left -= bytes.len() as u64;
            }
            queue.push(ram, &chain, 0)?;
        }
        Ok(())
    }
}

impl VirtioDevice for Console {
    type Saved = SavedConsole;

    fn device_id(&self) -> u32 {
        super::spec::device_id::CONSOLE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 64]
    }

    fn configuration(&self) -> [u8; CONFIGURATION] {
        [0; CONFIGURATION]
    }

    fn negotiated(&mut self, _: u64) {}

    fn serve(&mut self, index: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        match index {
            RECEIVE => self.give(queue, ram),
            _ => self.print(queue, ram),
        }
    }

    fn reset(&mut self) {}

    fn saved(&self) -> SavedConsole {
        let Self { sink: _, backlog } = self;
        SavedConsole { backlog: backlog.iter().copied().collect() }
    }

    fn restore(&mut self, saved: &SavedConsole) -> Result<(), BadState> {
        let SavedConsole { backlog } = saved;
        if backlog.len() > Self::BACKLOG {
            return Err(BadState { device: "virtio-console", what: "more characters than fit" });
        }
        self.backlog = backlog.iter().copied().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Driver, READ, WRITE};
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<u8>>>);

    impl ConsoleSink for Sent {
        fn transmit(&mut self, bytes: &[u8]) {
            self.0.lock().unwrap().extend(bytes);
        }
    }

    fn driver() -> (Driver<Console>, Sent) {
        let sent = Sent::default();
        (Driver::started(Console::new(Box::new(sent.clone()))), sent)
    }

    #[test]
    fn what_the_guest_sends_is_printed() {
        let (mut driver, sent) = driver();
        driver.write(0x8000, b"hello, ");
        driver.write(0x9000, b"world");
        driver.offer(TRANSMIT, &[(0x8000, 7, READ), (0x9000, 5, READ)]);
        driver.notify(TRANSMIT);
        assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
        assert_eq!(*sent.0.lock().unwrap(), b"hello, world");
        driver.offer(TRANSMIT, &[(0x8000, 100 << 10, READ), (u64::MAX, 1, READ)]);
        driver.notify(TRANSMIT);
        assert_eq!(sent.0.lock().unwrap().len(), 12 + MOST as usize);
        driver.offer(TRANSMIT, &[(u64::MAX, u32::MAX, READ)]);
        driver.notify(TRANSMIT);
        assert_eq!(driver.used(TRANSMIT).len(), 3);
    }

    #[test]
    fn input_waits_for_buffers_and_is_bounded() {
        let (mut driver, _) = driver();
        let take = |driver: &mut Driver<Console>, bytes: &[u8]| {
            driver.face.act(RECEIVE, |console| console.receive(bytes))
        };
        assert_eq!(take(&mut driver, &[7; 5000]), Console::BACKLOG);
        assert!(!driver.interrupted());
        assert_eq!(take(&mut driver, &[7]), 0);
        driver.offer(RECEIVE, &[(0x8000, 4000, WRITE)]);
        driver.notify(RECEIVE);
        assert_eq!(driver.used(RECEIVE), [(0, 4000)]);
        assert!(driver.interrupted());
        driver.offer(RECEIVE, &[(0x8000, 50, WRITE), (0x9000, 50, WRITE)]);
        driver.notify(RECEIVE);
        assert_eq!(driver.used(RECEIVE), [(0, 4000), (1, 96)]);
        driver.offer(RECEIVE, &[(0x8000, 4, WRITE)]);
        driver.notify(RECEIVE);
        assert_eq!(driver.used(RECEIVE).len(), 2, "nothing to give");
        assert_eq!(take(&mut driver, b"abcdef"), 6);
        assert_eq!(driver.used(RECEIVE)[2], (3, 4));
        assert_eq!(driver.bytes(0x8000, 4), b"abcd");
        let saved = driver.face.transport().device().saved();
        assert_eq!(saved.backlog, b"ef");
        let (mut other, _) = self::driver();
        other.face.act(RECEIVE, |console| console.restore(&saved)).unwrap();
        assert_eq!(other.face.transport().device().saved(), saved);
        let too_much = SavedConsole { backlog: vec![0; Console::BACKLOG + 1] };
        assert!(other.face.act(RECEIVE, |console| console.restore(&too_much)).is_err());
    }
}
