//! Everything outside the CPU, as a backend sees it: one way to ports, device memory, MSRs, CPUID and interrupts.
//!
//! Counting and tracing happen here, once, for all modes.
use super::hypercall::Hypercalls;
use super::{Account, Cause, Counters, EventKind, Exit, KickCell, KvmClock, Progress, Trace, VcpuId};
use crate::abi;
use crate::arch::cpuid::{CpuidResult, CpuidTable, LEAF1_EDX_APIC};
use crate::arch::{CpuState, Gpa, Port, Vector, Width, msr};
use crate::bus::{Bus, CpuSignal, InterruptController, PowerRequest, PowerSwitch};
use crate::clock::{Clock, ClockSource, Timer, TimerQueue};
use crate::mem::GuestRam;
use std::sync::Arc;

/// What a platform is put together from; the machine fills this in.
pub struct PlatformParts {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Ports and device memory, all claims made.
    pub bus: Bus,
    /// The interrupt complex.
    pub interrupts: Arc<dyn InterruptController>,
    /// Guest time.
    pub clock: Arc<Clock>,
    /// Deadlines, a queue for each vCPU: the boot processor's also has those of the devices.
    pub timers: Vec<Arc<TimerQueue>>,
    /// Power-off and reset.
    pub power: Arc<PowerSwitch>,
    /// What CPUID says, but for what differs from CPU to CPU.
    pub cpuid: CpuidTable,
    /// One kick cell for each vCPU; the interrupt complex holds the same ones.
    pub kicks: Vec<Arc<KickCell>>,
    /// The hypercalls, if the machine offers them: CPUID then says so.
    pub hypercalls: Option<Hypercalls>,
    /// KVM's clock, if the machine offers it: CPUID then says so.
    pub kvm_clock: Option<KvmClock>,
    /// It is kept where each vCPU's time goes.
    pub keeps_times: bool,
}

/// The machine without its CPUs.
pub struct Platform {
    parts: PlatformParts,
    /// What CPUID says, by vCPU.
    cpuid: Vec<CpuidTable>,
    counters: Vec<Arc<Counters>>,
    progress: Progress,
    trace: Trace,
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("bus", &self.parts.bus).finish_non_exhaustive()
    }
}

/// What a vCPU is to do after it attended to its surroundings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attention {
    /// Look for interrupts and go on.
    Resume,
    /// Return this from `run`.
    Leave(Exit),
}

impl Platform {
    /// A platform of these parts. There is at least one kick cell, so at least one vCPU, and a queue of deadlines for
    /// each.
    #[must_use]
    pub fn new(mut parts: PlatformParts) -> Self {
        if let Some(calls) = &parts.hypercalls {
            parts.cpuid.offer_hypercalls(calls.cpuid());
        }
        if parts.kvm_clock.is_some() {
            parts.cpuid.offer_kvm_clock();
        }
        let counters = parts.kicks.iter().map(|_| Arc::new(Counters::new(parts.keeps_times))).collect();
        let cpus = parts.kicks.len().min(255) as u8;
        let cpuid = (0..cpus).map(|id| parts.cpuid.of_cpu(id, cpus)).collect();
        Self { parts, cpuid, counters, progress: Progress::default(), trace: Trace::default() }
    }

    /// Guest RAM.
    #[inline]
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.parts.ram
    }

    /// Ports and device memory.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.parts.bus
    }

    /// Guest time.
    #[inline]
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    /// The deadlines of the boot processor and the devices.
    #[must_use]
    pub fn timers(&self) -> &TimerQueue {
        &self.parts.timers[0]
    }

    /// The deadlines that a vCPU's thread runs.
    #[must_use]
    pub fn timers_of(&self, vcpu: VcpuId) -> &TimerQueue {
        &self.parts.timers[usize::from(vcpu.0)]
    }

    /// A further deadline among those of the boot processor and the devices.
    #[must_use]
    pub fn add_timer(&self) -> Timer {
        self.parts.timers[0].add()
    }

    /// How many vCPUs there are, at least one.
    #[must_use]
    pub fn vcpus(&self) -> impl DoubleEndedIterator<Item = VcpuId> + ExactSizeIterator + use<> {
        (0..self.cpuid.len() as u8).map(VcpuId)
    }

    /// The table behind the boot processor's CPUID, for backends that hand it to the host. What it says of features holds
    /// for all.
    #[must_use]
    pub fn cpuid_table(&self) -> &CpuidTable {
        &self.cpuid[0]
    }

    /// The table behind a vCPU's CPUID.
    #[must_use]
    pub fn cpuid_table_of(&self, vcpu: VcpuId) -> &CpuidTable {
        &self.cpuid[usize::from(vcpu.0)]
    }

    /// The table that those of all CPUs are made of.
    #[must_use]
    pub fn cpuid_of_all(&self) -> &CpuidTable {
        &self.parts.cpuid
    }

    /// A device's request for power-off or reset that was not taken yet is void.
    pub fn forget_power_request(&self) {
        let _void = self.parts.power.take();
    }

    /// The hypercalls, if the machine offers them.
    #[inline]
    #[must_use]
    pub fn hypercalls(&self) -> Option<&Hypercalls> {
        self.parts.hypercalls.as_ref()
    }

    /// KVM's clock, if the machine offers it.
    pub(super) fn kvm_clock(&self) -> Option<&KvmClock> {
        self.parts.kvm_clock.as_ref()
    }

    /// How far the machine has come, if its clock is counted.
    #[inline]
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A turn was made that retired no instruction: something was delivered, or a clock went on.
    pub fn count_turn(&self) {
        if self.parts.clock.source() != ClockSource::Real {
            self.progress.advance(1);
        }
    }

    /// The exit trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// A vCPU's kick cell.
    #[inline]
    #[must_use]
    pub fn kick(&self, vcpu: VcpuId) -> &Arc<KickCell> {
        &self.parts.kicks[usize::from(vcpu.0)]
    }

    /// A vCPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self, vcpu: VcpuId) -> &Arc<Counters> {
        &self.counters[usize::from(vcpu.0)]
    }

    /// The vCPU's thread begins to run it: it is outside of guest code, for nothing yet.
    #[inline]
    pub fn begins(&self, vcpu: VcpuId) {
        self.trace.begins();
        self.counters(vcpu).ledger().leaves_guest();
    }

    /// The vCPU's thread has just come out of guest code.
    #[inline]
    pub fn leaves_guest(&self, vcpu: VcpuId) {
        self.trace.left();
        self.counters(vcpu).ledger().leaves_guest();
    }

    /// The vCPU's thread enters guest code now.
    #[inline]
    pub fn enters_guest(&self, vcpu: VcpuId) {
        self.trace.goes_on();
        self.counters(vcpu).ledger().enters_guest();
    }

    /// Whether somebody wants to know when guest code is left, and for how long.
    #[inline]
    #[must_use]
    pub fn times_stays(&self, vcpu: VcpuId) -> bool {
        self.trace.is_enabled() || self.counters(vcpu).ledger().is_kept()
    }

    /// Takes down a vCPU's call for attention: runs the timers that are due and says whether to leave. To be called
    /// when its kick cell is raised, before interrupts are looked at.
    pub fn attend(&self, vcpu: VcpuId) -> Attention {
        let kick = self.kick(vcpu);
        kick.take_attention();
        self.at_device(vcpu, || self.timers_of(vcpu).run_due(self.parts.clock.now()));
        if let Some(signal) = self.parts.interrupts.take_signal(vcpu) {
            // There may be more that attention was asked for.
            kick.poke();
            return Attention::Leave(match signal {
                CpuSignal::Init => Exit::Init,
                CpuSignal::StartUp(vector) => Exit::StartUp(vector),
            });
        }
        if self.parts.power.is_requested() {
            match self.parts.power.take() {
                Some(PowerRequest::Off(status)) => return Attention::Leave(Exit::PowerOff(status)),
                Some(PowerRequest::Reset) => return Attention::Leave(Exit::Reset),
                None => {}
            }
        }
        if kick.take_leave() { Attention::Leave(Exit::Kicked) } else { Attention::Resume }
    }

    /// A device may have asked for power-off or reset: the vCPU whose access did so is to notice at once.
    #[inline]
    fn after_access(&self, vcpu: VcpuId) {
        if self.parts.power.is_requested() {
            self.kick(vcpu).poke();
        }
    }

    /// Has a device do something, on its own account.
    #[inline]
    fn at_device<R>(&self, vcpu: VcpuId, act: impl FnOnce() -> R) -> R {
        let _device = self.counters(vcpu).ledger().charge(Account::Device);
        act()
    }

    /// Reads a port for IN. `width` is 1, 2 or 4 bytes.
    pub fn pio_read(&self, vcpu: VcpuId, port: Port, width: Width) -> u32 {
        self.counters(vcpu).count(Cause::PortIo);
        let value = self.at_device(vcpu, || self.parts.bus.port_read(port, width));
        self.trace.record(EventKind::PortRead, port.0.into(), value.into(), width as u8);
        self.after_access(vcpu);
        value
    }

    /// Writes a port for OUT. `width` is 1, 2 or 4 bytes.
    pub fn pio_write(&self, vcpu: VcpuId, port: Port, width: Width, value: u32) {
        self.counters(vcpu).count(Cause::PortIo);
        self.trace.record(EventKind::PortWrite, port.0.into(), value.into(), width as u8);
        self.at_device(vcpu, || self.parts.bus.port_write(port, width, value));
        self.after_access(vcpu);
    }

    /// Reads guest-physical memory that is not RAM.
    pub fn mmio_read(&self, vcpu: VcpuId, at: Gpa, width: Width) -> u64 {
        self.counters(vcpu).count(Cause::Mmio);
        let value = self.at_device(vcpu, || self.parts.bus.mmio_read(vcpu, at, width));
        self.trace.record(EventKind::MmioRead, at.0, value, width as u8);
        self.after_access(vcpu);
        value
    }

    /// Writes guest-physical memory that is not RAM.
    pub fn mmio_write(&self, vcpu: VcpuId, at: Gpa, width: Width, value: u64) {
        self.counters(vcpu).count(Cause::Mmio);
        self.trace.record(EventKind::MmioWrite, at.0, value, width as u8);
        self.at_device(vcpu, || self.parts.bus.mmio_write(vcpu, at, width, value));
        self.after_access(vcpu);
    }

    /// Reads an MSR that the CPU itself does not hold (the APIC's, the hypercalls'); `None` means #GP.
    pub fn msr_read(&self, vcpu: VcpuId, index: u32) -> Option<u64> {
        let value = match self.hypercalls() {
            Some(calls) if index == abi::MSR_HYPERCALL_PAGE => Some(calls.page()),
            _ if matches!(index, msr::KVM_WALL_CLOCK | msr::KVM_SYSTEM_TIME) => {
                self.kvm_clock().and_then(|clock| clock.read(vcpu, index))
            }
            _ => self.parts.interrupts.read_msr(vcpu, index),
        };
        self.trace.record(EventKind::MsrRead, index.into(), value.unwrap_or(0), 8);
        value
    }

    /// Writes an MSR that the CPU itself does not hold, for a CPU whose TSC is ahead of the clock's by `tsc_adjust`; `None`
    /// means #GP.
    pub fn msr_write(&self, vcpu: VcpuId, index: u32, value: u64, tsc_adjust: u64) -> Option<()> {
        self.trace.record(EventKind::MsrWrite, index.into(), value, 8);
        match self.hypercalls() {
            Some(calls) if index == abi::MSR_HYPERCALL_PAGE => calls.set_page(self.ram(), value),
            _ if matches!(index, msr::KVM_WALL_CLOCK | msr::KVM_SYSTEM_TIME) => {
                self.write_kvm_clock(vcpu, index, value, tsc_adjust)
            }
            _ if index == msr::APIC_BASE && value & self.apic_base_reserved() != 0 => None,
            _ => self.parts.interrupts.write_msr(vcpu, index, value),
        }
    }

    /// Whether a vCPU's local APIC is enabled by IA32_APIC_BASE. CPUID tells of one that is; it follows nothing else that
    /// is outside the CPU.
    #[inline]
    #[must_use]
    pub fn has_apic(&self, vcpu: VcpuId) -> bool {
        self.parts.interrupts.has_apic(vcpu)
    }

    /// Bits of IA32_APIC_BASE that this guest's CPUs do not have: of addresses beyond theirs, and of a mode that CPUID does
    /// not tell of.
    fn apic_base_reserved(&self) -> u64 {
        let cpuid = self.cpuid_table();
        let mode = if cpuid.has_x2apic() { 0 } else { msr::APIC_BASE_X2APIC };
        u64::MAX << cpuid.physical_bits() | mode
    }

    /// Executes CPUID on a CPU in this state, of which it shows some bits of CR4 and how large an area XCR0 asks for.
    pub fn cpuid(&self, vcpu: VcpuId, leaf: u32, subleaf: u32, state: &CpuState) -> CpuidResult {
        let table = self.cpuid_table_of(vcpu);
        let mut result = table.query(leaf, subleaf, state.cr4);
        if (leaf, subleaf) == (0xd, 0) {
            result.ebx = table.save_area(state.xcr0);
        }
        if leaf == 1 && !self.has_apic(vcpu) {
            result.edx &= !LEAF1_EDX_APIC;
        }
        self.trace.record(EventKind::Cpuid, leaf.into(), result.eax.into(), 4);
        result
    }

    /// Whether an external interrupt waits for this vCPU. Whether it can be taken is the CPU's state to say.
    #[inline]
    #[must_use]
    pub fn interrupt_pending(&self, vcpu: VcpuId) -> bool {
        self.parts.interrupts.pending(vcpu)
    }

    /// Where the answer of [`Self::interrupt_pending`] lies, if it lies anywhere.
    #[must_use]
    pub fn interrupt_flag(&self, vcpu: VcpuId) -> Option<&std::sync::atomic::AtomicBool> {
        self.parts.interrupts.pending_flag(vcpu)
    }

    /// Takes the vector of the interrupt to be entered now; counts and traces it.
    pub fn acknowledge_interrupt(&self, vcpu: VcpuId) -> Option<u8> {
        let vector = self.parts.interrupts.acknowledge(vcpu)?;
        self.counters(vcpu).count(Cause::Interrupt);
        self.trace.record(EventKind::Interrupt, vector.into(), 0, 0);
        Some(vector)
    }

    /// Takes the NMI that waits, if one does; counts and traces it. Whoever takes it enters its handler, or sees to it that
    /// the CPU does.
    pub fn take_nmi(&self, vcpu: VcpuId) -> bool {
        let taken = self.parts.interrupts.take_nmi(vcpu);
        if taken {
            self.counters(vcpu).count(Cause::Interrupt);
            self.trace.record(EventKind::Interrupt, Vector::Nmi as u64, 0, 0);
        }
        taken
    }

    /// CR8.
    #[must_use]
    pub fn cr8(&self, vcpu: VcpuId) -> u8 {
        self.parts.interrupts.cr8(vcpu)
    }

    /// Sets CR8 (0–15; the caller has checked).
    pub fn set_cr8(&self, vcpu: VcpuId, class: u8) {
        self.parts.interrupts.set_cr8(vcpu, class);
    }
}
