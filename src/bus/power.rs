//! How a device asks for the machine to end or to start again.
use std::sync::atomic::{AtomicU64, Ordering};

/// What is to happen to the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerRequest {
    /// Power off; the guest gave this status.
    Off(u32),
    /// Reset.
    Reset,
}

const OFF: u64 = 1 << 32;
const RESET: u64 = 2 << 32;

/// Holds the first request until the machine's runner takes it.
#[derive(Debug, Default)]
pub struct PowerSwitch(AtomicU64);

impl PowerSwitch {
    /// Asks for power-off with `status`.
    pub fn power_off(&self, status: u32) {
        self.request(OFF | u64::from(status));
    }

    /// Asks for a reset.
    pub fn reset(&self) {
        self.request(RESET);
    }

    fn request(&self, value: u64) {
        // The first request wins; a second one before it is taken changes nothing.
        let _lost = self.0.compare_exchange(0, value, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether there is a request. Cheap: one load.
    #[inline]
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Takes the request.
    pub fn take(&self) -> Option<PowerRequest> {
        match self.0.swap(0, Ordering::SeqCst) {
            0 => None,
            RESET => Some(PowerRequest::Reset),
            off => Some(PowerRequest::Off(off as u32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_wins_and_is_taken_once() {
        let switch = PowerSwitch::default();
        assert!(!switch.is_requested());
        switch.power_off(7);
        switch.reset();
        assert!(switch.is_requested());
        assert_eq!(switch.take(), Some(PowerRequest::Off(7)));
        assert_eq!(switch.take(), None);
        switch.reset();
        assert_eq!(switch.take(), Some(PowerRequest::Reset));
    }
}
