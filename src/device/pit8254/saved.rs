//! Saved state of the timer.
use super::counter::{Counter, Counting, Load};
use super::spec::{Access, Mode, SystemControl};
use super::{Pit8254, tick_of};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of one counter; the fields are those of the counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described at the counter's own fields")]
pub struct SavedCounter {
    pub mode: Mode,
    pub access: Access,
    pub bcd: bool,
    pub gate: bool,
    pub reload: u32,
    pub period: u32,
    pub counting: Counting,
    pub awaits_count: bool,
    pub null_count: bool,
    pub load: Option<Load>,
    pub written_low: Option<u8>,
    pub read_high: bool,
    pub latched_count: Option<u16>,
    pub latched_status: Option<u8>,
}

/// State of the timer and of port 0x61.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedPit {
    /// The three counters.
    pub counters: [SavedCounter; 3],
    /// What was written to port 0x61.
    pub system_control: u8,
    /// The tick up to which the interrupts of counter 0 have been passed on.
    pub seen: u64,
}

impl Counter {
    fn saved(&self) -> SavedCounter {
        let Self {
            mode,
            access,
            bcd,
            gate,
            reload,
            period,
            counting,
            awaits_count,
            null_count,
            load,
            written_low,
            read_high,
            latched_count,
            latched_status,
        } = *self;
        SavedCounter {
            mode,
            access,
            bcd,
            gate,
            reload,
            period,
            counting,
            awaits_count,
            null_count,
            load,
            written_low,
            read_high,
            latched_count,
            latched_status,
        }
    }

    /// `latest` is a tick that no time in the state can reach beyond by more than a period.
    fn restored(saved: &SavedCounter, latest: u64) -> Result<Self, BadState> {
        let SavedCounter {
            mode,
            access,
            bcd,
            gate,
            reload,
            period,
            counting,
            awaits_count,
            null_count,
            load,
            written_low,
            read_high,
            latched_count,
            latched_status,
        } = *saved;
        let most = if bcd { 10_000 } else { 0x1_0000 };
        let bad = |what| BadState { device: "pit8254", what };
        if !(1..=most).contains(&reload) || !(1..=most).contains(&period) {
            return Err(bad("a count is out of range"));
        }
        let furthest = match counting {
            Counting::No => 0,
            Counting::Held { elapsed } => elapsed,
            Counting::Since { start } => start,
        };
        if furthest.max(load.map_or(0, |l| l.at)) > latest.saturating_add(0x1_0000) {
            return Err(bad("a time lies in the future"));
        }
        Ok(Self {
            mode,
            access,
            bcd,
            gate,
            reload,
            period,
            counting,
            awaits_count,
            null_count,
            load,
            written_low,
            read_high,
            latched_count,
            latched_status,
        })
    }
}

impl Pit8254 {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedPit {
        let Self { irq: _, clock: _, timer: _, driven: _, counters, system_control, seen } = self;
        SavedPit {
            counters: counters.each_ref().map(Counter::saved),
            system_control: system_control.bits(),
            seen: *seen,
        }
    }

    /// Takes on a saved state, drives the line and arms the timer. The clock has been restored before.
    ///
    /// # Errors
    /// [`BadState`], if the timer cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedPit) -> Result<(), BadState> {
        let SavedPit { counters: [a, b, c], system_control, seen } = saved;
        let now = tick_of(self.clock.now());
        let bad = |what| BadState { device: "pit8254", what };
        if *seen > now {
            return Err(bad("a time lies in the future"));
        }
        let counters = [Counter::restored(a, now)?, Counter::restored(b, now)?, Counter::restored(c, now)?];
        let control =
            SystemControl::from_bits(*system_control).filter(|c| SystemControl::WRITABLE.contains(*c));
        self.system_control = control.ok_or_else(|| bad("a reserved bit is set"))?;
        self.counters = counters;
        self.seen = *seen;
        // The controller restores its pins itself: this level is not an edge to it.
        self.driven = self.counters[0].out(self.seen);
        self.irq.set(self.driven);
        self.sync();
        Ok(())
    }
}
