//! The bench port: a guest marks where its timed region begins and ends, and the host stamps each mark.
//!
//! The stamps are an independent look at the figures that the guest prints: it reads the TSC itself. Whoever counts
//! what the guest does hears of each mark too, to tell the timed regions from the rest.
use crate::arch::{Port, Width};
use crate::bus::PortDevice;
use crate::clock::{Clock, Nanos};
use std::sync::{Arc, Mutex, PoisonError};

/// A mark and when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// The value written: one of `abi::MARK_*`, or a guest's own.
    pub value: u32,
    /// Guest time, in nanoseconds.
    pub nanos: u64,
    /// The TSC as the guest reads it, without its adjustment.
    pub tsc: u64,
}

/// The marks of a run. The host's end of the [`BenchPort`].
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Marks {
    /// The first [`BenchPort::MOST`] marks, in order.
    pub list: Vec<Mark>,
    /// How many came after those and were not kept.
    pub dropped: u64,
}

/// Hears of each mark's value, on the thread of the vCPU that wrote it.
pub type MarkListener = Box<dyn FnMut(u32) + Send>;

/// The device. 32-bit writes mark; narrower ones have no effect, and reads give ones, as where there is no such device.
pub struct BenchPort {
    clock: Arc<Clock>,
    marks: Arc<Mutex<Marks>>,
    listener: MarkListener,
}

impl BenchPort {
    /// How many marks are kept.
    pub const MOST: usize = 65_536;

    /// A device that stamps by `clock`, appends to `marks` and tells `listener`.
    #[must_use]
    pub fn new(clock: Arc<Clock>, marks: Arc<Mutex<Marks>>, listener: MarkListener) -> Self {
        Self { clock, marks, listener }
    }
}

impl PortDevice for BenchPort {
    fn port_read(&mut self, _: Port, _: Width) -> u32 {
        u32::MAX
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        if width != Width::B4 || port != *crate::arch::layout::BENCH.start() {
            return;
        }
        let tsc = self.clock.tsc();
        let Nanos(nanos) = self.clock.now();
        (self.listener)(value);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.list.len() < Self::MOST {
            marks.list.push(Mark { value, nanos, tsc });
        } else {
            marks.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockSource;

    #[test]
    fn marks_are_stamped_and_bounded() {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 3 }));
        let marks = Arc::new(Mutex::new(Marks::default()));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener = Box::new(move |value| hears.lock().unwrap().push(value));
        let mut port = BenchPort::new(Arc::clone(&clock), Arc::clone(&marks), listener);
        port.port_write(Port(0x5f4), Width::B4, 1);
        clock.retire(10);
        port.port_write(Port(0x5f4), Width::B1, 7);
        port.port_write(Port(0x5f5), Width::B4, 7);
        port.port_write(Port(0x5f4), Width::B4, 2);
        let at = |value, nanos| Mark { value, nanos, tsc: nanos };
        assert_eq!(marks.lock().unwrap().list, [at(1, 0), at(2, 30)]);
        assert_eq!(*heard.lock().unwrap(), [1, 2]);
        for _ in 0..BenchPort::MOST {
            port.port_write(Port(0x5f4), Width::B4, 9);
        }
        let marks = marks.lock().unwrap();
        assert_eq!((marks.list.len(), marks.dropped), (BenchPort::MOST, 2));
    }
}
