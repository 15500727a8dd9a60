//! Interrupt lines, from a device's side and from a CPU's.
use super::VcpuId;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where interrupt lines end: the interrupt complex, or a backend's in-kernel chips.
pub trait IrqSink: Send + Sync {
    /// Sets the level of a line.
    fn set_line(&self, line: u8, level: bool);
}

/// Where message-signalled interrupts go: the interrupt complex.
pub trait MsiSink: Send + Sync {
    /// A device writes `data` to `address`, which lies in the range of interrupt messages (SDM 11.11). Other addresses,
    /// and messages that make no sense, have no effect.
    fn send(&self, address: u64, data: u32);
}

/// A device's end of one interrupt line.
#[derive(Clone)]
pub struct IrqLine {
    sink: Arc<dyn IrqSink>,
    number: u8,
}

impl IrqLine {
    /// Line `number` of `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn IrqSink>, number: u8) -> Self {
        Self { sink, number }
    }

    /// Sets the level. Setting the level it already has is harmless.
    pub fn set(&self, level: bool) {
        self.sink.set_line(self.number, level);
    }

    /// Raises and lowers the line: one edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

impl std::fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IrqLine({})", self.number)
    }
}

/// Interrupts as a CPU sees them. When an interrupt becomes deliverable to a vCPU, the implementer pokes that vCPU.
pub trait InterruptController: Send + Sync {
    /// Whether [`Self::acknowledge`] would return a vector. Cheap: asked at each entry to the guest.
    fn pending(&self, vcpu: VcpuId) -> bool;
    /// Where the answer of [`Self::pending`] lies, for code that looks by address. `None`: it has to be asked.
    fn pending_flag(&self, _: VcpuId) -> Option<&AtomicBool> {
        None
    }
    /// Takes the vector of the highest-priority interrupt, as INTA does.
    fn acknowledge(&self, vcpu: VcpuId) -> Option<u8>;
    /// CR8: the task-priority class, 0–15.
    fn cr8(&self, vcpu: VcpuId) -> u8;
    /// Sets CR8.
    fn set_cr8(&self, vcpu: VcpuId, class: u8);
    /// Takes an INIT or a start-up message that came for the CPU; INIT goes first. The CPU was poked when it came.
    fn take_signal(&self, _: VcpuId) -> Option<CpuSignal> {
        None
    }
    /// Takes the NMI that waits, if one does: the CPU lets it in now.
    fn take_nmi(&self, _: VcpuId) -> bool {
        false
    }
    /// Whether the CPU's local APIC is enabled by IA32_APIC_BASE, which CPUID tells of. Cheap.
    fn has_apic(&self, _: VcpuId) -> bool {
        true
    }
    /// Reads IA32_APIC_BASE or an MSR of the x2APIC range; `None` means #GP.
    fn read_msr(&self, vcpu: VcpuId, index: u32) -> Option<u64>;
    /// Writes one of those; `None` means #GP.
    fn write_msr(&self, vcpu: VcpuId, index: u32, value: u64) -> Option<()>;
}

/// What reaches a CPU beside interrupts, and changes what it is at (SDM 9.4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuSignal {
    /// INIT: to the state after reset. All but the boot processor wait for a start-up then.
    Init,
    /// Start-up: on in real mode, at the first byte of this page.
    StartUp(u8),
}

/// A controller to which nothing is connected: no interrupt ever waits, CR8 reads as zero and there are no APIC MSRs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoInterrupts;

impl InterruptController for NoInterrupts {
    fn pending(&self, _: VcpuId) -> bool {
        false
    }
    fn acknowledge(&self, _: VcpuId) -> Option<u8> {
        None
    }
    fn cr8(&self, _: VcpuId) -> u8 {
        0
    }
    fn set_cr8(&self, _: VcpuId, _: u8) {}
    fn read_msr(&self, _: VcpuId, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&self, _: VcpuId, _: u32, _: u64) -> Option<()> {
        None
    }
}
