//! Saved state of KVM's clock.
use super::{Cpu, KvmClock, NANOS, State};
use crate::engine::saved::BadOffers;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a CPU has named: the register, what its TSC is ahead of the clock's, the version of its structure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedCpuClock {
    /// MSR_KVM_SYSTEM_TIME_NEW.
    pub register: u64,
    /// Ticks.
    pub tsc_adjust: u64,
    /// Of its structure.
    pub version: u32,
}

/// State of KVM's clock. Its line through the TSC is made anew where it is restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedKvmClock {
    /// The time of day at guest time zero: seconds since 1970, and nanoseconds.
    pub start: (u64, u32),
    /// MSR_KVM_WALL_CLOCK_NEW, and the version of its structure.
    pub wall: (u64, u32),
    /// By CPU.
    pub cpus: Vec<SavedCpuClock>,
}

impl KvmClock {
    pub(in crate::engine) fn saved(&self) -> SavedKvmClock {
        self.with(|state| {
            let State { start, point: _, wall, cpus } = &*state;
            let cpu = |cpu: &Cpu| {
                let Cpu { register, tsc_adjust, version } = *cpu;
                SavedCpuClock { register, tsc_adjust, version }
            };
            let start = (start.as_secs(), start.subsec_nanos());
            SavedKvmClock { start, wall: *wall, cpus: cpus.iter().map(cpu).collect() }
        })
    }

    pub(in crate::engine) fn check(&self, saved: &SavedKvmClock) -> Result<(), BadOffers> {
        // Addresses are the guest's, and looked at when something is written there.
        if u64::from(saved.start.1) >= NANOS {
            return Err(BadOffers("KVM's clock begins at no time of day"));
        }
        if self.with(|state| state.cpus.len()) != saved.cpus.len() {
            return Err(BadOffers("KVM's clock is that of another number of CPUs"));
        }
        Ok(())
    }

    pub(in crate::engine) fn restore(&self, saved: &SavedKvmClock) {
        let SavedKvmClock { start, wall, cpus } = saved;
        let cpu = |cpu: &SavedCpuClock| {
            let SavedCpuClock { register, tsc_adjust, version } = *cpu;
            Cpu { register, tsc_adjust, version: version & !1 }
        };
        let cpus = cpus.iter().map(cpu).collect();
        self.with(|state| {
            *state = State { start: Duration::new(start.0, start.1), point: None, wall: *wall, cpus };
        });
    }
}
