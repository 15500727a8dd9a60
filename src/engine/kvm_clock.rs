//! The clock that KVM offers its guests, as stock kernels know it (Linux, `Documentation/virt/kvm/x86/msr.rst` and
//! `cpuid.rst`): guest time as a line through the TSC, in a structure of the guest's RAM for each CPU.
//!
//! A guest finds it by CPUID's signature ([`crate::arch::cpuid::CpuidTable::offer_kvm_clock`]) and names the structures
//! by two MSRs. One point of the line serves all CPUs until guest time has stood, and each CPU's structure tells it in
//! that CPU's own TSC: so CPUs whose clocks are compared never differ, which is what the flag [`STABLE`] says.
//! Structures are written by the CPU's own thread, at its access, or while the guest stands. The addresses are the
//! guest's: where there is no RAM nothing is written, as in KVM.
mod saved;

pub use saved::{SavedCpuClock, SavedKvmClock};

use super::{Platform, VcpuId};
use crate::arch::{Gpa, msr};
use crate::clock::Clock;
use crate::mem::GuestRam;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bit of [`msr::KVM_SYSTEM_TIME`]: the structure is to be written. The rest is its address, a multiple of four.
const ENABLED: u64 = 1;
/// Flag of a structure: times that CPUs read of their clocks are in the order in which they read them.
const STABLE: u8 = 1;
const NANOS: u64 = 1_000_000_000;

/// What a machine that offers the clock keeps for it.
#[derive(Debug)]
pub struct KvmClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The time of day at guest time zero, since 1970.
    start: Duration,
    /// TSC of a guest that never moved it, and guest time, of the same moment.
    point: Option<(u64, u64)>,
    /// [`msr::KVM_WALL_CLOCK`], and how often its structure was written.
    wall: (u64, u32),
    cpus: Vec<Cpu>,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    /// [`msr::KVM_SYSTEM_TIME`].
    register: u64,
    /// What its TSC is ahead of the clock's.
    tsc_adjust: u64,
    /// Of its structure; even.
    version: u32,
}

/// `shift` and `mul` such that `(ticks << shift) * mul >> 32` are the nanoseconds of so many ticks, where `mul` has its
/// top bit set and a negative `shift` is one to the right.
fn scale(hz: u64) -> (i8, u32) {
    let hz = hz.max(1);
    // Nanoseconds of a tick, as a fraction that is to come to lie in 1/2..1.
    let (mut numerator, mut denominator, mut shift) = (u128::from(NANOS), u128::from(hz), 0);
    while numerator >= denominator {
        (denominator, shift) = (denominator << 1, shift + 1);
    }
    while numerator << 1 < denominator {
        (numerator, shift) = (numerator << 1, shift - 1);
    }
    (shift, ((numerator << 32) / denominator) as u32)
}

/// Writes the bytes behind `version`, which is odd meanwhile; returns the version then. Nothing happens where not all of
/// it is RAM.
fn publish(ram: &GuestRam, at: Gpa, version: u32, bytes: &[u8]) -> u32 {
    let size = size_of_val(&version) as u64 + bytes.len() as u64;
    if !at.0.is_multiple_of(4) || ram.offset(at, size).is_none() {
        return version;
    }
    let put = |offset, bytes: &[u8]| {
        // It is RAM, and RAM does not go.
        let _ = ram.write(at.offset(offset), bytes);
    };
    put(0, &version.wrapping_add(1).to_le_bytes());
    fence(Ordering::SeqCst);
    put(4, bytes);
    fence(Ordering::SeqCst);
    put(0, &version.wrapping_add(2).to_le_bytes());
    version.wrapping_add(2)
}

impl State {
    /// Writes the structure of a CPU, if it has named one.
    fn write(&mut self, cpu: VcpuId, ram: &GuestRam, clock: &Clock) {
        // The time first: what passes in between makes the clock late by that, and never early.
        let point = self.point.get_or_insert_with(|| {
            let now = clock.now().0;
            (clock.tsc(), now)
        });
        let (tsc, nanos) = *point;
        let Some(cpu) = self.cpus.get_mut(usize::from(cpu.0)).filter(|cpu| cpu.register & ENABLED != 0)
        else {
            return;
        };
        let (shift, mul) = scale(clock.tsc_hz());
        let mut bytes = vec![0; 4];
        bytes.extend(tsc.wrapping_add(cpu.tsc_adjust).to_le_bytes());
        bytes.extend(nanos.to_le_bytes());
        bytes.extend(mul.to_le_bytes());
        bytes.extend([shift as u8, STABLE, 0, 0]);
        cpu.version = publish(ram, Gpa(cpu.register & !ENABLED), cpu.version, &bytes);
    }
}

impl KvmClock {
    /// The clock of a machine with so many CPUs, on which it is `start` since 1970 at guest time zero.
    #[must_use]
    pub fn new(start: Duration, cpus: u8) -> Self {
        let state = State { start, point: None, wall: (0, 0), cpus: vec![Cpu::default(); cpus.into()] };
        Self { state: Mutex::new(state) }
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads one of its MSRs; `None` if it is none.
    pub(super) fn read(&self, cpu: VcpuId, index: u32) -> Option<u64> {
        self.with(|state| match index {
            msr::KVM_WALL_CLOCK => Some(state.wall.0),
            msr::KVM_SYSTEM_TIME => state.cpus.get(usize::from(cpu.0)).map(|cpu| cpu.register),
            _ => None,
        })
    }
}

impl Platform {
    /// Writes an MSR of KVM's clock, for a CPU whose TSC is ahead of the clock's by `tsc_adjust`; `None`, which means #GP,
    /// if the guest is offered no such clock or the MSR is none of its.
    pub(super) fn write_kvm_clock(&self, cpu: VcpuId, index: u32, value: u64, tsc_adjust: u64) -> Option<()> {
        let offered = self.kvm_clock()?;
        offered.with(|state| match index {
            msr::KVM_WALL_CLOCK => {
                let start = state.start;
                let nanos = start.subsec_nanos().to_le_bytes();
                let bytes = [(start.as_secs() as u32).to_le_bytes(), nanos].concat();
                state.wall = (value, publish(self.ram(), Gpa(value), state.wall.1, &bytes));
                Some(())
            }
            msr::KVM_SYSTEM_TIME => {
                let known = state.cpus.get_mut(usize::from(cpu.0))?;
                (known.register, known.tsc_adjust) = (value, tsc_adjust);
                state.write(cpu, self.ram(), self.clock());
                Some(())
            }
            _ => None,
        })
    }

    /// To be called when the guest has moved a CPU's TSC: its clock does not move with it.
    pub fn moved_tsc(&self, cpu: VcpuId, tsc_adjust: u64) {
        let Some(offered) = self.kvm_clock() else { return };
        offered.with(|state| {
            let Some(known) = state.cpus.get_mut(usize::from(cpu.0)) else { return };
            if known.tsc_adjust != tsc_adjust {
                known.tsc_adjust = tsc_adjust;
                state.write(cpu, self.ram(), self.clock());
            }
        });
    }

    /// To be called when guest time goes on after it stood, before the guest does.
    pub(super) fn renew_kvm_clock(&self) {
        let Some(offered) = self.kvm_clock() else { return };
        offered.with(|state| {
            state.point = None;
            self.vcpus().for_each(|cpu| state.write(cpu, self.ram(), self.clock()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpuid::{CpuidResult, CpuidTable};
    use crate::bus::{Bus, NoInterrupts, PowerSwitch};
    use crate::clock::{ClockSource, TimerQueue};
    use crate::engine::{KickCell, PlatformParts};
    use proptest::prelude::*;
    use std::sync::Arc;

    const CPUS: [VcpuId; 2] = [VcpuId(0), VcpuId(1)];
    const RAM: u64 = 0x4000;

    fn platform(offers: bool) -> Platform {
        let clock = Clock::new(ClockSource::Counted { nanos_per_instruction: 10 });
        clock.retire(100);
        Platform::new(PlatformParts {
            ram: Arc::new(GuestRam::new(RAM).unwrap()),
            bus: Bus::default(),
            interrupts: Arc::new(NoInterrupts),
            clock: Arc::new(clock),
            timers: vec![TimerQueue::new(), TimerQueue::new()],
            power: Arc::new(PowerSwitch::default()),
            cpuid: CpuidTable::from_host(|_, _| CpuidResult::default()),
            kicks: vec![KickCell::new(), KickCell::new()],
            hypercalls: None,
            kvm_clock: offers.then(|| KvmClock::new(Duration::new(1_700_000_000, 5), 2)),
            keeps_times: false,
        })
    }

    fn bytes(platform: &Platform, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        platform.ram().read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    /// What a guest computes from a structure when its TSC is `tsc`; also the version.
    fn guest_time(platform: &Platform, at: u64, tsc: u64) -> (u64, u32) {
        let page = bytes(platform, at, 32);
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        assert_eq!(page[29] & STABLE, STABLE);
        let delta = u128::from(tsc.wrapping_sub(long(8)));
        let shift = page[28] as i8;
        let delta = if shift < 0 { delta >> -shift } else { delta << shift };
        (long(16) + ((delta * u128::from(word(24))) >> 32) as u64, word(0))
    }

    #[test]
    fn ticks_become_nanoseconds_at_any_frequency() {
        for hz in [1, 3, 1_193_182, 999_999_999, 1_000_000_000, 1_000_000_001, 2_300_039_117, 5_700_123_456] {
            let (shift, mul) = scale(hz);
            assert_ne!(mul >> 31, 0, "{hz}");
            let ticks = u128::from(hz) << 10;
            let scaled = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let nanos = (scaled * u128::from(mul)) >> 32;
            // 1024 seconds, and the fraction cut at 31 bits.
            let right = 1024 * u128::from(NANOS);
            assert!(nanos <= right && right - nanos < 1000, "{hz}: {nanos}");
        }
    }

    #[test]
    fn each_cpu_reads_the_same_time_in_its_own_tsc() {
        let platform = platform(true);
        let write = |cpu: usize, at, adjust| {
            platform.write_kvm_clock(CPUS[cpu], msr::KVM_SYSTEM_TIME, at | ENABLED, adjust).unwrap();
        };
        write(0, 0x1000, 0);
        platform.clock().retire(1000);
        write(1, 0x1fec, 1_000_000);
        let now = platform.clock().now().0;
        assert_eq!(now, 11_000);
        let tsc = platform.clock().tsc();
        // A nanosecond may be lost by cutting.
        for (at, adjust) in [(0x1000, 0), (0x1fec, 1_000_000)] {
            let (time, version) = guest_time(&platform, at, tsc + adjust);
            assert!(now - time <= 1 && version == 2, "{time}");
        }
        // The guest moves a TSC, and its clock stays.
        platform.moved_tsc(CPUS[0], 77);
        let (time, version) = guest_time(&platform, 0x1000, tsc + 77);
        assert!(now - time <= 1 && version == 4, "{time}");
        platform.moved_tsc(CPUS[0], 77);
        assert_eq!(guest_time(&platform, 0x1000, tsc).1, 4);
        // Time has stood.
        platform.renew_kvm_clock();
        assert_eq!(guest_time(&platform, 0x1000, tsc + 77), (now, 6));
        assert_eq!(guest_time(&platform, 0x1fec, tsc + 1_000_000), (now, 4));
        assert_eq!(platform.msr_read(CPUS[1], msr::KVM_SYSTEM_TIME), Some(0x1fed));
        // Switched off, the structure is the guest's.
        platform.write_kvm_clock(CPUS[0], msr::KVM_SYSTEM_TIME, 0, 77).unwrap();
        platform.ram().write(Gpa(0x1000), &[9; 32]).unwrap();
        platform.renew_kvm_clock();
        assert_eq!(bytes(&platform, 0x1000, 32), [9; 32]);
    }

    #[test]
    fn the_wall_clock_tells_when_guest_time_began() {
        let platform = platform(true);
        platform.write_kvm_clock(CPUS[0], msr::KVM_WALL_CLOCK, 0x40, 0).unwrap();
        let parts = [2_u32, 1_700_000_000, 5].map(u32::to_le_bytes).concat();
        assert_eq!(bytes(&platform, 0x40, 12), parts);
        assert_eq!(platform.msr_read(CPUS[0], msr::KVM_WALL_CLOCK), Some(0x40));
    }

    #[test]
    fn whoever_is_not_offered_the_clock_has_no_such_registers() {
        let platform = platform(false);
        for index in [msr::KVM_WALL_CLOCK, msr::KVM_SYSTEM_TIME] {
            assert_eq!(platform.write_kvm_clock(CPUS[0], index, 0x1001, 0), None);
            assert_eq!(platform.msr_read(CPUS[0], index), None);
        }
        platform.moved_tsc(CPUS[0], 1);
        platform.renew_kvm_clock();
        assert_eq!(bytes(&platform, 0, RAM as usize), vec![0; RAM as usize]);
    }

    proptest! {
        /// Wherever the guest says: nothing but a whole structure in RAM is ever written.
        #[test]
        fn hostile_addresses_write_nothing_beside(
            at in prop_oneof![any::<u64>(), 0..RAM + 64, (0..64_u64).prop_map(|n| RAM - n)],
            wall in any::<bool>(),
        ) {
            let platform = platform(true);
            let (index, size) = if wall { (msr::KVM_WALL_CLOCK, 12) } else { (msr::KVM_SYSTEM_TIME, 32) };
            prop_assert_eq!(platform.write_kvm_clock(CPUS[1], index, at, 3), Some(()));
            let at = if wall { Some(at) } else { (at & ENABLED != 0).then_some(at & !ENABLED) };
            let place = at.filter(|at| at.is_multiple_of(4) && at.checked_add(size).is_some_and(|end| end <= RAM));
            let ram = bytes(&platform, 0, RAM as usize);
            let written = ram.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at as u64);
            let place = place.map_or(0..0, |at| at..at + size);
            prop_assert_eq!(place.is_empty(), ram.iter().all(|byte| *byte == 0));
            prop_assert!(written.into_iter().all(|at| place.contains(&at)));
            platform.renew_kvm_clock();
        }
    }
}
