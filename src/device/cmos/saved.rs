//! Saved state of the real-time clock.
use super::spec::SIZE;
use super::{Cmos, SECOND, State, tick_of};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the real-time clock and the CMOS RAM; the fields are those of the device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedCmos {
    /// The index, 0–127.
    pub selected: u8,
    /// RAM and registers, 128 bytes.
    pub ram: Vec<u8>,
    /// Seconds since 1970 at guest time zero.
    pub origin: i64,
    /// Nanoseconds of guest time by which the seconds begin late.
    pub phase: u64,
    /// What the day of the week is ahead of the date's.
    pub weekday_ahead: u8,
    /// Second up to which flags are computed.
    pub seen_second: i64,
    /// Tick of the crystal up to which the periodic flag is computed.
    pub seen_tick: u64,
}

/// Seconds since 1970 that no clock of four-digit years reaches, with a margin.
const FAR: i64 = 1 << 40;

impl Cmos {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedCmos {
        let Self { irq: _, clock: _, timer: _, driven: _, state } = self;
        let State { selected, ram, origin, phase, weekday_ahead, seen_second, seen_tick } = state.clone();
        SavedCmos { selected, ram: ram.to_vec(), origin, phase, weekday_ahead, seen_second, seen_tick }
    }

    /// Takes on a saved state, drives the line and arms the timer. The clock has been restored before.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedCmos) -> Result<(), BadState> {
        let SavedCmos { selected, ram, origin, phase, weekday_ahead, seen_second, seen_tick } = saved.clone();
        let bad = |what| BadState { device: "cmos", what };
        let ram: [u8; SIZE] = ram.try_into().map_err(|_| bad("the RAM has another size"))?;
        if selected > 0x7f || weekday_ahead > 6 || phase >= SECOND {
            return Err(bad("a field is out of range"));
        }
        if origin.unsigned_abs() > FAR.unsigned_abs()
            || seen_second.unsigned_abs() > FAR.unsigned_abs()
            || seen_tick > tick_of(self.clock.now())
        {
            return Err(bad("a time is out of range"));
        }
        self.state = State { selected, ram, origin, phase, weekday_ahead, seen_second, seen_tick };
        self.sync();
        self.irq.set(self.driven);
        Ok(())
    }
}
