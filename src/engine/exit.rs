//! Why a vCPU's `run` came out.
use super::WatchHit;
use crate::arch::Gva;

/// Why `run` returned. In each case the state is at an instruction boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// HLT was executed and no interrupt can be taken: wait for the kick cell, then run again.
    Halted,
    /// [`super::KickCell::kick`] was called.
    Kicked,
    /// A debugging event.
    Debug(DebugEvent),
    /// The guest switched the machine off, with this status.
    PowerOff(u32),
    /// The guest asked for a reset.
    Reset,
    /// INIT came: the CPU's state is to become [`crate::arch::CpuState::after_init`].
    Init,
    /// A start-up message with this vector came for a CPU that waits for one: see
    /// [`crate::arch::CpuState::start_up`].
    StartUp(u8),
    /// An exception could not be delivered, nor the double fault that followed.
    TripleFault,
}

/// What a debugger stopped for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugEvent {
    /// One instruction was executed.
    Step,
    /// The next instruction is at a breakpoint.
    Breakpoint(Gva),
    /// The instruction before accessed memory that is watched.
    Watched(WatchHit),
    /// The target of [`super::Progress`] is reached.
    Position,
}
