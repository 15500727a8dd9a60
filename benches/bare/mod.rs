//! A CPU in long mode with RAM and nothing else, for benches of the emulator.
use std::sync::Arc;
use trivisor::arch::cpuid::CpuidTable;
use trivisor::arch::state::gpr;
use trivisor::arch::{CpuState, Cr0, Cr4, Efer, Gpa, Segment};
use trivisor::bus::{Bus, NoInterrupts, PowerSwitch};
use trivisor::clock::{Clock, ClockSource, TimerQueue};
use trivisor::engine::{KickCell, Platform, PlatformParts};
use trivisor::mem::GuestRam;
use trivisor::sys::host_cpuid;

/// 16 MiB of RAM, mapped to themselves with large pages by tables at 0x1000, and no devices.
pub(crate) fn machine() -> Platform {
    let ram = Arc::new(GuestRam::new(16 << 20).expect("guest memory"));
    let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).expect("in RAM");
    put(0x1000, 0x2007);
    put(0x2000, 0x3007);
    for i in 0..8 {
        put(0x3000 + 8 * i, i << 21 | 0x87);
    }
    Platform::new(PlatformParts {
        ram,
        bus: Bus::default(),
        interrupts: Arc::new(NoInterrupts),
        clock: Arc::new(Clock::new(ClockSource::Real)),
        timers: vec![TimerQueue::new()],
        power: Arc::new(PowerSwitch::default()),
        cpuid: CpuidTable::from_host(host_cpuid::query),
        kicks: vec![KickCell::new()],
        hypercalls: None,
        kvm_clock: None,
        keeps_times: false,
    })
}

/// A CPU of [`machine`] at ring 0, about to execute the code at `rip`.
pub(crate) fn long_mode(rip: u64) -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET | Cr0::NE | Cr0::WP;
    state.cr3 = 0x1000;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR;
    state.efer = Efer::LME | Efer::LMA;
    state.segments = [Segment::flat32(0x10, 3); 6];
    state.segments[1] = Segment { attributes: 0xa09b, ..Segment::flat32(8, 0xb) };
    state.rip = rip;
    state.gpr[gpr::RSP] = 0x9000;
    state
}
