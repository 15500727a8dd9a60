//! The clock page: guest time as a line through the TSC, so that a guest reads it without an exit.
use crate::abi;
use crate::arch::Gpa;
use crate::clock::Clock;
use crate::mem::GuestRam;

/// Where the page is, and what the last writing made of it.
#[derive(Debug)]
pub(super) struct ClockPage {
    pub(super) at: Gpa,
    /// How far the guest's TSC is ahead of the clock's.
    pub(super) tsc_adjust: u64,
    pub(super) version: u32,
}

/// `mult` and `shift` such that `ticks * mult >> shift` are the nanoseconds of so many ticks, as exactly as 32 bits can say.
pub(super) fn scale(hz: u64) -> (u32, u32) {
    const NANOS: u128 = 1_000_000_000;
    let hz = u128::from(hz.max(1));
    (0..64)
        .rev()
        .find_map(|shift| Some((u32::try_from(((NANOS << shift) + hz / 2) / hz).ok()?, shift)))
        .unwrap_or((u32::MAX, 0))
}

impl ClockPage {
    /// A page at `at`, which is RAM, for a guest whose TSC is ahead of the clock's by `tsc_adjust`.
    pub(super) fn new(at: Gpa, tsc_adjust: u64) -> Self {
        Self { at, tsc_adjust, version: 0 }
    }

    /// Writes the page. The version is odd meanwhile.
    pub(super) fn write(&mut self, ram: &GuestRam, clock: &Clock) {
        let (mult, shift) = scale(clock.tsc_hz());
        // The time first: what passes in between makes the page late by that, and never early.
        let nanos = clock.now().0;
        let tsc = clock.tsc().wrapping_add(self.tsc_adjust);
        let page = abi::ClockPage { version: 0, flags: 0, tsc, nanos, mult, shift };
        let put = |offset: usize, bytes: &[u8]| {
            // It was RAM when it was named, and RAM does not go.
            let _ = ram.write(self.at.offset(offset as u64), bytes);
        };
        self.version = self.version.wrapping_add(2) & !1;
        put(std::mem::offset_of!(abi::ClockPage, version), &self.version.wrapping_sub(1).to_le_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        put(std::mem::offset_of!(abi::ClockPage, flags), &page.flags.to_le_bytes());
        put(std::mem::offset_of!(abi::ClockPage, tsc), &page.tsc.to_le_bytes());
        put(std::mem::offset_of!(abi::ClockPage, nanos), &page.nanos.to_le_bytes());
        put(std::mem::offset_of!(abi::ClockPage, mult), &page.mult.to_le_bytes());
        put(std::mem::offset_of!(abi::ClockPage, shift), &page.shift.to_le_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        put(std::mem::offset_of!(abi::ClockPage, version), &self.version.to_le_bytes());
    }
}
